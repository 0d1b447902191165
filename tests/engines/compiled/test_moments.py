"""One epoch of one Bayesian network: torch's softplus, KL and autograd, and extreme values."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import distributions
from torch.nn import functional

from tests.benchmarks import bayesian_loop

pytest.importorskip("numba")
from ifcheck.engines.compiled.layers import ACTIVATIONS
from ifcheck.engines.compiled.moments import (
    activate_moments,
    activation_moments_backward,
    backward_moments,
    forward_moments,
    kl_divergence,
    likelihood,
    likelihood_backward,
    pair,
    spread,
)
from ifcheck.objective.variational import SMALLEST_VARIANCE

ROUNDING = 32  # eps, of values near 1: 11 was measured in whole networks, 2 elsewhere
TYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
KINDS = pytest.mark.parametrize("activation", ACTIVATIONS)
NOISE = 0.1
ROWS = 19
SIZES = {
    "linear": (4, 3),
    "linear, one class": (4, 1),
    "depth 1": (4, 5, 3),
    "depth 1, one unit": (3, 1, 2),
    "depth 3": (4, 7, 3, 6, 10),
    "depth 8": (3, 4, 5, 5, 9, 6, 7, 4, 11, 3),
}
SHAPES = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)


def check_rounding(values, expected, dtype) -> None:
    """Equal to rounding of values near 1."""
    bound = ROUNDING * np.finfo(dtype).eps
    np.testing.assert_allclose(values, expected, rtol=bound, atol=bound)


def leaf(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


# --- variances and the divergence --------------------------------------------------------------


def spread_of(rho: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    variances, slopes = np.full((2, rho.size), np.nan, rho.dtype)
    spread(rho, variances, slopes)
    return variances, slopes


@TYPES
def test_variances_are_softplus_and_slopes_its_derivative(dtype):
    rho = np.linspace(-60, 60, 961).astype(dtype)
    variances, slopes = spread_of(rho)
    argument = leaf(rho)
    expected = functional.softplus(argument, threshold=50)
    expected.sum().backward()
    bound = ROUNDING * np.finfo(dtype).eps
    np.testing.assert_allclose(variances, expected.detach(), rtol=bound, atol=0)
    np.testing.assert_allclose(slopes, argument.grad, rtol=bound, atol=0)


@TYPES
def test_variances_stay_above_zero_and_nan_stays_nan(dtype):
    variances, slopes = spread_of(np.array([-np.inf, -500.0, 500.0, np.nan], dtype))
    assert (variances[:2] > 0).all()
    np.testing.assert_allclose(variances[:2], dtype(SMALLEST_VARIANCE))
    assert variances[2] == 500
    assert slopes[2] == 1
    assert np.isnan(variances[3])


@TYPES
def test_the_divergence_is_torch_s(dtype):
    generator = np.random.default_rng(0)
    means = generator.normal(0, 2, 33).astype(dtype)
    variances = np.exp(generator.normal(-2, 2, 33)).astype(dtype)
    posterior = distributions.Normal(
        torch.from_numpy(means).double(), torch.from_numpy(variances).double().sqrt()
    )
    prior = distributions.Normal(0.0, 1.0)
    expected = distributions.kl_divergence(posterior, prior).sum().item()
    bound = 33 * float(np.finfo(dtype).eps)
    assert kl_divergence(means, variances) == pytest.approx(expected, rel=bound)


# --- one layer -------------------------------------------------------------------------------


def test_variances_and_squares_are_paired_in_one_matrix():
    means, variances = np.arange(10.0), np.arange(10.0) + 0.5
    out = np.full(14, np.nan)
    pair(means, variances, 2, 3, 2, False, out)
    expected = np.hstack([variances[2:8].reshape(2, 3), np.square(means[2:8]).reshape(2, 3)])
    np.testing.assert_array_equal(out[:12].reshape(2, 6), expected)
    assert np.isnan(out[12:]).all()
    out = np.full(14, np.nan)
    pair(means, variances, 2, 3, 2, True, out)
    np.testing.assert_array_equal(out[:6], variances[2:8])
    assert np.isnan(out[6:]).all()


class Activated:
    """Random moments before an activation, (width, rows), and those after it, compiled."""

    def __init__(self, activation: str, dtype, width: int = 4) -> None:
        generator = np.random.default_rng(1)
        self.kind, self.width, self.activation = ACTIVATIONS[activation], width, activation
        self.before = generator.normal(0, 1.5, (width, ROWS)).astype(dtype)
        self.variance = generator.uniform(0, 2, (width, ROWS)).astype(dtype)
        self.values = self.before.copy()
        self.spreads = np.full((2 * width, ROWS), np.nan, dtype)
        self.spreads[width:] = self.variance
        activate_moments(self.kind, self.values, self.spreads)

    def by_torch(self, before: torch.Tensor, variance: torch.Tensor) -> tuple:
        """Mean, second moment and variance after the activation, by the loop's formulas."""
        mean, after = bayesian_loop.Activation(self.activation)((before, variance))
        return mean, mean**2 + after, after


@KINDS
@TYPES
def test_activations_propagate_moments(dtype, activation):
    case = Activated(activation, dtype)
    mean, square, variance = case.by_torch(leaf(case.before), leaf(case.variance))
    check_rounding(case.values, mean.detach(), dtype)
    check_rounding(case.spreads[: case.width], square.detach(), dtype)
    check_rounding(case.spreads[case.width :], variance.detach(), dtype)


@KINDS
@TYPES
def test_derivatives_pass_back_through_activations(dtype, activation):
    case = Activated(activation, dtype)
    generator = np.random.default_rng(2)
    upstream = generator.normal(size=(3, case.width, ROWS)).astype(dtype)
    of_means = upstream[0].copy()
    of_spreads = np.concatenate([upstream[1], upstream[2]])
    activation_moments_backward(case.kind, of_means, of_spreads, case.values, case.spreads)
    before, variance = leaf(case.before), leaf(case.variance)
    total = sum(
        (torch.from_numpy(given).double() * out).sum()
        for given, out in zip(upstream, case.by_torch(before, variance), strict=True)
    )
    total.backward()
    scale = 8  # of the largest derivatives
    check_rounding(of_means / scale, before.grad / scale, dtype)
    check_rounding(of_spreads[: case.width] / scale, variance.grad / scale, dtype)


# --- the likelihood --------------------------------------------------------------------------


class Likelihood:
    """Moments of logits (classes, rows), through both compiled functions."""

    def __init__(self, mean, variance, targets, weights, dtype) -> None:
        mean, variance = mean.astype(dtype), variance.astype(dtype)
        self.labels = np.eye(len(mean), dtype=dtype)[:, targets].copy()
        self.of_mean, self.of_variance, noisy, residual = np.full((4, *mean.shape), np.nan, dtype)
        total, self.losses = np.full((2, mean.shape[1]), np.nan, dtype)
        likelihood_backward(
            mean,
            variance.copy(),
            self.labels,
            weights.astype(dtype),
            NOISE,
            self.of_mean,
            self.of_variance,
            noisy,
            residual,
            total,
        )
        likelihood(noisy, residual, NOISE, self.losses)


@TYPES
@pytest.mark.parametrize("classes", [1, 2, 3, 10])
def test_likelihoods_and_their_derivatives_are_autograd_s(dtype, classes):
    generator = np.random.default_rng(3)
    mean = generator.normal(0, 2, (classes, ROWS)).astype(dtype)
    variance = generator.uniform(0, 3, (classes, ROWS)).astype(dtype)
    targets, weights = generator.integers(0, classes, ROWS), generator.uniform(0, 1, ROWS)
    weights[::4] = 0
    weights = weights.astype(dtype)
    found = Likelihood(mean, variance, targets, weights, dtype)
    leaves = leaf(mean.T), leaf(variance.T)
    losses = bayesian_loop.row_losses(leaves, torch.from_numpy(targets), NOISE)
    (losses * torch.from_numpy(weights)).sum().backward()
    check_rounding(found.losses, losses.detach(), dtype)
    check_rounding(found.of_mean, leaves[0].grad.T, dtype)
    check_rounding(found.of_variance, leaves[1].grad.T, dtype)
    assert (found.of_mean[:, ::4] == 0).all()


@TYPES
def test_saturated_logits_stay_finite_and_a_nan_is_seen(dtype):
    mean = np.array([[1e4, -1e4, 0.0, np.nan], [0.0, 1e4, 0.0, 0.0]])
    variance = np.array([[1e6, 0.0, 0.0, 1.0], [1e6, 1e6, 0.0, 1.0]])
    targets, weights = np.array([1, 0, 0, 0]), np.ones(4)
    found = Likelihood(mean, variance, targets, weights, dtype)
    wrong = 1 / NOISE  # half of 1 / noise for each of two classes
    half_right = 0.25 / NOISE
    np.testing.assert_allclose(found.losses[:3], [wrong, wrong, half_right], rtol=1e-5)
    assert np.isfinite(found.of_mean[:, :3]).all()
    assert np.isfinite(found.of_variance[:, :3]).all()
    assert np.isnan(found.losses[3])
    assert np.isnan(found.of_mean[:, 3]).all()


# --- the whole network -----------------------------------------------------------------------


class Network:
    """A Bayesian network's means and variances, and moments of its inputs or the inputs alone."""

    def __init__(self, sizes: tuple[int, ...], activation: str, certain: bool, dtype) -> None:
        generator = np.random.default_rng(4)
        counts = [(fan_in + 1) * fan_out for fan_in, fan_out in pairwise(sizes)]
        half = sum(counts)
        self.sizes, self.activation, self.certain = sizes, activation, certain
        self.starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        scales = np.repeat([0.9 / size**0.5 for size in sizes[:-1]], counts)
        self.means = (scales * generator.standard_normal(half)).astype(dtype)
        self.variances = (0.3 * scales**2 * generator.uniform(0, 1, half)).astype(dtype)
        self.inputs = generator.standard_normal((sizes[0], ROWS)).astype(dtype)
        self.input_variance = generator.uniform(0, 1, (sizes[0], ROWS)).astype(dtype)
        if certain:
            self.input_variance[:] = 0
        classes = sizes[-1]
        self.of_mean = generator.standard_normal((classes, ROWS)).astype(dtype) / ROWS
        self.of_variance = generator.standard_normal((classes, ROWS)).astype(dtype) / ROWS
        self._run(dtype)

    def _run(self, dtype) -> None:
        """Run both directions in buffers that are full of NaN."""
        sizes, width, layers = np.array(self.sizes), max(self.sizes), len(self.sizes) - 1
        features, classes, half = self.sizes[0], self.sizes[-1], self.means.size
        values = np.full((layers + 1, width, ROWS), np.nan, dtype)
        spreads = np.full((layers + 1, 2 * width, ROWS), np.nan, dtype)
        values[0, :features] = self.inputs
        spreads[0, :features] = self.inputs**2 + self.input_variance
        if not self.certain:
            spreads[0, features : 2 * features] = self.input_variance
        paired, turned = np.full((2, 2 * half), np.nan, dtype)
        network = sizes, self.starts, ACTIVATIONS[self.activation], self.certain
        forward_moments(*network, self.means, self.variances, values, spreads, paired)
        self.logits = values[-1, :classes].copy(), spreads[-1, classes : 2 * classes].copy()
        of_values = np.full((2, width, ROWS), np.nan, dtype)
        of_spreads = np.full((2, 2 * width, ROWS), np.nan, dtype)
        of_values[layers % 2, :classes] = self.of_mean
        of_spreads[layers % 2, :classes] = self.of_variance
        self.gradient = np.full((2, half), np.nan, dtype)
        backward_moments(
            *network,
            self.means,
            self.variances,
            values,
            spreads,
            of_values,
            of_spreads,
            paired,
            turned,
            np.zeros(2 * width, dtype),
            *self.gradient,
        )

    def by_torch(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Moments of the logits, (classes, rows), and the gradient in means and variances."""
        means, variances = leaf(self.means), leaf(self.variances)
        mean = torch.from_numpy(self.inputs.T).double()
        variance = torch.from_numpy(self.input_variance.T).double()
        for index, (fan_in, fan_out) in enumerate(pairwise(self.sizes)):
            if index:
                mean, variance = bayesian_loop.Activation(self.activation)((mean, variance))
            start, middle = self.starts[index], self.starts[index] + fan_in * fan_out
            weight, bias = slice(start, middle), slice(middle, middle + fan_out)
            W, S = means[weight].view(fan_out, fan_in), variances[weight].view(fan_out, fan_in)
            variance = (mean**2 + variance) @ S.T + variance @ W.T**2 + variances[bias]
            mean = mean @ W.T + means[bias]
        given = torch.from_numpy(self.of_mean.T), torch.from_numpy(self.of_variance.T)
        ((given[0] * mean).sum() + (given[1] * variance).sum()).backward()
        logits = [mean.detach().numpy().T, variance.detach().numpy().T]
        return logits, [means.grad.numpy(), variances.grad.numpy()]


@SHAPES
@KINDS
@TYPES
@pytest.mark.parametrize("certain", [True, False], ids=["values", "moments"])
def test_moments_and_gradients_of_a_network_are_autograd_s(sizes, activation, dtype, certain):
    network = Network(sizes, activation, certain, dtype)
    logits, gradient = network.by_torch()
    for found, expected in zip(network.logits, logits, strict=True):
        scale = max(1.0, np.abs(expected).max())
        check_rounding(found / scale, expected / scale, dtype)
    for found, expected in zip(network.gradient, gradient, strict=True):
        scale = max(1.0, np.abs(expected).max())
        check_rounding(found / scale, expected / scale, dtype)

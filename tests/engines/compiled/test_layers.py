"""One epoch of one network: differences of a plain loss, torch's autograd, and extreme values."""

import functools
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests import oracles

pytest.importorskip("numba")
from ifcheck.engines.compiled.layers import (
    ACTIVATIONS,
    activate,
    activation_backward,
    backward,
    cross_entropy,
    forward,
    softmax_backward,
    weighted_sum,
)

ROUNDING = 4  # eps, of values near 1: 1.6 was measured, whatever the depth
DIFFERENCES = 1e-9  # error of central differences is about 1e-10
TYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
KINDS = pytest.mark.parametrize("activation", ACTIVATIONS)
ROWS = 20
SEED = 2  # none of its units stands so near relu's kink that a difference reaches across it
GAINS = {"selu": 0.75, "tanh": 1.2, "relu": 2**0.5}  # gradients of depth 8 neither die nor explode
TORCH = {"selu": functional.selu, "tanh": torch.tanh, "relu": torch.relu}
SIZES = {
    "linear": (4, 3),
    "linear, one input": (1, 2),
    "linear, one class": (4, 1),
    "linear, ten classes": (6, 10),
    "depth 1": (4, 5, 3),
    "depth 1, two classes": (3, 7, 2),
    "depth 1, one unit": (4, 1, 4),
    "depth 1, width 50": (4, 50, 3),
    "depth 3": (4, 7, 3, 6, 4),
    "depth 3, one class": (5, 2, 4, 3, 1),
    "depth 8": (3, 4, 5, 5, 9, 6, 7, 4, 11, 10),
    "depth 8, three classes": (4, 5, 5, 5, 5, 5, 5, 5, 5, 3),
}
SHAPES = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)


def layers(parameters, sizes) -> list[tuple]:
    """Weights (out, in) and biases (out,) of each layer, in torch's order of parameters."""
    result, start = [], 0
    for fan_in, fan_out in pairwise(sizes):
        middle, end = start + fan_in * fan_out, start + (fan_in + 1) * fan_out
        result.append((parameters[start:middle].reshape(fan_out, fan_in), parameters[middle:end]))
        start = end
    return result


def check_rounding(values, expected, dtype) -> None:
    """Equal to rounding of values near 1."""
    bound = ROUNDING * np.finfo(dtype).eps
    np.testing.assert_allclose(values, expected, rtol=bound, atol=bound)


def for_both_types(values: np.ndarray) -> np.ndarray:
    """Float64 values that are float32's, so that both types are given the same problem."""
    return values.astype(np.float32).astype(np.float64)


class Problem:
    """A network's parameters and weighted rows, drawn so that units neither die nor saturate."""

    def __init__(self, sizes: tuple[int, ...], activation: str) -> None:
        generator = np.random.default_rng(SEED)
        parameters = []
        for fan_in, fan_out in pairwise(sizes):
            parameters.append(
                generator.normal(0, GAINS[activation] / fan_in**0.5, fan_in * fan_out)
            )
            parameters.append(generator.normal(0, 0.3, fan_out))
        weights = generator.uniform(0.2, 1, ROWS)
        weights[::5] = 0.0
        self.sizes, self.activation = sizes, activation
        self.parameters = for_both_types(np.concatenate(parameters))
        self.inputs = for_both_types(generator.standard_normal((ROWS, sizes[0])))
        self.targets = generator.integers(0, sizes[-1], ROWS)
        self.weights = for_both_types(weights / weights.sum())

    def row_losses(self, parameters: np.ndarray) -> np.ndarray:
        """Cross-entropy of each row in nats, in numpy. Shape: (rows,)."""
        network = layers(parameters, self.sizes)
        logits = oracles.numpy_mlp(network, self.inputs, self.activation)
        top = logits.max(1)
        normaliser = top + np.log(np.exp(logits - top[:, None]).sum(1))
        return normaliser - logits[np.arange(ROWS), self.targets]

    def loss(self, parameters: np.ndarray) -> float:
        return float(self.weights @ self.row_losses(parameters))

    @functools.cached_property
    def by_torch(self) -> tuple[np.ndarray, np.ndarray]:
        """Losses of the rows and the gradient of their weighted sum, by autograd in float64."""
        leaf = torch.tensor(self.parameters, requires_grad=True)
        outputs = torch.from_numpy(self.inputs)
        *hidden, (W, b) = layers(leaf, self.sizes)
        for V, a in hidden:
            outputs = TORCH[self.activation](functional.linear(outputs, V, a))
        logits, targets = functional.linear(outputs, W, b), torch.from_numpy(self.targets)
        losses = functional.cross_entropy(logits, targets, reduction="none")
        (losses * torch.from_numpy(self.weights)).sum().backward()
        return losses.detach().numpy(), leaf.grad.numpy()


class Compiled:
    """Buffers for one network, full of NaN at the start, and the compiled functions in order."""

    SPARE = 7  # parameters that belong to no layer

    def __init__(self, problem: Problem, dtype) -> None:
        self.sizes = np.array(problem.sizes)
        counts = [(fan_in + 1) * fan_out for fan_in, fan_out in pairwise(problem.sizes)]
        self.starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        self.kind = ACTIVATIONS[problem.activation]
        shape = (len(problem.sizes), max(problem.sizes), ROWS)
        self.activations, self.deltas = np.full((2, *shape), np.nan, dtype)
        self.parameters = np.full(sum(counts) + self.SPARE, np.nan, dtype)
        self.parameters[: -self.SPARE] = problem.parameters
        self.gradient = np.full_like(self.parameters, np.nan)
        self.turned = np.full_like(self.parameters, np.nan)
        self.zeros = np.zeros(max(problem.sizes), dtype)
        self.labels = np.eye(problem.sizes[-1], dtype=dtype)[:, problem.targets].copy()
        self.weights = problem.weights.astype(dtype)
        self.largest, self.total, self.row_losses = np.full((3, ROWS), np.nan, dtype)
        self.activations[0, : problem.sizes[0]] = problem.inputs.T
        classes = problem.sizes[-1]
        self.logits, self.delta = self.activations[-1, :classes], self.deltas[-1, :classes]

    def differentiate(self) -> tuple[float, np.ndarray, np.ndarray]:
        """The weighted loss, the rows' losses and the gradient."""
        network = (self.sizes, self.starts, self.kind, self.parameters, self.activations)
        forward(*network)
        softmax_backward(
            self.logits, self.labels, self.weights, self.delta, self.largest, self.total
        )
        cross_entropy(self.logits, self.labels, self.largest, self.total, self.row_losses)
        loss = weighted_sum(self.weights, self.row_losses)
        backward(*network, self.deltas, self.turned, self.zeros, self.gradient)
        return loss, self.row_losses, self.gradient[: -self.SPARE]


# --- whole networks --------------------------------------------------------------------------


@SHAPES
@KINDS
def test_losses_and_gradient_against_differences_of_a_plain_loss(activation, sizes):
    problem = Problem(sizes, activation)
    loss, row_losses, gradient = Compiled(problem, np.float64).differentiate()
    check_rounding(loss, problem.loss(problem.parameters), np.float64)
    check_rounding(row_losses, problem.row_losses(problem.parameters), np.float64)
    expected = oracles.finite_difference_gradient(problem.loss, problem.parameters)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=DIFFERENCES)


@TYPES
@SHAPES
@KINDS
def test_losses_and_gradient_are_autograd_s(activation, sizes, dtype):
    problem = Problem(sizes, activation)
    expected_losses, expected = problem.by_torch
    _, row_losses, gradient = Compiled(problem, dtype).differentiate()
    check_rounding(row_losses, expected_losses, dtype)
    check_rounding(gradient, expected, dtype)


@SHAPES
@KINDS
def test_the_problems_have_a_gradient_in_every_layer(activation, sizes):
    """Otherwise the tests above would compare zeros; with one class there is nothing to learn."""
    _, gradient = Problem(sizes, activation).by_torch
    for W, b in layers(gradient, sizes):
        assert (np.abs(W).max() > 0.005) == (sizes[-1] > 1)
        assert (np.abs(b).max() > 0.005) == (sizes[-1] > 1)


@TYPES
@KINDS
def test_nothing_is_written_beside_a_network(activation, dtype):
    """Not beside narrow layers, in parameters that belong to no layer, or in what is given."""
    sizes = SIZES["depth 3"]
    network = Compiled(Problem(sizes, activation), dtype)
    given = (network.parameters, network.labels, network.weights, network.zeros)
    before = [values.copy() for values in given]
    network.differentiate()
    for layer, width in enumerate(sizes):
        assert np.isfinite(network.activations[layer, :width]).all()
        assert np.isnan(network.activations[layer, width:]).all()
        assert np.isnan(network.deltas[layer, width:]).all()
    assert np.isnan(network.deltas[0]).all()  # nobody needs the inputs' derivative
    assert np.isnan(network.gradient[-network.SPARE :]).all()
    for values, former in zip(given, before, strict=True):
        np.testing.assert_array_equal(values, former)


@TYPES
@KINDS
def test_a_second_epoch_in_the_same_buffers_gives_the_same_bits(activation, dtype):
    network = Compiled(Problem(SIZES["depth 3"], activation), dtype)
    loss, row_losses, gradient = network.differentiate()
    former = loss, row_losses.copy(), gradient.copy()
    for values, before in zip(network.differentiate(), former, strict=True):
        np.testing.assert_array_equal(values, before)


@TYPES
@KINDS
def test_a_parameter_that_is_nan_shows_in_every_row_s_loss(activation, dtype):
    """Whichever it is, and though its unit may be off or its input zero."""
    problem = Problem((3, 2, 4, 3), activation)
    problem.inputs[:, 1] = 0.0
    for index in range(problem.parameters.size):
        network = Compiled(problem, dtype)
        network.parameters[index] = np.nan
        loss, row_losses, gradient = network.differentiate()
        assert np.isnan(loss)
        assert np.isnan(row_losses).all()
        assert np.isnan(gradient).any()


# --- activations -----------------------------------------------------------------------------

# In eps of 1, or of f(z) where it is larger: near zero, f(z) is a difference of numbers near 1
# (SELU: 1.76), each off by half an eps or one (exp). 1.5 was measured.
ACTIVATION_ERROR = 2.0
POINTS = np.concatenate([np.linspace(-30, 30, 20_001), [1e-3, -1e-3, 1e-9, -1e-9, 85, -95, 800]])
DERIVATIVES = {
    "selu": lambda z: oracles.SELU_SCALE * np.where(z > 0, 1, oracles.SELU_ALPHA * np.exp(z)),
    "tanh": lambda z: 1 / np.cosh(z) ** 2,
    "relu": lambda z: (z > 0).astype(z.dtype),
}


def activated(activation: str, z) -> np.ndarray:
    values = np.array([z])
    activate(ACTIVATIONS[activation], values)
    return values[0]


@TYPES
@KINDS
def test_an_activation_is_right_to_rounding(activation, dtype):
    z = POINTS.astype(dtype)
    exact = oracles.ACTIVATIONS[activation](z.astype(np.longdouble))
    error = np.abs(activated(activation, z) - exact) / np.maximum(1, np.abs(exact))
    assert error.max() <= ACTIVATION_ERROR * np.finfo(dtype).eps


@TYPES
@KINDS
def test_its_derivative_is_found_from_its_value(activation, dtype):
    z = POINTS.astype(dtype)
    upstream = np.linspace(-1, 1, z.size).astype(dtype)
    exact = upstream * DERIVATIVES[activation](z.astype(np.longdouble))
    values = activated(activation, z)
    activation_backward(ACTIVATIONS[activation], upstream[None], values[None])
    assert np.abs(upstream - exact).max() <= ACTIVATION_ERROR * np.finfo(dtype).eps


@TYPES
@KINDS
def test_at_zero_value_and_derivative_are_torch_s(activation, dtype):
    zero = torch.tensor([0.0, -0.0], dtype=torch.from_numpy(np.empty(0, dtype)).dtype)
    zero.requires_grad_()
    TORCH[activation](zero).sum().backward()
    values, upstream = activated(activation, zero.detach().numpy()), np.ones(2, dtype)
    activation_backward(ACTIVATIONS[activation], upstream[None], values[None])
    assert (values == 0).all()
    assert upstream.tolist() == zero.grad.tolist()


LIMITS = {
    "selu": (-oracles.SELU_SCALE * oracles.SELU_ALPHA, np.inf),
    "tanh": (-1.0, 1.0),
    "relu": (0.0, np.inf),
}


@TYPES
@KINDS
def test_an_activation_at_infinity_is_its_limit_and_nan_stays_nan(activation, dtype):
    """In vectors and in what they leave over: 35 is no multiple of their length."""
    z = np.tile(np.array([-np.inf, np.inf, np.nan, 0.0, 1.0], dtype), 7)
    values = activated(activation, z).reshape(7, 5)
    np.testing.assert_array_equal(values[:, :2], [np.array(LIMITS[activation], dtype)] * 7)
    assert np.isnan(values[:, 2]).all()
    assert np.isfinite(values[:, 3:]).all()


# --- the loss --------------------------------------------------------------------------------

CLASSES = pytest.mark.parametrize("classes", [1, 2, 3, 4, 10])
# In eps of a row's weight: exp, the sum of a few, a division and two products. 1.6 was measured.
DELTA_ERROR = 2.0
# In eps of the loss, or of 1 where that is larger: log of the sum, and one more sum. 1.8 was
# measured where logits are small, and torch is right to 1.1 of whatever size they are.
LOSS_ERROR = 2.0


def softmax(logits, targets, weights) -> tuple[np.ndarray, ...]:
    """Compiled delta (classes, rows), losses (rows,), largest logits and sums of exponentials."""
    dtype = logits.dtype
    labels = np.eye(len(logits), dtype=dtype)[:, targets].copy()
    delta = np.full_like(logits, np.nan)
    losses, largest, total = np.full((3, logits.shape[1]), np.nan, dtype)
    softmax_backward(logits, labels, weights.astype(dtype), delta, largest, total)
    cross_entropy(logits, labels, largest, total, losses)
    return delta, losses, largest, total


def exact_softmax(logits, targets, weights) -> tuple[np.ndarray, np.ndarray]:
    """Delta and losses in long double, from logits less the largest one."""
    below = logits.astype(np.longdouble) - logits.max(0)
    total = np.exp(below).sum(0)
    delta = weights * (np.exp(below) / total - np.eye(len(logits))[:, targets])
    return delta, np.log(total) - below[targets, np.arange(targets.size)]


def random_logits(classes: int, size: float, dtype) -> tuple[np.ndarray, ...]:
    """Logits (classes, rows) of a size, targets, and weights of which every fifth is zero."""
    generator = np.random.default_rng(classes)
    logits = (size * generator.standard_normal((classes, 99))).astype(dtype)
    weights = generator.uniform(0.2, 1, 99).astype(dtype)
    weights[::5] = 0.0
    return logits, generator.integers(0, classes, 99), weights


@TYPES
@CLASSES
@pytest.mark.parametrize("size", [0.01, 1.0, 30.0, 1e4])
def test_softmax_less_label_is_right_to_rounding(size, classes, dtype):
    logits, targets, weights = random_logits(classes, size, dtype)
    delta, _, largest, total = softmax(logits, targets, weights)
    exact, _ = exact_softmax(logits, targets, weights)
    eps = np.finfo(dtype).eps
    assert (np.abs(delta - exact) <= DELTA_ERROR * eps * weights).all()
    np.testing.assert_array_equal(largest, logits.max(0))
    exact = np.exp(logits.astype(np.longdouble) - largest).sum(0)
    np.testing.assert_allclose(total, exact.astype(float), rtol=DELTA_ERROR * eps, atol=0)


@TYPES
@CLASSES
@pytest.mark.parametrize("size", [0.01, 1.0, 30.0, 1e4])
def test_cross_entropy_is_right_to_rounding_of_the_loss(size, classes, dtype):
    """Not of the logits, beside which a loss may be small."""
    logits, targets, weights = random_logits(classes, size, dtype)
    _, losses, _, _ = softmax(logits, targets, weights)
    _, exact = exact_softmax(logits, targets, weights)
    bound = LOSS_ERROR * np.finfo(dtype).eps * np.maximum(1, exact)
    assert (np.abs(losses - exact) <= bound).all()


@TYPES
@pytest.mark.parametrize("classes", [3, 4])
def test_huge_logits_give_finite_and_right_losses_and_deltas(classes, dtype):
    """Two classes tied at 1e4, the others at -1e4; a row for each label."""
    logits = np.full((classes, classes), -1e4, dtype)
    logits[:2] = 1e4
    delta, losses, _, _ = softmax(logits, np.arange(classes), np.ones(classes))
    tied = np.arange(classes) < 2
    probabilities = np.where(tied, 0.5, 0.0)[:, None]
    np.testing.assert_allclose(delta, probabilities - np.eye(classes), rtol=0, atol=1e-37)
    expected = np.log(2) + np.where(tied, 0.0, 2e4)
    np.testing.assert_allclose(losses, expected, rtol=np.finfo(dtype).eps, atol=0)


@TYPES
@CLASSES
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_logit_that_is_not_finite_spoils_its_row_alone(bad, classes, dtype):
    logits, targets, weights = random_logits(classes, 1.0, dtype)
    clean = softmax(logits, targets, weights)[:2]
    rows = np.arange(99)
    spoiled = rows % 2 == 0
    logits[rows[spoiled] // 2 % classes, rows[spoiled]] = bad
    delta, losses = softmax(logits, targets, weights)[:2]
    assert np.isnan(delta[:, spoiled]).all()
    assert np.isnan(losses[spoiled]).all()
    for values, former in zip((delta, losses), clean, strict=True):
        np.testing.assert_array_equal(values[..., ~spoiled], former[..., ~spoiled])


@TYPES
@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_another_class_s_logit_of_minus_infinity_is_its_probability_zero(classes, dtype):
    logits, targets, weights = random_logits(classes, 1.0, dtype)
    logits[(targets + 1) % classes, np.arange(99)] = -np.inf
    delta, losses, _, _ = softmax(logits, targets, weights)
    exact_delta, exact_losses = exact_softmax(logits, targets, weights)
    eps = np.finfo(dtype).eps
    assert (np.abs(delta - exact_delta) <= DELTA_ERROR * eps * weights).all()
    assert (np.abs(losses - exact_losses) <= LOSS_ERROR * eps * np.maximum(1, exact_losses)).all()


# --- the weighted sum ------------------------------------------------------------------------


@TYPES
@pytest.mark.parametrize("count", [1, 7, 32, 160])
def test_the_weighted_sum_is_right_to_rounding_of_each_term(count, dtype):
    """A sum of n products is off by at most n u times the sum of their sizes."""
    generator = np.random.default_rng(count)
    weights, values = generator.standard_normal((2, count)).astype(dtype)
    exact = weights.astype(np.longdouble) * values
    bound = 1.002 * count * np.finfo(dtype).eps / 2 * np.abs(exact).sum()
    assert abs(weighted_sum(weights, values) - exact.sum()) <= bound


@TYPES
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_row_of_weight_zero_counts_for_nothing_whatever_its_loss(bad, dtype):
    weights, values = np.ones(37, dtype), np.arange(37, dtype=dtype)
    weights[::5] = 0.0
    weights[5] = -0.0
    values[::5] = bad
    assert weighted_sum(weights, values) == values[np.arange(37) % 5 != 0].sum()
    assert weighted_sum(np.zeros(37, dtype), np.full(37, bad, dtype)) == 0.0


@TYPES
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_row_that_counts_shows_that_its_loss_is_not_finite(bad, dtype):
    for row in range(37):
        values = np.ones(37, dtype)
        values[row] = bad
        np.testing.assert_equal(weighted_sum(np.full(37, 0.1, dtype), values), bad)

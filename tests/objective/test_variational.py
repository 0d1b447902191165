"""The variational objective against torch's distributions, and sums in plain numpy."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from ifcheck.models.moments import softplus
from ifcheck.objective import Objective, VariationalObjective, kl_divergence
from tests import oracles

CLASSES, ROWS = 3, 7
LIKELIHOODS = pytest.mark.parametrize("likelihood", ["marginal", "expected"])
JACOBIANS = pytest.mark.parametrize("jacobian", ["diagonal", "full"])


def random_outputs(size: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed moments of logits (rows, 2, classes), and targets."""
    generator = torch.Generator().manual_seed(0)
    mean = size * torch.randn(ROWS, CLASSES, generator=generator, dtype=torch.float64)
    variance = size * torch.rand(ROWS, CLASSES, generator=generator, dtype=torch.float64)
    return torch.stack([mean, variance], 1), torch.tensor([0, 1, 2, 0, 1, 2, 2])


def random_parameters() -> tuple[torch.Tensor, torch.Tensor]:
    """Parameters of two models, (2, params), and which are rho."""
    generator = torch.Generator().manual_seed(1)
    parameters = 2 * torch.randn(2, 30, generator=generator, dtype=torch.float64)
    return parameters, torch.arange(30) % 3 == 0


def softmax_moments(outputs, jacobian) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the softmax in plain numpy, by its Jacobian as a matrix."""
    mean, variance = outputs[:, 0].numpy(), outputs[:, 1].numpy()
    p = np.exp(mean) / np.exp(mean).sum(1, keepdims=True)
    out = np.empty_like(p)
    for row in range(len(p)):
        matrix = np.diag(p[row]) - np.outer(p[row], p[row])
        if jacobian == "diagonal":
            matrix = np.diag(np.diag(matrix))
        out[row] = (matrix**2) @ variance[row]
    return p, out


# --- the data term ---------------------------------------------------------------------------


@JACOBIANS
@pytest.mark.parametrize("noise", [0.1, 1e-3, 2.0])
def test_the_marginal_loss_is_a_gaussian_s_log_likelihood(noise, jacobian):
    """Of the label, up to constants: log(2 pi) / 2 and log(noise) / 2 for every class."""
    outputs, targets = random_outputs()
    objective = VariationalObjective(noise=noise, jacobian=jacobian)
    p, v = softmax_moments(outputs, jacobian)
    normal = Normal(torch.tensor(p), torch.tensor(v + noise).sqrt())
    labels = torch.eye(CLASSES, dtype=torch.float64)[targets]
    constant = CLASSES / 2 * (math.log(2 * math.pi) + math.log(noise))
    expected = -normal.log_prob(labels).sum(1) - constant
    found = objective.per_example_loss(outputs, targets)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@JACOBIANS
def test_the_expected_loss_is_the_mean_log_likelihood_over_the_softmax(jacobian):
    """E log N(y; x, noise) over x with the propagated moments, by Gauss-Hermite quadrature."""
    outputs, targets = random_outputs()
    noise = 0.2
    objective = VariationalObjective(noise=noise, likelihood="expected", jacobian=jacobian)
    p, v = softmax_moments(outputs, jacobian)
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    draws = p[..., None] + np.sqrt(v)[..., None] * nodes
    squared = (np.eye(CLASSES)[targets.numpy()][..., None] - draws) ** 2
    expected = (squared / (2 * noise) * weights).sum((1, 2)) / weights.sum()
    found = objective.per_example_loss(outputs, targets).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@LIKELIHOODS
@JACOBIANS
def test_the_loss_is_never_negative_and_always_finite(likelihood, jacobian):
    """A relative plateau threshold needs the first."""
    objective = VariationalObjective(likelihood=likelihood, jacobian=jacobian)
    for size in (0.0, 1e-3, 1.0, 1e3, 1e8):
        outputs, targets = random_outputs(size)
        losses = objective.per_example_loss(outputs, targets)
        assert losses.isfinite().all()
        assert (losses >= 0).all()


def test_a_confidently_wrong_row_s_loss_saturates():
    wrong = torch.tensor([[[100.0, 0.0, 0.0], [0.1, 0.1, 0.1]]])
    loss = VariationalObjective(noise=0.1).per_example_loss(wrong, torch.tensor([1]))
    assert loss.item() == pytest.approx(2 / (2 * 0.1))  # two classes off by one


def test_predictions_follow_the_means():
    outputs = torch.tensor(
        [[[0.0, 1.0, -1.0], [9.0, 0.0, 0.0]], [[3.0, 1.0, 2.0], [0.0, 9.0, 0.0]]]
    )
    assert VariationalObjective().predictions(outputs).tolist() == [1, 0]
    assert Objective().predictions(outputs[:, 0]).tolist() == [1, 0]


# --- the divergence --------------------------------------------------------------------------


def test_kl_divergence_is_torch_s():
    generator = torch.Generator().manual_seed(0)
    mean, rho = torch.randn(2, 50, generator=generator, dtype=torch.float64) * 3
    posterior = Normal(mean, softplus(rho).sqrt())
    expected = torch.distributions.kl_divergence(posterior, Normal(0.0, 1.0)).sum()
    flat = torch.cat([mean, rho])
    found = kl_divergence(flat, torch.arange(100) >= 50)
    assert found.sum().item() == pytest.approx(expected.item(), rel=1e-13)


def test_the_regulariser_is_its_share_of_the_divergence():
    parameters, is_rho = random_parameters()
    objective = VariationalObjective(rows=20, kl_weight=0.5)
    expected = 0.5 / 20 * kl_divergence(parameters, is_rho).sum(1)
    torch.testing.assert_close(objective.regulariser(parameters, is_rho), expected)


@pytest.mark.parametrize(
    "objective", [Objective(0.3), VariationalObjective(rows=20, kl_weight=2.0)], ids=["l2", "bnn"]
)
def test_gradient_and_curvature_are_differences_of_the_regulariser(objective):
    parameters, is_rho = random_parameters()

    def value(flat: np.ndarray) -> float:
        return objective.regulariser(torch.from_numpy(flat), is_rho).item()

    start = parameters[1].numpy()
    gradient = objective.regulariser_gradient(parameters, is_rho)[1].numpy()
    expected = oracles.finite_difference_gradient(value, start)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-8)

    def slope(flat: np.ndarray) -> np.ndarray:
        return objective.regulariser_gradient(torch.from_numpy(flat), is_rho).numpy()

    step = 1e-5
    curvature = objective.regulariser_curvature(parameters, is_rho)[1].numpy()
    for k in range(len(start)):
        offset = step * np.eye(len(start))[k]
        column = (slope(start + offset) - slope(start - offset)) / (2 * step)
        expected = curvature[k] * np.eye(len(start))[k]
        np.testing.assert_allclose(column, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("rho", [-1000.0, -69.5, 0.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_rho_makes_the_divergence_infinite(rho, dtype):
    objective = VariationalObjective(rows=1)
    parameters = torch.full((1,), rho, dtype=dtype)
    is_rho = torch.tensor([True])
    for function in (
        objective.regulariser,
        objective.regulariser_gradient,
        objective.regulariser_curvature,
    ):
        assert function(parameters, is_rho).isfinite().all()


def test_removing_a_row_leaves_the_other_shares_alone():
    """The mean over the rest with KL / (n - 1) has the same minimum as the sum over n."""
    assert VariationalObjective().normalisation("n-1") == "n"
    assert Objective().normalisation("n-1") == "n-1"


def test_what_has_a_finite_optimum():
    assert VariationalObjective().regularised
    assert not VariationalObjective(kl_weight=0.0).regularised
    assert Objective(0.1).regularised
    assert not Objective().regularised

"""The closed form of the Bayesian head against differences of a plain loss, and autograd."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from ifcheck.curvature.dense import Differentiable
from ifcheck.curvature.head_loss import head_loss
from ifcheck.curvature.local import local_model
from ifcheck.curvature.variational_head import VariationalHeadLoss
from ifcheck.models import VariationalSpec, initialise
from ifcheck.models.mlp import MLPSpec
from ifcheck.objective import VariationalObjective, uniform_weights
from ifcheck.params import Layout
from tests import oracles

CLASSES, FEATURES, ROWS = 4, 3, 7  # all different: a confused order cannot pass
PARAMETERS = 2 * CLASSES * (FEATURES + 1)
NOISE = 0.3
OBJECTIVES = [
    VariationalObjective(rows=ROWS, noise=NOISE, likelihood=likelihood, jacobian=jacobian)
    for likelihood in ("marginal", "expected")
    for jacobian in ("diagonal", "full")
]


def problem(leading: tuple[int, ...] = ()) -> tuple[np.ndarray, ...]:
    """Flat parameters, packed features, targets, and unequal weights of which one is zero."""
    random = np.random.default_rng(0)
    features = random.normal(size=(ROWS, 2, FEATURES))
    features[:, 1] = features[:, 1] ** 2
    features[3, 1] = 0  # a row that is certain
    weights = random.uniform(0, 0.3, size=(*leading, ROWS))
    weights[..., 2] = 0
    flat = random.normal(size=(*leading, PARAMETERS))
    return flat, features, random.integers(0, CLASSES, size=ROWS), weights


def tensors(arrays) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


LOSS = VariationalHeadLoss(CLASSES, OBJECTIVES[0])


def test_derivatives_along_directions_are_those_of_the_gradients():
    """Gradients themselves are tested against differences below."""
    flat, features, targets, _ = tensors(problem())
    along = torch.from_numpy(np.random.default_rng(1).normal(size=(4, len(flat))))
    found = LOSS.row_products(flat, features, targets, along)
    expected = along @ LOSS.row_gradients(flat, features, targets).mT
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("alive", [1, 40])
def test_blocks_of_rows_change_nothing_but_rounding(alive, monkeypatch):
    rows = tensors(problem())
    expected = LOSS.hessian(*rows)
    monkeypatch.setattr("ifcheck.curvature.head.OUTER_VALUES", alive)
    torch.testing.assert_close(LOSS.hessian(*rows), expected, rtol=1e-12, atol=1e-14)


def test_losses_and_gradients_are_differences_of_a_plain_loss():
    flat, features, targets, weights = problem()
    t_flat, t_features, t_targets, t_weights = tensors(problem())

    def total(theta: np.ndarray, a: np.ndarray = weights) -> float:
        return oracles.bayesian_head_loss(theta, features, targets, a, NOISE)

    losses = LOSS.losses(t_flat, t_features, t_targets)
    gradients = LOSS.row_gradients(t_flat, t_features, t_targets)
    for row, one in enumerate(np.eye(ROWS)):
        assert losses[row].item() == pytest.approx(total(flat, one), rel=1e-13)
        expected = oracles.finite_difference_gradient(lambda t, one=one: total(t, one), flat)
        assert_allclose(gradients[row], expected, rtol=0, atol=1e-9)
    gradient = LOSS.mean_gradient(t_flat, t_features, t_targets, t_weights)
    assert_allclose(gradient, oracles.finite_difference_gradient(total, flat), rtol=0, atol=1e-9)


def test_the_hessian_is_differences_of_a_plain_loss():
    flat, features, targets, weights = problem()

    def total(theta: np.ndarray) -> float:
        return oracles.bayesian_head_loss(theta, features, targets, weights, NOISE)

    matrix = LOSS.hessian(*tensors(problem()))
    expected = oracles.finite_difference_hessian(total, flat)
    assert_allclose(matrix, expected, rtol=0, atol=1e-6)
    assert torch.equal(matrix, matrix.mT) or (matrix - matrix.mT).abs().max() < 1e-14


@pytest.mark.parametrize("leading", [(2,), (2, 3)])
def test_problems_stand_side_by_side(leading):
    flat, features, targets, weights = tensors(problem(leading))
    functions = {
        "losses": lambda f, w: LOSS.losses(f, features, targets),
        "row_gradients": lambda f, w: LOSS.row_gradients(f, features, targets),
        "mean_gradient": lambda f, w: LOSS.mean_gradient(f, features, targets, w),
        "hessian": lambda f, w: LOSS.hessian(f, features, targets, w),
    }
    for function in functions.values():
        together = function(flat, weights)
        for index in np.ndindex(leading):
            alone = function(flat[index], weights[index])
            torch.testing.assert_close(together[index], alone, rtol=1e-12, atol=1e-14)


def bayesian_network(objective: VariationalObjective):
    spec = VariationalSpec(MLPSpec(2, 3, "selu"), rho=-2.0, rho_spread=2.0)
    network = initialise(spec, (FEATURES,), CLASSES, 0, torch.float64)
    random = np.random.default_rng(1)
    train = torch.from_numpy(random.normal(size=(ROWS, FEATURES)))
    return network, (train, torch.from_numpy(random.integers(0, CLASSES, size=ROWS)))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: f"{o.likelihood}-{o.jacobian}")
def test_every_likelihood_is_that_of_automatic_differentiation(objective):
    network, train = bayesian_network(objective)
    weights = uniform_weights(ROWS, torch.float64)
    automatic = Differentiable(network, objective, "head")
    loss, features = head_loss(network, objective), network.features(train[0]).detach()
    flat = automatic.parameters
    close = {"rtol": 1e-11, "atol": 1e-13}
    torch.testing.assert_close(
        loss.hessian(flat, features, train[1], weights), automatic.hessian(*train, weights), **close
    )
    torch.testing.assert_close(
        loss.row_gradients(flat, features, train[1]), automatic.row_gradients(*train), **close
    )


@pytest.mark.parametrize("selection", ["head", "head-mean", "layer:head.weight_rho", "all"])
def test_a_network_seen_from_close_by_has_the_divergence_of_what_is_selected(selection):
    objective = OBJECTIVES[0]
    network, train = bayesian_network(objective)
    model = local_model(network, objective, selection, train, train)
    layout = Layout.of(network)
    flat = layout.flatten(dict(network.named_parameters())).detach()
    positions = layout.positions(selection)
    for found, function in (
        (model.regulariser_gradient, objective.regulariser_gradient),
        (model.regulariser_curvature, objective.regulariser_curvature),
    ):
        torch.testing.assert_close(found, function(flat, layout.is_rho)[positions])
    whole = Differentiable(network, objective).hessian(*train, uniform_weights(ROWS, torch.float64))
    torch.testing.assert_close(
        model.hessian.dense(), whole[positions][:, positions], rtol=1e-11, atol=1e-13
    )


def test_one_row_and_one_class():
    flat, features, targets, weights = tensors(problem())
    one = slice(0, 1)
    matrix = LOSS.hessian(flat, features[one], targets[one], weights[one])
    assert matrix.isfinite().all()
    alone = VariationalHeadLoss(1, OBJECTIVES[0])
    zeros = torch.zeros_like(targets)
    assert not alone.losses(flat[:8], features, zeros).any()
    assert not alone.hessian(flat[:8], features, zeros, weights).any()

"""Scores of groups against finite differences, formed Hessians, and optima without the group."""

import dataclasses

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from ifcheck.curvature.operator import HessianOperator
from ifcheck.errors import Diverged, UnusableInput
from ifcheck.scores import ESTIMATORS, STEPS, influence_scores
from ifcheck.scores.base import GroupScores, Scores
from tests import oracles
from tests.scores.test_first_order import (
    CLASSES,
    NORMALISATIONS,
    WEIGHT_DECAY,
    Problem,
    polished,
    synthetic,
)

GROUPS = torch.tensor([[0, 1, 2, 3, 4], [7, 3, 24, 12, 9], [20, 21, 5, 6, 11]])
SINGLES = torch.arange(25)[:, None]
STEP_NAMES = ["first-order", "second-order", "newton"]


def scored(
    problem: Problem, step: str, groups: torch.Tensor = GROUPS, **parts
) -> tuple[Scores, GroupScores]:
    estimator = dataclasses.replace(ESTIMATORS.create("objective"), step=step, **parts)
    model = problem.model(estimator.params)
    scores = influence_scores(model, estimator)
    return scores, STEPS.create(step).group_scores(model, estimator, scores, groups)


def weights_without(group: torch.Tensor, rows: int, normalisation: str) -> np.ndarray:
    weights = np.full(rows, 1 / (rows if normalisation == "n" else rows - len(group)))
    weights[group.numpy()] = 0
    return weights


def optimum(problem: Problem, weights: np.ndarray) -> np.ndarray:
    return oracles.head_optimum(*problem.rows, weights, WEIGHT_DECAY, classes=CLASSES)


def test_loss(problem: Problem, theta: np.ndarray) -> float:
    features, target = problem.test_row(0)
    losses = oracles.softmax_loss(theta, features[None], np.array([target]), CLASSES)
    return float(losses[0])


test_loss.__test__ = False


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_first_order_is_the_derivative_of_the_optimum_towards_the_rest(normalisation):
    problem = polished("synthetic")
    n = len(problem.targets)
    found = scored(problem, "first-order", normalisation=normalisation)[1].values[0]
    full = np.full(n, 1 / n)
    for group, score in zip(GROUPS, found.tolist(), strict=True):
        without = weights_without(group, n, normalisation)
        ends = [
            test_loss(problem, optimum(problem, full + u * (without - full))) for u in (1e-4, -1e-4)
        ]
        assert score == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-6)


def newton_step(problem: Problem, group: torch.Tensor, normalisation: str, share: float = 1.0):
    """The step with a Hessian that lies so far from that of all rows to that without the group."""
    n = len(problem.targets)
    full, without = np.full(n, 1 / n), weights_without(group, n, normalisation)
    slope = oracles.head_gradient(problem.theta, *problem.rows, without, WEIGHT_DECAY)
    weights = full + share * (without - full)
    matrix = oracles.head_hessian(problem.theta, *problem.rows, weights, WEIGHT_DECAY)
    return -np.linalg.solve(matrix, slope)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_newton_is_newton_s_method_on_the_objective_of_the_rest(normalisation):
    problem = polished("synthetic")
    found = scored(problem, "newton", normalisation=normalisation)[1]
    test = problem.gradients()[1]
    expected = [test @ newton_step(problem, group, normalisation) for group in GROUPS]
    assert_allclose(found.values, np.array(expected).T, rtol=1e-9)
    assert found.converged.all()


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_second_order_is_newton_s_step_to_second_order_in_what_leaves(normalisation):
    problem = polished("synthetic")
    found = scored(problem, "second-order", normalisation=normalisation)[1]
    test = problem.gradients()[1]
    for group, scores in zip(GROUPS, found.values.T, strict=True):
        at = [newton_step(problem, group, normalisation, share) for share in (0.0, 1e-5, -1e-5)]
        expected = test @ (at[0] + (at[1] - at[2]) / 2e-5)
        assert_allclose(scores, expected, rtol=1e-8)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("step", STEP_NAMES)
@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"damping": 0.2},
        {"hessian": "data", "damping": 0.05},
        {"params": "layer:head.weight", "hessian": "data", "damping": 0.01},
    ],
)
def test_groups_of_one_row_score_as_the_row_does(step, normalisation, parts):
    single, groups = scored(synthetic(), step, SINGLES, normalisation=normalisation, **parts)
    assert_allclose(groups.values, single.values, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("step", STEP_NAMES)
def test_products_alone_solve_it_as_well(step):
    exact = scored(polished("iris"), step)[1]
    by_products = scored(polished("iris"), step, solver="cg", solver_options={"tolerance": 1e-12})[
        1
    ]
    assert_allclose(by_products.values, exact.values, rtol=1e-7, atol=1e-12)


def test_what_leaves_together_is_predicted_better_with_its_own_curvature():
    problem = polished("iris")
    generator = torch.Generator().manual_seed(0)
    groups = torch.stack([torch.randperm(149, generator=generator)[:30] for _ in range(20)])
    before = test_loss(problem, problem.theta)
    true = np.array(
        [
            test_loss(problem, optimum(problem, weights_without(group, 149, "n-1"))) - before
            for group in groups
        ]
    )
    errors = {}
    for step in STEP_NAMES:
        predicted = scored(problem, step, groups)[1].values[0].numpy()
        errors[step] = float(np.median(np.abs(predicted - true)))
    # Of these two neither is always nearer: both are linear in the test loss, which is not.
    assert errors["first-order"] > 1.5 * max(errors["second-order"], errors["newton"])


def test_a_group_s_certificate_is_of_the_solves_behind_it():
    options = {"tolerance": 1e-9, "iterations": 2}
    problem = polished("iris")
    for step in STEP_NAMES:
        _, groups = scored(problem, step, solver="cg", solver_options=options)
        assert not groups.converged.any()
        assert (groups.rel_residual > 1e-3).all()


def test_a_group_without_which_the_hessian_is_not_definite_is_refused_by_cg():
    model = synthetic().model()
    exact = dataclasses.replace(ESTIMATORS.create("objective"), step="newton")
    by_products = dataclasses.replace(exact, solver="cg")
    scores = influence_scores(model, exact)
    part = 3 * model.hessian.dense()  # a group of more curvature than all rows together
    wrong = dataclasses.replace(model, hessian_at=lambda _: HessianOperator.of_matrix(part))
    groups = torch.arange(20)[None]
    STEPS.create("newton").group_scores(model, by_products, scores, groups)
    with pytest.raises(Diverged, match="without positive curvature"):
        STEPS.create("newton").group_scores(wrong, by_products, scores, groups)


# --- ordinary inputs that are extreme --------------------------------------------------------


@pytest.mark.parametrize("step", STEP_NAMES)
def test_groups_of_the_same_rows_have_one_score(step):
    problem = synthetic(rows=12)
    twice = problem._replace(
        inputs=np.repeat(problem.inputs, 2, axis=0), targets=np.repeat(problem.targets, 2)
    )
    groups = torch.tensor([[0, 2, 10], [1, 3, 11], [10, 1, 2]])
    values = scored(twice, step, groups)[1].values
    assert_allclose(values[:, 1:], values[:, :1].expand(-1, 2), rtol=1e-9)


@pytest.mark.parametrize("step", STEP_NAMES)
def test_rows_that_the_network_is_certain_of_move_nothing(step):
    problem = synthetic()
    certain = problem._replace(theta=1e4 * problem.theta)
    single, groups = scored(certain, step, GROUPS, normalisation="n")
    assert groups.values.isfinite().all()
    sums = single.values[:, GROUPS].sum(-1)  # without curvature of their own they do not interact
    assert_allclose(groups.values, sums, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("step", STEP_NAMES)
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_one_class_present_is_scored_like_any(step, normalisation):
    problem = synthetic()
    same = problem._replace(targets=np.zeros_like(problem.targets)).optimised()
    _, groups = scored(same, step, normalisation=normalisation)
    assert groups.values.isfinite().all()
    assert groups.converged.all()


def test_one_row_leaves_nothing_to_take_the_mean_of():
    problem = synthetic(rows=1)
    parts = {"step": "second-order"}
    assert problem.scores("objective", **parts).values.isnan().all()
    assert problem.scores("objective", normalisation="n", **parts).values.isfinite().all()


def test_a_group_that_takes_all_curvature_of_a_direction_says_so():
    """One row is left, whose curvature is of two directions: the others have none."""
    problem = synthetic(rows=4)
    groups = torch.tensor([[0, 1, 2]])
    parts = {"hessian": "data", "normalisation": "n", "solver_options": {}}
    _, found = scored(problem, "newton", groups, **parts)
    assert not found.converged.any()
    assert found.rel_residual.min() > 1e-2
    assert "zero to rounding" in found.reason


@pytest.mark.parametrize("selection", ["all", "layer:body.0"])
@pytest.mark.parametrize("step", ["second-order", "newton"])
def test_parameters_below_the_head_are_refused(step, selection):
    with pytest.raises(UnusableInput, match=f"--step {step} takes a row's own Hessian"):
        synthetic().scores("objective", step=step, params=selection)

"""Newton steps without each row against Hessians that are formed and solved row by row."""

import dataclasses

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from ifcheck.curvature.row_curvature import RowCurvature
from ifcheck.errors import UnusableInput
from ifcheck.scores import ESTIMATORS
from tests import oracles
from tests.scores.test_first_order import (
    CLASSES,
    NORMALISATIONS,
    WEIGHT_DECAY,
    WEIGHTS,
    Problem,
    polished,
    synthetic,
)


def weights_without(row: int, rows: int, normalisation: str) -> np.ndarray:
    weights = np.full(rows, 1 / (rows if normalisation == "n" else rows - 1))
    weights[row] = 0
    return weights


def one_by_one(
    problem: Problem, normalisation: str, weight_decay: float, damping: float, part: slice
) -> np.ndarray:
    """Scores (tests, rows), each from a Hessian of its own."""
    train, test = problem.gradients()
    shift = WEIGHT_DECAY * problem.theta if normalisation == "n-1" else 0 * problem.theta
    rows = len(train)
    left = rows - (normalisation == "n-1")
    scores = np.empty((len(test), rows))
    for row in range(rows):
        weights = weights_without(row, rows, normalisation)
        matrix = oracles.head_hessian(problem.theta, *problem.rows, weights, weight_decay)
        matrix = matrix[part, part] + damping * np.eye(len(matrix[part]))
        step = np.linalg.solve(matrix, (train[row] + shift)[part] / left)
        scores[:, row] = test[:, part] @ step
    return scores


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize(
    ("parts", "part"),
    [
        ({}, slice(None)),
        ({"damping": 0.3}, slice(None)),
        ({"hessian": "data", "damping": 0.01}, slice(None)),
        ({"params": "layer:head.weight"}, slice(WEIGHTS)),
        ({"params": "layer:head.bias", "damping": 0.1}, slice(WEIGHTS, None)),
    ],
)
def test_every_row_s_step_is_that_of_its_own_hessian(normalisation, parts, part):
    problem = synthetic()
    found = problem.scores("newton-step", normalisation=normalisation, **parts)
    weight_decay = 0.0 if parts.get("hessian") == "data" else WEIGHT_DECAY
    expected = one_by_one(problem, normalisation, weight_decay, parts.get("damping", 0.0), part)
    assert_allclose(found.values, expected, rtol=1e-9, atol=1e-14)
    assert found.solution.converged.all()


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_at_the_optimum_it_is_newton_s_method_on_the_objective_of_the_rest(normalisation):
    problem = polished("iris")
    scores = problem.scores("newton-step", normalisation=normalisation).values[0].numpy()
    _, test = problem.gradients()
    for row in (0, 30, 77, 148):
        weights = weights_without(row, len(scores), normalisation)
        rows = (*problem.rows, weights, WEIGHT_DECAY)
        slope = oracles.head_gradient(problem.theta, *rows)
        step = -np.linalg.solve(oracles.head_hessian(problem.theta, *rows), slope)
        assert scores[row] == pytest.approx(test[0] @ step, rel=1e-7)


def test_it_predicts_removal_better_than_the_first_order():
    """Of the ten rows with the largest scores, of 25: each is a large share of the curvature."""
    problem = polished("synthetic")
    errors = {}
    for name in ("objective", "newton-step"):
        scores = problem.scores(name).values[0].numpy()
        rows = np.abs(problem.scores().values[0].numpy()).argsort()[-10:]
        truth = np.array(
            [
                oracles.leave_one_out_change(
                    *problem.rows, WEIGHT_DECAY, CLASSES, row, *problem.test_row(0), "n-1"
                )
                for row in rows
            ]
        )
        errors[name] = np.median(np.abs(scores[rows] / truth - 1))
    assert errors["newton-step"] < 0.8 * errors["objective"]  # 0.09 and 0.14


def test_conjugate_gradient_gives_the_same_to_its_tolerance():
    problem = synthetic()
    exact = problem.scores("newton-step").values
    options = {"tolerance": 1e-12}
    found = problem.scores("newton-step", solver="cg", solver_options=options)
    assert_allclose(found.values, exact, rtol=1e-6, atol=1e-9)


def test_an_inverse_that_did_not_converge_is_told():
    few = {"iterations": 2}
    found = synthetic().scores("newton-step", solver="cg", solver_options=few)
    assert not found.solution.converged.any()
    assert found.solution.rel_residual.min() > 1e-3
    assert "after 2 iterations" in found.solution.reason


def test_one_row_leaves_nothing_to_take_the_mean_of():
    problem = synthetic(rows=1)
    assert problem.scores("newton-step").values.isnan().all()
    alone = problem.scores("newton-step", normalisation="n").values
    expected = one_by_one(problem, "n", WEIGHT_DECAY, 0.0, slice(None))
    assert_allclose(alone, expected, rtol=1e-9)


def test_duplicate_rows_have_one_score():
    problem = synthetic(rows=12)
    twice = problem._replace(
        inputs=np.repeat(problem.inputs, 2, axis=0), targets=np.repeat(problem.targets, 2)
    )
    values = twice.scores("newton-step").values
    assert_allclose(values[:, ::2], values[:, 1::2], rtol=1e-9)


def test_rows_that_the_network_is_certain_of_move_nothing():
    problem = synthetic()
    certain = problem._replace(theta=1e4 * problem.theta)
    values = certain.scores("newton-step", normalisation="n").values
    assert values.isfinite().all()
    expected = one_by_one(certain, "n", WEIGHT_DECAY, 0.0, slice(None))
    assert_allclose(values, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("selection", ["all", "layer:body.0"])
def test_parameters_below_the_head_are_refused(selection):
    with pytest.raises(UnusableInput, match="--step newton") as raised:
        synthetic().scores("newton-step", params=selection)
    assert "--params head" in raised.value.remedy


def test_a_singular_hessian_is_solved_in_its_range_and_said_to_be():
    """Without weight decay one vector added to every class's weights changes nothing."""
    problem = synthetic()
    found = problem.scores("newton-step", hessian="data", normalisation="n")
    train, test = problem.gradients()
    rows = len(train)
    for row in (0, 7, 24):
        weights = weights_without(row, rows, "n")
        matrix = oracles.head_hessian(problem.theta, *problem.rows, weights, 0.0)
        inverse = np.linalg.pinv(matrix, rcond=1e-12, hermitian=True)
        expected = test @ inverse @ train[row] / rows
        assert_allclose(found.values[:, row], expected, rtol=1e-7)
    assert found.solution.converged.all()
    assert found.solution.rel_residual.max() < 1e-8
    assert found.solution.reason == ""
    assert found.spectrum.null_space == 5


def test_rows_that_take_all_curvature_of_a_direction_have_no_score():
    """Three rows for twelve directions: without one of them two are left to hold its own."""
    problem = synthetic(rows=3)
    found = problem.scores("newton-step", hessian="data", normalisation="n")
    assert found.values.isnan().all()
    assert "3 rows whose removal leaves a singular Hessian have no score" in found.solution.reason
    some = problem.scores("newton-step", hessian="data", normalisation="n", damping=0.1)
    assert some.values.isfinite().all()


def test_forms_are_those_of_kronecker_products():
    random = np.random.default_rng(1)
    features, labels = torch.randn(6, 3, dtype=torch.float64), torch.arange(6) % 3
    flat = torch.from_numpy(random.normal(size=12))
    within = torch.tensor([0, 1, 4, 7, 9, 10, 11])
    own = RowCurvature.of(flat, features, labels, within)
    matrix = random.normal(size=(7, 7))
    matrix = matrix + matrix.T
    # torch's order: the weight matrix row by row, then the biases
    kron = np.array(
        [np.concatenate([np.kron(np.eye(3), h[:, None]), np.eye(3)]) for h in features.numpy()]
    )[:, within.numpy()]  # (rows, 7, 3)
    expected = np.einsum("npa,pq,nqb->nab", kron, matrix, kron)
    assert_allclose(own.forms(torch.from_numpy(matrix)), expected, atol=1e-12)
    vectors = random.normal(size=(2, 7))
    expected = np.einsum("npa,dp->dna", kron, vectors)
    assert_allclose(own.products(torch.from_numpy(vectors)), expected, atol=1e-12)
    p = own.probabilities.numpy()
    curvature = np.array([np.diag(row) - np.outer(row, row) for row in p])
    factors = own.factors()
    assert_allclose(factors @ factors.mT, curvature, atol=1e-15)


def test_the_named_estimator_is_the_objective_s_with_another_step():
    named = ESTIMATORS.create("newton-step")
    plain = ESTIMATORS.create("objective")
    assert named.step == "newton"
    assert dataclasses.asdict(named) == {**dataclasses.asdict(plain), "step": "newton"}

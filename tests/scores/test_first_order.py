"""Influence scores against finite differences of re-solved optima, and direct formulas."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from ifcheck.config import InfluenceConfig
from ifcheck.curvature.local import LocalModel, local_model
from ifcheck.curvature.operator import HessianOperator
from ifcheck.datasets import DATASETS
from ifcheck.errors import Diverged, UnknownName
from ifcheck.models import MLP
from ifcheck.objective import Objective
from ifcheck.params import load_flat
from ifcheck.scores import ESTIMATORS, Estimator, Scores, influence_scores, resolve_estimator
from tests import oracles

CLASSES, WIDTH, WEIGHT_DECAY = 3, 4, 0.01
WEIGHTS = CLASSES * WIDTH  # the first of the head's flat parameters are its weight matrix
NORMALISATIONS = ["n", "n-1"]
EPS = np.finfo(np.float64).eps


class Problem(NamedTuple):
    """Rows below a fixed random hidden layer, and a head on top of it."""

    inputs: np.ndarray
    targets: np.ndarray
    test_inputs: np.ndarray
    test_targets: np.ndarray
    hidden: np.ndarray  # (WIDTH * (inputs + 1),) flat
    theta: np.ndarray  # the head's flat parameters

    def features(self, inputs: np.ndarray) -> np.ndarray:
        W, b = oracles.split_theta(self.hidden, inputs.shape[1])
        return np.tanh(inputs @ W.T + b)

    @property
    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        return self.features(self.inputs), self.targets

    def test_row(self, test: int) -> tuple[np.ndarray, int]:
        return self.features(self.test_inputs)[test], int(self.test_targets[test])

    def optimised(self) -> "Problem":
        mean = np.full(len(self.targets), 1 / len(self.targets))
        return self._replace(
            theta=oracles.head_optimum(*self.rows, mean, WEIGHT_DECAY, classes=CLASSES)
        )

    def model(self, selection: str = "head") -> LocalModel:
        network = MLP(self.inputs.shape[1], WIDTH, 1, CLASSES, "tanh")
        load_flat(network, torch.from_numpy(np.concatenate([self.hidden, self.theta])))
        train, test = (self.inputs, self.targets), (self.test_inputs, self.test_targets)
        train, test = (tuple(map(torch.from_numpy, rows)) for rows in (train, test))
        return local_model(network, Objective(WEIGHT_DECAY), selection, train, test)

    def scores(self, estimator: str = "objective", **parts) -> Scores:
        described = dataclasses.replace(ESTIMATORS.create(estimator), **parts)
        model = self.model(described.params)
        return influence_scores(model, described)

    def gradients(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the training rows and of the test points, by loops."""
        tests = (self.features(self.test_inputs), self.test_targets)
        train, test = (
            np.array([oracles.row_gradient(self.theta, h, y) for h, y in zip(*rows, strict=True)])
            for rows in (self.rows, tests)
        )
        return train, test

    def hessian(self, weight_decay: float) -> np.ndarray:
        mean = np.full(len(self.targets), 1 / len(self.targets))
        return oracles.head_hessian(self.theta, *self.rows, mean, weight_decay)


def from_rows(inputs, targets, test_inputs, test_targets) -> Problem:
    random = np.random.default_rng(5)
    hidden = random.normal(size=WIDTH * (inputs.shape[1] + 1))
    theta = random.normal(size=CLASSES * (WIDTH + 1))
    return Problem(inputs, targets, test_inputs, test_targets, hidden, theta)


def synthetic(rows: int = 25) -> Problem:
    random = np.random.default_rng(0)
    inputs = random.normal(size=(rows, 3))
    targets = random.integers(0, CLASSES, size=rows)
    return from_rows(inputs, targets, random.normal(size=(2, 3)), np.array([1, 2]))


def iris() -> Problem:
    split = DATASETS.create("iris").split([83])
    rows = split.train_inputs, split.train_targets, split.test_inputs, split.test_targets
    return from_rows(*rows)


@functools.cache
def polished(name: str) -> Problem:
    return {"synthetic": synthetic, "iris": iris}[name]().optimised()


# --- first order: derivatives of the optimum -----------------------------------------------


@pytest.mark.parametrize("name", ["synthetic", "iris"])
@pytest.mark.parametrize(
    ("normalisation", "oracle"),
    [("n", oracles.removal_derivative_n), ("n-1", oracles.removal_derivative_n_minus_1)],
)
def test_objective_scores_are_derivatives_of_the_optimum(name, normalisation, oracle):
    problem = polished(name)
    scores = problem.scores(normalisation=normalisation).values[0].numpy()
    assert scores.shape == problem.targets.shape
    ranked = np.argsort(scores)
    for row in (ranked[0], ranked[len(ranked) // 2], ranked[-1]):
        expected = oracle(*problem.rows, WEIGHT_DECAY, CLASSES, row, *problem.test_row(0))
        assert scores[row] == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_weight_matrix_scores_are_derivatives_with_the_biases_fixed(normalisation):
    problem, row, test = polished("synthetic"), 4, 1
    n = len(problem.targets)
    full, without = np.full(n, 1 / n), np.full(n, 1 / (n if normalisation == "n" else n - 1))
    without[row] = 0

    def test_loss(share: float) -> float:
        theta = problem.theta.copy()
        weights = (1 - share) * full + share * without
        for _ in range(10):  # Newton on the weights alone; 4 steps reach rounding
            rows = (*problem.rows, weights, WEIGHT_DECAY)
            slope = oracles.head_gradient(theta, *rows)[:WEIGHTS]
            matrix = oracles.head_hessian(theta, *rows)[:WEIGHTS, :WEIGHTS]
            theta[:WEIGHTS] -= np.linalg.solve(matrix, slope)
        assert np.linalg.norm(slope) < 1e-14
        features, target = problem.test_row(test)
        return oracles.softmax_loss(theta, features[None], np.array([target]), CLASSES)[0]

    scores = problem.scores(params="layer:head.weight", normalisation=normalisation).values
    expected = oracles.central_derivative(test_loss, 1e-2)
    assert scores[test, row].item() == pytest.approx(expected, rel=1e-7)


# --- sign and size -------------------------------------------------------------------------


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_positive_means_that_removal_hurts(normalisation):
    problem = polished("iris")
    scores = problem.scores(normalisation=normalisation).values[0].numpy()
    changes = {
        row: oracles.leave_one_out_change(
            *problem.rows, WEIGHT_DECAY, CLASSES, row, *problem.test_row(0), normalisation
        )
        for row in (scores.argmax(), scores.argmin())
    }
    assert changes[scores.argmax()] > 0 > changes[scores.argmin()]
    for row, change in changes.items():
        assert scores[row] == pytest.approx(change, rel=0.05)


def test_scores_of_all_rows_add_up_at_the_optimum():
    # at the optimum the g_i sum to -n grad Omega: with n-1 the scores cancel
    problem = polished("synthetic")
    assert_allclose(problem.scores(normalisation="n-1").values.sum(1), 0, atol=1e-13)
    _, test = problem.gradients()
    expected = -test @ np.linalg.solve(problem.hessian(WEIGHT_DECAY), WEIGHT_DECAY * problem.theta)
    assert_allclose(problem.scores(normalisation="n").values.sum(1), expected, rtol=1e-10)


# --- the other estimators ------------------------------------------------------------------


def test_paper_is_the_damped_data_hessian_over_n():
    problem = synthetic()
    train, test = problem.gradients()
    damped = problem.hessian(weight_decay=0) + 0.01 * np.eye(len(problem.theta))
    expected = test @ np.linalg.inv(damped) @ train.T / len(train)
    assert_allclose(problem.scores("paper").values, expected, rtol=1e-10, atol=1e-15)


def test_authors_is_the_undamped_weight_matrix_over_n():
    problem = synthetic()
    train, test = (gradients[:, :WEIGHTS] for gradients in problem.gradients())
    block = problem.hessian(weight_decay=0)[:WEIGHTS, :WEIGHTS]
    inverse = np.linalg.pinv(block, rcond=WEIGHTS * EPS, hermitian=True)
    expected = test @ inverse @ train.T / len(train)
    scores = problem.scores("authors")
    assert_allclose(scores.values, expected, rtol=1e-9, atol=1e-14)
    assert scores.spectrum.null_space == WIDTH  # one vector added to the weights of every class


def test_objective_is_the_regularised_hessian_over_n_minus_1_anywhere():
    problem = synthetic()
    train, test = problem.gradients()
    matrix = problem.hessian(WEIGHT_DECAY)
    shifted = train + WEIGHT_DECAY * problem.theta
    expected = test @ np.linalg.solve(matrix, shifted.T) / (len(train) - 1)
    assert_allclose(problem.scores().values, expected, rtol=1e-10, atol=1e-15)


def test_certificates_of_the_solve_are_kept():
    problem = synthetic()
    scores = problem.scores("objective")
    eigenvalues = np.linalg.eigvalsh(problem.hessian(WEIGHT_DECAY))
    assert scores.spectrum.smallest == pytest.approx(WEIGHT_DECAY)  # the null space, lifted
    assert scores.spectrum.largest == pytest.approx(eigenvalues[-1])
    assert scores.spectrum.null_space == 0
    assert scores.solution.converged.tolist() == [True, True]
    assert scores.solution.rel_residual.max() < 1e-12
    assert problem.scores(hessian="data").spectrum.null_space == WIDTH + 1
    _, test = problem.gradients()
    assert_allclose(scores.solution.x.numpy() @ problem.hessian(WEIGHT_DECAY), test, rtol=1e-10)


# --- a description of an estimator ---------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("objective", ("head", "objective", 0.0, "exact", "n-1")),
        ("paper", ("head", "data", 0.01, "exact", "n")),
        ("authors", ("layer:head.weight", "data", 0.0, "exact", "n")),
    ],
)
def test_named_estimators(name, parts):
    assert resolve_estimator(InfluenceConfig(estimator=name)) == Estimator(*parts)


@pytest.mark.parametrize(
    "given",
    [
        {"params": "all"},
        {"hessian": "objective"},
        {"damping": 0.0},  # not to be mistaken for "not given"
        {"damping": 0.5},
        {"normalisation": "n-1"},
        {"params": "layer:head.weight", "damping": 0.0, "normalisation": "n-1"},
    ],
)
def test_parts_that_are_given_replace_those_of_the_name(given):
    paper = Estimator("head", "data", 0.01, "exact", "n")
    resolved = resolve_estimator(InfluenceConfig(estimator="paper", **given))
    assert resolved == dataclasses.replace(paper, **given)


def test_default_is_the_objective_estimator():
    resolved = resolve_estimator(InfluenceConfig())
    assert resolved == Estimator("head", "objective", 0.0, "exact", "n-1")


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UnknownName, match="unknown estimator 'papre'") as caught:
        resolve_estimator(InfluenceConfig(estimator="papre"))
    assert "'paper'" in caught.value.remedy
    with pytest.raises(UnknownName, match="unknown solver 'exakt'"):
        synthetic().scores(solver="exakt")


# --- degenerate rows -----------------------------------------------------------------------


def test_duplicate_rows_have_equal_scores():
    problem = synthetic()
    inputs, targets = problem.inputs.copy(), problem.targets.copy()
    inputs[7], targets[7] = inputs[2], targets[2]
    scores = problem._replace(inputs=inputs, targets=targets).scores().values
    assert_allclose(scores[:, 7], scores[:, 2], rtol=1e-12)
    assert (scores[:, 2] != scores[:, 3]).all()


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_one_class_present_is_scored_like_any(normalisation):
    problem = synthetic(rows=6)
    problem = problem._replace(targets=np.ones(6, dtype=np.int64)).optimised()
    scores = problem.scores(normalisation=normalisation).values[0, 3].item()
    oracle = {"n": oracles.removal_derivative_n, "n-1": oracles.removal_derivative_n_minus_1}
    rows = (*problem.rows, WEIGHT_DECAY, CLASSES, 3, *problem.test_row(0))
    assert scores == pytest.approx(oracle[normalisation](*rows), rel=1e-6)


def test_dead_hidden_layer_leaves_the_biases_to_score():
    problem = synthetic()
    problem = problem._replace(hidden=np.zeros_like(problem.hidden)).optimised()
    scores = problem.scores(normalisation="n").values[0, 4].item()
    rows = (*problem.rows, WEIGHT_DECAY, CLASSES, 4, *problem.test_row(0))
    assert scores == pytest.approx(oracles.removal_derivative_n(*rows), rel=1e-7)
    data = problem.scores(hessian="data")
    assert data.spectrum.null_space == len(problem.theta) - (CLASSES - 1)
    assert data.solution.converged.all()


def test_single_row_is_scored_where_the_denominator_stays():
    problem = synthetic(rows=1).optimised()
    train, test = problem.gradients()
    expected = test @ np.linalg.solve(problem.hessian(WEIGHT_DECAY), train.T)
    assert_allclose(problem.scores(normalisation="n").values, expected, rtol=1e-9)


def test_single_row_has_no_score_against_the_mean_of_no_rows():
    problem = synthetic(rows=1).optimised()
    assert problem.scores(normalisation="n-1").values.isnan().all()


def test_saturated_head_has_no_curvature_and_says_so():
    problem = synthetic()
    problem = problem._replace(theta=1e5 * problem.theta)
    scores = problem.scores("authors")
    assert torch.isfinite(scores.values).all()
    wrong = torch.from_numpy(problem.gradients()[1][:, :WEIGHTS]).norm(dim=1) > 0.1
    assert wrong.any()
    assert not scores.solution.converged[wrong].any()


def test_diverged_network_is_refused():
    model = synthetic().model()
    broken = dataclasses.replace(
        model, hessian=HessianOperator.of_matrix(model.hessian.dense() * torch.nan)
    )
    with pytest.raises(Diverged, match="not finite"):
        influence_scores(broken, ESTIMATORS.create("objective"))

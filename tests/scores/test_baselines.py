"""Baselines against loops over rows, and in extreme cases."""

import dataclasses

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from ifcheck.curvature.local import local_model
from ifcheck.models import MLP
from ifcheck.objective import Objective
from ifcheck.scores import ESTIMATORS, STEPS, influence_scores
from tests import oracles
from tests.curvature.test_local import ROWS, TEST, TRAIN
from tests.scores.test_first_order import CLASSES, Problem, synthetic

BASELINES = sorted(name for name in STEPS if STEPS.create(name).is_baseline)


def by_loops(problem: Problem) -> dict[str, np.ndarray]:
    """The score of each row for each test point, from the gradients of single rows."""
    train, test = problem.gradients()
    sizes = np.outer(np.linalg.norm(test, axis=1), np.linalg.norm(train, axis=1))
    losses = oracles.softmax_loss(problem.theta, *problem.rows, CLASSES)
    same = np.array([[y == own for own in problem.targets] for y in problem.test_targets])
    return {
        "gradient-dot": test @ train.T,
        "gradient-cosine": test @ train.T / sizes,
        "train-loss": np.stack([losses, losses]),
        "same-class": same.astype(float),
    }


def test_all_baselines_are_known_to_this_test_and_are_estimators():
    assert by_loops(synthetic()).keys() == set(BASELINES)
    assert {ESTIMATORS.create(name).step for name in BASELINES} == set(BASELINES)
    assert not STEPS.create("first-order").is_baseline


@pytest.mark.parametrize("name", BASELINES)
def test_rows_score_as_loops_over_them_do(name):
    problem = synthetic()
    found = problem.scores(name)
    assert_allclose(found.values, by_loops(problem)[name], rtol=1e-10, atol=1e-14)
    assert found.solution.converged.all()
    assert not found.solution.rel_residual.any()


@pytest.mark.parametrize("name", BASELINES)
def test_groups_score_as_their_rows_together(name):
    problem, groups = synthetic(), torch.tensor([[0, 5, 9], [20, 3, 4]])
    model, estimator = problem.model(), ESTIMATORS.create(name)
    scores = influence_scores(model, estimator)
    found = STEPS.create(name).group_scores(model, estimator, scores, groups)
    expected = by_loops(problem)[name]
    sums = np.stack([expected[:, group].sum(axis=1) for group in groups.numpy()], axis=1)
    assert_allclose(found.values, sums, rtol=1e-10, atol=1e-14)
    assert found.converged.all()


@pytest.mark.parametrize("name", BASELINES)
def test_rows_without_a_gradient_score_nothing(name):
    problem = synthetic()
    values = problem._replace(theta=1e6 * problem.theta).scores(name).values
    assert values.isfinite().all()


def test_gradients_of_whole_networks_are_taken_in_blocks(monkeypatch):
    torch.manual_seed(0)
    network = MLP(TRAIN[0].shape[1], 4, 1, 3, "tanh").double()
    estimator = dataclasses.replace(ESTIMATORS.create("gradient-cosine"), params="all")
    whole = influence_scores(local_model(network, Objective(), "all", TRAIN, TEST), estimator)
    monkeypatch.setattr("ifcheck.curvature.local.ROW_VALUES", 50)
    parts = influence_scores(local_model(network, Objective(), "all", TRAIN, TEST), estimator)
    torch.testing.assert_close(parts.values, whole.values)
    assert whole.values.shape == (len(TEST[1]), ROWS)
    assert (whole.values.abs() <= 1 + 1e-12).all()
    itself = local_model(network, Objective(), "all", TRAIN, TRAIN)
    diagonal = influence_scores(itself, estimator).values.diagonal()
    assert_allclose(diagonal, np.ones(ROWS), rtol=1e-10)

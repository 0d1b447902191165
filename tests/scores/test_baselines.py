"""Baselines against loops over rows, and in extreme cases."""

import dataclasses

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy import stats

from ifcheck.curvature.local import local_model
from ifcheck.models import MLP
from ifcheck.objective import Objective
from ifcheck.scores import ESTIMATORS, STEPS, influence_scores
from tests import oracles
from tests.curvature.test_local import ROWS, TEST, TRAIN
from tests.scores.test_first_order import CLASSES, Problem, synthetic
from tests.stages.test_scratch import named

BASELINES = sorted(name for name in STEPS if STEPS.create(name).is_baseline)


def by_loops(problem: Problem) -> dict[str, np.ndarray]:
    """The score of each row for each test point, from the gradients of single rows."""
    train, test = problem.gradients()
    sizes = np.outer(np.linalg.norm(test, axis=1), np.linalg.norm(train, axis=1))
    losses = oracles.softmax_loss(problem.theta, *problem.rows, CLASSES)
    same = np.array([[y == own for own in problem.targets] for y in problem.test_targets])
    # The seeds of the test points at places 0 and 1 of a model that nothing else is known of.
    draws = [np.random.default_rng(named(0, "random scores", t)) for t in (0, 1)]
    return {
        "random": np.stack([draw.standard_normal(len(train)) for draw in draws]),
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


def test_chance_reaches_the_rank_correlation_that_the_permutation_has():
    """Mean |Spearman| of 40 removals with random scores: 0.13, sqrt(2 / pi / 39)."""
    true = np.arange(40) ** 2
    scores = draws_of_random(range(2_000))[:, :40]
    found = np.mean([abs(stats.spearmanr(own, true).statistic) for own in scores])
    assert found == pytest.approx(np.sqrt(2 / np.pi / 39), abs=0.006)  # 0.128; four errors of it
    assert found == pytest.approx(0.13, abs=0.01)


def test_random_scores_depend_on_their_seed_alone():
    scores = draws_of_random((7, 3, 11))
    assert np.array_equal(draws_of_random((3,))[0], scores[1])
    assert len(np.unique(scores)) == scores.size


def draws_of_random(seeds) -> np.ndarray:
    """Random scores of a model whose test points have these seeds. Shape: (seeds, rows)."""
    model = dataclasses.replace(synthetic().model(), draw_seeds=tuple(seeds), rows=60)
    return STEPS.create("random").values(model).numpy()


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

"""The objective and the weighted mean against sums by hand."""

import math

import numpy as np
import pytest
import torch

from ifcheck.objective import Objective, uniform_weights, weighted_mean, weights_without
from tests import oracles

ROWS = 5
NO_RHO = torch.tensor(False)


def removed(*rows: int) -> torch.Tensor:
    return torch.tensor(rows)


# --- per-example loss, data loss, weight decay -----------------------------------------------


def test_the_loss_is_the_softmax_s_cross_entropy_in_nats():
    rows = [[0.0, 0.0, 0.0], [math.log(2), 0.0, 0.0], [1e4, 0.0, 0.0]]
    logits = torch.tensor(rows, dtype=torch.float64)
    targets = torch.tensor([2, 0, 1])
    losses = Objective().per_example_loss(logits, targets)
    expected = torch.tensor([math.log(3), math.log(2), 1e4], dtype=torch.float64)
    torch.testing.assert_close(losses, expected, rtol=1e-15, atol=0)


def test_the_objective_of_a_head_is_the_oracle_s():
    random = np.random.default_rng(0)
    features, theta = random.normal(size=(20, 4)), random.normal(size=15)
    targets, weights = random.integers(0, 3, size=20), random.uniform(size=20)
    W, b = oracles.split_theta(theta, 4)
    objective = Objective(0.3)
    logits = torch.tensor(features @ W.T + b)
    data = objective.data_loss(logits, torch.tensor(targets), torch.tensor(weights))
    total = data + objective.regulariser(torch.tensor(theta), NO_RHO)
    expected = oracles.head_objective(theta, features, targets, weights, 0.3)
    assert total.item() == pytest.approx(expected, rel=1e-14)


def test_weight_decay_is_half_the_squared_norm_of_each_model():
    parameters = torch.tensor([[3.0, 4.0], [0.0, -2.0]])
    assert Objective(0.5).regulariser(parameters, NO_RHO).tolist() == [6.25, 1.0]
    assert Objective().regulariser(parameters, NO_RHO).tolist() == [0.0, 0.0]


# --- the mean --------------------------------------------------------------------------------


def test_weighted_mean_sums_over_the_last_axis():
    losses = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    weights = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.5, 0.0]])
    assert weighted_mean(losses, weights).tolist() == [2.0, 8.0]


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_weighted_mean_leaves_out_rows_of_weight_zero_whatever_their_loss(bad):
    losses, weights = torch.tensor([bad, 3.0]), torch.tensor([0.0, 0.5])
    assert weighted_mean(losses, weights).item() == 1.5


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_weighted_mean_does_not_hide_a_bad_loss_that_counts(bad):
    assert not weighted_mean(torch.tensor([bad, 3.0]), torch.tensor([0.5, 0.5])).isfinite()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_weights_are_the_mean(dtype):
    weights = uniform_weights(149, dtype)
    assert weights.dtype == dtype
    assert weights.tolist() == torch.full((149,), 1 / 149, dtype=dtype).tolist()


# --- removals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "normalisation", "expected"),
    [
        (removed(1), "n-1", [0.25, 0.0, 0.25, 0.25, 0.25]),
        (removed(1), "n", [0.2, 0.0, 0.2, 0.2, 0.2]),
        (removed(0, 4), "n-1", [0.0, 1 / 3, 1 / 3, 1 / 3, 0.0]),
        (removed(0, 4), "n", [0.0, 0.2, 0.2, 0.2, 0.0]),
        (removed(-1), "n-1", [0.2] * 5),
        (removed(-1), "n", [0.2] * 5),
        (removed(2, -1, -1), "n-1", [0.25, 0.25, 0.0, 0.25, 0.25]),
        (removed(3, 3), "n-1", [0.25, 0.25, 0.25, 0.0, 0.25]),
    ],
)
def test_weights_of_one_removal(rows, normalisation, expected):
    weights = weights_without(ROWS, rows, normalisation)
    assert weights.dtype == torch.float64
    assert weights.tolist() == pytest.approx(expected, abs=0)


def test_weights_of_many_removals_keep_their_axes():
    rows = torch.tensor([[[0], [1], [-1]], [[2], [-1], [4]]])  # (seeds, removals, k)
    weights = weights_without(ROWS, rows, "n-1")
    assert weights.shape == (2, 3, ROWS)
    for seed, removal in np.ndindex(2, 3):
        alone = weights_without(ROWS, rows[seed, removal], "n-1")
        assert torch.equal(weights[seed, removal], alone)


@pytest.mark.parametrize("normalisation", ["n", "n-1"])
def test_a_removal_changes_the_mean_as_deleting_the_row_does(normalisation):
    losses = torch.tensor([1.0, 5.0, 2.0, 7.0, 3.0], dtype=torch.float64)
    for row in range(ROWS):
        mean = weighted_mean(losses, weights_without(ROWS, removed(row), normalisation)).item()
        rest = [loss for other, loss in enumerate(losses.tolist()) if other != row]
        denominator = ROWS - 1 if normalisation == "n-1" else ROWS
        assert mean == pytest.approx(sum(rest) / denominator, rel=1e-15)


def test_weights_are_rounded_once_to_another_type():
    weights = weights_without(ROWS, removed(1), "n", torch.float32)
    assert weights.dtype == torch.float32
    assert torch.equal(weights, weights_without(ROWS, removed(1), "n").float())


@pytest.mark.parametrize("row", [ROWS, ROWS + 1, 100])
def test_a_position_beyond_the_rows_is_not_silently_ignored(row):
    with pytest.raises((IndexError, RuntimeError, ValueError)):
        weights_without(ROWS, removed(row), "n-1")

"""Reliability over replicates, by hand and in a simulation whose true reliability is known."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from ifcheck.agreement.reliability import reliability


def drawn(removals: int, replicates: int, noise: float, seed: int = 0):
    """True changes (removals,) of variance 1, and replicates with noise of this variance."""
    random = np.random.default_rng(seed)
    true = random.normal(size=removals)
    noises = math.sqrt(noise) * random.normal(size=(removals, replicates))
    return true, true[:, None] + noises


def on_ranks(correlation: float) -> float:
    """Spearman's rho of normal variables with this correlation (Pearson 1907)."""
    return 6 / math.pi * math.asin(correlation / 2)


@pytest.mark.parametrize("replicates", [2, 3, 8])
@pytest.mark.parametrize("noise", [0.2, 1.0, 5.0])
def test_reliability_of_normal_changes_is_the_known_one(replicates, noise):
    _, values = drawn(40_000, replicates, noise)
    found = reliability(values)
    r = on_ranks(1 / (1 + noise))
    expected = replicates * r / (1 + (replicates - 1) * r)
    assert found.reliability == pytest.approx(expected, abs=0.02)
    # ... which is that of the values themselves, but for the step from values to ranks
    assert found.reliability == pytest.approx(1 / (1 + noise / replicates), abs=0.03)
    assert found.reason is None


@pytest.mark.parametrize("noise", [0.2, 1.0, 5.0])
def test_the_truth_itself_reaches_the_ceiling(noise):
    true, values = drawn(40_000, 4, noise)
    reached = stats.spearmanr(true, values.mean(axis=1)).statistic
    assert reliability(values).noise_ceiling == pytest.approx(reached, abs=0.02)


def test_another_set_of_replicates_agrees_as_reliability_says():
    true, first = drawn(40_000, 3, 2.0)
    second = true[:, None] + math.sqrt(2.0) * np.random.default_rng(9).normal(size=first.shape)
    agreement = stats.spearmanr(first.mean(axis=1), second.mean(axis=1)).statistic
    assert reliability(first).reliability == pytest.approx(agreement, abs=0.02)


def test_it_is_the_formula_with_scipys_correlations():
    _, values = drawn(40, 3, 1.0, seed=4)
    pairs = [stats.spearmanr(values[:, a], values[:, b])[0] for a, b in combinations(range(3), 2)]
    r = np.mean(pairs)
    found = reliability(values)
    assert found.reliability == pytest.approx(3 * r / (1 + 2 * r), rel=1e-12)
    assert found.noise_ceiling == pytest.approx(math.sqrt(3 * r / (1 + 2 * r)), rel=1e-12)


def test_it_depends_on_ranks_alone():
    _, values = drawn(25, 3, 0.5)
    assert reliability(np.exp(values)) == reliability(values)


def test_equal_replicates_are_reliable():
    values = np.tile(np.arange(5.0)[:, None], 3)
    assert reliability(values).to_record() == {
        "reliability": pytest.approx(1.0),
        "noise_ceiling": pytest.approx(1.0),
        "reliability_reason": "",
    }


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([[1.0], [2.0], [4.0]], "one replicate"),
        ([[1.0, 2.0], [2.0, 3.0]], "2 removals; expected at least 3"),
        ([[1.0, 2.0], [2.0, np.nan], [3.0, 4.0]], "not finite"),
        ([[1.0, 2.0], [2.0, 2.0], [3.0, 2.0]], "constant"),
        ([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]], "their mean Spearman is -1"),
        (np.zeros((0, 2)), "0 removals"),
    ],
)
def test_what_is_undefined_has_a_reason(values, reason):
    found = reliability(values)
    assert math.isnan(found.reliability)
    assert math.isnan(found.noise_ceiling)
    assert reason in found.reason


def test_another_shape_is_an_error():
    with pytest.raises(ValueError, match=r"expected \(removals, R\)"):
        reliability([1.0, 2.0, 3.0])

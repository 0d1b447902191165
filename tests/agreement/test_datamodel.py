"""The linear datamodeling score against its definition, over kept rows, written out in loops."""

import math

import numpy as np
import pytest
from scipy import stats

from ifcheck.agreement.datamodel import linear_datamodeling_score

pytestmark = pytest.mark.filterwarnings("error")

ROWS, GROUP, SUBSETS, TESTS = 60, 6, 40, 3


def seed_of(random, noise=0.5, sign=1.0):
    """Scores of single rows, groups, and the losses of networks trained on what is left."""
    scores = random.normal(size=(TESTS, ROWS))
    groups = np.stack([random.permutation(ROWS)[:GROUP] for _ in range(SUBSETS)])
    changes = sign * scores[:, groups].sum(axis=2) + noise * random.normal(size=(TESTS, SUBSETS))
    return scores, groups, changes


def pairs_of(scores, groups, changes):
    return list(zip(scores[:, groups].sum(axis=2), changes, strict=True))


def by_definition(scores, groups, losses):
    """Spearman of the sum of attributions over the rows kept with the model's output there.

    The attribution of a row to the loss is how much keeping it adds: minus the predicted change.
    """
    found = []
    for test in range(TESTS):
        sums = []
        for group in groups:
            kept = [row for row in range(ROWS) if row not in set(group.tolist())]
            sums.append(sum(-scores[test, row] for row in kept))
        found.append(stats.spearmanr(sums, losses[test]).statistic)
    return np.mean(found)


def score(pairs, samples=200, confidence=0.95, seed=0):
    return linear_datamodeling_score(pairs, samples, confidence, seed)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_score_is_that_of_the_definition_sign_included(sign):
    random = np.random.default_rng(0)
    seeds = [seed_of(random, sign=sign) for _ in range(2)]
    before = 0.7  # what the loss is with all rows, which moves no rank
    expected = np.mean([by_definition(s, g, before + c) for s, g, c in seeds])
    found = score([pairs_of(*own) for own in seeds])
    assert found.value == pytest.approx(expected)
    assert found.value * sign > 0.8
    assert found.low <= found.value <= found.high


def test_interval_is_the_bootstrap_over_subsets_the_same_for_all_test_points():
    random = np.random.default_rng(1)
    scores, groups, changes = seed_of(random, noise=3.0)
    pairs = pairs_of(scores, groups, changes)
    found = score([pairs], samples=4_000)
    resampled = []
    for _ in range(2_000):
        drawn = random.integers(0, SUBSETS, SUBSETS)
        resampled.append(np.mean([stats.spearmanr(p[drawn], t[drawn]).statistic for p, t in pairs]))
    low, high = np.quantile(resampled, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)


def test_more_subsets_tell_more():
    random = np.random.default_rng(2)
    predicted, noise = random.normal(size=400), random.normal(size=400)
    wide, narrow = (score([[(predicted[:n], predicted[:n] + 2 * noise[:n])]]) for n in (40, 400))
    assert narrow.high - narrow.low < (wide.high - wide.low) / 2


def test_a_seed_without_a_correlation_is_left_out():
    random = np.random.default_rng(3)
    good = pairs_of(*seed_of(random))
    bad = [(np.ones(SUBSETS), np.arange(SUBSETS, dtype=float))]
    assert score([good, bad]).value == score([good]).value


@pytest.mark.parametrize(
    ("pairs", "samples", "phrase"),
    [
        ([], 10, "no pair has a correlation"),
        ([[(np.ones(5), np.arange(5.0))]], 10, "no pair has a correlation"),
        ([[(np.arange(5.0), np.arange(5.0))]], 0, "no resamples"),
    ],
)
def test_undefined_numbers_have_a_reason(pairs, samples, phrase):
    found = score(pairs, samples)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isnan(found.value) == (samples > 0)
    assert phrase in found.reason


def test_confidence_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        score([], confidence=95)

"""Differences of means, against the textbook formulas and scipy's distributions."""

import math

import numpy as np
import pytest
from scipy import stats

from ifcheck.agreement.differences import NO_SPREAD, PAIRED, WELCH, mean_difference

A = {0: 0.91, 3: 0.80, 7: 0.95, 11: 0.70, 12: 0.88}
B = {11: 0.75, 12: 0.90, 0: 0.97, 3: 0.86, 7: 0.93}  # the same seeds in another order
OTHER = {1: 0.5, 2: 0.75, 4: 0.6}


def by_hand_paired(differences, confidence):
    """Mean, interval and p-value of Student's t, from its definition."""
    n = len(differences)
    mean = sum(differences) / n
    error = math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1) / n)
    half = stats.t.ppf((1 + confidence) / 2, n - 1) * error
    return mean, mean - half, mean + half, 2 * stats.t.sf(abs(mean / error), n - 1)


def by_hand_welch(a, b, confidence):
    """The same by Welch's t with the Welch-Satterthwaite degrees of freedom."""
    share_a, share_b = np.var(a, ddof=1) / len(a), np.var(b, ddof=1) / len(b)
    degrees = (share_a + share_b) ** 2 / (share_a**2 / (len(a) - 1) + share_b**2 / (len(b) - 1))
    mean, error = np.mean(b) - np.mean(a), math.sqrt(share_a + share_b)
    half = stats.t.ppf((1 + confidence) / 2, degrees) * error
    return mean, mean - half, mean + half, 2 * stats.t.sf(abs(mean / error), degrees)


def numbers(found):
    return found.difference, found.low, found.high, found.p_value


@pytest.mark.parametrize("confidence", [0.95, 0.5])
def test_the_same_seeds_are_paired_whatever_their_order(confidence):
    found = mean_difference(A, B, confidence)
    expected = by_hand_paired([B[seed] - A[seed] for seed in A], confidence)
    assert numbers(found) == pytest.approx(expected, rel=1e-12)
    assert (found.method, found.n_first, found.n_second, found.reason) == (PAIRED, 5, 5, None)
    assert found.first == pytest.approx(np.mean(list(A.values())))
    assert found.second == pytest.approx(np.mean(list(B.values())))


@pytest.mark.parametrize("confidence", [0.95, 0.5])
def test_other_seeds_are_independent(confidence):
    found = mean_difference(A, OTHER, confidence)
    expected = by_hand_welch(list(A.values()), list(OTHER.values()), confidence)
    assert numbers(found) == pytest.approx(expected, rel=1e-10)
    assert (found.method, found.n_first, found.n_second) == (WELCH, 5, 3)


def test_a_part_of_the_seeds_is_not_the_same_seeds():
    assert mean_difference(A, {0: 0.9, 3: 0.8}).method == WELCH


def test_a_seed_that_is_undefined_in_one_is_left_out_of_both():
    holed = {**B, 3: math.nan}
    found = mean_difference(A, holed)
    expected = by_hand_paired([B[seed] - A[seed] for seed in A if seed != 3], 0.95)
    assert numbers(found) == pytest.approx(expected, rel=1e-12)
    assert (found.n_first, found.n_second, found.method) == (4, 4, PAIRED)


def test_an_undefined_seed_is_left_out_of_its_own_mean_alone():
    found = mean_difference(A, {**OTHER, 9: math.inf})
    expected = by_hand_welch(list(A.values()), list(OTHER.values()), 0.95)
    assert numbers(found) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("other", [B, OTHER])
def test_the_other_way_round_everything_changes_sign(other):
    there, back = mean_difference(A, other), mean_difference(other, A)
    assert back.difference == pytest.approx(-there.difference, rel=1e-12)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), rel=1e-12)
    assert back.p_value == pytest.approx(there.p_value, rel=1e-12)


def test_nothing_differs_from_itself():
    found = mean_difference(A, A)
    assert (found.difference, found.low, found.high) == (0, 0, 0)
    assert math.isnan(found.p_value)
    assert found.reason == NO_SPREAD


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({0: 0.5, 1: 0.75}, {0: 1.0, 1: 1.25}),  # the same on every seed
        ({0: 0.5, 1: 0.5}, {2: 1.0, 3: 1.0}),  # constant in both
    ],
)
def test_without_spread_the_interval_is_a_point(first, second):
    found = mean_difference(first, second)
    assert (found.difference, found.low, found.high) == (0.5, 0.5, 0.5)
    assert found.reason == NO_SPREAD


def test_one_seed_has_a_difference_and_no_interval():
    found = mean_difference({0: 0.5}, {0: 0.75})
    assert found.difference == 0.25
    assert all(map(math.isnan, (found.low, found.high, found.p_value)))
    assert found.reason == "one seed has no interval"


def test_no_finite_value_has_no_difference():
    found = mean_difference({0: math.nan, 1: math.nan}, {0: 0.5, 1: 0.75})
    assert math.isnan(found.difference)
    assert found.reason == "no finite values to compare"
    empty = mean_difference({}, {})
    assert (empty.n_first, empty.reason) == (0, "no finite values to compare")


def test_seeds_that_are_finite_in_one_alone_cannot_be_paired():
    found = mean_difference({0: math.nan, 1: 0.5}, {0: 0.75, 1: math.nan})
    assert (found.first, found.second, found.difference) == (0.5, 0.75, 0.25)
    assert (found.method, found.n_first, found.n_second) == (WELCH, 1, 1)
    refused = mean_difference({0: math.nan}, {0: 0.75})
    assert math.isnan(refused.first)
    assert (refused.second, refused.n_first, refused.n_second) == (0.75, 0, 1)


def test_a_confidence_is_a_probability():
    with pytest.raises(ValueError, match="confidence is 95"):
        mean_difference(A, B, 95)

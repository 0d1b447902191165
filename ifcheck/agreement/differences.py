"""Differences of means between two sets of seeds, and p-values adjusted for making many."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ifcheck.agreement.metrics import BEYOND_FLOAT, is_constant, quiet
from ifcheck.agreement.statistics import MINIMUM_VALUES

Floats = NDArray[np.float64]

PAIRED, WELCH = "paired over seeds", "Welch"
NOTHING = (np.empty(0), np.empty(0))
NO_SPREAD = "no spread: the interval is a point"


@dataclass(frozen=True)
class Difference:
    """Mean of the second minus mean of the first, with its interval; `nan` as `reason` says."""

    first: float
    second: float
    difference: float
    low: float
    high: float
    p_value: float  # of no difference, two-sided, not adjusted
    method: str  # PAIRED or WELCH
    n_first: int  # values used
    n_second: int
    reason: str | None


def mean_difference(
    first: Mapping[int, float], second: Mapping[int, float], confidence: float = 0.95
) -> Difference:
    """Compare the means of two sets of values by seed.

    Where both have the same seeds, by Student's t over the differences of each seed that is finite
    in both; else by Welch's t over the finite values of each, which also holds for seeds in common:
    it is too wide where these agree. Seeds that are never finite in both leave nothing to pair.
    Without any spread the interval is of width 0, and p that of equal signs of all seeds, or of the
    permutations of their values; nan where there is no difference either.
    Raises: ValueError unless 0 < confidence < 1. Reference: Student (1908); Welch (1947).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1.")
    a, b = _aligned(first, second) if first.keys() == second.keys() else NOTHING
    paired = a.size > 0
    if not paired:
        a, b = _finite(first), _finite(second)
    method = PAIRED if paired else WELCH
    mean_a, mean_b = _mean(a), _mean(b)
    difference = _mean(b - a) if paired else mean_b - mean_a
    low, high, p_value, reason = math.nan, math.nan, math.nan, _obstacle(a, b)
    if reason is None:
        spread = [b - a] if paired else [a, b]
        if all(bool(is_constant(values)) for values in spread):
            low, high, reason = difference, difference, NO_SPREAD
            p_value = _without_spread(len(a), len(b), paired) if difference else math.nan
        else:
            low, high, p_value = _student(a, b, paired, confidence)
            if not math.isfinite(p_value):
                low, high, p_value, reason = math.nan, math.nan, math.nan, BEYOND_FLOAT
    return Difference(
        mean_a, mean_b, difference, low, high, p_value, method, len(a), len(b), reason
    )


def _without_spread(n: int, m: int, paired: bool) -> float:
    """Return how often equal differences come of no difference: by signs, or by permutations."""
    return 2.0 ** (1 - n) if paired else min(1.0, 2 / math.comb(n + m, n))


def _student(a: Floats, b: Floats, paired: bool, confidence: float) -> tuple[float, float, float]:
    with quiet():
        found = stats.ttest_rel(b, a) if paired else stats.ttest_ind(b, a, equal_var=False)
        interval = found.confidence_interval(confidence)
    return float(interval.low), float(interval.high), float(found.pvalue)


def _aligned(first: Mapping[int, float], second: Mapping[int, float]) -> tuple[Floats, Floats]:
    """Return the values of the seeds that are finite in both, in one order. Shape: (seeds,)."""
    rows = np.array([(first[seed], second[seed]) for seed in sorted(first)], dtype=np.float64)
    rows = rows.reshape(-1, 2)
    a, b = rows[np.isfinite(rows).all(axis=1)].T
    return a, b


def _finite(values: Mapping[int, float]) -> Floats:
    array = np.array([values[seed] for seed in sorted(values)], dtype=np.float64)
    return np.asarray(array[np.isfinite(array)])


def _mean(values: Floats) -> float:
    """Return the mean, of equal values whatever their number the value; nan of none."""
    return math.fsum(values) / len(values) if values.size else math.nan


def _obstacle(a: Floats, b: Floats) -> str | None:
    """Say why there is no interval."""
    if not (a.size and b.size):
        return "no finite values to compare"
    if min(len(a), len(b)) < MINIMUM_VALUES:
        return "one seed has no interval"
    return None

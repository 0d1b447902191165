"""Means, tests and comparisons across cells, each cell a group of seeds."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ifcheck.agreement.metrics import BEYOND_FLOAT, MINIMUM_PAIRS, is_constant, quiet, spearman

Floats = NDArray[np.float64]
Numbers = tuple[float, float, float]  # statistic, p-value, effect size

MINIMUM_VALUES = 2  # one value has no spread to judge a difference by
FRIEDMAN_GROUPS = 3  # with two, the test is a sign test


@dataclass(frozen=True)
class MeanInterval:
    """A mean and the half-width of its Student t interval, in the unit of the values."""

    mean: float
    half_width: float
    n: int  # values used
    reason: str | None  # why a number is nan
    excluded: int  # values that were not finite


@dataclass(frozen=True)
class TestResult:
    """One hypothesis test; all three numbers are `nan` where `reason` says why."""

    __test__ = False  # the name makes pytest take it for a test class

    name: str
    statistic: float
    p_value: float
    effect_size: float
    effect_name: str
    group_sizes: dict[str, int]  # values used, by group
    reason: str | None
    df: float | None = None  # degrees of freedom of an F test
    df_error: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Mean of the first group minus mean of the second, adjusted for making every comparison."""

    first: str
    second: str
    difference: float
    low: float
    high: float
    p_value: float
    effect_size: float  # Hedges' g: the difference in standard deviations within groups
    reason: str | None  # why all five numbers are nan


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> MeanInterval:
    """Give the mean of `values`, shape (seeds,), with its Student t interval.

    Non-finite values are left out and counted. One value has a mean and no interval.
    Raises: ValueError unless 0 < confidence < 1.
    """
    _check_confidence(confidence)
    used = _finite(values)
    n, excluded = len(used), np.size(values) - len(used)
    if n == 0:
        return MeanInterval(math.nan, math.nan, 0, "no finite values", excluded)
    if n < MINIMUM_VALUES:
        return MeanInterval(float(used[0]), math.nan, n, "one value has no interval", excluded)
    with quiet():
        mean, deviation = float(used.mean()), float(used.std(ddof=1))
    if not math.isfinite(deviation):
        return MeanInterval(math.nan, math.nan, n, BEYOND_FLOAT, excluded)
    quantile = float(stats.t.ppf((1 + confidence) / 2, n - 1))
    return MeanInterval(mean, quantile * deviation / math.sqrt(n), n, None, excluded)


def finite_mean(values: ArrayLike) -> float:
    """Give the mean of the finite values of any shape; nan if there is none."""
    used = _of_finite(values)
    return float(used.mean()) if used.size else math.nan


def finite_median(values: ArrayLike) -> float:
    """Give the median of the finite values of any shape; nan if there is none."""
    used = _of_finite(values)
    return float(np.median(used)) if used.size else math.nan


def ratio_median(values: ArrayLike) -> float:
    """Give the median of ratios, infinite where nothing was divided by; nan if there is none."""
    array = np.asarray(values, dtype=np.float64)
    used = np.sort(array[~np.isnan(array)], axis=None)
    if not used.size:
        return math.nan
    low, high = used[(used.size - 1) // 2], used[used.size // 2]
    return float(high if low == high else (low + high) / 2)


def one_way_anova(groups: Mapping[str, ArrayLike]) -> TestResult:
    """Test whether the groups' means differ; values of shape (seeds,), lengths may differ.

    Effect: eta squared, the share of the sum of squares that lies between groups. Assumes
    independent normal values of equal variance; non-finite values are left out.
    Reference: Fisher (1925).
    """
    used = {name: _finite(values) for name, values in groups.items()}
    obstacle = _obstacle(used) or _obstacle_within(used)

    def compute() -> Numbers:
        result = stats.f_oneway(*used.values())
        return result.statistic, result.pvalue, _eta_squared(list(used.values()))

    found = tested("one-way ANOVA", "eta squared", _sizes(used), obstacle, compute)
    if found.reason is not None:
        return found
    df = len(used) - 1
    return replace(found, df=df, df_error=sum(found.group_sizes.values()) - df - 1)


def kruskal_wallis(groups: Mapping[str, ArrayLike]) -> TestResult:
    """Test whether the groups' ranks differ; values of shape (seeds,), lengths may differ.

    Effect: epsilon squared, H / (n - 1) over all n values, between 0 and 1. The p-value is the
    chi-squared approximation, coarse under five values a group. Non-finite values are left out.
    Reference: Kruskal & Wallis (1952); Tomczak & Tomczak (2014) for the effect size.
    """
    used = {name: _finite(values) for name, values in groups.items()}
    sizes = _sizes(used)

    def compute() -> Numbers:
        result = stats.kruskal(*used.values())
        return result.statistic, result.pvalue, result.statistic / (sum(sizes.values()) - 1)

    return tested("Kruskal-Wallis", "epsilon squared", sizes, _obstacle(used), compute)


def friedman(groups: Mapping[str, ArrayLike]) -> TestResult:
    """Test whether groups measured on the same seeds differ; shape (seeds,) each, aligned.

    The comparison for variants of one seed, which share initialisation and most of training.
    A seed with a non-finite value in any group is left out of all. Effect: Kendall's W,
    chi-squared / (seeds (groups - 1)): 1 where every seed ranks the groups alike.
    The p-value is the chi-squared approximation, coarse under about ten seeds.

    Raises: ValueError for groups of unequal length. Reference: Friedman (1937).
    """
    rows = _aligned(groups)  # (seeds, groups)
    sizes = dict.fromkeys(groups, len(rows))

    def compute() -> Numbers:
        result = stats.friedmanchisquare(*rows.T)
        largest = len(rows) * (len(groups) - 1)
        return result.statistic, result.pvalue, result.statistic / largest

    return tested("Friedman", "Kendall's W", sizes, _obstacle_among_rows(rows), compute)


def tukey(groups: Mapping[str, ArrayLike], *, confidence: float = 0.95) -> list[Comparison]:
    """Compare every two groups' means by Tukey's honest significant difference.

    Values of shape (seeds,); lengths may differ (Tukey-Kramer). Positive: the first group's
    mean is larger. Intervals hold jointly. Fewer than two groups give no comparison. The effect
    is Hedges' g by the standard deviation within all groups, which is the one tested by.
    Raises: ValueError unless 0 < confidence < 1.
    Reference: Tukey (1949); Kramer (1956); Hedges (1981) for the effect size.
    """
    _check_confidence(confidence)
    used = {name: _finite(values) for name, values in groups.items()}
    pairs = list(combinations(enumerate(used), 2))
    obstacle = one_way_anova(used).reason  # both divide by the variance within groups
    if obstacle is not None:
        undefined = (math.nan,) * 5
        return [Comparison(a, b, *undefined, obstacle) for (_, a), (_, b) in pairs]
    result, unit = stats.tukey_hsd(*used.values()), _unbiased_unit(list(used.values()))
    interval = result.confidence_interval(confidence)
    return [
        Comparison(
            first,
            second,
            difference=float(result.statistic[i, j]),
            low=float(interval.low[i, j]),
            high=float(interval.high[i, j]),
            p_value=float(result.pvalue[i, j]),
            effect_size=float(result.statistic[i, j]) / unit,
            reason=None,
        )
        for (i, first), (j, second) in pairs
    ]


def rank_correlation(x: ArrayLike, y: ArrayLike) -> TestResult:
    """Correlate two quantities over seeds by rank (Spearman); both of shape (seeds,).

    Statistic and effect are rho. Seeds with a non-finite value in either are left out.
    Raises: ValueError for unequal lengths. Reference: Spearman (1904).
    """
    rows = _aligned({"x": x, "y": y})
    constant = [name for name, values in zip("xy", rows.T, strict=True) if _same(values)]
    obstacle = f"constant input: {' and '.join(constant)}" if constant else None
    if len(rows) < MINIMUM_PAIRS:
        obstacle = f"{len(rows)} of the {MINIMUM_PAIRS} finite pairs that it takes"

    def compute() -> Numbers:
        rho, p_value = spearman(*rows.T)
        return rho, p_value, rho

    return tested("Spearman", "Spearman's rho", {"pairs": len(rows)}, obstacle, compute)


def tested(
    name: str,
    effect_name: str,
    sizes: dict[str, int],
    obstacle: str | None,
    compute: Callable[[], Numbers],
) -> TestResult:
    """Run a test unless something stands in its way, and say so where a number is undefined."""
    numbers: Numbers = (math.nan,) * 3
    if obstacle is None:
        with quiet():
            numbers = compute()
        if not np.isfinite(numbers).all():
            numbers, obstacle = (math.nan,) * 3, BEYOND_FLOAT
    statistic, p_value, effect = (float(number) for number in numbers)
    return TestResult(name, statistic, p_value, effect, effect_name, sizes, obstacle)


def holm(p_values: ArrayLike) -> Floats:
    """Adjust the p-values of one family of tests, shape (tests,), by Holm's step-down procedure.

    Below 0.05 afterwards: the chance of any false one among all of them is at most 5%, however the
    tests depend on each other. nan stays nan and does not count as a test.
    Reference: Holm (1979).
    """
    values = _vector(p_values)
    order = np.argsort(values)[: np.isfinite(values).sum()]  # nan is sorted last
    # In one line, as the one of statsmodels collects garbage at every call.
    steps = np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1))
    adjusted = np.full(values.shape, math.nan)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1.")


def _finite(values: ArrayLike) -> Floats:
    return _of_finite(_vector(values))


def _of_finite(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]


def _vector(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"Expected values of shape (seeds,), got {array.shape}.")
    return array


def _aligned(groups: Mapping[str, ArrayLike]) -> Floats:
    """Stack the groups as columns and keep the rows that are finite throughout."""
    columns = [_vector(values) for values in groups.values()]
    lengths = {name: len(column) for name, column in zip(groups, columns, strict=True)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"Groups must hold the same seeds in one order, got lengths {lengths}.")
    rows = np.stack(columns, axis=1) if columns else np.empty((0, 0))
    return np.asarray(rows[np.isfinite(rows).all(axis=1)])


def _same(values: Floats) -> bool:
    return values.size == 0 or bool(is_constant(values))


def _sizes(groups: Mapping[str, Floats]) -> dict[str, int]:
    return {name: len(values) for name, values in groups.items()}


def _obstacle(groups: Mapping[str, Floats]) -> str | None:
    """Say why these groups cannot be compared at all."""
    if len(groups) < 2:
        return f"{len(groups)} of the 2 groups that it takes"
    short = [name for name, values in groups.items() if len(values) < MINIMUM_VALUES]
    if short:
        return f"fewer than {MINIMUM_VALUES} finite values in {', '.join(short)}"
    if _same(np.concatenate(list(groups.values()))):
        return "all values are equal"
    return None


def _obstacle_within(groups: Mapping[str, Floats]) -> str | None:
    """Say why there is no variance within groups to measure a difference by."""
    if all(_same(values) for values in groups.values()):
        return "no spread within any group: all values of each are equal"
    return None


def _obstacle_among_rows(rows: Floats) -> str | None:
    """Say why Friedman's test has no value on rows of shape (seeds, groups)."""
    seeds, groups = rows.shape
    if groups < FRIEDMAN_GROUPS:
        return f"{groups} of the {FRIEDMAN_GROUPS} groups that it takes"
    if seeds < MINIMUM_VALUES:
        return f"{seeds} of the {MINIMUM_VALUES} seeds that it takes are finite in every group"
    # By exact equality, since that is how the test ranks.
    if (rows == rows[:, :1]).all():
        return "every seed has equal values in all groups"
    return None


def _unbiased_unit(groups: list[Floats]) -> float:
    """Return what differences of means are divided by for Hedges' g."""
    freedom = sum(map(len, groups)) - len(groups)
    within = sum(((values - values.mean()) ** 2).sum() for values in groups) / freedom
    few = math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom - 1) / 2))
    return math.sqrt(within) / (few / math.sqrt(freedom / 2))


def _eta_squared(groups: list[Floats]) -> float:
    pooled = np.concatenate(groups)
    between = sum(len(values) * (values.mean() - pooled.mean()) ** 2 for values in groups)
    return float(between / ((pooled - pooled.mean()) ** 2).sum())

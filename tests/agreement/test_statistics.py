"""Comparisons across cells against hand-computed numbers, closed forms and naive loops."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.meta_analysis import effectsize_smd
from statsmodels.stats.multitest import multipletests

from ifcheck.agreement.statistics import (
    TestResult,
    friedman,
    holm,
    kruskal_wallis,
    mean_interval,
    one_way_anova,
    rank_correlation,
    tukey,
)

pytestmark = pytest.mark.filterwarnings("error")

GROUPS = {"a": [1.0, 2.0, 3.0], "b": [2.0, 3.0, 4.0], "c": [5.0, 6.0, 7.0]}


def uneven(seed: int = 0) -> dict[str, np.ndarray]:
    """Three groups of 6, 9 and 12 values with ties."""
    generator = np.random.default_rng(seed)
    return {
        name: np.round(generator.normal(shift, size=size), 1)
        for name, shift, size in (("a", 0.0, 6), ("b", 0.5, 9), ("c", 1.0, 12))
    }


def average_rank(values: list[float], value: float) -> float:
    return sum(v < value for v in values) + (sum(v == value for v in values) + 1) / 2


def assert_undefined(result: TestResult, phrase: str) -> None:
    assert math.isnan(result.statistic)
    assert math.isnan(result.p_value)
    assert math.isnan(result.effect_size)
    assert result.reason is not None
    assert phrase in result.reason


def test_mean_interval_in_closed_form():
    two = mean_interval([0.0, 2.0])  # t with one degree of freedom is Cauchy
    assert (two.mean, two.n, two.excluded, two.reason) == (1.0, 2, 0, None)
    assert two.half_width == pytest.approx(math.tan(math.pi * 0.475))
    three = mean_interval([1.0, 2.0, 3.0], confidence=0.9)  # two degrees: also closed
    quantile = 0.9 * math.sqrt(2 / (4 * 0.95 * 0.05))
    assert three.half_width == pytest.approx(quantile / math.sqrt(3))


def test_mean_interval_covers_the_mean_at_its_confidence():
    samples = np.random.default_rng(0).normal(7.0, 2.0, size=(4000, 5))
    intervals = [mean_interval(sample, confidence=0.8) for sample in samples]
    covered = np.mean([abs(interval.mean - 7) <= interval.half_width for interval in intervals])
    assert covered == pytest.approx(0.8, abs=0.025)  # four standard errors


def test_mean_interval_leaves_out_and_counts_what_is_not_finite():
    result = mean_interval([1.0, np.nan, 2.0, np.inf, 3.0, -np.inf])
    assert (result.n, result.excluded) == (3, 3)
    clean = mean_interval([1.0, 2.0, 3.0])
    assert (result.mean, result.half_width) == (clean.mean, clean.half_width)


@pytest.mark.parametrize(
    ("values", "mean", "excluded", "phrase"),
    [
        ([], math.nan, 0, "no finite values"),
        ([math.nan], math.nan, 1, "no finite values"),
        ([4.0, math.nan], 4.0, 1, "one value"),
        ([1e308, -1e308], math.nan, 0, "float64"),
    ],
)
def test_undefined_mean_interval(values, mean, excluded, phrase):
    result = mean_interval(values)
    assert result.mean == pytest.approx(mean, nan_ok=True)
    assert math.isnan(result.half_width)
    assert result.excluded == excluded
    assert result.reason is not None
    assert phrase in result.reason


def test_equal_values_have_an_interval_of_no_width():
    result = mean_interval([0.5, 0.5, 0.5])
    assert (result.mean, result.half_width, result.reason) == (0.5, 0.0, None)


def test_anova_by_hand():
    result = one_way_anova(GROUPS)  # between: 26 on 2 degrees; within: 6 on 6
    assert result.statistic == pytest.approx(13.0)
    assert result.effect_size == pytest.approx(26 / 32)
    assert result.p_value == pytest.approx((1 + 2 * 13 / 6) ** -3)  # F(2, m) in closed form
    assert (result.name, result.effect_name) == ("one-way ANOVA", "eta squared")
    assert result.group_sizes == {"a": 3, "b": 3, "c": 3}
    assert result.reason is None


def test_anova_of_unequal_groups_matches_loops():
    groups = uneven()
    result = one_way_anova(groups)
    everything = [value for values in groups.values() for value in values]
    grand = sum(everything) / len(everything)
    means = {name: sum(values) / len(values) for name, values in groups.items()}
    between = sum((means[name] - grand) ** 2 for name, values in groups.items() for _ in values)
    within = sum((v - means[name]) ** 2 for name, values in groups.items() for v in values)
    assert result.statistic == pytest.approx((between / 2) / (within / 24))
    assert result.effect_size == pytest.approx(between / (between + within))
    assert result.p_value == pytest.approx(stats.f.sf(result.statistic, 2, 24))
    assert result.group_sizes == {"a": 6, "b": 9, "c": 12}


def test_anova_of_two_groups_is_the_t_test():
    groups = {name: values for name, values in uneven().items() if name != "b"}
    reference = stats.ttest_ind(groups["a"], groups["c"])
    result = one_way_anova(groups)
    assert result.statistic == pytest.approx(reference.statistic**2)
    assert result.p_value == pytest.approx(reference.pvalue)


def test_kruskal_wallis_by_hand():
    result = kruskal_wallis({"a": [1, 2, 3], "b": [40, 50, 60]})
    H = 12 / (6 * 7) * (6**2 / 3 + 15**2 / 3) - 3 * 7
    assert result.statistic == pytest.approx(H)
    assert result.effect_size == pytest.approx(H / 5)
    assert result.p_value == pytest.approx(math.erfc(math.sqrt(H / 2)))  # chi-squared(1)
    assert (result.name, result.effect_name) == ("Kruskal-Wallis", "epsilon squared")


def test_kruskal_wallis_of_unequal_groups_with_ties_matches_loops():
    groups = uneven()
    result = kruskal_wallis(groups)
    everything = [value for values in groups.values() for value in values]
    n = len(everything)
    assert len(set(everything)) < n
    sums = [sum(average_rank(everything, v) for v in values) for values in groups.values()]
    H = 12 / (n * (n + 1)) * sum(
        total**2 / len(values) for total, values in zip(sums, groups.values(), strict=True)
    ) - 3 * (n + 1)
    counts = [everything.count(value) for value in set(everything)]
    H /= 1 - sum(count**3 - count for count in counts) / (n**3 - n)
    assert result.statistic == pytest.approx(H)
    assert result.effect_size == pytest.approx(H * (n + 1) / (n**2 - 1))
    assert result.p_value == pytest.approx(math.exp(-H / 2))  # chi-squared(2)


def test_kruskal_wallis_sees_only_ranks():
    groups = uneven()
    stretched = {name: np.exp(3 * values) for name, values in groups.items()}
    assert kruskal_wallis(groups) == kruskal_wallis(stretched)
    assert one_way_anova(groups) != one_way_anova(stretched)


@pytest.mark.parametrize("test", [one_way_anova, kruskal_wallis])
def test_non_finite_values_are_left_out_of_independent_groups(test):
    groups = uneven()
    spoilt = {name: [np.nan, *values, np.inf] for name, values in groups.items()}
    assert test(spoilt) == test(groups)


@pytest.mark.parametrize("test", [one_way_anova, kruskal_wallis])
@pytest.mark.parametrize(
    ("groups", "phrase"),
    [
        ({}, "0 of the 2 groups"),
        ({"a": [1, 2, 3]}, "1 of the 2 groups"),
        ({"a": [1, 2], "b": [1, math.nan]}, "fewer than 2 finite values in b"),
        ({"a": [1, 2], "b": [], "c": [3]}, "fewer than 2 finite values in b, c"),
        ({"a": [5, 5], "b": [5, 5, 5]}, "all values are equal"),
    ],
)
def test_undefined_comparison_of_groups(test, groups, phrase):
    result = test(groups)
    assert_undefined(result, phrase)
    assert set(result.group_sizes) == set(groups)


def test_groups_without_spread_have_ranks_but_no_variance():
    groups = {"a": [1, 1], "b": [2, 2]}
    assert_undefined(one_way_anova(groups), "no spread within any group")
    assert kruskal_wallis(groups).statistic == pytest.approx(3.0)  # 2.4, over 1 - 12 / 60


def test_values_beyond_squaring_are_reported_without_a_warning():
    groups = {"a": [1e200, 2e200, 0.0], "b": [1.0, 2.0, 3.0]}
    assert_undefined(one_way_anova(groups), "float64")
    assert math.isnan(tukey(groups)[0].low)
    assert kruskal_wallis(groups).reason is None


def test_friedman_of_seeds_that_agree():
    base = np.array([5.0, 1.0, 9.0, 3.0])
    result = friedman({"a": base, "b": base + 1, "c": base + 2})
    assert result.statistic == pytest.approx(8.0)  # seeds (groups - 1)
    assert result.effect_size == pytest.approx(1.0)
    assert result.p_value == pytest.approx(math.exp(-4))  # chi-squared(2)
    assert result.group_sizes == {"a": 4, "b": 4, "c": 4}
    assert (result.name, result.effect_name) == ("Friedman", "Kendall's W")


def test_friedman_of_seeds_that_cancel():
    result = friedman({"a": [1, 2, 3], "b": [2, 3, 1], "c": [3, 1, 2]})
    assert result.statistic == pytest.approx(0.0, abs=1e-12)
    assert result.effect_size == pytest.approx(0.0, abs=1e-12)
    assert result.p_value == pytest.approx(1.0)


def test_friedman_with_ties_matches_kendalls_formula():
    rows = np.random.default_rng(4).integers(0, 4, size=(12, 4)).astype(float)
    result = friedman(dict(zip("abcd", rows.T, strict=True)))
    ranks = [[average_rank(list(row), value) for value in row] for row in rows]
    spread = sum((sum(column) - 12 * 2.5) ** 2 for column in zip(*ranks, strict=True))
    ties = sum(
        list(row).count(value) ** 3 - list(row).count(value) for row in rows for value in set(row)
    )
    assert ties > 0
    W = 12 * spread / (12**2 * (4**3 - 4) - 12 * ties)
    assert result.effect_size == pytest.approx(W)
    assert result.statistic == pytest.approx(W * 12 * 3)
    assert result.p_value == pytest.approx(stats.chi2.sf(W * 36, 3))


def test_friedman_ignores_what_seeds_share():
    generator = np.random.default_rng(1)
    rows = generator.normal(size=(10, 3)) + np.array([0.0, 1.0, 2.0])
    shifted = rows + 100 * generator.normal(size=(10, 1))
    groups = [dict(zip("abc", values.T, strict=True)) for values in (rows, shifted)]
    assert friedman(groups[0]) == friedman(groups[1])
    assert one_way_anova(groups[1]).p_value > 0.5 > 0.01 > friedman(groups[1]).p_value


def test_friedman_drops_a_seed_that_failed_anywhere():
    rows = np.random.default_rng(2).normal(size=(8, 3))
    spoilt = rows.copy()
    spoilt[2, 1], spoilt[5, 0] = np.nan, np.inf
    result = friedman(dict(zip("abc", spoilt.T, strict=True)))
    assert result == friedman(dict(zip("abc", rows[[0, 1, 3, 4, 6, 7]].T, strict=True)))
    assert result.group_sizes == {"a": 6, "b": 6, "c": 6}


@pytest.mark.parametrize(
    ("groups", "phrase"),
    [
        ({}, "0 of the 3 groups"),
        ({"a": [1, 2], "b": [2, 1]}, "2 of the 3 groups"),
        ({"a": [1, math.nan], "b": [2, 1], "c": [3, 1]}, "1 of the 2 seeds"),
        ({"a": [1, 7], "b": [1, 7], "c": [1, 7]}, "equal values"),
    ],
)
def test_undefined_friedman(groups, phrase):
    assert_undefined(friedman(groups), phrase)


def test_tukey_of_two_unequal_groups_is_the_t_test():
    groups = {name: values for name, values in uneven().items() if name != "b"}
    (comparison,) = tukey(groups, confidence=0.9)
    reference = stats.ttest_ind(groups["a"], groups["c"])
    low, high = reference.confidence_interval(0.9)
    assert (comparison.first, comparison.second, comparison.reason) == ("a", "c", None)
    assert comparison.difference == pytest.approx(groups["a"].mean() - groups["c"].mean())
    assert comparison.difference < 0
    assert comparison.low == pytest.approx(low, rel=1e-6)
    assert comparison.high == pytest.approx(high, rel=1e-6)
    assert comparison.p_value == pytest.approx(reference.pvalue, rel=1e-6)


def test_tukey_of_three_unequal_groups_matches_kramers_formula():
    groups = uneven()
    comparisons = tukey(groups)
    assert [(c.first, c.second) for c in comparisons] == [("a", "b"), ("a", "c"), ("b", "c")]
    within = sum(((values - values.mean()) ** 2).sum() for values in groups.values()) / 24
    quantile = stats.studentized_range.ppf(0.95, 3, 24)
    for c in comparisons:
        first, second = groups[c.first], groups[c.second]
        difference = first.mean() - second.mean()
        error = math.sqrt(within / 2 * (1 / len(first) + 1 / len(second)))
        assert c.difference == pytest.approx(difference)
        assert (c.low, c.high) == pytest.approx(
            (difference - quantile * error, difference + quantile * error)
        )
        expected = stats.studentized_range.sf(abs(difference) / error, 3, 24)
        assert c.p_value == pytest.approx(expected)


def test_effect_of_two_groups_is_hedges_g():
    groups = {name: values for name, values in uneven().items() if name != "b"}
    (comparison,) = tukey(groups)
    numbers = [
        f(values) for values in groups.values() for f in (np.mean, lambda v: v.std(ddof=1), len)
    ]
    expected, _ = effectsize_smd(*numbers)  # by the usual approximation of the correction
    assert comparison.effect_size == pytest.approx(expected, rel=1e-3)
    assert comparison.effect_size < 0


def test_effects_are_in_standard_deviations_within_all_groups():
    groups = {"a": [0.0, 2.0], "b": [1.0, 3.0], "c": [7.0, 7.0]}  # variances 2, 2, 0: 4 / 3
    correction = math.gamma(1.5) / math.gamma(1.0) / math.sqrt(1.5)
    found = {(c.first, c.second): c.effect_size for c in tukey(groups)}
    assert found["a", "c"] == pytest.approx(-6 / math.sqrt(4 / 3) * correction)


def test_tukey_leaves_out_what_is_not_finite():
    groups = uneven()
    spoilt = {name: [*values, np.nan] for name, values in groups.items()}
    assert tukey(spoilt) == tukey(groups)


def test_undefined_tukey():
    assert tukey({}) == []
    assert tukey({"a": [1, 2]}) == []
    comparisons = tukey({"a": [1, 2], "b": [3], "c": [4, 5]})
    assert len(comparisons) == 3
    for c in comparisons:
        numbers = (c.difference, c.low, c.high, c.p_value, c.effect_size)
        assert all(math.isnan(number) for number in numbers)
        assert c.reason == "fewer than 2 finite values in b"
    (flat,) = tukey({"a": [1, 1], "b": [2, 2]})
    assert flat.reason is not None
    assert "no spread" in flat.reason


def test_rank_correlation_by_hand():
    result = rank_correlation([1, 2, 3, 4], [20, 10, 40, 30])
    assert result.statistic == result.effect_size == pytest.approx(0.6)
    assert result.p_value == pytest.approx(10 / 24)  # of the 24 orders
    assert result.group_sizes == {"pairs": 4}
    assert (result.name, result.effect_name) == ("Spearman", "Spearman's rho")


def test_rank_correlation_drops_incomplete_seeds():
    generator = np.random.default_rng(0)
    x = generator.normal(size=30)
    y = -x + generator.normal(size=30)
    reference = stats.spearmanr(x[2:], y[2:])
    x[0], y[1] = np.nan, np.inf
    result = rank_correlation(x, y)
    assert result.statistic == pytest.approx(reference.statistic)
    assert result.statistic < 0
    assert result.p_value == pytest.approx(reference.pvalue)
    assert result.group_sizes == {"pairs": 28}


@pytest.mark.parametrize(
    ("x", "y", "phrase"),
    [
        ([], [], "0 of the 3"),
        ([1, 2, math.nan], [1, 2, 3], "2 of the 3"),
        ([1, 1, 1], [1, 2, 3], "constant input: x"),
        ([1, 1, 1], [2, 2, 2], "constant input: x and y"),
    ],
)
def test_undefined_rank_correlation(x, y, phrase):
    assert_undefined(rank_correlation(x, y), phrase)


@pytest.mark.parametrize(
    ("call", "phrase"),
    [
        (lambda: friedman({"a": [1, 2], "b": [1, 2, 3], "c": [1, 2]}), "'b': 3"),
        (lambda: rank_correlation([1, 2, 3], [1, 2]), "'y': 2"),
        (lambda: mean_interval([1, 2], confidence=95), "confidence is 95"),
        (lambda: tukey(GROUPS, confidence=0), "confidence is 0"),
        (lambda: mean_interval([[1, 2]]), r"got \(1, 2\)"),
        (lambda: one_way_anova({"a": [[1, 2]], "b": [1, 2]}), r"got \(1, 2\)"),
    ],
)
def test_unusable_input_is_refused(call, phrase):
    with pytest.raises(ValueError, match=phrase):
        call()


def test_results_are_plain_and_frozen():
    result = one_way_anova(GROUPS)
    assert type(result.statistic) is type(result.p_value) is type(result.effect_size) is float
    assert TestResult.__test__ is False
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.p_value = 0.0


def test_holm_by_hand():
    found = holm([0.04, 0.01, math.nan, 0.03])  # 3 x 0.01, 2 x 0.03, and no less than that
    assert found == pytest.approx([0.06, 0.03, math.nan, 0.06], nan_ok=True)


def test_holm_is_that_of_statsmodels():
    p_values = np.random.default_rng(0).uniform(size=30) ** 3
    p_values[4] = p_values[7]
    expected = multipletests(p_values, method="holm")[1]
    assert holm(p_values) == pytest.approx(expected)


def test_holm_never_exceeds_one_and_keeps_what_is_undefined():
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]
    assert np.isnan(holm([math.nan, math.nan])).all()
    assert holm([]).shape == (0,)


def test_holm_keeps_the_chance_of_any_false_answer():
    p_values = np.random.default_rng(0).uniform(size=(2000, 8))
    false = sum(bool((holm(family) < 0.05).any()) for family in p_values)
    assert false <= stats.binom.ppf(0.999, 2000, 0.05)
    assert (p_values < 0.05).any(axis=1).sum() > stats.binom.ppf(0.999, 2000, 0.05)

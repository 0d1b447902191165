"""Agreement metrics against hand-computed numbers, naive loops, scipy and exhaustive orders."""

import dataclasses
import json
import math
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from ifcheck.agreement import metrics
from ifcheck.agreement.metrics import (
    Agreement,
    agreement,
    chance_absolute_correlation,
    is_constant,
    resampled_ranks,
    spearman,
)

pytestmark = pytest.mark.filterwarnings("error")

NUMBERS = {field.name for field in dataclasses.fields(Agreement)} - {"n", "reasons"}
CORRELATIONS = {
    f"{name}{end}" for name in ("spearman", "pearson") for end in ("", "_p", "_low", "_high")
} | {"kendall", "kendall_p"}
LINE = {"slope", "slope_low", "slope_high", "intercept"}
R2 = {"r2", "r2_low", "r2_high"}


def undefined(result: Agreement) -> set[str]:
    return {name for name in NUMBERS if math.isnan(getattr(result, name))}


def noisy(n: int, seed: int = 0, drift: float = 0.3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predicted, true and drift-corrected changes with ties in the predictions."""
    generator = np.random.default_rng(seed)
    predicted = np.round(generator.normal(size=n), 1)
    corrected = 0.7 * predicted + generator.normal(scale=0.5, size=n)
    return predicted, corrected + drift, corrected


def test_hand_computed():
    result = agreement([1, 2, 3, 4], [2, 1, 4, 3], [2, 1, 4, 3], top_k=2)
    assert result.n == 4
    assert result.spearman == pytest.approx(0.6)  # 1 - 6 * 4 / (4 * 15)
    assert result.spearman_p == pytest.approx(10 / 24)  # 10 of the 24 orders reach 0.6
    assert result.pearson == pytest.approx(0.6)
    assert result.kendall == pytest.approx(1 / 3)  # 4 concordant pairs less 2 discordant, of 6
    assert result.slope == pytest.approx(0.6)
    assert result.intercept == pytest.approx(1.0)
    assert result.r2 == pytest.approx(0.2)  # SSE 4, SST 5
    assert result.sign_agreement == 1.0
    assert result.top_k_overlap == 1.0
    assert result.top_k_chance == 0.5
    assert result.reasons == {}


def test_point_estimates_match_naive_loops():
    predicted, true, corrected = noisy(40)
    result = agreement(predicted, true, corrected, bootstrap_samples=0)

    def rank(values, i):
        below, equal = sum(values < values[i]), sum(values == values[i])
        return below + (equal + 1) / 2

    def correlation(x, y):
        x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
        xy = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
        xx, yy = sum((a - x_mean) ** 2 for a in x), sum((b - y_mean) ** 2 for b in y)
        return xy / math.sqrt(xx * yy), xy / xx, y_mean - xy / xx * x_mean

    ranks = ([rank(values, i) for i in range(40)] for values in (predicted, true))
    assert result.spearman == pytest.approx(correlation(*ranks)[0])
    pearson, slope, intercept = correlation(predicted, true)
    assert result.pearson == pytest.approx(pearson)
    assert result.slope == pytest.approx(slope)
    assert result.intercept == pytest.approx(intercept)
    sse = sum((t - p) ** 2 for p, t in zip(predicted, corrected, strict=True))
    sst = sum((t - sum(corrected) / 40) ** 2 for t in corrected)
    assert result.r2 == pytest.approx(1 - sse / sst)
    same = [np.sign(p) == np.sign(t) for p, t in zip(predicted, corrected, strict=True)]
    assert result.sign_agreement == pytest.approx(sum(same) / 40)
    tops = [
        set(sorted(range(40), key=lambda i, v=values: (-abs(v[i]), i))[:10])
        for values in (predicted, corrected)
    ]
    assert result.top_k_overlap == pytest.approx(len(tops[0] & tops[1]) / 10)


def test_p_values_are_two_sided_and_scipys():
    predicted, true, corrected = noisy(40)
    result = agreement(predicted, true, corrected, bootstrap_samples=0)
    assert result.spearman_p == stats.spearmanr(predicted, true).pvalue
    assert result.pearson_p == stats.pearsonr(predicted, true).pvalue
    assert result.kendall == stats.kendalltau(predicted, true).statistic
    assert result.kendall_p == stats.kendalltau(predicted, true).pvalue
    mirrored = agreement(predicted, -true, -corrected, bootstrap_samples=0)
    assert mirrored.spearman_p == pytest.approx(result.spearman_p)


@pytest.mark.parametrize("y", [[3, 1, 2, 5, 4], [1, 1, 2, 5, 2], [5, 4, 3, 2, 1]])
def test_small_sample_p_value_is_exact(y):
    x = np.array([1.0, 2.0, 2.0, 4.0, 5.0])
    reference = stats.permutation_test(
        (x,),
        lambda shuffled: stats.spearmanr(shuffled, y).statistic,
        permutation_type="pairings",
        n_resamples=np.inf,
        alternative="two-sided",
    )
    rho, _ = spearman(x, y)
    exact = np.mean(np.abs(reference.null_distribution) >= abs(rho) - 1e-12)
    assert spearman(x, y) == pytest.approx((reference.statistic, exact))


def test_perfect_ranking_of_three_is_not_significant():
    result = agreement([1, 2, 3], [1, 2, 3], [1, 2, 3])
    assert result.spearman == pytest.approx(1.0)
    assert result.spearman_p == pytest.approx(2 / 6)


def test_line_is_of_true_on_predicted():
    predicted = np.array([-1.0, 0.0, 2.0, 5.0])
    result = agreement(predicted, 3 * predicted + 1, 0.1 * predicted)
    assert result.slope == pytest.approx(3.0)
    assert result.intercept == pytest.approx(1.0)
    assert (result.slope_low, result.slope_high) == pytest.approx((3.0, 3.0))
    assert result.spearman == pytest.approx(1.0)
    # Ranks agree perfectly and the scale does not: SSE 0.9^2 * 30, SST 0.1^2 * 21.
    assert result.r2 == pytest.approx(1 - 24.3 / 0.21)


def test_reversed_sign_reverses_correlations_and_slope():
    predicted, true, corrected = noisy(30)
    result = agreement(predicted, true, corrected, bootstrap_samples=0)
    reverse = agreement(-predicted, true, corrected, bootstrap_samples=0)
    for name in ("spearman", "pearson", "kendall", "slope"):
        assert getattr(result, name) > 0
        assert getattr(reverse, name) == pytest.approx(-getattr(result, name))
    assert reverse.intercept == pytest.approx(result.intercept)
    assert reverse.top_k_overlap == result.top_k_overlap


def test_drift_moves_only_the_intercept():
    predicted, _, corrected = noisy(30)
    still = agreement(predicted, corrected, corrected)
    moved = agreement(predicted, corrected + 5, corrected)
    assert moved.intercept == pytest.approx(still.intercept + 5)
    for name in NUMBERS - {"intercept"}:
        assert getattr(moved, name) == pytest.approx(getattr(still, name)), name


def test_drift_corrected_changes_decide_signs_overlap_and_r2():
    predicted = np.array([3.0, -2.0, 1.0, 0.5])
    exact = agreement(predicted, -predicted, predicted, top_k=2)
    assert (exact.r2, exact.sign_agreement, exact.top_k_overlap) == (1.0, 1.0, 1.0)
    assert exact.spearman == pytest.approx(-1.0)


def test_sign_agreement_takes_zero_as_a_sign_of_its_own():
    result = agreement([1, -1, 0, 0, 2], [1, 2, 3, 4, 5], [2, 1, 0, 1, -3])
    assert result.sign_agreement == pytest.approx(2 / 5)


def test_top_k_goes_by_magnitude_and_ties_by_position():
    predicted = [-5, 1, 1, 1, 0]  # the two largest: 0, then the first of the ties, 1
    assert agreement(predicted, range(5), [4, -3, 1, 0, 0], top_k=2).top_k_overlap == 1.0
    assert agreement(predicted, range(5), [4, 0, -3, 0, 0], top_k=2).top_k_overlap == 0.5


@pytest.mark.parametrize("top_k", [3, 4, 10])
def test_top_k_of_all_removals_is_certain(top_k):
    result = agreement([1, 2, 3], [3, 2, 5], [3, 2, 5], top_k=top_k)
    assert (result.top_k_overlap, result.top_k_chance) == (1.0, 1.0)


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_top_k_chance_is_the_mean_over_all_orders(top_k):
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    results = [
        agreement(values, order, order, top_k=top_k, bootstrap_samples=0)
        for order in permutations(values)
    ]
    mean = np.mean([result.top_k_overlap for result in results])
    assert results[0].top_k_chance == pytest.approx(mean)


@pytest.mark.parametrize("block_cells", [metrics.BLOCK_CELLS, 100, 1])
def test_intervals_match_scipys_percentile_bootstrap(block_cells, monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK_CELLS", block_cells)
    predicted, true, corrected = noisy(25, seed=3)

    def correlation(x, y):
        x, y = (v - v.mean(axis=-1, keepdims=True) for v in (x, y))
        return (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))

    def rank_correlation(x, y):
        return correlation(stats.rankdata(x, axis=-1), stats.rankdata(y, axis=-1))

    def slope(x, y):
        return correlation(x, y) * y.std(axis=-1) / x.std(axis=-1)

    def r2(x, y):
        return 1 - ((x - y) ** 2).mean(-1) / y.var(axis=-1)

    result = agreement(predicted, true, corrected, confidence=0.9, bootstrap_samples=5000)
    for name, statistic, truth in (
        ("spearman", rank_correlation, true),
        ("pearson", correlation, true),
        ("slope", slope, true),
        ("r2", r2, corrected),
    ):
        reference = stats.bootstrap(
            (predicted, truth),
            lambda x, y, axis, f=statistic: f(x, y),
            paired=True,
            vectorized=True,
            n_resamples=20_000,
            confidence_level=0.9,
            method="percentile",
            rng=np.random.default_rng(1),
        )
        low, high = reference.confidence_interval
        # Five standard errors of a 5% quantile from 5000 draws, at a normal density.
        tolerance = 5 * reference.standard_error * math.sqrt(0.05 * 0.95 / 5000) / 0.103
        assert abs(getattr(result, f"{name}_low") - low) < tolerance, name
        assert abs(getattr(result, f"{name}_high") - high) < tolerance, name


def test_resampled_ranks_equal_rankdata_with_ties():
    generator = np.random.default_rng(0)
    values = np.round(generator.normal(size=40), 1)
    assert len(set(values)) < 40
    draws = generator.integers(0, 40, (40, 300))
    expected = stats.rankdata(values[draws], axis=0)
    np.testing.assert_array_equal(resampled_ranks(values, draws), expected)


def test_the_seed_decides_the_intervals():
    arrays = noisy(40)
    assert agreement(*arrays, seed=1) == agreement(*arrays, seed=1)
    assert agreement(*arrays, seed=1).slope_low != agreement(*arrays, seed=2).slope_low


def test_smaller_confidence_gives_an_interval_inside():
    arrays = noisy(40)
    narrow, wide = agreement(*arrays, confidence=0.5), agreement(*arrays, confidence=0.99)
    for name in ("spearman", "pearson", "slope", "r2"):
        assert getattr(wide, f"{name}_low") < getattr(narrow, f"{name}_low")
        assert getattr(narrow, f"{name}_high") < getattr(wide, f"{name}_high")


def test_constant_resamples_are_left_out():
    values = [0.0, 0.0, 0.0, 1.0]  # (3/4)^4 = 32% of the resamples are constant
    result = agreement(values, values, values)
    for name in ("spearman", "pearson", "slope", "r2"):
        interval = getattr(result, f"{name}_low"), getattr(result, f"{name}_high")
        assert interval == pytest.approx((1.0, 1.0))
    assert result.reasons == {}


def test_too_few_resamples_give_no_interval():
    arrays = noisy(40)
    intervals = {
        f"{name}_{end}"
        for name in ("spearman", "pearson", "slope", "r2")
        for end in ("low", "high")
    }
    for samples in (0, 39):
        result = agreement(*arrays, bootstrap_samples=samples)
        assert undefined(result) == set(result.reasons) == intervals
        assert result.reasons["r2_low"] == f"{samples} of the 40 resamples that it takes vary"
    assert agreement(*arrays, bootstrap_samples=40).reasons == {}
    assert set(agreement(*arrays, confidence=0.99, bootstrap_samples=40).reasons) == intervals


VARIED = [1.0, -2.0, 4.0, 3.0]


@pytest.mark.parametrize(
    ("predicted", "true", "corrected", "expected", "phrase"),
    [
        ([2] * 4, VARIED, VARIED, CORRELATIONS | LINE | {"top_k_overlap"}, "predicted"),
        (VARIED, [2] * 4, VARIED, CORRELATIONS, "constant input: true"),
        (VARIED, VARIED, [0] * 4, R2 | {"top_k_overlap"}, "drift_corrected"),
        ([0] * 4, [1] * 4, VARIED, CORRELATIONS | LINE | {"top_k_overlap"}, "predicted"),
        ([-1, 1, 1, -1], VARIED, VARIED, {"top_k_overlap"}, "equal magnitudes in predicted"),
        ([0.1 + 0.2, 0.3, 0.3, 0.3], VARIED, VARIED, CORRELATIONS | LINE | {"top_k_overlap"}, "pr"),
        ([1, 2], [1, 2], [1, 2], CORRELATIONS | LINE | R2, "2 of the 3 pairs"),
        ([1], [1], [1], CORRELATIONS | LINE | R2, "1 of the 3 pairs"),
        ([], [], [], NUMBERS, "there are no pairs"),
    ],
)
def test_undefined_numbers_are_nan_with_a_reason(predicted, true, corrected, expected, phrase):
    result = agreement(predicted, true, corrected, top_k=1)
    assert undefined(result) == expected
    assert set(result.reasons) == expected
    assert all(phrase in reason for reason in result.reasons.values())


def test_constant_truth_has_a_line_of_slope_zero():
    result = agreement(VARIED, [2] * 4, VARIED)
    assert (result.slope, result.intercept) == (0.0, 2.0)
    assert (result.slope_low, result.slope_high) == (0.0, 0.0)


def test_two_pairs_have_signs_and_overlap():
    result = agreement([1, -2], [1, 2], [3, 1], top_k=1)
    assert (result.n, result.sign_agreement) == (2, 0.5)
    assert (result.top_k_overlap, result.top_k_chance) == (0.0, 0.5)


def test_non_finite_values_undefine_everything_and_are_counted():
    predicted, true, corrected = noisy(10)
    predicted[3], true[4], true[5] = np.nan, np.inf, -np.inf
    result = agreement(predicted, true, corrected)
    assert result.n == 10
    assert undefined(result) == set(result.reasons) == NUMBERS
    reason = "3 of 30 values are not finite (predicted: 1, true: 2)"
    assert set(result.reasons.values()) == {reason}


@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_values_beyond_squaring_are_reported_without_a_warning(scale):
    values = np.array(VARIED) * scale
    result = agreement(values, values, values)
    assert result.spearman == pytest.approx(1.0)
    assert result.pearson == pytest.approx(1.0)
    assert math.isnan(result.slope)
    assert "float64" in result.reasons["slope"]
    assert undefined(result) == set(result.reasons)


def test_small_changes_keep_their_statistics():
    predicted, true, corrected = noisy(40)
    small, large = agreement(*(1e-9 * v for v in noisy(40))), agreement(predicted, true, corrected)
    for name in NUMBERS - {"intercept"}:
        assert getattr(small, name) == pytest.approx(getattr(large, name)), name


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 0.0], True), ([0.1 + 0.2, 0.3], True), ([1e-300, 2e-300], False), ([-1, 1], False)],
)
def test_is_constant(values, expected):
    assert bool(is_constant(np.array(values))) is expected


def test_record_is_flat_json_with_reasons():
    result = agreement(VARIED, VARIED, VARIED)
    record = json.loads(json.dumps(result.to_record()))
    assert set(record) == NUMBERS | {"n", "reasons"}
    assert Agreement(**record) == result
    assert all(type(record[name]) is float for name in NUMBERS)
    undefined_record = agreement(VARIED, [1] * 4, VARIED).to_record()
    assert undefined_record["reasons"]["spearman"] == "constant input: true"


@pytest.mark.parametrize(
    ("arguments", "options", "phrase"),
    [
        (([1, 2], [1, 2, 3], [1, 2]), {}, r"'true': \(3,\)"),
        (([[1, 2]], [[1, 2]], [[1, 2]]), {}, r"\(removals,\)"),
        ((1, 2, 3), {}, r"\(removals,\)"),
        ((VARIED,) * 3, {"top_k": 0}, "top_k is 0"),
        ((VARIED,) * 3, {"confidence": 1.0}, "confidence is 1.0"),
        ((VARIED,) * 3, {"bootstrap_samples": -1}, "bootstrap_samples is -1"),
    ],
)
def test_unusable_input_is_refused(arguments, options, phrase):
    with pytest.raises(ValueError, match=phrase):
        agreement(*arguments, **options)


@pytest.mark.parametrize(
    ("n", "rounded", "rtol"), [(40, 0.13, 0.02), (25, 0.16, 0.02), (10, 0.27, 0.03)]
)
def test_chance_level_matches_random_orders(n, rounded, rtol):
    generator = np.random.default_rng(n)
    centred = np.arange(n) - (n - 1) / 2
    shuffled = generator.permuted(np.tile(centred, (40_000, 1)), axis=1)
    correlations = shuffled @ centred / (centred @ centred)
    assert chance_absolute_correlation(n) == pytest.approx(np.abs(correlations).mean(), rel=rtol)
    assert round(chance_absolute_correlation(n), 2) == rounded


@pytest.mark.parametrize("n", [0, 1, 2])
def test_chance_level_of_no_correlation_is_undefined(n):
    assert math.isnan(chance_absolute_correlation(n))

"""Tests of two factors against explicit sums of squares, statsmodels, t tests and simulation."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import linalg, stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.tools.sm_exceptions import SingularMatrixWarning

from ifcheck.agreement.factorial import EFFECTS, split_plot_anova, two_way_anova

pytestmark = pytest.mark.filterwarnings("error")

SIZES, VARIANTS = ("5", "8", "14"), ("none", "swa", "l2", "bnn")
TRIALS = 500


def cells_of(values, sizes=SIZES, variants=VARIANTS):
    """The cells of an array (sizes, seeds, variants)."""
    return {
        (size, variant): dict(enumerate(values[i, :, j].tolist()))
        for i, size in enumerate(sizes)
        for j, variant in enumerate(variants)
    }


def balanced(seed=0, seeds=5):
    """Values (sizes, seeds, variants) with every effect, and seeds that differ."""
    random = np.random.default_rng(seed)
    shape = len(SIZES), seeds, len(VARIANTS)
    size = np.array([0.0, 0.3, 1.0])[:, None, None]
    variant = np.array([0.0, 0.1, 0.5, -0.4])
    return (
        size
        + variant * (1 + size)
        + random.normal(size=(*shape[:2], 1))
        + random.normal(scale=0.5, size=shape)
    )


def uneven(seed=0, share=0.8):
    """Cells of unequal number: some values are missing, and one is not finite."""
    random = np.random.default_rng(seed)
    cells = cells_of(balanced(seed, 7))
    kept = {
        cell: {k: value for k, value in values.items() if random.random() < share}
        for cell, values in cells.items()
    }
    kept["8", "l2"][99] = math.nan
    return kept


def frame_of(cells):
    rows = [
        (size, variant, f"{size} {seed}", value)
        for (size, variant), values in cells.items()
        for seed, value in values.items()
        if math.isfinite(value)
    ]
    frame = pd.DataFrame(rows, columns=["size", "variant", "block", "value"])
    return frame.assign(cell=frame["size"] + " " + frame["variant"])


def within_limits(found, trials=TRIALS, rate=0.05):
    """Whether a count of rejections is one in a thousand or more under a rate of them."""
    low, high = stats.binom.interval(0.999, trials, rate)
    return low <= found <= high


# --- the two-way ANOVA ------------------------------------------------------------------------


def test_two_way_anova_of_a_balanced_design_has_the_sums_of_the_textbook():
    values = balanced()
    sizes, seeds, variants = values.shape
    grand = values.mean()
    of_size = [values[i].mean() for i in range(sizes)]
    of_variant = [values[:, :, j].mean() for j in range(variants)]
    squares = {
        "size": seeds * variants * sum((m - grand) ** 2 for m in of_size),
        "variant": seeds * sizes * sum((m - grand) ** 2 for m in of_variant),
        "interaction": seeds
        * sum(
            (values[i, :, j].mean() - of_size[i] - of_variant[j] + grand) ** 2
            for i in range(sizes)
            for j in range(variants)
        ),
    }
    error = sum(
        (values[i, k, j] - values[i, :, j].mean()) ** 2
        for i in range(sizes)
        for k in range(seeds)
        for j in range(variants)
    )
    freedom = {"size": 2, "variant": 3, "interaction": 6}
    results = two_way_anova(cells_of(values))
    for effect in EFFECTS:
        found, df = results[effect], freedom[effect]
        mean_error = error / 48
        statistic = squares[effect] / df / mean_error
        assert found.statistic == pytest.approx(statistic)
        assert (found.df, found.df_error) == (df, 48)
        assert found.p_value == pytest.approx(stats.f.sf(statistic, df, 48))
        # By its definition through the variance components of fixed effects.
        component = df * (squares[effect] / df - mean_error) / 60
        assert found.effect_size == pytest.approx(component / (component + mean_error))
        assert (found.name, found.effect_name) == ("two-way ANOVA", "partial omega squared")


@pytest.mark.parametrize("seed", range(3))
def test_two_way_anova_of_unequal_cells_is_type_two_of_statsmodels(seed):
    cells = uneven(seed)
    table = anova_lm(ols("value ~ C(size) * C(variant)", frame_of(cells)).fit(), typ=2)
    names = {"size": "C(size)", "variant": "C(variant)", "interaction": "C(size):C(variant)"}
    for effect, found in two_way_anova(cells).items():
        assert found.statistic == pytest.approx(table.loc[names[effect], "F"])
        assert found.p_value == pytest.approx(table.loc[names[effect], "PR(>F)"])
        assert found.df == table.loc[names[effect], "df"]
        assert found.df_error == table.loc["Residual", "df"]


def test_two_way_anova_with_a_missing_cell_compares_nested_models():
    cells = uneven()
    del cells["14", "bnn"]
    data = frame_of(cells)
    fits = {
        name: ols(f"value ~ {formula}", data).fit()
        for name, formula in {
            "variant": "C(variant)",
            "size": "C(size)",
            "both": "C(size) + C(variant)",
            "cells": "C(cell)",
        }.items()
    }
    for effect, small, large in (
        ("size", "variant", "both"),
        ("variant", "size", "both"),
        ("interaction", "both", "cells"),
    ):
        found, df = two_way_anova(cells)[effect], fits[small].df_resid - fits[large].df_resid
        squares = (fits[small].ssr - fits[large].ssr) / df
        assert found.df == df
        assert found.statistic == pytest.approx(squares / fits["cells"].mse_resid)
    assert two_way_anova(cells)["interaction"].df == 5  # 11 cells less 1 + 2 + 3


def test_numbers_of_values_are_told_by_cell():
    cells = uneven() | {("14", "bnn"): {}}
    counts = two_way_anova(cells)["size"].group_sizes
    assert counts == frame_of(cells)["cell"].value_counts().to_dict() | {"14 bnn": 0}


# --- split plot -------------------------------------------------------------------------------


def test_split_plot_of_a_balanced_design_has_the_sums_of_the_textbook():
    values = balanced()
    sizes, seeds, variants = values.shape
    grand, of_size = values.mean(), values.mean(axis=(1, 2))
    of_seed, of_variant, of_cell = values.mean(axis=2), values.mean(axis=(0, 1)), values.mean(1)
    places = [(i, k, j) for i in range(sizes) for k in range(seeds) for j in range(variants)]

    def total(term):
        return sum(term(*place) ** 2 for place in places)

    between = total(lambda i, k, j: of_seed[i, k] - of_size[i]) / (sizes * (seeds - 1))
    within = total(lambda i, k, j: values[i, k, j] - of_seed[i, k] - of_cell[i, j] + of_size[i]) / (
        sizes * (seeds - 1) * (variants - 1)
    )
    expected = {
        "size": total(lambda i, k, j: of_size[i] - grand) / 2 / between,
        "variant": total(lambda i, k, j: of_variant[j] - grand) / 3 / within,
        "interaction": total(lambda i, k, j: of_cell[i, j] - of_size[i] - of_variant[j] + grand)
        / 6
        / within,
    }
    results = split_plot_anova(cells_of(values))
    for effect, (df, df_error) in {
        "size": (2, 12),
        "variant": (3, 36),
        "interaction": (6, 36),
    }.items():
        found, statistic = results[effect], expected[effect]
        assert found.statistic == pytest.approx(statistic)
        surplus = df * (statistic - 1)
        assert found.effect_size == pytest.approx(surplus / (df * statistic + df_error))
        assert found.effect_name == "partial epsilon squared"
    assert (results["size"].df, results["size"].df_error) == (2, 12)


def test_degrees_of_freedom_are_those_of_greenhouse_and_geisser():
    values = balanced()
    contrasts = linalg.helmert(len(VARIANTS))
    covariance = contrasts @ np.mean([np.cov(own.T) for own in values], axis=0) @ contrasts.T
    roots = np.linalg.eigvalsh(covariance)
    epsilon = roots.sum() ** 2 / (3 * (roots**2).sum())
    assert 1 / 3 < epsilon < 1
    for effect, df in (("variant", 3), ("interaction", 6)):
        found = split_plot_anova(cells_of(values))[effect]
        assert (found.df, found.df_error) == pytest.approx((epsilon * df, epsilon * 36))
        expected = stats.f.sf(found.statistic, epsilon * df, epsilon * 36)
        assert found.p_value == pytest.approx(expected)


def test_split_plot_of_two_variants_is_three_tests_of_sums_and_differences():
    values = balanced()[:, :, :2]
    sums, differences = values.sum(axis=2), values[:, :, 1] - values[:, :, 0]
    results = split_plot_anova(cells_of(values, variants=VARIANTS[:2]))
    for effect, numbers in (("size", sums), ("interaction", differences)):
        expected = stats.f_oneway(*numbers)
        assert results[effect].statistic == pytest.approx(expected.statistic)
        assert results[effect].p_value == pytest.approx(expected.pvalue)
    error = math.sqrt(np.mean([own.var(ddof=1) for own in differences]) / differences.size)
    t = differences.mean() / error
    assert results["variant"].statistic == pytest.approx(t**2)
    assert results["variant"].p_value == pytest.approx(2 * stats.t.sf(abs(t), 12))


@pytest.mark.parametrize("seed", range(3))
def test_within_unequal_seeds_statsmodels_finds_the_same_with_a_parameter_a_seed(seed):
    cells = uneven(seed)
    data = frame_of(cells)
    with pytest.warns(SingularMatrixWarning):  # sizes are sums of their seeds
        nothing, variant, full = (
            ols(f"value ~ C(block){terms}", data).fit()
            for terms in ("", " + C(variant)", " + C(variant) + C(size):C(variant)")
        )
    freedom = full.model.exog.shape[0] - np.linalg.matrix_rank(full.model.exog)
    results = split_plot_anova(cells)
    main = (nothing.ssr - variant.ssr) / 3 / (full.ssr / freedom)
    both = (variant.ssr - full.ssr) / 6 / (full.ssr / freedom)
    assert results["variant"].statistic == pytest.approx(main)
    assert results["interaction"].statistic == pytest.approx(both)


def test_size_is_tested_between_seeds_with_the_variants_of_every_size():
    values = balanced()
    cells = cells_of(values)
    del cells["8", "bnn"]  # leaves three variants that every size has
    del cells["5", "swa"][2]  # and this seed without one of them
    del cells["14", "bnn"][1]  # which matters to no mean
    means = [list(own[:, :3].mean(axis=1)) for own in values]
    del means[0][2]
    expected = stats.f_oneway(*means)
    found = split_plot_anova(cells)["size"]
    assert found.statistic == pytest.approx(expected.statistic)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.group_sizes == {"5": 4, "8": 5, "14": 5}


# --- what the assumptions do ------------------------------------------------------------------


def rejections(draw, test, effect, trials=TRIALS):
    random = np.random.default_rng(7)
    p_values = [test(draw(random))[effect].p_value for _ in range(trials)]
    return int((np.array(p_values) < 0.05).sum())


def of_shared_seeds(random):
    """Neither size nor variant matters; variants of a seed have much in common."""
    values = random.normal(size=(2, 6, 1)) + 0.3 * random.normal(size=(2, 6, 3))
    return cells_of(values, SIZES[:2], VARIANTS[:3])


@pytest.mark.parametrize("effect", EFFECTS)
def test_split_plot_holds_its_level_where_variants_share_seeds(effect):
    assert within_limits(rejections(of_shared_seeds, split_plot_anova, effect))


def test_two_way_anova_does_not_hold_its_level_there():
    """Seeds are no noise of the variants' differences, and no three independent values each."""
    low, high = stats.binom.interval(0.999, TRIALS, 0.05)
    assert rejections(of_shared_seeds, two_way_anova, "variant") < low
    assert rejections(of_shared_seeds, two_way_anova, "size") > high


def of_unequal_variants(random):
    """No effects; three variants are nearly one, and the fourth goes its own way."""
    shared = random.normal(size=(2, 8, 1))
    alike = shared + 0.05 * random.normal(size=(2, 8, 3))
    return cells_of(np.concatenate([alike, random.normal(size=(2, 8, 1))], axis=2), SIZES[:2])


def test_unequal_correlations_of_variants_do_not_raise_the_level():
    uncorrected = 0
    random = np.random.default_rng(7)
    for _ in range(TRIALS):
        found = split_plot_anova(of_unequal_variants(random))["variant"]
        uncorrected += stats.f.sf(found.statistic, 3, 42) < 0.05
    assert uncorrected > stats.binom.ppf(0.9995, TRIALS, 0.05)
    assert within_limits(rejections(of_unequal_variants, split_plot_anova, "variant"))


# --- undefined --------------------------------------------------------------------------------

ONE_SEED = cells_of(balanced(seeds=1))
FLAT = cells_of(np.broadcast_to(np.arange(4.0), (3, 5, 4)))  # variants differ, nothing else
DIAGONAL = {("5", "none"): {0: 1.0, 1: 2.0}, ("8", "l2"): {0: 2.0, 1: 5.0}}


@pytest.mark.parametrize("test", [two_way_anova, split_plot_anova])
@pytest.mark.parametrize(
    ("cells", "phrase"),
    [
        ({}, "0 of the 2 sizes"),
        (cells_of(balanced()[:1], SIZES[:1]), "1 of the 2 sizes"),
        (cells_of(balanced()[:, :, :1], variants=VARIANTS[:1]), "1 of the 2 variants"),
        (cells_of(np.ones((3, 5, 4))), "all values are equal"),
        (ONE_SEED, "nothing to judge a difference by"),
        (cells_of(np.full((3, 5, 4), 1e200) * np.arange(5)[:, None]), "no spread|float64"),
    ],
)
def test_undefined_effects_say_why(test, cells, phrase):
    results = test(cells)
    assert tuple(results) == EFFECTS
    undefined = [found for found in results.values() if found.reason is not None]
    assert undefined
    for found in undefined:
        numbers = (found.statistic, found.p_value, found.effect_size)
        assert all(math.isnan(number) for number in numbers)
        assert any(part in found.reason for part in phrase.split("|"))


def test_variants_that_no_seed_shares_cannot_be_told_from_sizes():
    for found in two_way_anova(DIAGONAL).values():
        assert "cells are missing" in found.reason
    for found in split_plot_anova(DIAGONAL).values():
        assert "nothing to judge" in found.reason


def test_values_without_spread_where_it_counts_have_no_test():
    assert "no spread within any cell" in two_way_anova(FLAT)["variant"].reason
    assert "no spread within seeds" in split_plot_anova(FLAT)["variant"].reason
    assert "no spread between seeds" in split_plot_anova(FLAT)["size"].reason
    shifted = cells_of(np.arange(3.0)[:, None, None] + np.zeros((3, 5, 4)))  # and sizes alone
    assert "no spread between seeds" in split_plot_anova(shifted)["size"].reason

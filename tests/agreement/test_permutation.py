"""Permutation tests of two factors against all reorderings, and their level where nothing is so."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from ifcheck.agreement.factorial import EFFECTS, split_plot_anova
from ifcheck.agreement.permutation import split_plot_permutation
from tests.agreement.test_factorial import DIAGONAL, cells_of

pytestmark = pytest.mark.filterwarnings("error")

SIZES, VARIANTS = ("5", "8"), ("none", "swa", "l2")


def few():
    """Two sizes, three seeds each, two variants: 20 orders of seeds, 64 of variants."""
    return np.random.default_rng(3).normal(size=(2, 3, 2))


def orders_of_seeds(seeds):
    """The ways to take half of the seeds for the first size."""
    for chosen in itertools.combinations(range(len(seeds)), len(seeds) // 2):
        rest = [k for k in range(len(seeds)) if k not in chosen]
        yield seeds[list(chosen)], seeds[rest]


def share_as_large(sizes, found):
    sizes = np.array(list(sizes))
    return np.mean(sizes >= found - 1e-9)


def assert_near(p_value, expected, permutations):
    """Within four standard errors of a share of random orders."""
    error = 4 * math.sqrt(expected * (1 - expected) / permutations) + 1 / permutations
    assert p_value == pytest.approx(expected, abs=error)


def test_p_values_are_shares_of_all_reorderings():
    values, permutations = few(), 4_000
    results = split_plot_permutation(cells_of(values, SIZES, VARIANTS[:2]), permutations)
    means = values.mean(axis=2).ravel()
    differences = (values[:, :, 1] - values[:, :, 0]).ravel()
    for effect, seeds in (("size", means), ("interaction", differences)):
        apart = [abs(first.mean() - second.mean()) for first, second in orders_of_seeds(seeds)]
        expected = share_as_large(apart, apart[0])
        assert_near(results[effect].p_value, expected, permutations)
    signs = itertools.product((-1, 1), repeat=len(differences))
    flipped = [abs(np.mean(differences * sign)) for sign in map(np.array, signs)]
    expected = share_as_large(flipped, abs(differences.mean()))
    assert_near(results["variant"].p_value, expected, permutations)


def test_statistic_and_effect_are_those_of_the_split_plot():
    cells = cells_of(few(), SIZES, VARIANTS[:2])
    normal = split_plot_anova(cells)
    for effect, found in split_plot_permutation(cells, 19).items():
        assert found.name == "split-plot permutation"
        assert found.statistic == normal[effect].statistic
        assert found.effect_size == normal[effect].effect_size
        assert (found.df, found.df_error) == (None, None)


def test_the_same_seed_draws_the_same():
    cells = cells_of(few(), SIZES, VARIANTS[:2])
    assert split_plot_permutation(cells, 99) == split_plot_permutation(cells, 99)
    assert split_plot_permutation(cells, 99) != split_plot_permutation(cells, 99, seed=1)


@pytest.mark.parametrize("effect", EFFECTS)
def test_level_is_held_where_normality_is_hopeless(effect):
    """|Spearman| near 1, by a factor of thousands nearer in some seeds than in others."""
    random, trials, rejected = np.random.default_rng(2), 300, 0
    for _ in range(trials):
        seeds = random.lognormal(sigma=3.0, size=(2, 5, 1))
        values = 1 - 1e-6 * seeds * random.lognormal(size=(2, 5, 3))
        found = split_plot_permutation(cells_of(values, SIZES, VARIANTS), 99)
        rejected += found[effect].p_value <= 0.05
    low, high = stats.binom.interval(0.999, trials, 0.05)
    assert low <= rejected <= high


def test_an_effect_that_every_seed_has_is_found():
    random = np.random.default_rng(4)
    seeds = random.lognormal(sigma=2.0, size=(2, 6, 1))
    variant = cells_of(seeds * np.array([1.0, 1.1, 1.2]), SIZES, VARIANTS)
    found = split_plot_permutation(variant, 999)
    assert found["variant"].p_value == pytest.approx(1 / 1000)
    assert found["size"].p_value > 0.05


def test_what_has_no_split_plot_has_no_permutation():
    for found in split_plot_permutation(DIAGONAL).values():
        assert math.isnan(found.p_value)
        assert (
            found.reason == split_plot_anova(DIAGONAL)["size"].reason or "variants" in found.reason
        )


def test_an_interaction_takes_two_variants_that_every_size_has():
    random = np.random.default_rng(5)
    values = random.normal(size=(3, 4, 3))
    cells = cells_of(values, ("5", "8", "14"), VARIANTS)
    for missing in (("5", "none"), ("8", "swa"), ("14", "l2")):
        del cells[missing]
    assert split_plot_anova(cells)["interaction"].reason is None
    found = split_plot_permutation(cells)["interaction"]
    assert math.isnan(found.p_value)
    assert math.isnan(found.statistic)
    assert "no two variants" in found.reason

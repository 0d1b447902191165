"""Tests of two factors at once, size and variant, each cell a group of seeds.

Three answers to one question, by what they assume. `two_way_anova` takes all values for
independent, as the paper does. `split_plot_anova` respects that variants of one seed share
initialisation and most of training, while sizes share neither: a seed at a size is a block. Both
take values for normal, which |Spearman| near 1 is not; `permutation.split_plot_permutation` does
not.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ifcheck.agreement.design import (
    Cells,
    CompleteSeeds,
    Design,
    Floats,
    complete_seeds,
    design_of,
    dummies,
    within_blocks,
)
from ifcheck.agreement.metrics import quiet
from ifcheck.agreement.statistics import Numbers, TestResult, tested

Results = dict[str, TestResult]  # by effect

EFFECTS = ("size", "variant", "interaction")
NO_SPREAD = 1e-26  # of squares: deviations of 1e-13 of the values are rounding


def two_way_anova(cells: Cells) -> Results:
    """Test size, variant and their interaction; every value counts as independent.

    Sums of squares are of type II: each factor beside the other, without the interaction. With
    cells of unequal number they do not depend on an order of the factors, and unlike type III they
    are defined where a cell is missing. Effect: partial omega squared, df (F - 1) / (df (F - 1) +
    n), which may be negative. Variants of one seed are not independent: read it beside
    `split_plot_anova`. Non-finite values are left out.
    Reference: Langsrud (2003) for type II; Olejnik & Algina (2003) for the effect size.
    """
    design = design_of(cells)
    obstacle, n = design.obstacle(), len(design.values)
    with quiet():
        parts = dict.fromkeys(EFFECTS, NO_TEST) if obstacle else _two_way(design)
    return {
        effect: parts[effect].result(
            "two-way ANOVA",
            design.counts(cells),
            obstacle or parts[effect].obstacle("within any cell", "every cell has one seed"),
            "partial omega squared",
            n,
        )
        for effect in EFFECTS
    }


def split_plot_anova(cells: Cells) -> Results:
    """Test size against seeds within sizes, variant and interaction within seeds.

    A seed at a size is a block, whose variants share what the seed is. Variant and interaction are
    exact for any missing values; their degrees of freedom are multiplied by Greenhouse & Geisser's
    epsilon, since variants do not correlate equally (`swa` is `none` for most of its training).
    Size compares the seeds' means over the variants that every size has, of seeds with all of
    these. Effect: partial epsilon squared, df (F - 1) / (df F + df_error), which may be negative.
    Reference: Fisher (1925); Greenhouse & Geisser (1959); Kelley (1935) for the effect size.
    """
    design = design_of(cells)
    obstacle, sizes = design.obstacle(), _counts_of_split_plot(design, cells)
    with quiet():
        parts = dict.fromkeys(EFFECTS, NO_TEST) if obstacle else _split_plot(design)
        epsilon = 1.0 if obstacle else _sphericity(design)
    return {
        effect: parts[effect].result(
            "split-plot ANOVA",
            sizes[effect],
            obstacle or parts[effect].obstacle(*NOTHING_WITHIN[effect]),
            "partial epsilon squared",
            parts[effect].df + parts[effect].error.df,
            1.0 if effect == "size" else epsilon,
        )
        for effect in EFFECTS
    }


# Where there is no error to judge an effect by: no spread there, or no degrees of freedom.
NOTHING_WITHIN = {
    "size": ("between seeds of any size", "no size has two seeds with the same variants"),
    "variant": ("within seeds", "too few variants of the same seeds"),
    "interaction": ("within seeds", "too few variants of the same seeds"),
}


@dataclass(frozen=True)
class _Left:
    """What a linear model leaves of the values."""

    squares: float
    rank: int  # of the model


@dataclass(frozen=True)
class _Error:
    """What effects are tested against."""

    squares: float
    df: int
    rounding: float  # squares up to this are none

    @classmethod
    def of(cls, left: _Left, freedom: int, values: Floats) -> _Error:
        """Return what the largest model leaves of values with so many degrees of freedom."""
        return cls(left.squares, freedom - left.rank, NO_SPREAD * float(values @ values))


@dataclass(frozen=True)
class _F:
    """The sum of squares of an effect and the error that it is tested against."""

    squares: float
    df: int
    error: _Error

    @classmethod
    def between(cls, small: _Left, large: _Left, error: _Error) -> _F:
        """Return the test of what a larger model explains beyond a smaller one."""
        squares = max(0.0, small.squares - large.squares)
        return cls(squares, large.rank - small.rank, error)

    def obstacle(self, where: str, alone: str) -> str | None:
        """Say why F has no value."""
        if self.error.df < 1:
            return f"{alone}: nothing to judge a difference by"
        if self.df < 1:
            return "cells are missing: this effect cannot be told from the others"
        if self.error.squares <= self.error.rounding:
            return f"no spread {where}"
        return None

    def result(
        self,
        name: str,
        sizes: dict[str, int],
        obstacle: str | None,
        effect_name: str,
        noise: int,
        epsilon: float = 1.0,
    ) -> TestResult:
        """Return the test, whose effect size is surplus / (surplus + noise).

        The surplus is df (F - 1), by which the sum of squares exceeds what chance gives it.
        """
        df, df_error = epsilon * self.df, epsilon * self.error.df

        def compute() -> Numbers:
            statistic = (self.squares / self.df) / (self.error.squares / self.error.df)
            surplus = self.df * (statistic - 1)
            p_value = float(stats.f.sf(statistic, df, df_error))
            return statistic, p_value, surplus / (surplus + noise)

        found = tested(name, effect_name, sizes, obstacle, compute)
        if found.reason is not None:
            return found
        return dataclasses.replace(found, df=df, df_error=df_error)


NO_TEST = _F(0.0, 0, _Error(0.0, 0, 0.0))  # of no values


def _left(values: Floats, *factors: Floats) -> _Left:
    """Fit values by all columns of the factors, which may depend on each other."""
    from statsmodels.regression.linear_model import OLS  # which takes a second

    with quiet():  # columns that depend on each other are meant
        fit = OLS(values, np.hstack(factors)).fit()
    return _Left(float(fit.ssr), int(fit.model.rank))


def _two_way(design: Design) -> dict[str, _F]:
    """Return F of each effect against the spread within cells."""
    size, variant, cell = dummies(design.size), dummies(design.variant), dummies(design.cell)
    sizes, variants = _left(design.values, size), _left(design.values, variant)
    both, full = _left(design.values, size, variant), _left(design.values, cell)
    error = _Error.of(full, len(design.values), design.values)
    return {
        "size": _F.between(variants, both, error),
        "variant": _F.between(sizes, both, error),
        "interaction": _F.between(both, full, error),
    }


def _split_plot(design: Design) -> dict[str, _F]:
    """Return F of size between seeds, and of variant and interaction within them."""
    values = within_blocks(design.values, design.block)
    variant, cell = (
        within_blocks(dummies(codes), design.block) for codes in (design.variant, design.cell)
    )
    nothing = _Left(float(values @ values), 0)
    main, full = _left(values, variant), _left(values, cell)
    freedom = len(values) - len(np.unique(design.block))
    error = _Error.of(full, freedom, design.values)
    return {
        "size": _between_seeds(complete_seeds(design)),
        "variant": _F.between(nothing, main, error),
        "interaction": _F.between(main, full, error),
    }


def _between_seeds(complete: CompleteSeeds) -> _F:
    if not complete.values.size:
        return NO_TEST
    means, size = complete.values.mean(axis=1), complete.size
    grand, sizes = _left(means, np.ones((len(means), 1))), _left(means, dummies(size))
    return _F.between(grand, sizes, _Error.of(sizes, len(means), means))


def _counts_of_split_plot(design: Design, cells: Cells) -> dict[str, dict[str, int]]:
    """Return, for each effect, how many seeds speak for each level."""
    size = complete_seeds(design).size
    return {
        "size": {name: int((size == s).sum()) for s, name in enumerate(design.sizes)},
        "variant": {
            name: int((design.variant == v).sum()) for v, name in enumerate(design.variants)
        },
        "interaction": design.counts(cells),
    }


def _sphericity(design: Design) -> float:
    """Return Greenhouse & Geisser's epsilon: 1 where all differences of variants vary alike.

    From seeds with every variant; without enough of them its lower bound, which is safe.
    """
    complete = complete_seeds(design, all_variants=True)
    freedom = max(1, len(design.variants) - 1)
    if not len(complete.values):
        return 1 / freedom
    deviations = complete.values - complete.values.mean(axis=1, keepdims=True)
    rest = within_blocks(deviations, complete.size)
    covariance = rest.T @ rest
    size = float((covariance**2).sum())
    found = float(np.trace(covariance)) ** 2 / (freedom * size) if size > 0 else 0.0
    return min(1.0, max(1 / freedom, found))

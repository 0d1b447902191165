"""The same tests of two factors whatever the distribution of the values, by reordering them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from scipy import linalg

from ifcheck.agreement.design import (
    Cells,
    CompleteSeeds,
    Design,
    complete_seeds,
    design_of,
    dummies,
    within_blocks,
)
from ifcheck.agreement.factorial import EFFECTS, Results, split_plot_anova

# The smallest p-value is 1/2000: below 0.05 even after correction for a hundred tests.
PERMUTATIONS = 1_999
ROUNDING = 1e-12  # relative, of sums of squares that equal values give in another order

Reordering = Callable[[np.random.Generator | None], float]  # None: as the values stand


def split_plot_permutation(
    cells: Cells, permutations: int = PERMUTATIONS, seed: int = 0
) -> Results:
    """Test the same as `split_plot_anova`, whatever the distribution of the values.

    p-values are shares of random reorderings whose sum of squares of the effect is as large. Each
    reorders what its null hypothesis makes exchangeable: variants within each seed (the variant
    makes no difference), seeds over sizes (the size makes none to a seed's mean), and seeds'
    deviations from their own mean over sizes (variants differ alike at every size). The last two
    take seeds with all the variants that every size has. Statistic and effect: `split_plot_anova`.
    Reference: Pitman (1938); Anderson & ter Braak (2003) for restricted permutations.
    """
    normal = split_plot_anova(cells)
    generators = np.random.default_rng(seed).spawn(len(EFFECTS))
    results = {}
    for effect, generator in zip(EFFECTS, generators, strict=True):
        before = normal[effect]
        p_value, obstacle = math.nan, before.reason
        if obstacle is None:
            p_value, obstacle = _by_permutation(effect, design_of(cells), permutations, generator)
        results[effect] = dataclasses.replace(
            before,
            name="split-plot permutation",
            statistic=before.statistic if obstacle is None else math.nan,
            p_value=p_value,
            effect_size=before.effect_size if obstacle is None else math.nan,
            reason=obstacle,
            df=None,
            df_error=None,
        )
    return results


def _within_seeds(design: Design) -> Reordering:
    """Return the variant's sum of squares for values that are reordered within each seed."""
    values = within_blocks(design.values, design.block)
    basis = linalg.orth(within_blocks(dummies(design.variant), design.block))

    def squares(generator: np.random.Generator | None) -> float:
        order = np.arange(len(values))
        if generator is not None:
            order = np.lexsort((generator.random(len(values)), design.block))
        return float(((basis.T @ values[order]) ** 2).sum())

    return squares


def _over_sizes(complete: CompleteSeeds, centred: bool) -> Reordering:
    """Return the sum of squares between sizes of seeds that are reordered over the sizes.

    Of the seeds' means, or `centred`, of their variants' deviations from these.
    """
    means = complete.values.mean(axis=1, keepdims=True)
    values = complete.values - means if centred else means
    values = values - values.mean(axis=0)
    members = dummies(complete.size)
    basis = members / np.sqrt(members.sum(axis=0))

    def squares(generator: np.random.Generator | None) -> float:
        order = np.arange(len(values)) if generator is None else generator.permutation(len(values))
        return float(((basis.T @ values[order]) ** 2).sum())

    return squares


def _by_permutation(
    effect: str, design: Design, permutations: int, generator: np.random.Generator
) -> tuple[float, str | None]:
    """Return the p-value of an effect that has a value of F, or nan and why."""
    if effect == "variant":
        squares = _within_seeds(design)
    else:
        complete = complete_seeds(design)
        if effect == "interaction" and (
            complete.values.shape[1] < 2 or len(set(complete.size)) < 2
        ):
            return math.nan, "no two variants that seeds of two sizes have"
        squares = _over_sizes(complete, centred=effect == "interaction")
    found = squares(None) * (1 - ROUNDING)
    reached = sum(squares(generator) >= found for _ in range(permutations))
    return (1 + reached) / (1 + permutations), None

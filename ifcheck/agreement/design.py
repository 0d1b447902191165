"""Values of a design of two factors, size and variant, with seeds as blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ifcheck.agreement.metrics import is_constant

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
Cells = Mapping[tuple[str, str], Mapping[int, float]]  # (size, variant) -> seed -> value


@dataclass(frozen=True)
class Design:
    """Finite values with their codes, sorted by block; a block is a seed at a size."""

    values: Floats  # (n,)
    size: Codes
    variant: Codes
    block: Codes
    sizes: list[str]
    variants: list[str]

    @property
    def cell(self) -> Codes:
        """Return the codes of (size, variant)."""
        return self.size * len(self.variants) + self.variant

    def obstacle(self) -> str | None:
        """Say why there are no two factors to speak of."""
        for levels, name in ((self.sizes, "sizes"), (self.variants, "variants")):
            if len(levels) < 2:
                return f"{len(levels)} of the 2 {name} that it takes"
        return "all values are equal" if is_constant(self.values) else None

    def counts(self, cells: Cells) -> dict[str, int]:
        """Return the number of values in each cell, of cells without any as well."""
        used = zip(self.size.tolist(), self.variant.tolist(), strict=True)
        names = [f"{self.sizes[s]} {self.variants[v]}" for s, v in used]
        return {" ".join(cell): names.count(" ".join(cell)) for cell in cells}


def design_of(cells: Cells) -> Design:
    """Return the finite values of all cells; levels without any value are left out."""
    entries = [
        (size, variant, seed, value)
        for (size, variant), values in cells.items()
        for seed, value in values.items()
        if np.isfinite(value)
    ]
    sizes = list(dict.fromkeys(size for size, *_ in entries))
    variants = list(dict.fromkeys(variant for _, variant, *_ in entries))
    coded = [(sizes.index(s), seed, variants.index(v), value) for s, v, seed, value in entries]
    coded.sort()
    blocks = list(dict.fromkeys((size, seed) for size, seed, *_ in coded))
    places = {block: place for place, block in enumerate(blocks)}
    return Design(
        values=np.array([value for *_, value in coded], dtype=np.float64),
        size=np.array([size for size, *_ in coded], dtype=np.int64),
        variant=np.array([variant for *_, variant, _ in coded], dtype=np.int64),
        block=np.array([places[size, seed] for size, seed, *_ in coded], dtype=np.int64),
        sizes=sizes,
        variants=variants,
    )


def dummies(codes: Codes) -> Floats:
    """Return a column of zeros and ones for each code that occurs."""
    return np.asarray(codes[:, None] == np.unique(codes), dtype=np.float64)


def within_blocks(columns: Floats, block: Codes) -> Floats:
    """Return the columns (n, ...) less their means in each block: what blocks do not explain."""
    members = dummies(block)
    weights = members / members.sum(axis=0)
    return np.asarray(columns - members @ (weights.T @ columns))


@dataclass(frozen=True)
class CompleteSeeds:
    """Seeds that each have a value of every one of some variants."""

    values: Floats  # (seeds, variants)
    size: Codes  # (seeds,)


def complete_seeds(design: Design, all_variants: bool = False) -> CompleteSeeds:
    """Return the seeds with every variant that all sizes have, or with all variants there are."""
    shape = len(np.unique(design.block)), len(design.variants)
    grid = np.full(shape, np.nan)
    grid[design.block, design.variant] = design.values
    size = np.zeros(shape[0], dtype=np.int64)
    size[design.block] = design.size
    there = [np.isfinite(grid[size == s]).any(axis=0) for s in range(len(design.sizes))]
    common = np.all(there, axis=0) if there and not all_variants else np.full(shape[1], True)
    chosen = grid[:, common]
    whole = np.isfinite(chosen).all(axis=1) & bool(common.any())
    return CompleteSeeds(chosen[whole], size[whole])

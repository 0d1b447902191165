"""Where prediction and truth part: a chain of changes from the one to the other, step by step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ifcheck.agreement.metrics import MINIMUM_PAIRS, is_constant

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """What changes between one member of the chain and the next, over the removals."""

    before: str
    after: str
    share: float  # of the total gap: <step, total> / <total, total>; can be negative
    projection: float  # <step, total>, to pool shares by
    spearman: float  # of the one with the other
    slope: float  # of the next one on this one
    error: float  # root mean square of the step, in nats, of mean-centred changes
    reason: str | None = None  # why numbers are nan


@dataclass(frozen=True)
class Decomposition:
    """The gap between the first and the last member of a chain of changes."""

    steps: tuple[Step, ...]
    size: float  # <total, total>, to pool shares by
    error: float  # root mean square of the whole gap, in nats, of mean-centred changes


def decompose(chain: Mapping[str, ArrayLike]) -> Decomposition:
    """Split the gap between prediction and truth into the steps of a chain, in order.

    `chain` holds, by name, drift-corrected changes of one test loss for the same removals,
    (removals,), in nats: for example predicted, pbrf, newton, warm. They are centred, as ranks
    and slopes do not see a constant. Shares add to 1; a step that undoes another has a negative
    one.
    Raises: ValueError for fewer than two members, or other shapes.
    """
    members = {name: np.asarray(values, dtype=np.float64) for name, values in chain.items()}
    shapes = {name: values.shape for name, values in members.items()}
    if len(members) < 2 or len(set(shapes.values())) > 1 or len(next(iter(shapes.values()))) != 1:
        raise ValueError(f"Expected two members or more of one shape (removals,), got {shapes}.")
    names = list(members)
    centred = [values - values.mean() for values in members.values()]
    total = centred[-1] - centred[0]
    size = float(total @ total)
    steps = tuple(
        _step(names[i], names[i + 1], centred[i], centred[i + 1], total, size)
        for i in range(len(names) - 1)
    )
    return Decomposition(steps, size, _root_mean_square(total))


def _step(
    before: str, after: str, first: Floats, second: Floats, total: Floats, size: float
) -> Step:
    step, nan = second - first, math.nan
    if not (np.isfinite(first).all() and np.isfinite(second).all() and math.isfinite(size)):
        return Step(before, after, nan, nan, nan, nan, nan, "changes that are not finite")
    projection, error = float(step @ total), _root_mean_square(step)
    share = projection / size if size > 0 else nan
    reason = None if size > 0 else "there is no gap"
    spearman = slope = math.nan
    if len(first) < MINIMUM_PAIRS or is_constant(first) or is_constant(second):
        reason = reason or "changes that do not vary"
    else:
        spearman = float(stats.spearmanr(first, second).statistic)
        slope = float(stats.linregress(first, second).slope)
    return Step(before, after, share, projection, spearman, slope, error, reason)


def _root_mean_square(values: Floats) -> float:
    return float(np.sqrt(np.mean(values**2)))

"""How reliable a truth is that is the mean over replicates, and what agreement that allows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ifcheck.agreement.metrics import MINIMUM_PAIRS, is_constant, quiet

MINIMUM_REPLICATES = 2


@dataclass(frozen=True)
class Reliability:
    """Reliability of the mean of replicates, on ranks; `nan` where `reason` says why."""

    reliability: float  # share of the variance of the mean's ranks that is not noise, 0 to 1
    noise_ceiling: float  # correlation that a perfect prediction has with the mean, 0 to 1
    reason: str | None

    def to_record(self) -> dict[str, float | str]:
        """Give the numbers and the reason under the names that records have."""
        return {
            "reliability": self.reliability,
            "noise_ceiling": self.noise_ceiling,
            "reliability_reason": self.reason or "",
        }


def reliability(replicates: ArrayLike) -> Reliability:
    """Say how far the mean over replicates of the same changes can be trusted.

    Shape: (removals, R). By the Spearman-Brown formula rel = R r / (1 + (R - 1) r), with r the
    mean Spearman correlation over all pairs of replicates; the noise ceiling is sqrt(rel).
    Undefined for one replicate, fewer than three removals, a replicate that is constant or not
    finite, and where r is not positive.

    Raises: ValueError for another shape.
    Reference: Spearman (1910); Brown (1910); Spearman (1904) for the ceiling.
    """
    values = np.asarray(replicates, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"replicates have shape {values.shape}; expected (removals, R)")
    count = values.shape[1]
    if count < MINIMUM_REPLICATES:
        return _undefined("one replicate says nothing about reliability")
    if len(values) < MINIMUM_PAIRS:
        return _undefined(f"{len(values)} removals; expected at least {MINIMUM_PAIRS}")
    if not np.isfinite(values).all():
        return _undefined("a replicate is not finite")
    with quiet():
        if is_constant(values).any():
            return _undefined("a replicate is constant")
    correlations = np.corrcoef(stats.rankdata(values, axis=0), rowvar=False)
    mean = float(correlations[np.triu_indices(count, k=1)].mean())
    if mean <= 0:
        return _undefined(f"replicates do not agree: their mean Spearman is {mean:.2g}")
    share = count * mean / (1 + (count - 1) * mean)
    return Reliability(share, math.sqrt(share), None)


def _undefined(reason: str) -> Reliability:
    return Reliability(math.nan, math.nan, reason)

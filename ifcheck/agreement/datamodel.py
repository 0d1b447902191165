"""The linear datamodeling score: do summed influences rank what random subsets do?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ifcheck.agreement.controls import (
    Interval,
    Pair,
    correlation,
    resampled_correlations,
    usable_seeds,
)


def linear_datamodeling_score(
    pairs: Sequence[Sequence[Pair]], samples: int, confidence: float, seed: int
) -> Interval:
    """Return the mean over seeds and test points of Spearman's rho over random subsets.

    `pairs` holds, for each test point of each seed, the predicted and the true changes of its loss,
    in nats, by the removal of each of the seed's random groups, (groups,). The subset is what
    remains: the attribution of a kept row is minus its predicted change, and the sum over the kept
    rows is a constant more than the predicted change of the removed ones, which ranks do not see.
    1: what the rows predict together ranks the subsets as retraining does; the sign counts.

    The interval is the percentile bootstrap over subsets, drawn again within each seed for its test
    points alike; networks and test points are as they are. Seeds without any correlation are left
    out. Raises: ValueError unless 0 < confidence < 1. Reference: Park et al. (2023).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1.")
    usable = usable_seeds(pairs)
    if not usable:
        return Interval(math.nan, math.nan, math.nan, "no pair has a correlation")
    value = float(np.mean([np.mean([correlation(*pair) for pair in own]) for own in usable]))
    if samples < 1:
        return Interval(value, math.nan, math.nan, "no resamples were asked for")
    generator = np.random.default_rng(seed)
    scores = np.mean(
        [resampled_correlations(own, samples, generator).mean(axis=0) for own in usable], axis=0
    )
    low, high = np.quantile(scores, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high))

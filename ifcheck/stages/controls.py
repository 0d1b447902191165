"""Whether an agreement means anything: chance, uncertainty, power, noise and baselines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifcheck.agreement.controls import (
    Pair,
    detection_power,
    hierarchical_interval,
    permutation_test,
    signal_to_noise,
    usable_seeds,
)
from ifcheck.agreement.statistics import finite_mean, mean_interval
from ifcheck.artifacts import Artifact
from ifcheck.config import EvaluateConfig
from ifcheck.scores import STEPS

Row = dict[str, Any]
Floats = NDArray[np.float64]

SEED = 0  # of permutations and resamples, shared by all pairs, so that they compare
DETECTABLE = 0.3  # a correlation that removals and seeds should be able to tell from none


@dataclass
class Controls:
    """Predicted and true changes of one pair of files, network by network, as they come in."""

    pairs: list[list[Pair]] = field(default_factory=list)  # of each seed, its test points

    def add_seed(self, predicted: Floats, true: Floats) -> None:
        """Count in the changes (T, K) of one network."""
        self.pairs.append(list(zip(predicted, true, strict=True)))

    def summary(self, settings: EvaluateConfig) -> Row:
        """Return what the pair's mean |Spearman| is to be held against."""
        samples, confidence = settings.bootstrap_samples, settings.confidence
        interval = hierarchical_interval(self.pairs, samples, confidence, SEED)
        signed = hierarchical_interval(self.pairs, samples, confidence, SEED, signed=True)
        usable = usable_seeds(self.pairs)
        removals = min((len(predicted) for own in usable for predicted, _ in own), default=0)
        return {
            "abs_spearman_low": interval.low,
            "abs_spearman_high": interval.high,
            "abs_spearman_interval_reason": interval.reason or "",
            "spearman_low": signed.low,
            "spearman_high": signed.high,
            "chance_p": permutation_test(self.pairs, samples, SEED),
            "power": detection_power(DETECTABLE, removals, len(usable)),
            "removals_compared": removals,
            "seeds_compared": len(usable),
        }


def predicted_drift(influence: Artifact, place: int, test: int, predicted: Floats) -> Row:
    """Return what scores say of removing nothing, and their spread (K,) over it.

    nan for baselines, and where the file does not tell.
    """
    drift, ratio = math.nan, math.nan
    if "null_scores" in influence.arrays:
        drift = float(influence["null_scores"][place, test])
        if len(predicted) > 1:
            spread = float(predicted.std(ddof=1))
            ratio = math.inf if drift == 0 else spread / abs(drift)
    return {"predicted_drift": drift, "predicted_to_drift": ratio}


def noise_of(changes: Floats, drift: float, loss: float, retrain: Artifact) -> Row:
    """Return the spread of one test point's changes (K, R) beside what is noise in them."""
    found = signal_to_noise(changes, drift, loss, retrain.meta["dtype"])
    return {
        "signal": found.signal,
        "signal_to_drift": found.to_drift,
        "signal_to_replicates": found.to_replicates,
        "signal_to_resolution": found.to_resolution,
    }


def is_baseline(influence: Artifact) -> bool:
    """Return whether scores are a baseline's, which others have to beat."""
    return STEPS.create(influence.meta["config"]["influence"]["step"]).is_baseline


def beside_baselines(
    summaries: Sequence[Row], pairs: Sequence[Sequence[Row]], truths: int
) -> list[Row]:
    """Return the summaries with how far each is above the baseline that ranks its truth best.

    `pairs` are the records behind each summary, of every prediction with each of so many truths in
    turn. By each seed's mean difference of |Spearman|, with a Student t interval; the baseline that
    is best on average is the one compared with, for the estimate's disadvantage. Baselines, and all
    without one, have empty fields.
    """
    absolute = [np.abs([record["spearman"] for record in records]) for records in pairs]
    seeds = [record["seed"] for record in pairs[0]] if pairs else []
    return [
        summary | _over_best(place, summaries, absolute, seeds, truths)
        for place, summary in enumerate(summaries)
    ]


def _over_best(
    place: int,
    summaries: Sequence[Row],
    absolute: Sequence[Floats],
    seeds: Sequence[int],
    truths: int,
) -> Row:
    summary = summaries[place]
    rivals = [
        other
        for other, rival in enumerate(summaries)
        if rival["baseline"]
        and other % truths == place % truths
        and absolute[other].shape == absolute[place].shape
        and np.isfinite(absolute[other]).any()
    ]
    best, over, half_width = "", math.nan, math.nan
    if rivals and not summary["baseline"]:
        strongest = max(rivals, key=lambda other: float(np.nanmean(absolute[other])))
        ahead = absolute[place] - absolute[strongest]
        # Test points of one network are not independent.
        each = [finite_mean(ahead[np.equal(seeds, seed)]) for seed in dict.fromkeys(seeds)]
        found = mean_interval(each)
        best, over = summaries[strongest]["influence"], found.mean
        half_width = found.half_width
    return {
        "best_baseline": best,
        "over_best_baseline": over,
        "over_best_baseline_ci95": half_width,
    }

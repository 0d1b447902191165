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
)
from ifcheck.agreement.statistics import mean_interval
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
        interval = hierarchical_interval(
            self.pairs, max(1, settings.bootstrap_samples), settings.confidence, SEED
        )
        every = [pair for own in self.pairs for pair in own]
        removals = min(len(predicted) for predicted, _ in every)
        return {
            "abs_spearman_low": interval.low,
            "abs_spearman_high": interval.high,
            "chance_p": permutation_test(every, max(1, settings.bootstrap_samples), SEED),
            "power": detection_power(DETECTABLE, removals, len(self.pairs)),
        }


def noise_of(changes: Floats, drift: float, loss: float, retrain: Artifact) -> Row:
    """Return the spread of one test point's changes (K, R) beside what is noise in them."""
    found = signal_to_noise(changes, drift, loss, retrain.meta["dtype"])
    return {
        "signal": found.signal,
        "signal_to_drift": found.ratio("drift"),
        "signal_to_replicates": found.ratio("replicate_noise"),
        "signal_to_resolution": found.ratio("resolution"),
    }


def is_baseline(influence: Artifact) -> bool:
    """Return whether scores are a baseline's, which others have to beat."""
    return STEPS.create(influence.meta["config"]["influence"]["step"]).is_baseline


def beside_baselines(summaries: Sequence[Row], records: Sequence[Row]) -> list[Row]:
    """Return the summaries with how far each is above the baseline that ranks its truth best.

    By the differences of |Spearman| over seeds and test points, with a Student t interval; the
    baseline that is best on average is the one compared with, for the estimate's disadvantage.
    Without baselines, and for baselines, nothing is added but empty fields.
    """
    absolute: dict[tuple[str, str], Floats] = {}
    for summary in summaries:
        key = summary["influence"], summary["retrain"]
        own = [r["spearman"] for r in records if (r["influence"], r["retrain"]) == key]
        absolute[key] = np.abs(np.array(own, dtype=float))
    return [summary | _over_best(summary, summaries, absolute) for summary in summaries]


def _over_best(
    summary: Row, summaries: Sequence[Row], absolute: dict[tuple[str, str], Floats]
) -> Row:
    rivals = [
        other["influence"]
        for other in summaries
        if other["baseline"]
        and other["retrain"] == summary["retrain"]
        and np.isfinite(absolute[other["influence"], other["retrain"]]).any()
    ]
    if summary["baseline"] or not rivals:
        empty = math.nan
        return {
            "best_baseline": "",
            "over_best_baseline": empty,
            "over_best_baseline_ci95": empty,
        }
    best = max(rivals, key=lambda name: float(np.nanmean(absolute[name, summary["retrain"]])))
    own = absolute[summary["influence"], summary["retrain"]]
    over = mean_interval(own - absolute[best, summary["retrain"]])
    return {
        "best_baseline": best,
        "over_best_baseline": over.mean,
        "over_best_baseline_ci95": over.half_width,
    }

"""Agreement by what the removed rows were chosen for: loss, score, or at random."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ifcheck import provenance
from ifcheck.agreement.controls import Pair
from ifcheck.agreement.datamodel import linear_datamodeling_score
from ifcheck.agreement.statistics import MeanInterval, finite_mean, mean_interval
from ifcheck.artifacts import Artifact, read_artifact
from ifcheck.config import EvaluateConfig
from ifcheck.stages.removals import removed_rows

Row = dict[str, Any]

SEED = 0  # of resamples, shared by all pairs, so that they compare
SHOWN = (
    "retrain",
    "abs_spearman_mean",
    "abs_spearman_ci95",
    "chance_abs_spearman",
    "slope_median",
    "r2_median",
    "n",
    "reason",
)


def selection_of(retrain: Artifact) -> str:
    """Return by what the removed rows were chosen: top-loss, top-score, random, ids or like.

    `like:FILE` is followed to what that file says, where it is still there as it was read; `like`
    where it is not, or says nothing.
    """
    kind, _, name = str(_removals(retrain)).partition(":")
    if kind != "like":
        return kind
    digest = retrain.meta.get("inputs", {}).get(Path(name).as_posix())
    # A folder that moved as a whole still has it beside the file that names it.
    for path in (Path(name), retrain.path.parent / Path(name).name):
        if digest and path.is_file() and provenance.file_digest(path) == digest:
            followed = read_artifact(path)
            return selection_of(followed) if _removals(followed) else kind
    return kind


def _removals(artifact: Artifact) -> str | None:
    """Return what a file of `retrain`, or of `influence` that scored groups, was told to remove."""
    found = artifact.meta["config"].get("retrain", artifact.meta.get("groups", {}))
    return str(found["removals"]) if "removals" in found else None


def datamodeling(
    pairs: Sequence[Sequence[Pair]],
    influence: Artifact,
    retrain: Artifact,
    settings: EvaluateConfig,
) -> Row:
    """Return the linear datamodeling score of a pair of files; nan where subsets are not random."""
    group = removed_rows(retrain).shape[2]
    kept = 1 - group / len(influence["train_ids"])
    score = low = high = math.nan
    reason: str | None = "it takes groups of rows that were removed at random"
    if group > 1 and selection_of(retrain) == "random":
        found = linear_datamodeling_score(
            pairs, settings.bootstrap_samples, settings.confidence, SEED
        )
        score, low, high, reason = found.value, found.low, found.high, found.reason
    return {
        "lds": score,
        "lds_low": low,
        "lds_high": high,
        "lds_kept_share": kept,
        "lds_reason": reason or "",
    }


def strata(
    summaries: Sequence[Row], pairs: Sequence[Sequence[Row]], confidence: float
) -> list[Row]:
    """Return, for each prediction and truth with several selections of rows, how they compare.

    `pairs` are the records behind each summary. `selections` has the summary's numbers by selection
    (by file where a selection comes twice), and `difference` is the largest one between two
    selections' |Spearman|, `first` minus `second`: the mean over the seeds that both have, each the
    mean over its test points. Its Student t interval holds for all pairs of selections together
    (Bonferroni) with this confidence, since the largest is picked. More removals lower what chance
    gives: see `chance_abs_spearman`.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, summary in enumerate(summaries):
        key = tuple(str(summary[name]) for name in ("influence", "truth", "retrain_params"))
        groups.setdefault(key, []).append(place)
    several = [
        places
        for places in groups.values()
        if len({summaries[place]["selection"] for place in places}) > 1
    ]
    return [
        _stratum([summaries[p] for p in own], [pairs[p] for p in own], confidence)
        for own in several
    ]


def long_rows(rows: Sequence[Row]) -> list[Row]:
    """Return one flat row per selection, as a CSV file has it."""
    return [
        {
            **{name: value for name, value in row.items() if name != "selections"},
            "selection": selection,
            **numbers,
        }
        for row in rows
        for selection, numbers in row["selections"].items()
    ]


def _stratum(summaries: Sequence[Row], pairs: Sequence[Sequence[Row]], confidence: float) -> Row:
    names = [summary["selection"] for summary in summaries]
    labels = [
        name if names.count(name) == 1 else summary["retrain"]
        for name, summary in zip(names, summaries, strict=True)
    ]
    shared = ("influence", "estimator", "baseline", "truth", "retrain_params")
    by_seed = [_by_seed(records) for records in pairs]
    return {
        **{name: summaries[0][name] for name in shared},
        "selections": {
            label: {name: summary[name] for name in SHOWN} | {"removals": records[0]["n"]}
            for label, summary, records in zip(labels, summaries, pairs, strict=True)
        },
        **_largest_difference(labels, by_seed, confidence),
    }


def _by_seed(records: Sequence[Row]) -> dict[int, float]:
    """Return the mean |Spearman| over the test points of each seed."""
    values: dict[int, list[float]] = {}
    for record in records:
        values.setdefault(record["seed"], []).append(abs(record["spearman"]))
    return {seed: finite_mean(own) for seed, own in values.items()}


def _largest_difference(
    labels: Sequence[str], by_seed: Sequence[dict[int, float]], confidence: float
) -> Row:
    chosen = list(combinations(range(len(labels)), 2))
    each = 1 - (1 - confidence) / len(chosen)
    found = {(i, j): _paired(by_seed[i], by_seed[j], each) for i, j in chosen}
    defined = {places: one for places, one in found.items() if math.isfinite(one.mean)}
    if not defined:
        return {
            "first": "",
            "second": "",
            **dict.fromkeys(("difference", "low", "high"), math.nan),
            "seeds": 0,
            "difference_reason": "no seed has a correlation of two selections",
        }
    (i, j), most = max(defined.items(), key=lambda item: abs(item[1].mean))
    if most.mean < 0:
        i, j = j, i
    size = abs(most.mean)
    return {
        "first": labels[i],
        "second": labels[j],
        "difference": size,
        "low": size - most.half_width,
        "high": size + most.half_width,
        "seeds": most.n,
        "difference_reason": most.reason or "",
    }


def _paired(first: dict[int, float], second: dict[int, float], confidence: float) -> MeanInterval:
    common = [seed for seed in first if seed in second]
    differences = np.array([first[seed] - second[seed] for seed in common], dtype=np.float64)
    return mean_interval(differences, confidence)

"""Where prediction and truth part, from the truths that removed the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifcheck.agreement.gaps import Decomposition, decompose
from ifcheck.artifacts import Artifact
from ifcheck.stages.changes import changes_of
from ifcheck.stages.controls import is_baseline
from ifcheck.stages.removals import predicted_changes, removed_rows

Row = dict[str, Any]

# Each truth takes back one more simplification of the prediction: that the loss is its quadratic
# model, that outputs stay near the trained ones, that retraining converges, that it stays in the
# basin.
ORDER = ("pbrf", "newton", "warm", "scratch")


def gap_summaries(influences: Sequence[Artifact], retrains: Sequence[Artifact]) -> list[Row]:
    """Return a record for each step of each prediction's chain of truths.

    Medians over seeds and test points, of drift-corrected changes. It takes two truths or more of
    the same removals, of which the first of each name is taken.
    """
    chain = _chain(retrains)
    if len(chain) < 2:
        return []
    rows: list[Row] = []
    for influence in influences:
        if not is_baseline(influence):
            found = _decompositions(influence, chain)
            rows += _medians(influence, found) if found else []
    return rows


def _chain(retrains: Sequence[Artifact]) -> list[Artifact]:
    """Return the truths in order, those that removed what the first of them did."""
    by_truth: dict[str, Artifact] = {}
    for retrain in retrains:
        by_truth.setdefault(retrain.meta["config"]["retrain"]["truth"], retrain)
    ordered = [by_truth[name] for name in ORDER if name in by_truth]
    ordered = [retrain for retrain in ordered if not retrain.meta["reasons"]]
    return [
        retrain
        for retrain in ordered
        if np.array_equal(removed_rows(retrain), removed_rows(ordered[0]))
        and np.array_equal(retrain["seeds"], ordered[0]["seeds"])
    ]


def _decompositions(influence: Artifact, chain: Sequence[Artifact]) -> list[Decomposition]:
    changes = [changes_of(retrain).drift_corrected for retrain in chain]
    names = [retrain.meta["config"]["retrain"]["truth"] for retrain in chain]
    found = []
    for s, seed in enumerate(influence["seeds"].tolist()):
        place = chain[0]["seeds"].tolist().index(seed)
        predicted, kept = predicted_changes(influence, chain[0], s, place)
        for t, own in enumerate(predicted):
            members: dict[str, NDArray[np.float64]] = {"predicted": own}
            members |= {
                name: of_truth[place, t, kept]
                for name, of_truth in zip(names, changes, strict=True)
            }
            found.append(decompose(members))
    return found


def _medians(influence: Artifact, found: Sequence[Decomposition]) -> list[Row]:
    rows = []
    for place, step in enumerate(found[0].steps):
        same = [decomposition.steps[place] for decomposition in found]
        numbers = {
            f"{name}_median": _median([getattr(own, name) for own in same])
            for name in ("share", "spearman", "slope", "error")
        }
        rows.append(
            {
                "influence": influence.path.name,
                "before": step.before,
                "after": step.after,
                **numbers,
                "gap_median": _median([decomposition.error for decomposition in found]),
                "n": len(same),
            }
        )
    return rows


def _median(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.median(finite)) if finite else float("nan")

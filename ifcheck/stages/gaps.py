"""Where prediction and truth part, from the truths that removed the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifcheck.agreement.gaps import Decomposition, decompose
from ifcheck.agreement.statistics import finite_median
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

    Shares are pooled over seeds and test points, sum <step, total> / sum <total, total>, and add to
    1; the other numbers are medians. Of drift-corrected changes. It takes two truths or more of the
    same removals.
    """
    rows: list[Row] = []
    for influence in influences:
        chain = _chain([retrain for retrain in retrains if _moves_enough(influence, retrain)])
        if len(chain) > 1 and not is_baseline(influence):
            rows += _pooled(influence, chain, _decompositions(influence, chain))
    return rows


def _moves_enough(influence: Artifact, retrain: Artifact) -> bool:
    """Return whether a truth moves what the prediction does: all parameters are beyond the head."""
    predicted = str(influence.meta["config"]["influence"]["params"])
    of_head = predicted.removeprefix("layer:").startswith("head")
    return of_head or retrain.meta["config"]["retrain"]["params"] == "all"


def _chain(retrains: Sequence[Artifact]) -> list[Artifact]:
    """Return truths in order, the most that removed the same; of each name the first.

    Groups leave a mean over fewer rows than n by far: there a truth with another denominator than
    the last one's would count that for a step.
    """
    known = [r for r in retrains if _truth(r) in ORDER and not r.meta["reasons"]]
    chains: list[list[Artifact]] = []
    for start in known:
        by_truth: dict[str, Artifact] = {}
        for other in known:
            if _removes_the_same(start, other):
                by_truth.setdefault(_truth(other), other)
        chains.append([by_truth[name] for name in ORDER if name in by_truth])
    longest = max(chains, key=len, default=[])
    if longest and removed_rows(longest[0]).shape[2] > 1:
        last = _normalisation(longest[-1])
        longest = [retrain for retrain in longest if _normalisation(retrain) == last]
    return longest


def _removes_the_same(first: Artifact, second: Artifact) -> bool:
    return np.array_equal(removed_rows(first), removed_rows(second)) and np.array_equal(
        first["seeds"], second["seeds"]
    )


def _truth(retrain: Artifact) -> str:
    return str(retrain.meta["config"]["retrain"]["truth"])


def _normalisation(retrain: Artifact) -> str:
    return str(retrain.meta["config"]["retrain"]["normalisation"])


def _decompositions(influence: Artifact, chain: Sequence[Artifact]) -> list[Decomposition]:
    changes = [changes_of(retrain).drift_corrected for retrain in chain]
    names = [_truth(retrain) for retrain in chain]
    found = []
    for s, seed in enumerate(influence["seeds"].tolist()):
        place = chain[0]["seeds"].tolist().index(seed)
        predicted, kept = predicted_changes(influence, chain[0], s, place)
        if not kept.any():
            continue
        for t, own in enumerate(predicted):
            members: dict[str, NDArray[np.float64]] = {"predicted": own}
            members |= {
                name: of_truth[place, t, kept]
                for name, of_truth in zip(names, changes, strict=True)
            }
            found.append(decompose(members))
    return [decomposition for decomposition in found if np.isfinite(decomposition.size)]


def _pooled(
    influence: Artifact, chain: Sequence[Artifact], found: Sequence[Decomposition]
) -> list[Row]:
    if not found:
        return []
    rows: list[Row] = []
    total = sum(decomposition.size for decomposition in found)
    for place, step in enumerate(found[0].steps):
        same = [decomposition.steps[place] for decomposition in found]
        projection = sum(own.projection for own in same)
        numbers = {
            f"{name}_median": finite_median([getattr(own, name) for own in same])
            for name in ("spearman", "slope", "error")
        }
        rows.append(
            {
                "influence": influence.path.name,
                "before": step.before,
                "after": step.after,
                "retrain": chain[place].path.name,  # of the latter
                "share": projection / total if total > 0 else float("nan"),
                **numbers,
                "gap_median": finite_median([decomposition.error for decomposition in found]),
                "n": len(same),
            }
        )
    return rows

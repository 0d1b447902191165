"""Where prediction and truth part, from the truths that removed the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifcheck.agreement.gaps import Decomposition, decompose
from ifcheck.agreement.reliability import reliability
from ifcheck.agreement.statistics import finite_median
from ifcheck.artifacts import Artifact
from ifcheck.removal import TRUTHS
from ifcheck.stages.changes import changes_of
from ifcheck.stages.controls import is_baseline
from ifcheck.stages.removals import predicted_changes, removed_rows
from ifcheck.stages.wording import share

Row = dict[str, Any]


def gap_summaries(influences: Sequence[Artifact], retrains: Sequence[Artifact]) -> list[Row]:
    """Return a record for each step of each prediction's chain of truths.

    Shares are pooled over seeds and test points, sum <step, total> / sum <total, total>, and add to
    1; the other numbers are medians. Of drift-corrected changes. It takes two truths or more of the
    same removals.
    """
    rows: list[Row] = []
    for influence in influences:
        fitting = [retrain for retrain in retrains if _moves_enough(influence, retrain)]
        # Of a truth that there is twice, the one that moves what the prediction does.
        whole = not _of_head(influence)
        fitting.sort(key=lambda r: (r.meta["config"]["retrain"]["params"] == "all") != whole)
        chain = _chain(fitting)
        if len(chain) > 1 and not is_baseline(influence):
            rows += _pooled(influence, chain, _decompositions(influence, chain))
    return rows


def _moves_enough(influence: Artifact, retrain: Artifact) -> bool:
    """Return whether a truth moves what the prediction does: all parameters are beyond the head."""
    return _of_head(influence) or retrain.meta["config"]["retrain"]["params"] == "all"


def _of_head(influence: Artifact) -> bool:
    predicted = str(influence.meta["config"]["influence"]["params"])
    return predicted.removeprefix("layer:").startswith("head")


def _chain(retrains: Sequence[Artifact]) -> list[Artifact]:
    """Return truths in their places, the most that removed the same; of each name the first.

    Groups leave a mean over fewer rows than n by far: there a truth with another denominator than
    the last one's would count that for a step.
    """
    known = [retrain for retrain in retrains if not retrain.meta["reasons"]]
    chains: list[list[Artifact]] = []
    for start in known:
        by_truth: dict[str, Artifact] = {}
        for other in known:
            if _removes_the_same(start, other):
                by_truth.setdefault(_truth(other), other)
        chains.append(sorted(by_truth.values(), key=lambda r: TRUTHS.create(_truth(r)).place))
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
    return [own for own in found if np.isfinite([step.projection for step in own.steps]).all()]


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
        row = {
            "influence": influence.path.name,
            "estimator": influence.meta["config"]["influence"]["estimator"],
            "before": step.before,
            "after": step.after,
            "retrain": chain[place].path.name,  # of the latter
            "share": projection / total if total > 0 else float("nan"),
            **numbers,
            "gap_median": finite_median([decomposition.error for decomposition in found]),
            "n": len(same),
        }
        rows.append(
            row | {"sentence": _sentence(row, chain[place], *_moved(influence, chain, place))}
        )
    return rows


def _moved(influence: Artifact, chain: Sequence[Artifact], place: int) -> tuple[bool, bool]:
    """Return whether the two ends of a step move parameters below the head."""
    after = chain[place].meta["config"]["retrain"]["params"] == "all"
    if place:
        return chain[place - 1].meta["config"]["retrain"]["params"] == "all", after
    return not _of_head(influence), after


def _sentence(row: Row, truth: Artifact, before: bool, after: bool) -> str:
    """Say of one step what it is, what it does and how much of the gap it explains.

    A step takes back everything that stands between its ends, also what no truth was there for.
    """
    first = 0 if row["before"] == "predicted" else TRUTHS.create(row["before"]).place
    last = TRUTHS.create(row["after"]).place
    methods = sorted((TRUTHS.create(name) for name in TRUTHS), key=lambda method: method.place)
    taken = [method.takes_back for method in methods if first < method.place <= last]
    if before != after and not TRUTHS.create(row["after"]).trains_again:
        taken.append("the layers below the head, which move")
    what = ", ".join(taken[:-1]) + (" and " if len(taken) > 1 else "") + taken[-1]
    return (
        f"{row['before']} to {row['after']}: {share(row['share'])} of the gap is {what}; Spearman "
        f"{row['spearman_median']:.3f}, slope {row['slope_median']:.3g}; {_circumstances(truth)}."
    )


def _circumstances(truth: Artifact) -> str:
    """Say what a truth was found under that may be why it differs from the one before."""
    changes = changes_of(truth)
    drift = finite_median(np.abs(changes.null_drift))
    change = finite_median(np.abs(changes.drift_corrected))
    converged = float(truth["converged"].mean())
    told = [
        f"removing nothing changes the test loss by {drift:.2g} nats, a removal by {change:.2g}"
    ]
    if converged < 1:
        told.append(f"{converged:.0%} of the retrainings end at an optimum")
    if changes.replicates > 1:
        each = changes.each.reshape(-1, *changes.each.shape[2:])
        ceiling = finite_median([reliability(own).noise_ceiling for own in each])
        told.append(f"a perfect prediction of it would have a Spearman of {ceiling:.2f}")
    return "; ".join(told)

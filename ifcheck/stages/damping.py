"""Agreement with truth along a path of dampings, and the damping that is chosen by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ifcheck.agreement.metrics import MINIMUM_PAIRS, is_constant, spearman
from ifcheck.agreement.statistics import finite_median, mean_interval
from ifcheck.artifacts import Artifact, read_artifact
from ifcheck.errors import ArtifactMismatch, UnusableInput
from ifcheck.stages.changes import changes_of
from ifcheck.stages.removals import compared_removals, places_of_seeds
from ifcheck.stages.run import Run, require_same_checkpoints

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class HeldOut:
    """Removals that a damping is chosen on, network by network as a run has them."""

    removed_ids: NDArray[np.int64]  # (S, K)
    true: Floats  # (S, T, K) change of the test loss, in nats
    meta: dict[str, Any]  # which file they are of


@dataclass(frozen=True)
class ChosenDamping:
    """The place on a path whose scores rank held-out removals best, and what says so."""

    place: int
    meta: dict[str, Any]


def check_held_out(damping: object, path: Path | None) -> Artifact | None:
    """Return the file that `--damping auto` is chosen on; None where it is not asked for.

    Raises: UnusableInput, ArtifactUnreadable.
    """
    if (damping == "auto") != (path is not None):
        raise UnusableInput(
            "--damping auto and --held-out go together: the damping is the one that ranks the "
            "removals of that file best.",
            remedy="For example: --damping auto --held-out run/retrain-held-out.npz",
        )
    if path is None:
        return None
    held_out = read_artifact(path, "retrain")
    if "group_ids" in held_out.arrays:
        raise UnusableInput(
            f"{path.name} removed groups; a damping is chosen on single rows.",
            remedy="Retrain without single rows: ifcheck retrain RUN --removals random:40",
        )
    return held_out


def held_out_removals(run: Run, held_out: Artifact) -> HeldOut:
    """Return the removals of a file in the order of the run's networks.

    Raises: ArtifactMismatch for a file of other checkpoints or test points.
    """
    require_same_checkpoints(run, held_out.parents, held_out.path)
    places = places_of_seeds(run, held_out)
    if not np.array_equal(held_out["test_ids"][places], run.test_ids):
        raise ArtifactMismatch(
            f"{held_out.path.name} has other test points than these checkpoints.",
            remedy="Make it with the same --test-points.",
        )
    true = changes_of(held_out).true
    meta = {
        "chosen_on": held_out.path.name,
        "truth": held_out.meta["config"]["retrain"]["truth"],
        "removals": int(true.shape[2]),
    }
    return HeldOut(held_out["removed_ids"][places], true[places], meta)


def choose_damping(arrays: Mapping[str, NDArray[Any]], held_out: HeldOut) -> ChosenDamping:
    """Return the damping of largest mean Spearman over seeds and test points of `held_out`.

    `arrays` are those of scores with a path. Of dampings at which some solve did not converge
    none is chosen if others are left; of equal ones the smallest is.
    Raises: UnusableInput where no damping has a correlation.
    """
    ids, dampings = arrays["train_ids"], arrays["damping_path"]
    places = np.searchsorted(ids, held_out.removed_ids)
    seeds, tests, _ = held_out.true.shape
    each = np.array(
        [
            _correlations(arrays["path_scores"][s, :, t][:, places[s]], held_out.true[s, t])
            for s in range(seeds)
            for t in range(tests)
        ]
    )
    counted = np.isfinite(each).any(axis=1)  # a failed retraining says nothing of any damping
    if not counted.any():
        raise UnusableInput(
            f"{held_out.meta['chosen_on']} ranks nothing that a damping could be chosen by: its "
            "changes are undefined or equal.",
            remedy="Give removals of at least three rows whose retraining succeeded.",
        )
    found = each[counted].mean(axis=0)
    solved = arrays["path_converged"].mean(axis=(0, 2))
    usable = np.isfinite(found) & (solved == 1)
    if not usable.any():
        usable = np.isfinite(found)
    if not usable.any():
        raise UnusableInput(
            "no damping of the path has scores for every seed and test point.",
            remedy="Use larger ones: --set influence.damping_path=[0.1,1,10], or --solver minres.",
        )
    # Rounding must not decide between dampings that rank alike.
    best = np.flatnonzero(usable & (found >= found[usable].max() - 1e-12))
    place = int(best[np.argmin(dampings[best])])
    chosen = float(dampings[place])
    meta = {
        **held_out.meta,
        "damping": chosen,
        "spearman": float(found[place]),
        "correlations": int(counted.sum()),
        "solved_share": float(solved[place]),
        # Beyond which another might be better; none is below 0.
        "at_end_of_path": bool(chosen == dampings.max() or 0 < chosen == dampings.min()),
    }
    return ChosenDamping(place, meta)


def path_agreement(influence: Artifact, retrain: Artifact) -> list[dict[str, Any]]:
    """Return how scores at each damping agree with the truth: a record for each of the path.

    No record where there is no path, or rows were removed in groups.
    """
    if "path_scores" not in influence.arrays or "group_ids" in retrain.arrays:
        return []
    correlations, slopes = [], []
    changes = changes_of(retrain).true
    for s, seed in enumerate(influence["seeds"].tolist()):
        place = retrain["seeds"].tolist().index(seed)
        removed, kept = compared_removals(influence, retrain, s, place)
        rows = np.searchsorted(influence["train_ids"], removed[kept, 0])
        for t in range(influence["test_ids"].shape[1]):
            true = changes[place, t, kept]
            predicted = influence["path_scores"][s, :, t][:, rows]
            correlations.append(_correlations(predicted, true))
            slopes.append(_slopes(predicted, true))
    return [
        _at_one_damping(influence, retrain, place, found, slope)
        for place, (found, slope) in enumerate(
            zip(np.transpose(correlations), np.transpose(slopes), strict=True)
        )
    ]


def _at_one_damping(
    influence: Artifact, retrain: Artifact, place: int, correlations: Floats, slopes: Floats
) -> dict[str, Any]:
    absolute = mean_interval(np.abs(correlations))
    return {
        "influence": influence.path.name,
        "retrain": retrain.path.name,
        "damping": float(influence["damping_path"][place]),
        "abs_spearman_mean": absolute.mean,
        "abs_spearman_ci95": absolute.half_width,
        "spearman_median": finite_median(correlations),
        "slope_median": finite_median(slopes),
        "rel_residual_max": float(influence["path_rel_residual"][:, place].max()),
        "solved_share": float(influence["path_converged"][:, place].mean()),
        "n": absolute.n,
        "undefined": absolute.excluded,
    }


def _varies(predicted: Floats, true: Floats) -> bool:
    enough = len(true) >= MINIMUM_PAIRS and bool(np.isfinite([predicted, true]).all())
    return enough and not bool(is_constant(predicted) or is_constant(true))


def _correlations(predicted: Floats, true: Floats) -> Floats:
    """Return Spearman's rho of each damping's scores (D, K); nan where there is none."""
    return np.array([spearman(p, true)[0] if _varies(p, true) else np.nan for p in predicted])


def _slopes(predicted: Floats, true: Floats) -> Floats:
    """Return the slope of true on predicted changes; nan where there is none."""
    return np.array(
        [stats.linregress(p, true).slope if _varies(p, true) else np.nan for p in predicted]
    )

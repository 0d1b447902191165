"""Stage `evaluate`: how well predicted changes agree with true ones, pair by pair of files."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifcheck import provenance
from ifcheck.agreement.metrics import agreement, chance_absolute_correlation
from ifcheck.agreement.reliability import reliability
from ifcheck.agreement.statistics import (
    finite_mean,
    finite_median,
    mean_interval,
    rank_correlation,
    ratio_median,
)
from ifcheck.artifacts import Artifact, read_artifact
from ifcheck.config import Config
from ifcheck.errors import ArtifactMismatch
from ifcheck.stages.changes import changes_of
from ifcheck.stages.controls import (
    Controls,
    beside_baselines,
    is_baseline,
    noise_of,
    predicted_drift,
)
from ifcheck.stages.damping import path_agreement
from ifcheck.stages.gaps import gap_summaries
from ifcheck.stages.removals import predicted_changes, removed_rows
from ifcheck.stages.strata import datamodeling, selection_of, strata
from ifcheck.stages.tables import write_json
from ifcheck.stages.verdicts import with_verdict

BOOTSTRAP_SEED = 0  # resamples are shared by all records, so that their intervals compare


@dataclass(frozen=True)
class Evaluation:
    """One record per (seed, test point, influence file, retrain file), and one summary a pair.

    Where scores have a path of dampings, `paths` has a record for each of it and pair; where there
    are several truths of the same removals, `gaps` one for each step of a prediction's way to them;
    where a truth removed several selections of rows, `strata` compares them.
    """

    records: list[dict[str, Any]]
    summaries: list[dict[str, Any]]
    paths: list[dict[str, Any]]
    gaps: list[dict[str, Any]]
    parents: dict[str, str]
    strata: list[dict[str, Any]] = field(default_factory=list)

    def against(self, retrain_files: Collection[str]) -> Evaluation:
        """Return what concerns some of the retrain files, by name; strata are of all of them."""

        def kept(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return [row for row in rows if row["retrain"] in retrain_files]

        return replace(
            self,
            records=kept(self.records),
            summaries=kept(self.summaries),
            paths=kept(self.paths),
            gaps=kept(self.gaps),
        )

    def to_dict(self, config: Config) -> dict[str, Any]:
        """Return what `evaluation.json` holds."""
        meta = {
            "kind": "evaluation",
            "config": config.to_dict()["evaluate"],
            "thresholds": config.to_dict()["verdict"],
            "parents": self.parents,
            "versions": provenance.versions(),
            "code": provenance.code_revision(),
        }
        return {
            "meta": meta,
            "records": self.records,
            "summaries": self.summaries,
            "paths": self.paths,
            "gaps": self.gaps,
            "strata": self.strata,
        }


def evaluate(
    config: Config,
    influence_files: Sequence[Path],
    retrain_files: Sequence[Path],
    eigen_file: Path | None = None,
    out: Path | None = None,
) -> Evaluation:
    """Compare every influence file with every retrain file; write `out` if given.

    Raises: ArtifactUnreadable, ArtifactMismatch where files come from different checkpoints.
    """
    influences = [read_artifact(path, "influence") for path in influence_files]
    retrains = [read_artifact(path, "retrain") for path in retrain_files]
    eigen = None if eigen_file is None else read_artifact(eigen_file, "eigen")
    everything = [*influences, *retrains, *([] if eigen is None else [eigen])]
    _require_one_origin(everything)
    pairs, summaries, paths = [], [], []
    for predicted in influences:
        for true in retrains:
            pair, controls = _compare(predicted, true, eigen, config)
            pairs.append(pair)
            summary = _summarise(pair, predicted, true, config.verdict.min_reliability)
            summary |= controls.summary(config.evaluate)
            summary |= datamodeling(controls.pairs, predicted, true, config.evaluate)
            summaries.append(summary)
            paths += path_agreement(predicted, true)
    files = list(itertools.product(influences, retrains))
    summaries = [
        with_verdict(summary, predicted, true, config.verdict)
        for summary, (predicted, true) in zip(
            beside_baselines(summaries, pairs, len(retrains)), files, strict=True
        )
    ]
    records = [record for pair in pairs for record in pair]
    parents = _digests(everything)
    gaps = gap_summaries(influences, retrains)
    compared = strata(summaries, pairs, config.evaluate.confidence)
    evaluation = Evaluation(records, summaries, paths, gaps, parents, compared)
    if out is not None:
        write_json(out, evaluation.to_dict(config))
    return evaluation


def _digests(artifacts: Sequence[Artifact]) -> dict[str, str]:
    """Return the SHA-256 of each file by name; by path where names repeat."""
    paths = [artifact.path for artifact in artifacts]
    unique = len({path.name for path in paths}) == len(paths)
    return {
        path.name if unique else path.as_posix(): provenance.file_digest(path) for path in paths
    }


def _require_one_origin(artifacts: Sequence[Artifact]) -> None:
    """Refuse files of different checkpoints or test points, naming the first that differs."""
    first = artifacts[0]
    for artifact in artifacts[1:]:
        if artifact.parents == first.parents:
            _require_same_test_points(first, artifact)
            continue
        names = artifact.parents.keys() | first.parents.keys()
        name = min(n for n in names if artifact.parents.get(n) != first.parents.get(n))
        raise ArtifactMismatch(
            f"{artifact.path.name} was made from checkpoint {name} "
            f"{artifact.parents.get(name, 'absent')[:8]}, {first.path.name} from "
            f"{first.parents.get(name, 'absent')[:8]}.",
            remedy="Evaluate files that were made from the same checkpoints.",
        )


def _require_same_test_points(first: Artifact, artifact: Artifact) -> None:
    ids = artifact.arrays.get("test_ids")
    if ids is not None and not np.array_equal(ids, first["test_ids"]):
        raise ArtifactMismatch(
            f"{artifact.path.name} has the test points {ids[0].tolist()}, "
            f"{first.path.name} {first['test_ids'][0].tolist()}.",
            remedy="Make both files with the same --test-points.",
        )


def _compare(
    influence: Artifact, retrain: Artifact, eigen: Artifact | None, config: Config
) -> tuple[list[dict[str, Any]], Controls]:
    """Return one record per seed and test point, and what controls need to know.

    All files share seeds by their checkpoints. Where the truth has replicates, changes are means
    over them; see `changes_of`.
    """
    records, controls, settings = [], Controls(), config.evaluate
    changes, selection = changes_of(retrain), selection_of(retrain)
    for s, seed in enumerate(influence["seeds"].tolist()):
        place = retrain["seeds"].tolist().index(seed)
        predicted, kept = predicted_changes(influence, retrain, s, place)
        controls.add_seed(predicted, changes.true[place][:, kept])
        for t, test_id in enumerate(influence["test_ids"][s].tolist()):
            corrected = changes.drift_corrected[place, t, kept]
            found = agreement(
                predicted[t],
                changes.true[place, t, kept],
                corrected,
                top_k=settings.top_k,
                confidence=settings.confidence,
                bootstrap_samples=settings.bootstrap_samples,
                seed=BOOTSTRAP_SEED,
            )
            each, loss = changes.each[place, t, kept], float(retrain["loss_before"][place, t])
            drift, reliable = float(changes.null_drift[place, t]), reliability(each)
            records.append(
                {
                    "seed": seed,
                    "test_id": test_id,
                    "influence": influence.path.name,
                    "retrain": retrain.path.name,
                    "selection": selection,
                    "group_size": removed_rows(retrain).shape[2],
                    "held_out": int((~kept).sum()),
                    **found.to_record(),
                    "replicates": changes.replicates,
                    **reliable.to_record(),
                    "spearman_corrected": found.spearman / reliable.noise_ceiling
                    if reliable.reliability >= config.verdict.min_reliability
                    else math.nan,
                    **noise_of(each, drift, loss, retrain),
                    "test_loss": loss,
                    "null_drift": drift,
                    **predicted_drift(influence, s, t, predicted[t]),
                    "true_change_median": finite_median(np.abs(corrected)),
                    "rel_residual": float(influence["rel_residual"][s, t]),
                    "converged_share": float(retrain["converged"][place].mean()),
                    "top_eigenvalue": _top_eigenvalue(eigen, seed),
                    "status": _status(retrain, retrain["loss_after"][place, t, kept], kept),
                }
            )
    return records, controls


def _top_eigenvalue(eigen: Artifact | None, seed: int) -> float:
    if eigen is None:
        return math.nan
    return float(eigen["values"][eigen["seeds"].tolist().index(seed), 0])


def _status(retrain: Artifact, after: NDArray[np.float64], kept: NDArray[np.bool_]) -> str:
    if retrain.meta["reasons"]:
        return "refused: " + "; ".join(retrain.meta["reasons"])
    if not kept.any():
        return "nothing to judge by: the damping was chosen on all of these removals"
    return "ok" if np.isfinite(after).all() else "failed: a retraining turned non-finite"


def _summarise(
    records: list[dict[str, Any]],
    influence: Artifact,
    retrain: Artifact,
    min_reliability: float,
) -> dict[str, Any]:
    """Return the pair's means, medians and intervals over seeds and test points."""

    def values(name: str) -> NDArray[np.float64]:
        return np.array([record[name] for record in records], dtype=float)

    spearman = values("spearman")
    absolute = mean_interval(np.abs(spearman))
    eigenvalues = values("top_eigenvalue")
    link = rank_correlation(np.abs(spearman), eigenvalues)
    predicted_by = influence.meta["config"]["influence"]
    found_by = retrain.meta["config"]["retrain"]
    return {
        "influence": influence.path.name,
        "retrain": retrain.path.name,
        "estimator": predicted_by["estimator"],
        "baseline": is_baseline(influence),
        "truth": found_by["truth"],
        "retrain_params": found_by["params"],
        "abs_spearman_mean": absolute.mean,
        "abs_spearman_ci95": absolute.half_width,
        "spearman_mean": finite_mean(spearman),
        "spearman_median": finite_median(spearman),
        "negative_fraction": finite_mean(np.where(np.isfinite(spearman), spearman < 0, np.nan)),
        "abs_pearson_mean": finite_mean(np.abs(values("pearson"))),
        "slope_median": finite_median(values("slope")),
        "intercept_median": finite_median(values("intercept")),
        "r2_median": finite_median(values("r2")),
        "sign_agreement_mean": finite_mean(values("sign_agreement")),
        "top_k_overlap_mean": finite_mean(values("top_k_overlap")),
        "top_k_chance": finite_mean(values("top_k_chance")),
        "chance_abs_spearman": chance_absolute_correlation(int(records[0]["n"])),
        "null_drift_median": finite_median(np.abs(values("null_drift"))),
        "true_change_median": finite_median(values("true_change_median")),
        "rel_residual_max": float(np.max(values("rel_residual"))),
        "converged_share": finite_mean(values("converged_share")),
        **_noise(records[0]["replicates"], values, min_reliability),
        "top_eigenvalue_link": link.effect_size,
        "top_eigenvalue_link_p": link.p_value,
        "top_eigenvalue_link_reason": link.reason or "",
        "selection": records[0]["selection"],
        "group_size": removed_rows(retrain).shape[2],
        "held_out": max(record["held_out"] for record in records),
        "damping": predicted_by["damping"],
        "damping_chosen": influence.meta.get("damping_chosen"),
        "n": absolute.n,
        "undefined": absolute.excluded,
        "reason": _reason(records),
        "interval_reason": absolute.reason and f"no interval: {absolute.reason}",
        "predicted_normalisation": predicted_by["normalisation"],
        "true_normalisation": found_by["normalisation"],
        "normalisation": _normalisation_note(predicted_by, found_by),
    }


def _noise(
    replicates: int, values: Callable[[str], NDArray[np.float64]], min_reliability: float
) -> dict[str, Any]:
    """Return how much of the true changes is noise, from the records' values by name."""
    return {
        "replicates": replicates,
        "reliability_median": finite_median(values("reliability")),
        "noise_ceiling_median": finite_median(values("noise_ceiling")),
        "reliability_low": int((~(values("reliability") >= min_reliability)).sum()),
        "abs_spearman_corrected_mean": finite_mean(np.abs(values("spearman_corrected"))),
        **{
            f"{name}_median": ratio_median(values(name))
            for name in (
                "predicted_to_drift",
                "signal_to_drift",
                "signal_to_replicates",
                "signal_to_resolution",
            )
        },
    }


def _reason(records: list[dict[str, Any]]) -> str:
    """Return why records have no Spearman correlation, most frequent reason first."""
    reasons = [r["status"] for r in records if r["status"] != "ok"]
    reasons += [r["reasons"]["spearman"] for r in records if "spearman" in r["reasons"]]
    return max(reasons, key=reasons.count) if reasons else ""


def _normalisation_note(predicted: dict[str, Any], true: dict[str, Any]) -> str:
    if predicted["normalisation"] == true["normalisation"]:
        return f"both {true['normalisation']}"
    return (
        f"prediction {predicted['normalisation']}, truth {true['normalisation']}: "
        "they differ by a factor n/(n-1) and a constant: signs and the line differ, ranks do not"
    )

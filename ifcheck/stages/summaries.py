"""Rows of a study's tables: one per comparison, one per cell."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifcheck.agreement.statistics import mean_interval
from ifcheck.artifacts import Artifact
from ifcheck.stages.evaluate import Evaluation
from ifcheck.stages.published import published_figures

CELL_COLUMNS = ("cell", "dataset", "network", "depth", "width", "activation", "variant")
PAIR_COLUMNS = ("estimator", "truth", "retrain_params")

RESULT_COLUMNS = (
    *CELL_COLUMNS,
    "seed",
    "test_id",
    *PAIR_COLUMNS,
    "selection",
    "group_size",
    "n",
    "spearman",
    "spearman_p",
    "spearman_low",
    "spearman_high",
    "pearson",
    "pearson_p",
    "pearson_low",
    "pearson_high",
    "kendall",
    "kendall_p",
    "slope",
    "slope_low",
    "slope_high",
    "intercept",
    "r2",
    "r2_low",
    "r2_high",
    "sign_agreement",
    "top_k_overlap",
    "top_k_chance",
    "top_eigenvalue",
    "top_eigenvalue_dense",
    "train_accuracy",
    "test_loss",
    "grad_norm",
    "null_drift",
    "true_change_median",
    "spearman_corrected",
    "signal",
    "signal_to_drift",
    "signal_to_replicates",
    "signal_to_resolution",
    "rel_residual",
    "converged_share",
    "replicates",
    "reliability",
    "noise_ceiling",
    "reliability_reason",
    "seconds",
    "status",
    "reason",
)

SUMMARY_COLUMNS = (
    *CELL_COLUMNS,
    *PAIR_COLUMNS,
    "selection",
    "group_size",
    "seeds",
    "failed",
    "undefined",
    "abs_spearman_mean",
    "abs_spearman_ci95",
    "spearman_mean",
    "spearman_median",
    "negative_fraction",
    "abs_pearson_mean",
    "slope_median",
    "intercept_median",
    "r2_median",
    "sign_agreement_mean",
    "top_k_overlap_mean",
    "top_k_chance",
    "chance_abs_spearman",
    "chance_p",
    "abs_spearman_low",
    "abs_spearman_high",
    "power",
    "abs_spearman_corrected_mean",
    "signal_to_drift_median",
    "signal_to_replicates_median",
    "signal_to_resolution_median",
    "best_baseline",
    "over_best_baseline",
    "over_best_baseline_ci95",
    "spearman_low",
    "spearman_high",
    "predicted_to_drift_median",
    "verdict",
    "verdict_reason",
    "checks_failed",
    "checks_warned",
    "lds",
    "lds_low",
    "lds_high",
    "lds_kept_share",
    "lds_reason",
    "null_drift_median",
    "true_change_median",
    "rel_residual_max",
    "converged_share",
    "replicates",
    "reliability_median",
    "noise_ceiling_median",
    "top_eigenvalue_mean",
    "top_eigenvalue_ci95",
    "top_eigenvalue_median",
    "top_eigenvalue_dense_median",
    "top_eigenvalue_disagreement",
    "top_eigenvalue_link",
    "top_eigenvalue_link_p",
    "train_accuracy_mean",
    "grad_norm_median",
    "normalisation",
    "published_abs_spearman",
    "published_abs_spearman_ci95",
    "published_top_eigenvalue",
    "seconds",
    "reason",
)


def result_rows(
    columns: dict[str, Any],
    evaluation: Evaluation,
    trained: Artifact,
    dense: Artifact | None,
    seconds: float,
) -> list[dict[str, Any]]:
    """Return a row per record of a cell's evaluation, with what its training tells beside it."""
    pairs = {(s["influence"], s["retrain"]): s for s in evaluation.summaries}
    seeds = trained["seeds"].tolist()
    rows = []
    for record in evaluation.records:
        pair = pairs[record["influence"], record["retrain"]]
        place = seeds.index(record["seed"])
        rows.append(
            {
                **columns,
                **record,
                **{name: pair[name] for name in PAIR_COLUMNS},
                "train_accuracy": float(trained["train_accuracy"][place]),
                "grad_norm": float(trained["grad_norm"][place]),
                "top_eigenvalue_dense": _dense_value(dense, record["seed"]),
                "seconds": seconds,
                "reason": "; ".join(f"{k}: {v}" for k, v in record["reasons"].items()),
            }
        )
    return rows


def finished_seeds(trained: Artifact) -> NDArray[np.bool_]:
    """Return which seeds' training stayed finite. Shape: (S,)."""
    return np.asarray(np.isfinite(trained["train_loss"]).all(axis=1))


def failed_seed_rows(columns: dict[str, Any], trained: Artifact) -> list[dict[str, Any]]:
    """Return a row for each seed whose training turned non-finite."""
    bad = ~finished_seeds(trained)
    return [
        {**columns, "seed": int(seed), "status": "failed: training turned non-finite"}
        for seed in trained["seeds"][bad]
    ]


def summary_rows(
    columns: dict[str, Any],
    evaluation: Evaluation,
    trained: Artifact,
    eigen: Artifact,
    dense: Artifact | None,
    seconds: float,
) -> list[dict[str, Any]]:
    """Return a row per (estimator, truth) of a cell: means, intervals, published figures."""
    top = eigen["values"][:, 0]
    interval = mean_interval(top)
    finite = finished_seeds(trained)
    shared = {
        "seeds": len(finite),
        "failed": int((~finite).sum()),
        "top_eigenvalue_mean": interval.mean,
        "top_eigenvalue_ci95": interval.half_width,
        "top_eigenvalue_median": float(np.median(top)),
        "top_eigenvalue_dense_median": None
        if dense is None
        else float(np.median(dense["values"][:, 0])),
        "top_eigenvalue_disagreement": None if dense is None else disagreement(eigen, dense),
        "train_accuracy_mean": float(trained["train_accuracy"][finite].mean()),
        "grad_norm_median": float(np.median(trained["grad_norm"][finite])),
        "seconds": seconds,
        **published_figures(columns, evaluation.summaries[0]["group_size"]),
    }
    return [{**columns, **summary, **shared} for summary in evaluation.summaries]


def disagreement(power: Artifact, dense: Artifact) -> float:
    """Return the median relative difference of the two methods' top eigenvalues over seeds."""
    exact = dense["values"][:, 0]
    return float(np.median(np.abs(power["values"][:, 0] - exact) / np.abs(exact)))


def failed_row(columns: dict[str, Any], message: str) -> dict[str, Any]:
    """Return the row of a cell that failed while running."""
    return {**columns, "status": f"failed: {message}", "reason": f"failed: {message}"}


def _dense_value(dense: Artifact | None, seed: int) -> float | None:
    if dense is None:
        return None
    return float(dense["values"][dense["seeds"].tolist().index(seed), 0])

"""From a pair's summary, and the files behind it, to what the verdict goes by."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ifcheck.agreement.checks import Check, Evidence, Outcome
from ifcheck.agreement.verdict import Verdict, judge
from ifcheck.artifacts import Artifact
from ifcheck.config import VerdictConfig
from ifcheck.removal import TRUTHS
from ifcheck.stages.wording import prediction_name

Row = dict[str, Any]


def with_verdict(
    summary: Row, influence: Artifact, retrain: Artifact, thresholds: VerdictConfig
) -> Row:
    """Return a pair's summary with its verdict; a baseline, there to be beaten, has none."""
    if summary["baseline"]:
        nothing = dict.fromkeys(("verdict", "verdict_reason", "checks_failed", "checks_warned"), "")
        return summary | nothing | {"checks": []}
    found = judge(_evidence(summary, influence, retrain), thresholds)
    return summary | _record(found)


def _record(verdict: Verdict) -> Row:
    return {
        "verdict": str(verdict.decision),
        "verdict_reason": verdict.reason,
        "checks_failed": _named(verdict, Outcome.FAIL),
        "checks_warned": _named(verdict, Outcome.WARN),
        "checks": [_check_record(check) for check in verdict.checks],
    }


def _named(verdict: Verdict, outcome: Outcome) -> str:
    return ", ".join(check.name for check in verdict.checks if check.outcome is outcome)


def _check_record(check: Check) -> Row:
    return {
        "name": check.name,
        "outcome": str(check.outcome),
        "value": check.value,
        "expected": check.expected,
        "sentence": check.sentence,
        "limits": str(check.role),
    }


def _evidence(summary: Row, influence: Artifact, retrain: Artifact) -> Evidence:
    tests = summary["n"] + summary["undefined"]
    damping = float(influence.meta["config"]["influence"]["damping"])
    return Evidence(
        removals=summary["removals_compared"],
        seeds=summary["seeds_compared"],
        spearman=summary["spearman_mean"],
        spearman_low=summary["spearman_low"],
        spearman_high=summary["spearman_high"],
        chance_p=summary["chance_p"],
        slope=summary["slope_median"],
        r2=summary["r2_median"],
        sign_agreement=summary["sign_agreement_mean"],
        signal_to_drift=summary["signal_to_drift_median"],
        signal_to_resolution=summary["signal_to_resolution_median"],
        predicted_to_drift=summary["predicted_to_drift_median"],
        same_normalisation=summary["predicted_normalisation"] == summary["true_normalisation"],
        proximal=TRUTHS.create(summary["truth"]).proximal,
        replicates=summary["replicates"],
        deterministic=retrain.meta.get("deterministic", ""),
        reliable_share=1 - summary["reliability_low"] / tests if tests else math.nan,
        noise_ceiling=summary["noise_ceiling_median"],
        rel_residual=summary["rel_residual_max"],
        lowest_eigenvalue=float(np.min(influence["hessian_min"])) + damping,
        largest_eigenvalue=float(np.max(influence["hessian_max"])) + damping,
        negative=int(np.max(influence["negative"])),
        null_space=int(np.max(influence["null_space"])),
        damping=damping,
        over_baseline=summary["over_best_baseline"],
        over_baseline_half_width=summary["over_best_baseline_ci95"],
        best_baseline=prediction_name({"influence": summary["best_baseline"]}),
        obstacle=_obstacle(summary),
    )


def _obstacle(summary: Row) -> str:
    """Say why there is too little agreement to judge: none, or of a remnant of the networks."""
    defined, undefined = summary["n"], summary["undefined"]
    if not defined or not undefined > defined:
        return str(summary["reason"]) if not defined else ""
    return (
        f"{undefined} of {defined + undefined} seeds and test points have no correlation: "
        f"{summary['reason']}"
    )

"""Stage `influence`: predicted change of the test loss for every training row."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ifcheck.artifacts import Artifact, write_artifact
from ifcheck.config import Config
from ifcheck.errors import UnusableInput
from ifcheck.params import Layout
from ifcheck.scores import STEPS
from ifcheck.stages.damping import check_held_out, choose_damping, held_out_removals
from ifcheck.stages.removals import input_digests
from ifcheck.stages.reporting import Reporter, Silent
from ifcheck.stages.run import load_run
from ifcheck.stages.scoring import GroupChoice, group_choice, score_networks
from ifcheck.stages.setup import Setup
from ifcheck.stages.stage import stage


@stage
def influence(
    config: Config,
    sources: Sequence[Path],
    out: Path,
    reporter: Reporter | None = None,
    explicit: dict[str, Any] | None = None,
    influence_file: Path | None = None,
    held_out_file: Path | None = None,
) -> Artifact:
    """Score every training row of every seed with the configured estimator; write `out`.

    Where rows are removed in groups, the groups that `retrain` would remove are scored as well;
    for `--removals top-score:K` by the scores of `influence_file`, or else by their own.
    `held_out_file` holds the removals that `--damping auto` is chosen on.
    Raises: UnusableInput, ArtifactUnreadable, ArtifactMismatch, Diverged.
    """
    started = time.perf_counter()
    reporter = reporter or Silent()
    run = load_run(sources, config, explicit or {}, reporter)
    check_estimator(run.setup, Layout.of(run.networks[0]))
    groups = group_choice(run, influence_file)
    held_out = None
    if (file := check_held_out(config.influence.damping, held_out_file)) is not None:
        held_out = held_out_removals(run, file)
        _refuse_groups(groups)
    networks = score_networks(run, groups, reporter)
    names = networks[0].arrays
    arrays = {
        "seeds": run.seeds,
        "train_ids": run.split.train_ids,
        "test_ids": run.test_ids,
        **{name: np.stack([network.arrays[name] for network in networks]) for name in names},
    }
    described = run.setup.describe("influence")
    reasons = {reason for network in networks for reason in network.reasons}
    meta: dict[str, Any] = {"config": described, "parents": run.parents}
    if "path_scores" in arrays:
        arrays["damping_path"] = np.array(run.setup.estimator.damping_path)
    if held_out is not None:
        chosen = choose_damping(arrays, held_out)
        for name in ("scores", "rel_residual", "converged", "steps"):
            arrays[name] = arrays[f"path_{name}"][:, chosen.place]
        arrays["held_out_ids"] = held_out.removed_ids
        del arrays["null_scores"]  # of another damping
        described["influence"]["damping"] = chosen.meta["damping"]
        reasons = {network.path_reasons[chosen.place] for network in networks}
        meta["damping_chosen"] = chosen.meta
    if "group_ids" in arrays:
        size = arrays["group_ids"].shape[2]
        meta["groups"] = {"removals": run.setup.config.retrain.removals, "group_size": size}
    meta["inputs"] = input_digests(run, influence_file if groups else None, held_out_file)
    meta["not_converged"] = sorted(reasons - {""})
    meta |= run.setup.environment(started)
    return write_artifact(out, "influence", arrays, meta)


def check_estimator(setup: Setup, layout: Layout) -> None:
    """Refuse an estimator that does not fit the network. Raises: UnknownName, UnusableInput."""
    estimator = setup.estimator
    layout.positions(estimator.params)
    step = STEPS.create(estimator.step)
    step.check(estimator, layout, setup.objective)
    if estimator.damping_path and not step.has_path:
        raise UnusableInput(
            f"--damping path and auto are for --step first-order, not {estimator.step}.",
            remedy="Use --estimator objective, or one --damping after the other.",
        )


def _refuse_groups(groups: GroupChoice | None) -> None:
    if groups is not None:
        raise UnusableInput(
            "--damping auto scores single rows, and --group-size or --removals asks for groups.",
            remedy="Choose the damping on single rows, then score groups with that --damping.",
        )

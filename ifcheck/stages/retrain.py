"""Stage `retrain`: the true change of the test loss when rows are removed."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ifcheck.artifacts import Artifact, write_artifact
from ifcheck.config import Config, replace_section
from ifcheck.errors import UnusableInput
from ifcheck.models import Network
from ifcheck.removal import RemovalProblem
from ifcheck.stages.removals import check_removals, input_digests, losses, select_removals
from ifcheck.stages.reporting import Reporter, Silent
from ifcheck.stages.run import Run, load_run
from ifcheck.stages.setup import Setup, truth_method
from ifcheck.stages.stage import stage
from ifcheck.variants import averaged


@stage
def retrain(
    config: Config,
    sources: Sequence[Path],
    out: Path,
    reporter: Reporter | None = None,
    explicit: dict[str, Any] | None = None,
    influence_file: Path | None = None,
) -> Artifact:
    """Remove rows from every seed with the configured truth; write `out`.

    `influence_file` is what `--removals top-score:K` ranks by.
    Raises: UnusableInput, ArtifactUnreadable, ArtifactMismatch.
    """
    started = time.perf_counter()
    reporter = reporter or Silent()
    run = load_run(sources, config, explicit or {}, reporter)
    ranked = check_retraining(run.setup, with_scores=influence_file is not None) == "top-score"
    method = truth_method(run.setup.config.retrain)
    losses_before = losses(run, "test")
    removed = select_removals(run, influence_file)
    problem = removal_problem(run, removed)
    what = "rows" if removed.shape[2] == 1 else f"groups of {removed.shape[2]} rows"
    progress = reporter.step(
        f"retraining without {removed.shape[1]} {what} ({config.retrain.truth})",
        method.cost(problem),
    )
    truth = method.remove(problem, progress)
    arrays = {
        "seeds": run.seeds,
        "test_ids": run.test_ids,
        **_removed_ids(run.split.train_ids[removed]),
        "loss_before": run.own_tests(losses_before),
        "loss_after": run.own_tests(truth.loss_after.cpu().numpy()),
        "null_loss_after": run.own_tests(truth.null_loss_after.cpu().numpy()),
        "converged": truth.converged.cpu().numpy(),
        "grad_norm": truth.gradient_norm[:, 1:].cpu().numpy(),
        "null_grad_norm": truth.gradient_norm[:, 0].cpu().numpy(),
    }
    if truth.positive_definite is not None:
        arrays["positive_definite"] = truth.positive_definite[:, 1:].cpu().numpy()
        arrays["null_positive_definite"] = truth.positive_definite[:, 0].cpu().numpy()
    if truth.trajectory is not None and truth.trajectory_epochs is not None:
        arrays["trajectory_epoch"] = truth.trajectory_epochs.numpy()
        arrays["trajectory"] = run.own_tests(truth.trajectory.cpu().numpy())
    meta = {
        "config": run.setup.describe("retrain"),
        "parents": run.parents,
        "reasons": list(truth.reasons),
        "group_size": removed.shape[2],
        "inputs": input_digests(run, influence_file if ranked else None),
        **run.setup.environment(started, truth.engine, truth.dtype),
    }
    return write_artifact(out, "retrain", arrays, meta)


def check_retraining(setup: Setup, with_scores: bool) -> str:
    """Refuse a retraining that cannot be run, before anything is computed.

    Returns the kind of its removals.
    Raises: UnusableInput for unusable parameters, removals or test points.
    """
    settings = setup.config.retrain
    if settings.params not in ("head", "all"):
        raise UnusableInput(
            f"retrain --params got {settings.params!r}; expected head or all.",
            remedy="Use --params head, as the paper does.",
        )
    kind = check_removals(setup)
    if kind == "top-score" and not with_scores:
        raise UnusableInput(
            "--removals top-score:K needs the scores to rank by.",
            remedy="Add --influence run/influence-objective.npz",
        )
    return kind


def _removed_ids(removed: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Return the ids (S, K, G) under the name that single rows or groups have."""
    return {"removed_ids": removed[..., 0]} if removed.shape[2] == 1 else {"group_ids": removed}


def removal_problem(run: Run, removed: NDArray[np.int64]) -> RemovalProblem:
    """Return the problem that the configured truth solves for these positions (S, K, G)."""
    settings, setup = run.setup.config.retrain, run.setup
    whole = settings.params == "all"
    dtype = setup.dtype if whole else torch.float64
    every = settings.trajectory_every if settings.trajectory else None
    recipe = setup.plain_recipe(settings.epochs, every, settings.stop_at_lr_floor)
    live: Tensor | None = None
    if settings.swa_restart == "live" and setup.variant.recipe(recipe).averaging is not None:
        live = run.live_weights()
        recipe = averaged(recipe)
    tensors = run.tensors(dtype)
    networks: list[Network] = [copy.deepcopy(network).to(dtype) for network in run.networks]
    return RemovalProblem(
        networks=networks,
        live=live,
        objective=setup.objective,
        recipe=recipe,
        engine=setup.config.run.engine,
        params=settings.params,
        normalisation=settings.normalisation,
        removed=torch.from_numpy(removed).to(setup.device),
        seeds=setup.config.train.seeds,
        train=tensors["train"],
        test=tensors["test"],
    )


def with_trajectory(config: Config) -> Config:
    """Return the configuration with the test loss recorded along the retraining."""
    return replace_section(config, "retrain", trajectory=True)


def with_truth(config: Config, text: str) -> Config:
    """Return the configuration for a truth such as `warm`, or `warm:all` for all parameters."""
    truth, _, params = text.partition(":")
    return replace_section(config, "retrain", truth=truth, params=params or config.retrain.params)

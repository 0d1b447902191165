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
from ifcheck.models import Network, initialise
from ifcheck.removal import TRUTHS, RemovalProblem, Training, Truth
from ifcheck.stages.removals import check_removals, input_digests, losses, select_removals
from ifcheck.stages.reporting import Reporter, Silent
from ifcheck.stages.run import Run, load_run
from ifcheck.stages.setup import Setup, make_setup, truth_method
from ifcheck.stages.stage import stage
from ifcheck.stages.testpoints import count_test_points
from ifcheck.stages.train import blank_network
from ifcheck.variants import averaged


@stage
def retrain(
    config: Config,
    sources: Sequence[Path],
    out: Path,
    reporter: Reporter | None = None,
    explicit: dict[str, Any] | None = None,
    influence_file: Path | None = None,
    sampled_epochs: int | None = None,
) -> Artifact:
    """Remove rows from every seed with the configured truth; write `out`.

    `influence_file` is what `--removals top-score:K` ranks by. An estimate of the time has
    `sampled_epochs` take the place of the truth's.
    Raises: UnusableInput, ArtifactUnreadable, ArtifactMismatch.
    """
    started = time.perf_counter()
    reporter = reporter or Silent()
    run = load_run(sources, config, explicit or {}, reporter)
    ranked = check_retraining(run.setup, with_scores=influence_file is not None) == "top-score"
    _check_training_is_known(run, explicit or {})
    settings = run.setup.config.retrain
    method = truth_method(settings)
    losses_before = losses(run, "test")
    removed = select_removals(run, influence_file)
    problem = removal_problem(run, removed, sampled_epochs)
    what = "rows" if removed.shape[2] == 1 else f"groups of {removed.shape[2]} rows"
    times = f", {settings.replicates} times" if settings.replicates > 1 else ""
    progress = reporter.step(
        f"retraining without {removed.shape[1]} {what} ({settings.truth}){times}",
        method.cost(problem) * settings.replicates,
    )
    replicates = range(settings.replicates)
    truth = Truth.replicated([method.remove(problem.replicate(r), progress) for r in replicates])
    meta = {
        "config": run.setup.describe("retrain"),
        "parents": run.parents,
        "reasons": list(truth.reasons),
        "deterministic": why_no_replicates(run.setup) or "",
        "group_size": removed.shape[2],
        "inputs": input_digests(run, influence_file if ranked else None),
        **run.setup.environment(started, truth.engine, truth.dtype),
    }
    return write_artifact(out, "retrain", _arrays(run, removed, losses_before, truth), meta)


def _arrays(
    run: Run, removed: NDArray[np.int64], losses_before: NDArray[np.float64], truth: Truth
) -> dict[str, NDArray[Any]]:
    """Return the arrays of the file, each network's losses those of its own test points."""
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
    return arrays


def check_retraining(setup: Setup, with_scores: bool) -> str:
    """Refuse a retraining that cannot be run, before anything is computed.

    Returns the kind of its removals.
    Raises: UnusableInput for unusable parameters, removals, test points or replicates.
    """
    settings = setup.config.retrain
    if settings.params not in ("head", "all"):
        raise UnusableInput(
            f"retrain --params got {settings.params!r}; expected head or all.",
            remedy="Use --params head, as the paper does.",
        )
    reason = why_no_replicates(setup)
    if settings.replicates > 1 and reason is not None:
        raise UnusableInput(
            f"--replicates {settings.replicates} would repeat one result with --truth "
            f"{settings.truth}: {reason}.",
            remedy="Leave --replicates out, or use --truth scratch.",
        )
    kind = check_removals(setup)
    if kind == "top-score" and not with_scores:
        raise UnusableInput(
            "--removals top-score:K needs the scores to rank by.",
            remedy="Add --influence run/influence-objective.npz",
        )
    return kind


def why_no_replicates(setup: Setup) -> str | None:
    """Say why the configured truth depends on no seed; None where it does."""
    settings = setup.config.retrain
    tests = count_test_points(setup.config.data.test_points, setup.dataset)
    return TRUTHS.create(settings.truth).why_deterministic(
        blank_network(setup), setup.recipe, settings.params, setup.dataset.train_rows(tests)
    )


def _check_training_is_known(run: Run, explicit: dict[str, Any]) -> None:
    """Refuse to repeat a training that is not known, or other than it was.

    `explicit` are the settings that the user gave. Raises: UnusableInput.
    """
    settings = run.setup.config.retrain
    if not TRUTHS.create(settings.truth).trains_again:
        return
    if any(checkpoint.meta is None for checkpoint in run.checkpoints):
        raise UnusableInput(
            f"--truth {settings.truth} repeats the training of the checkpoints; a state dict of "
            "your own does not say how it was initialised.",
            remedy="Train with `ifcheck train`, or use --truth warm.",
        )
    for name in ("params", "epochs", "stop_at_lr_floor"):
        given, own = explicit.get(f"retrain.{name}"), getattr(settings, name)
        if given is not None and given != own:
            raise UnusableInput(
                f"--truth {settings.truth} repeats the training of all parameters: retrain.{name} "
                f"is {own}, not {given}.",
                remedy="Leave it out, or use --truth warm.",
            )


def _removed_ids(removed: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Return the ids (S, K, G) under the name that single rows or groups have."""
    return {"removed_ids": removed[..., 0]} if removed.shape[2] == 1 else {"group_ids": removed}


def removal_problem(
    run: Run, removed: NDArray[np.int64], epochs: int | None = None
) -> RemovalProblem:
    """Return the problem that the configured truth solves for these positions (S, K, G).

    `epochs` take the place of the configured ones.
    """
    settings, setup = run.setup.config.retrain, run.setup
    method = TRUTHS.create(settings.truth)
    again = method.trains_again
    own = settings.params == "all" and not method.takes_float64
    dtype = setup.dtype if own else torch.float64
    every = settings.trajectory_every if settings.trajectory else None
    recipe = setup.plain_recipe(epochs or settings.epochs, every, settings.stop_at_lr_floor)
    live: Tensor | None = None
    if again:
        recipe = setup.variant.recipe(recipe)
    elif settings.swa_restart == "live" and setup.variant.recipe(recipe).averaging is not None:
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
        training=training_of(setup),
    )


def training_of(setup: Setup) -> Training:
    """Return how the networks of a run came to be."""

    def initial(seed: int) -> Network:
        shape, classes = setup.dataset.input_shape, setup.dataset.classes
        return initialise(setup.spec, shape, classes, seed, setup.dtype).to(setup.device)

    polish = setup.config.train.polish == "head" and setup.objective.regularised
    return Training(initial, polish)


def with_trajectory(config: Config) -> Config:
    """Return the configuration with the test loss recorded along one retraining."""
    return replace_section(config, "retrain", trajectory=True, replicates=1)


def with_truth(config: Config, text: str) -> Config:
    """Return the configuration for a truth such as `warm`, or `warm:all` for all parameters.

    A truth that depends on no seed is found once, whatever `retrain.replicates` says.
    Raises: UnknownName; UnusableInput for `scratch:head`.
    """
    truth, _, params = text.partition(":")
    if TRUTHS.create(truth).trains_again and params not in ("", "all"):
        raise UnusableInput(
            f"--truth got {text!r}; {truth} trains all parameters.", remedy=f"Use --truth {truth}."
        )
    own = replace_section(config, "retrain", truth=truth, params=params or config.retrain.params)
    if own.retrain.replicates > 1 and why_no_replicates(make_setup(own)) is not None:
        return replace_section(own, "retrain", replicates=1)
    return own

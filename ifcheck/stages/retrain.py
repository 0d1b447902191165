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

from ifcheck.artifacts import Artifact, read_artifact, write_artifact
from ifcheck.config import Config, replace_section
from ifcheck.errors import ArtifactMismatch, UnusableInput
from ifcheck.models import Network, evaluate
from ifcheck.removal import TRUTHS, RemovalProblem
from ifcheck.removal.selection import FORMS, largest, parse_count, parse_ids, random_rows
from ifcheck.stages.reporting import Reporter, Silent
from ifcheck.stages.run import Run, load_run, require_same_checkpoints
from ifcheck.stages.setup import Setup
from ifcheck.stages.stage import stage
from ifcheck.stages.testpoints import count_test_points
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
    check_retraining(run.setup, with_scores=influence_file is not None)
    method = TRUTHS.create(config.retrain.truth)
    losses_before = _losses(run, "test")
    removed = select_removals(config.retrain.removals, run, influence_file)
    problem = removal_problem(run, removed)
    progress = reporter.step(
        f"retraining without {removed.shape[1]} rows ({config.retrain.truth})",
        method.cost(problem),
    )
    truth = method.remove(problem, progress)
    arrays = {
        "seeds": run.seeds,
        "test_ids": run.test_ids,
        "removed_ids": run.split.train_ids[removed],
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
        **run.setup.environment(started, truth.engine, truth.dtype),
    }
    return write_artifact(out, "retrain", arrays, meta)


def check_retraining(setup: Setup, with_scores: bool) -> None:
    """Refuse a retraining that cannot be run, before anything is computed.

    Raises: UnusableInput for unusable parameters, removals or test points.
    """
    settings = setup.config.retrain
    if settings.params not in ("head", "all"):
        raise UnusableInput(
            f"retrain --params got {settings.params!r}; expected head or all.",
            remedy="Use --params head, as the paper does.",
        )
    tests = count_test_points(setup.config.data.test_points, setup.dataset)
    dataset = setup.dataset
    rows = dataset.train_rows(tests)
    kind, text = parse_removals(settings.removals, rows)
    if kind == "ids":
        known = np.arange(rows) if dataset.has_test_set else dataset.row_ids
        parse_ids(text, settings.removals, known)
    if kind == "top-score" and not with_scores:
        raise UnusableInput(
            "--removals top-score:K needs the scores to rank by.",
            remedy="Add --influence run/influence-objective.npz",
        )


def parse_removals(specification: str, rows: int) -> tuple[str, str]:
    """Split a selection such as top-loss:40 into its kind and its text, and check the count.

    Raises: UnusableInput.
    """
    kind, _, text = specification.partition(":")
    if kind not in ("ids", "like", "top-loss", "top-score", "random"):
        raise UnusableInput(
            f"--removals got {specification!r}; expected {FORMS}.",
            remedy="For example: --removals top-loss:40",
        )
    if kind not in ("ids", "like"):
        # One row must be left: a mean over no rows is no objective.
        parse_count(text, specification, rows - 1)
    return kind, text


def select_removals(specification: str, run: Run, influence_file: Path | None) -> NDArray[np.int64]:
    """Return the positions of the rows to remove from each seed, in order. Shape: (S, K).

    Raises: UnusableInput, ArtifactUnreadable, ArtifactMismatch.
    """
    ids = run.split.train_ids
    kind, text = parse_removals(specification, len(ids))
    if kind == "ids":
        chosen = parse_ids(text, specification, ids)
        return np.tile(np.searchsorted(ids, chosen), (len(run.seeds), 1))
    if kind == "like":
        return _like(Path(text), run)
    count = int(text)
    if kind == "random":
        return np.stack([random_rows(count, len(ids), int(s), "removals") for s in run.seeds])
    values = _losses(run, "train") if kind == "top-loss" else _sizes_of_scores(run, influence_file)
    return np.stack([largest(row, count) for row in values])


def removal_problem(run: Run, removed: NDArray[np.int64]) -> RemovalProblem:
    """Return the problem that the configured truth solves for these positions (S, K)."""
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


def _losses(run: Run, rows: str) -> NDArray[np.float64]:
    """Return the float64 losses of the trained networks on "train" or "test" rows. (S, rows)."""
    inputs, targets = run.tensors()[rows]
    losses = [
        run.setup.objective.per_example_loss(evaluate(network, inputs), targets)
        for network in run.networks
    ]
    return torch.stack(losses).cpu().numpy()


def _sizes_of_scores(run: Run, path: Path | None) -> NDArray[np.float64]:
    """Return the largest |score| over test points of each row. Shape: (S, N)."""
    if path is None:
        raise ValueError("top-score needs a file of scores")
    artifact = read_artifact(path, "influence")
    require_same_checkpoints(run, artifact.parents, path)
    order = _rows_of_seeds(run, artifact)
    return np.asarray(np.abs(artifact["scores"][order]).max(axis=1))


def _like(path: Path, run: Run) -> NDArray[np.int64]:
    artifact = read_artifact(path, "retrain")
    require_same_checkpoints(run, artifact.parents, path)
    removed = artifact["removed_ids"][_rows_of_seeds(run, artifact)]
    return np.searchsorted(run.split.train_ids, removed)


def _rows_of_seeds(run: Run, artifact: Artifact) -> list[int]:
    """Return where each seed of the run stands in the artifact."""
    places = {int(seed): index for index, seed in enumerate(artifact["seeds"])}
    missing = [int(seed) for seed in run.seeds if int(seed) not in places]
    if missing:
        raise ArtifactMismatch(
            f"{artifact.path.name} has no seed {missing[0]}; it holds {sorted(places)}.",
            remedy="Make that file again from these checkpoints.",
        )
    return [places[int(seed)] for seed in run.seeds]


def with_trajectory(config: Config) -> Config:
    """Return the configuration with the test loss recorded along the retraining."""
    return replace_section(config, "retrain", trajectory=True)


def with_truth(config: Config, text: str) -> Config:
    """Return the configuration for a truth such as `warm`, or `warm:all` for all parameters."""
    truth, _, params = text.partition(":")
    return replace_section(config, "retrain", truth=truth, params=params or config.retrain.params)

"""Truth by warm start: continue training from the trained weights without the row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ifcheck import memory
from ifcheck.config import Normalisation
from ifcheck.engines import (
    Assessment,
    Progress,
    Recipe,
    Task,
    assess,
    select_engine,
    silent,
)
from ifcheck.engines.descent import has_dropout
from ifcheck.errors import UnusableInput
from ifcheck.models import evaluate
from ifcheck.params import stack_modules
from ifcheck.removal.base import TRUTHS, RemovalProblem, Truth, split_null

# Measured on Iris (depth 1, width 5, l2, 50 seeds, 40 removals): runs that end below it are
# within 2e-4 nats of the exact optimum's test loss (median 2e-6); half of all runs do.
STATIONARY_GRADIENT = 1e-5


@TRUTHS.register("warm")
@dataclass(frozen=True)
class Warm:
    """Continue from the optimum without the row, with a fresh optimiser (the paper's way)."""

    has_trajectory: ClassVar[bool] = True
    normalisation: ClassVar[Normalisation | None] = None
    proximal: ClassVar[bool] = False
    place: ClassVar[int] = 3
    takes_back: ClassVar[str] = "retraining that does not reach the optimum"
    trains_again: ClassVar[bool] = False
    takes_float64: ClassVar[bool] = False
    settings: ClassVar[frozenset[str]] = frozenset(
        {
            *("params", "epochs", "stop_at_lr_floor", "swa_restart"),
            *("normalisation", "replicates", "trajectory", "trajectory_every"),
        }
    )

    def why_deterministic(
        self, network: nn.Module, recipe: Recipe, params: str, rows: int
    ) -> str | None:
        draws = params == "all" and has_dropout(network)
        if draws or (recipe.batch_size is not None and recipe.batch_size < rows):
            return None
        if recipe.batch_size is not None:
            return (
                f"one batch of {recipe.batch_size} holds all {rows} rows, whose order changes "
                "nothing but the last digits"
            )
        return "a retraining in full batches from the trained weights draws nothing at random"

    def cost(self, problem: RemovalProblem) -> int:
        networks, removals = problem.removed.shape[:2]
        return networks * (removals + 1) * problem.recipe.epochs

    def remove(self, problem: RemovalProblem, progress: Progress = silent) -> Truth:
        networks = len(problem.networks)
        step = _networks_at_once(problem) if problem.params == "head" else networks
        parts = [problem.part(start, start + step) for start in range(0, networks, step)]
        return Truth.joined([self._remove(part, progress) for part in parts])

    def _remove(self, problem: RemovalProblem, progress: Progress) -> Truth:
        task = _head_task(problem) if problem.params == "head" else _whole_task(problem)
        name, engine = select_engine(problem.engine, task.network, task.objective, problem.recipe)
        fit = engine.fit(task, problem.recipe, progress)
        final = assess(task, fit.parameters)
        truth = truth_of(problem, final, fit.recorded_epochs, fit.probe_losses)
        dtype = str(task.parameters.dtype).removeprefix("torch.")
        return replace(truth, engine=name, dtype=dtype)


def _networks_at_once(problem: RemovalProblem) -> int:
    """Return of how many networks the features of all rows fit into memory together."""
    of_a_row = evaluate(problem.networks[0].features, problem.train[0][:1])
    rows = max(len(problem.train[1]), len(problem.test[1]))
    return max(1, memory.LARGEST_IN_MEMORY // (of_a_row.nbytes * rows))


def _head_task(problem: RemovalProblem) -> Task:
    """Heads on features that are computed once: everything below the head stays fixed.

    Raises: UnusableInput for a restart from live weights, whose body is another one.
    """
    if problem.live is not None:
        raise UnusableInput(
            "--swa-restart live starts the whole network from its live weights; with --params "
            "head the live head would stand on the averaged body.",
            remedy="Add --params all, or restart from the average.",
        )
    heads = [network.head for network in problem.networks]
    start = stack_modules(heads)
    features, test_features = (
        _stacked([evaluate(network.features, inputs) for network in problem.networks])
        for inputs, _ in (problem.train, problem.test)
    )
    return _task(problem, heads[0], start, features, test_features)


def _stacked(features: list[Tensor]) -> Tensor:
    """Return (networks, rows, ...), of a single network without a copy."""
    return torch.stack(features) if len(features) > 1 else features[0][None]


def _whole_task(problem: RemovalProblem) -> Task:
    start = stack_modules(problem.networks)
    if problem.live is not None:
        start = problem.live.to(start)
    networks = len(problem.networks)
    inputs = problem.train[0].to(start.dtype).expand(networks, *problem.train[0].shape)
    tests = problem.test[0].to(start.dtype).expand(networks, *problem.test[0].shape)
    return _task(problem, problem.networks[0], start, inputs, tests)


def _task(
    problem: RemovalProblem, network: nn.Module, start: Tensor, inputs: Tensor, tests: Tensor
) -> Task:
    weights = problem.row_weights
    return Task(
        network=network,
        objective=problem.objective,
        parameters=start.repeat_interleave(weights.shape[1], dim=0),
        inputs=inputs,
        targets=problem.train[1],
        weights=weights.flatten(0, 1).to(start),
        seeds=tuple(seed for seed in problem.seeds for _ in range(weights.shape[1])),
        probe_inputs=tests,
        probe_targets=problem.test[1],
    )


def truth_of(
    problem: RemovalProblem, final: Assessment, epochs: Tensor, probe_losses: Tensor | None
) -> Truth:
    """Return the truth of where retrained networks ended, each seed's null run first.

    `probe_losses` (S * (K + 1), tests, E) were recorded at `epochs` (E,).
    """
    networks, removals = problem.removed.shape[:2]
    shape = (networks, removals + 1)
    norms = final.gradient_norm.unflatten(0, shape)
    loss_after, null_loss_after = split_null(final.probe_losses.unflatten(0, shape))
    trajectory = None
    if problem.recipe.record_every is not None and probe_losses is not None:
        trajectory = probe_losses.unflatten(0, shape)[:, 1:].permute(0, 2, 1, 3).double()
    return Truth(
        loss_after=loss_after,
        null_loss_after=null_loss_after,
        converged=(norms <= STATIONARY_GRADIENT)[:, 1:],
        gradient_norm=norms,
        trajectory_epochs=None if trajectory is None else epochs,
        trajectory=trajectory,
    )

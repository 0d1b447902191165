"""Truth by training again from initialisation, without the row and by the base run's recipe."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ifcheck import memory
from ifcheck.config import Normalisation
from ifcheck.engines import Assessment, Progress, Recipe, Task, assess, select_engine, silent
from ifcheck.models import Network
from ifcheck.params import load_flat, stack_modules
from ifcheck.removal.base import TRUTHS, RemovalProblem, Training, Truth
from ifcheck.removal.newton import polish_head
from ifcheck.removal.warm import truth_of

# Copies of a model's parameters that are alive while it is trained: with gradient, three moments
# and average, and two in float64 when it is judged.
COPIES = 10


@TRUTHS.register("scratch")
@dataclass(frozen=True)
class Scratch:
    """Train the whole network again from its own initialisation, without the row.

    Initialisation and order of batches are those that the network's seed names; recipe, type and
    engine those of the base run, with averaging, early stop and polishing of the head: the null
    run is the base network, bit for bit. A replicate has another seed, and another null run.
    Reference: Nguyen et al. (2023), on the noise of retraining.
    """

    has_trajectory: ClassVar[bool] = True
    trains_again: ClassVar[bool] = True
    takes_float64: ClassVar[bool] = True  # to judge by; it trains in the type of the training
    settings: ClassVar[frozenset[str]] = frozenset(
        {
            *("params", "epochs", "stop_at_lr_floor"),  # those of the training, no others
            *("normalisation", "replicates", "trajectory", "trajectory_every"),
        }
    )
    normalisation: ClassVar[Normalisation | None] = None
    proximal: ClassVar[bool] = False
    place: ClassVar[int] = 4
    takes_back: ClassVar[str] = "training again from initialisation"

    def why_deterministic(
        self, network: nn.Module, recipe: Recipe, params: str, rows: int
    ) -> str | None:
        return None

    def cost(self, problem: RemovalProblem) -> int:
        networks, removals = problem.removed.shape[:2]
        return networks * (removals + 1) * problem.recipe.epochs

    def remove(self, problem: RemovalProblem, progress: Progress = silent) -> Truth:
        training = _training(problem)
        networks = [training.initial(seed) for seed in problem.seeds]
        recipe = problem.recipe
        name, engine = select_engine(problem.engine, networks[0], problem.objective, recipe)
        ends, probes = [], []
        for task, judged in _tasks(problem, networks):
            fit = engine.fit(task, recipe, progress)
            found = fit.parameters.double()
            if training.polish:
                found = _polished(problem, networks[0], found, judged.weights)
            ends.append(assess(judged, found))
            epochs = fit.recorded_epochs
            if fit.probe_losses is not None:
                probes.append(fit.probe_losses)
        back = torch.cat(_order(problem)).argsort()
        final = Assessment(
            torch.cat([end.probe_losses for end in ends])[back],
            torch.cat([end.gradient_norm for end in ends])[back],
        )
        recorded = torch.cat(probes)[back] if probes else None
        truth = truth_of(problem, final, epochs, recorded)
        dtype = str(task.parameters.dtype).removeprefix("torch.")
        return replace(truth, engine=name, dtype=dtype)


def _training(problem: RemovalProblem) -> Training:
    if problem.training is None:
        raise ValueError("scratch needs to know how the networks were trained")
    return problem.training


def _tasks(problem: RemovalProblem, networks: Sequence[Network]) -> Iterator[tuple[Task, Task]]:
    """Yield tasks of as many models as fit into memory, each with itself in float64.

    Models stand as `_order` has them, and share one group of rows as those of the base run do.
    """
    start = stack_modules(networks)
    weights = problem.row_weights.flatten(0, 1)
    each = len(weights) // len(networks)
    (inputs, targets), (tests, test_targets) = problem.train, problem.test
    step = max(1, memory.LARGEST_IN_MEMORY // (COPIES * start[0].nbytes))
    in_double = copy.deepcopy(networks[0]).double()
    for own in [part for kind in _order(problem) for part in kind.split(step)]:
        of_network = own // each
        judged = Task(
            network=in_double,
            objective=problem.objective,
            parameters=start[of_network.to(start.device)],
            inputs=inputs[None],
            targets=targets,
            weights=weights[own.to(weights.device)],
            seeds=tuple(problem.seeds[place] for place in of_network.tolist()),
            probe_inputs=tests[None],
            probe_targets=test_targets,
        )
        trained = replace(
            judged,
            network=networks[0],
            inputs=inputs[None].to(start.dtype),
            weights=judged.weights.to(start.dtype),
            probe_inputs=tests[None].to(start.dtype),
        )
        yield trained, judged


def _order(problem: RemovalProblem) -> tuple[Tensor, Tensor]:
    """Return which of all S * (K + 1) models are null runs, and which are not.

    Null runs are trained by themselves: where rounding depends on how many models of a seed are
    trained together (batches of small networks), they must be as many as in the base run.
    """
    networks, removals = problem.removed.shape[:2]
    places = torch.arange(networks * (removals + 1)).unflatten(0, (networks, removals + 1))
    return places[:, 0], places[:, 1:].flatten()


def _polished(problem: RemovalProblem, network: Network, flat: Tensor, weights: Tensor) -> Tensor:
    """Return parameters (models, P), float64, with each head at its own optimum; finite ones."""
    network, result = copy.deepcopy(network), flat.clone()
    for place in flat.isfinite().all(dim=1).nonzero().flatten().tolist():
        load_flat(network, flat[place])
        optimum = polish_head(network, problem.objective, problem.train, weights[place])
        load_flat(network.head, optimum.flat[0])
        result[place] = stack_modules([network])[0]
    return result

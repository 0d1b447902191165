"""The torch engines: one loop of epochs over a kernel, models in cache-sized chunks."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from ifcheck.engines.base import (
    ENGINES,
    Fit,
    Progress,
    Recipe,
    State,
    Task,
    silent,
    starting_state,
)
from ifcheck.engines.kernels import GenericKernel, HeadKernel, Kernel, MLPKernel
from ifcheck.engines.optimiser import Adam, Average, Schedule, schedule_for
from ifcheck.engines.padding import pad_rows
from ifcheck.engines.pool import run_all
from ifcheck.engines.structure import is_structured, structure_of
from ifcheck.engines.threads import torch_threads
from ifcheck.engines.variational_kernel import VariationalKernel
from ifcheck.models import MLP, VariationalNetwork
from ifcheck.models.variational import VariationalHead
from ifcheck.objective import Objective

CHUNK_BYTES = 4 << 20  # widest activation of a chunk: large beside the cost of an operation
CUDA_CHUNK_BYTES = 1 << 30  # a GPU wants work to be large; about ten such buffers are alive
MOMENTS = 3  # tensors that stand for the activations of a Bayesian layer
PROGRESS_EVERY = 250  # epochs between two reports
LISTEN_EVERY = 20  # epochs after which it is asked whether losses are still needed


STRUCTURED: dict[type, Callable[[Task], Kernel]] = {
    MLP: MLPKernel,
    nn.Linear: HeadKernel,
    VariationalNetwork: VariationalKernel,
    VariationalHead: VariationalKernel,
}


@ENGINES.register("torch")
@dataclass(frozen=True)
class TorchEngine:
    """Structured torch: hand-written gradients of MLPs and heads, Bayesian ones included."""

    rank: ClassVar[int] = 1

    def supports(self, network: nn.Module, objective: Objective) -> bool:
        return is_structured(network, objective)

    def fit(
        self,
        task: Task,
        recipe: Recipe,
        progress: Progress = silent,
        after: Fit | None = None,
    ) -> Fit:
        kernel = STRUCTURED[type(task.network)]
        fit = _fit_in_chunks(pad_rows(task), recipe, progress, kernel, after)
        if fit.probe_losses is not None and task.probe_targets is not None:
            probes = fit.probe_losses[:, : len(task.probe_targets)]
            fit = replace(fit, probe_losses=probes)
        return fit.following(after)


@ENGINES.register("vmap")
@dataclass(frozen=True)
class VmapEngine:
    """Generic torch: vmap over any network, several times slower than structured torch."""

    rank: ClassVar[int] = 2

    def supports(self, network: nn.Module, objective: Objective) -> bool:
        return True

    def fit(
        self,
        task: Task,
        recipe: Recipe,
        progress: Progress = silent,
        after: Fit | None = None,
    ) -> Fit:
        return _fit_in_chunks(task, recipe, progress, GenericKernel, after).following(after)


def descend(
    kernel: Kernel,
    recipe: Recipe,
    state: State,
    schedule: Schedule | None = None,
    progress: Progress = silent,
) -> Fit:
    """Run the epochs that are left: differentiate, step, average, reschedule.

    The kernel stands at the parameters of `state`; `schedule` takes the place of the recipe's.
    The loss that the schedule sees is that of the weights before the step, as in a loop that
    calls `loss.backward(); optimiser.step(); scheduler.step(loss)`.
    """
    schedule = schedule or schedule_for(recipe, state)
    mean, square = kernel.from_flat(state.mean), kernel.from_flat(state.square)
    adam = Adam(kernel.parameters, kernel.task.objective.weight_decay, mean, square)
    average = Average(recipe.averaging)
    record = _Record(recipe, kernel)
    reported, listening = state.epoch, True
    for epoch in range(state.epoch, recipe.epochs):
        if listening and epoch % LISTEN_EVERY == 0:
            listening = schedule.listening(epoch)
        moving = schedule.moving(epoch) if recipe.stop_at_floor else None
        resting = moving is not None and not bool(moving.any())
        losses = None
        if record.wants(epoch) or (listening and not resting):
            losses, gradient = kernel.differentiate()
            record.note(epoch, losses)
        elif not resting:
            gradient = kernel.gradient()
        if not resting:
            adam.steps = epoch
            adam.step(gradient, schedule.rates, moving)
            average.update(epoch, kernel.parameters)
            schedule.step(epoch, losses)
        if (epoch + 1) % PROGRESS_EVERY == 0 or epoch + 1 == recipe.epochs:
            progress(kernel.task.models * (epoch + 1 - reported))
            reported = epoch + 1
    record.note(recipe.epochs, kernel.differentiate()[0])
    live = kernel.to_flat(kernel.parameters)
    return Fit(
        parameters=live if average.value is None else kernel.to_flat(average.value),
        state=State(
            recipe.epochs,
            live,
            kernel.to_flat(adam.mean),
            kernel.to_flat(adam.square),
            schedule.rates,
            schedule.best,
            schedule.bad_epochs,
        ),
        recorded_epochs=torch.tensor(record.epochs),
        losses=torch.stack(record.losses, dim=-1),
        probe_losses=torch.stack(record.probes, dim=-1) if record.probes else None,
    )


class _Record:
    """Losses at the epochs that were asked for, and at the end."""

    def __init__(self, recipe: Recipe, kernel: Kernel) -> None:
        self._recipe = recipe
        self._kernel = kernel
        self.epochs: list[int] = []
        self.losses: list[Tensor] = []
        self.probes: list[Tensor] = []

    def wants(self, epoch: int) -> bool:
        every = self._recipe.record_every
        return epoch >= self._recipe.epochs or (every is not None and epoch % every == 0)

    def note(self, epoch: int, losses: Tensor) -> None:
        if not self.wants(epoch):
            return
        self.epochs.append(epoch)
        self.losses.append(losses.clone())
        if self._kernel.task.probe_inputs is not None:
            self.probes.append(self._kernel.probe())


@dataclass(frozen=True)
class Assessment:
    """Where models stand, in float64 whatever they were trained in."""

    probe_losses: Tensor  # (models, tests) in nats
    gradient_norm: Tensor  # (models,) of the objective, its regulariser included


def assess(task: Task, parameters: Tensor) -> Assessment:
    """Evaluate parameters (models, params) on the probes and rows of a task with probes."""
    task = replace(
        task,
        parameters=parameters.double(),
        inputs=task.inputs.double(),
        weights=task.weights.double(),
        probe_inputs=None if task.probe_inputs is None else task.probe_inputs.double(),
    )
    probes = 0 if task.probe_targets is None else len(task.probe_targets)
    structured = TorchEngine().supports(task.network, task.objective)
    losses, norms = [], []
    with torch_threads(1):
        for part in _chunks(pad_rows(task) if structured else task):
            kernel = STRUCTURED[type(task.network)](part) if structured else GenericKernel(part)
            losses.append(kernel.probe()[:, :probes])
            gradient = kernel.differentiate()[1]
            gradient.add_(kernel.parameters, alpha=task.objective.weight_decay)
            norms.append(gradient.norm(dim=-1))
    return Assessment(torch.cat(losses), torch.cat(norms))


class _Stopped(Exception):
    """Raised inside a worker when another one failed or the user interrupted."""


def _fit_in_chunks(
    task: Task,
    recipe: Recipe,
    progress: Progress,
    kernel: Callable[[Task], Kernel],
    after: Fit | None,
) -> Fit:
    """Train chunk by chunk, on as many threads as torch was given, each chunk on one.

    Small tensors gain nothing from threads within an operation, and an operation that is
    split between threads would compute the values at the seams by other instructions.
    """
    state = starting_state(task, recipe, after)
    task = replace(task, parameters=state.parameters)
    parts = _chunks(task)
    ends = [0, *itertools.accumulate(part.models for part in parts)]
    states = [state.part(first, last) for first, last in pairwise(ends)]
    stop, lock = threading.Event(), threading.Lock()

    def report(done: int) -> None:
        if stop.is_set():
            raise _Stopped
        with lock:
            progress(done)

    def run(part: tuple[Task, State]) -> Fit:
        return descend(kernel(part[0]), recipe, part[1], progress=report)

    threads = 1 if task.parameters.is_cuda else torch.get_num_threads()
    return _join(run_all(run, list(zip(parts, states, strict=True)), threads, stop.set))


def _activation_bytes(task: Task) -> int:
    """Return the size of the widest activation of all models together."""
    structure = structure_of(task.network)
    if structure is not None and structure.bayesian:
        widest = MOMENTS * max(structure.sizes)
    else:
        widest = max(p.shape[0] if p.dim() else 1 for p in task.network.parameters())
    return task.models * widest * task.inputs.shape[1] * task.parameters.element_size()


def _chunks(task: Task) -> list[Task]:
    """Split into equal parts of whole groups whose activations fit the budget."""
    budget = CUDA_CHUNK_BYTES if task.parameters.is_cuda else CHUNK_BYTES
    heads = isinstance(task.network, nn.Linear)  # those of one group share a product
    unit = task.models_per_group if heads or len(task.inputs) > 1 else 1
    units = task.models // unit
    count = min(units, -(-_activation_bytes(task) // budget))
    bounds = [units * index // count * unit for index in range(count + 1)]
    return [task.part(a, b) for a, b in pairwise(bounds)]


def _join(fits: list[Fit]) -> Fit:
    first = fits[0]
    if len(fits) == 1:
        return first
    probes = [fit.probe_losses for fit in fits if fit.probe_losses is not None]
    return Fit(
        parameters=torch.cat([fit.parameters for fit in fits]),
        state=State.joined([fit.state for fit in fits]),
        recorded_epochs=first.recorded_epochs,
        losses=torch.cat([fit.losses for fit in fits]),
        probe_losses=torch.cat(probes) if probes else None,
    )

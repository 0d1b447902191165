"""The torch engines: one loop of epochs over a kernel, models in cache-sized chunks."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

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
from ifcheck.engines.descent import descend, has_dropout
from ifcheck.engines.generic_kernel import GenericKernel
from ifcheck.engines.kernels import HeadKernel, Kernel, MLPKernel
from ifcheck.engines.padding import pad_rows
from ifcheck.engines.pool import run_all
from ifcheck.engines.structure import is_structured, structure_of
from ifcheck.engines.threads import torch_threads
from ifcheck.engines.variational_kernel import VariationalKernel
from ifcheck.models import MLP, ROWS_AT_ONCE, VariationalNetwork
from ifcheck.models.variational import VariationalHead
from ifcheck.objective import Objective

CHUNK_BYTES = 4 << 20  # widest activation of a chunk: large beside the cost of an operation
CUDA_CHUNK_BYTES = 1 << 30  # a GPU wants work to be large; about ten such buffers are alive
# Widest activation of a part from which threads within an operation gain more than parts side by
# side: decided by the part alone, so that a seed's result does not depend on its company.
WIDE_BYTES = 2 * CHUNK_BYTES
MOMENTS = 3  # tensors that stand for the activations of a Bayesian layer


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

    def supports(self, network: nn.Module, objective: Objective, recipe: Recipe) -> bool:
        return is_structured(network, objective)

    def fit(
        self,
        task: Task,
        recipe: Recipe,
        progress: Progress = silent,
        after: Fit | None = None,
    ) -> Fit:
        kernel = STRUCTURED[type(task.network)]
        padded = pad_rows(task) if recipe.batch_size is None else task  # a batch takes real rows
        fit = _fit_in_chunks(padded, recipe, progress, kernel, after)
        if fit.probe_losses is not None and task.probe_targets is not None:
            probes = fit.probe_losses[:, : len(task.probe_targets)]
            fit = replace(fit, probe_losses=probes)
        return fit.following(after)


@ENGINES.register("vmap")
@dataclass(frozen=True)
class VmapEngine:
    """Generic torch: vmap over any network, several times slower than structured torch."""

    rank: ClassVar[int] = 2

    def supports(self, network: nn.Module, objective: Objective, recipe: Recipe) -> bool:
        return True

    def fit(
        self,
        task: Task,
        recipe: Recipe,
        progress: Progress = silent,
        after: Fit | None = None,
    ) -> Fit:
        def kernel(part: Task) -> Kernel:
            return GenericKernel(part, training=True)

        return _fit_in_chunks(task, recipe, progress, kernel, after).following(after)


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
        weights=task.weights.double(),
    )
    probes = 0 if task.probe_targets is None else len(task.probe_targets)
    structured = is_structured(task.network, task.objective)
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
    parts = _chunks(task, recipe)
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

    items = list(zip(parts, states, strict=True))
    one_by_one = task.parameters.is_cuda or has_dropout(task.network)  # that draws globally
    if one_by_one or _activation_bytes(parts[0], recipe) > WIDE_BYTES:
        return _join([run(item) for item in items])
    return _join(run_all(run, items, torch.get_num_threads(), stop.set))


def _activation_bytes(task: Task, recipe: Recipe | None = None) -> int:
    """Return the size of the widest activation of all models together."""
    rows = task.inputs.shape[1]
    structure = structure_of(task.network)
    if structure is None:
        rows = min(rows, ROWS_AT_ONCE)
        widest = _widest_output(task)
    else:
        widest = max(structure.sizes) * (MOMENTS if structure.bayesian else 1)
    if recipe is not None and recipe.batch_size is not None:
        rows = min(rows, recipe.batch_size)
    return task.models * widest * rows * task.parameters.element_size()


def _widest_output(task: Task) -> int:
    """Return how many values the widest layer of a network without structure has for a row."""
    widest = [1]

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        tensors = [output] if isinstance(output, Tensor) else output
        widest.append(sum(tensor.numel() for tensor in tensors))

    network = task.network
    weights = {n: torch.empty_like(p, device="meta") for n, p in network.named_parameters()}
    hooks = [module.register_forward_hook(note) for module in network.modules()]
    try:
        functional_call(network, weights, (task.inputs[0, :1].to("meta"),))
    finally:
        for hook in hooks:
            hook.remove()
    return max(widest)


def _chunks(task: Task, recipe: Recipe | None = None) -> list[Task]:
    """Split into equal parts of whole groups whose activations fit the budget.

    In batches all models of a part see rows in one order: they are of one seed.
    """
    structured = structure_of(task.network) is not None
    budget = CUDA_CHUNK_BYTES if task.parameters.is_cuda else CHUNK_BYTES
    heads = isinstance(task.network, nn.Linear)  # those of one group share a product
    unit = task.models_per_group if heads or len(task.inputs) > 1 else 1
    if has_dropout(task.network) or (
        not structured and _activation_bytes(task.part(0, 1), recipe) > budget
    ):
        unit = 1
    units = task.models // unit
    count = min(units, -(-_activation_bytes(task, recipe) // budget))
    bounds = [units * index // count * unit for index in range(count + 1)]
    if recipe is not None and recipe.batch_size is not None:
        seeds = task.seeds
        bounds += [m for m in range(1, task.models) if seeds[m] != seeds[m - 1]]
    return [task.part(a, b) for a, b in pairwise(sorted(set(bounds)))]


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

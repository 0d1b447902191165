"""How many times faster each engine is than the ordinary sequential torch loop.

Loop (one thread) and engine (all threads) alternate in one process; a ratio is the median over
the rounds. The work is the paper's on Iris: 50 networks in training; their heads, 40 removals
each, in fine-tuning; the same removals with the whole network moving.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec

import torch
from torch import nn

from ifcheck.engines import ENGINES, Recipe, Task
from ifcheck.models import initialise
from ifcheck.models.mlp import MLPSpec
from ifcheck.objective import Objective, weights_without
from ifcheck.params import stack_modules
from tests.benchmarks import roofline
from tests.benchmarks import sequential_loop as loop

SEEDS, REMOVALS, WEIGHT_DECAY = 50, 40, 0.005
WARM_EPOCHS = 8_000  # after which the learning rate is at its floor, as where a removal starts
LOOP_EPOCHS = 150
ENGINE_SECONDS = 1.0  # of one measurement of training, about
SIZES = ((1, 5), (8, 5), (1, 50))
TYPES = {"f32": torch.float32, "f64": torch.float64}
HEADS, TRAINING, WHOLE = KINDS = ("head fine-tuning", "training", "whole-network leave-one-out")
# The protocol of retraining, 7,500 epochs with a patience of 100, made shorter in proportion: the
# schedule listens to the loss for the same share of the epochs. Training is measured where it
# starts, with the schedule listening all the time.
SHORTENED = {HEADS: Recipe(750, patience=10), WHOLE: Recipe(150, patience=2)}


@dataclass(frozen=True)
class Measurement:
    """One line of the table."""

    work: str
    size: str
    engine: str
    dtype: str
    loop_seconds: float  # of one model's epoch
    seconds: float  # of one model's epoch
    ratio: float
    share: float  # of the machine's limit


@dataclass(frozen=True)
class Work:
    """What is measured: a task of the engines, and the same by the loop."""

    name: str
    size: str
    task: Task
    recipe: Recipe | None  # None: training, for about as long as a measurement should take
    loop_seconds: Callable[[int], float]  # of one model's epoch, for a seed
    flops: float  # of products of matrices, in one model's epoch
    exponentials: float


def measure(
    rounds: int, names: list[str], limits: dict[str, roofline.Roofline]
) -> Iterator[Measurement]:
    """Yield a line for every work, size, type and engine, given the limit of each type."""
    for label, dtype in TYPES.items():
        for depth, width in SIZES:
            yield from measure_works(
                rounds, names, limits[label], label, plain_works(depth, width, dtype)
            )


def measure_works(
    rounds: int, names: list[str], limit: roofline.Roofline, label: str, works: list[Work]
) -> Iterator[Measurement]:
    """Yield a line for every work and engine."""
    for work in works:
        for name in names:
            yield _line(rounds, work, name, label, limit)


def engines() -> list[str]:
    """Return the engines to compare: numba where it is installed, and structured torch."""
    return [*(["numba"] if find_spec("numba") else []), "torch"]


def _line(rounds: int, work: Work, name: str, label: str, limit: roofline.Roofline) -> Measurement:
    engine, task = ENGINES.create(name), work.task
    recipe = work.recipe or Recipe(_epochs_for(lambda n: engine.fit(task, Recipe(n))))
    engine.fit(task, replace(recipe, epochs=8))  # what is compiled and loaded once
    pairs = []
    for index in range(rounds):
        ours = _timed(engine.fit, task, recipe) / recipe.epochs / task.models
        pairs.append((work.loop_seconds(index), ours))
    ours = statistics.median(own for _, own in pairs)
    return Measurement(
        work=work.name,
        size=work.size,
        engine=name,
        dtype=label,
        loop_seconds=statistics.median(one for one, _ in pairs),
        seconds=ours,
        ratio=statistics.median(one / own for one, own in pairs),
        share=limit.seconds(work.flops, work.exponentials) / ours,
    )


def _epochs_for(run: Callable[[int], object]) -> int:
    """Return how many epochs take about the time of a measurement."""
    epochs, seconds = 8, 0.0
    run(epochs)
    while seconds < ENGINE_SECONDS / 4:
        epochs *= 2
        seconds = _timed(run, epochs)
    return max(8, int(epochs * ENGINE_SECONDS / seconds))


def plain_works(depth: int, width: int, dtype: torch.dtype) -> list[Work]:
    """Return the three works of plain networks of one size."""
    works = []
    for kind, task in _tasks(depth, width, dtype).items():
        sizes = (width, 3) if kind == HEADS else (4, *[width] * depth, 3)
        flops, exponentials = roofline.work_of_an_epoch(sizes, task.inputs.shape[1])
        works.append(
            Work(
                name=kind,
                size=f"depth {depth}, width {width}",
                task=task,
                recipe=SHORTENED.get(kind),
                loop_seconds=partial(_loop_seconds, kind, depth, width, dtype),
                flops=flops,
                exponentials=exponentials,
            )
        )
    return works


def _tasks(depth: int, width: int, dtype: torch.dtype) -> dict[str, Task]:
    """Return the three works, the removals from networks that have been trained."""
    inputs, targets, *_ = loop.load_iris_without(loop.MAX_LOSS_ROW, dtype)
    spec = MLPSpec(depth, width)
    networks = [initialise(spec, (4,), 3, seed, dtype) for seed in range(SEEDS)]
    training = Task(
        network=networks[0],
        objective=Objective(WEIGHT_DECAY),
        parameters=stack_modules(networks),
        inputs=inputs[None],
        targets=targets,
        weights=weights_without(len(targets), torch.full((SEEDS, 1), -1), "n-1", dtype),
    )
    fastest = ENGINES.create(engines()[0])
    trained = fastest.fit(training, Recipe(WARM_EPOCHS)).parameters
    for network, flat in zip(networks, trained, strict=True):
        nn.utils.vector_to_parameters(flat, network.parameters())
    removed = torch.arange(REMOVALS).repeat(SEEDS)[:, None]
    whole = replace(
        training,
        parameters=trained.repeat_interleave(REMOVALS, dim=0),
        weights=weights_without(len(targets), removed, "n-1", dtype),
    )
    with torch.no_grad():
        features = torch.stack([network.features(inputs) for network in networks])
    heads = replace(
        whole,
        network=nn.Linear(width, 3, dtype=dtype),
        parameters=stack_modules([n.head for n in networks]).repeat_interleave(REMOVALS, dim=0),
        inputs=features,
    )
    return dict(zip(KINDS, (heads, training, whole), strict=True))


def _loop_seconds(kind: str, depth: int, width: int, dtype: torch.dtype, seed: int) -> float:
    """Return the seconds of one epoch of the sequential loop."""
    inputs, targets, *_ = loop.load_iris_without(loop.MAX_LOSS_ROW, dtype)
    torch.manual_seed(seed)
    model = loop.make_mlp(4, width, depth, 3, "selu").to(dtype)
    chosen = model.head.parameters() if kind == HEADS else None
    if kind != TRAINING:
        inputs, targets = inputs[1:], targets[1:]
    with loop.one_thread():

        def run() -> None:
            loop.train(
                model,
                inputs,
                targets,
                epochs=LOOP_EPOCHS,
                weight_decay=WEIGHT_DECAY,
                parameters=chosen,
            )

        return _timed(run) / LOOP_EPOCHS


def _timed(run: Callable[..., object], *arguments: object) -> float:
    started = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - started

"""How many times faster each engine is for Bayesian networks than their sequential torch loop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import torch

from ifcheck.engines import ENGINES, Recipe, Task
from ifcheck.models import VariationalSpec, initialise
from ifcheck.models.mlp import MLPSpec
from ifcheck.objective import VariationalObjective, uniform_weights, weights_without
from ifcheck.params import load_flat, stack_modules
from tests.benchmarks import bayesian_loop, engines, roofline
from tests.benchmarks import sequential_loop as loop
from tests.benchmarks.engines import (
    HEADS,
    SHORTENED,
    TRAINING,
    TYPES,
    Measurement,
    Work,
    measure_works,
)

SIZES = ((1, 5), (8, 5))
ACTIVATION = "selu"


def measure(
    rounds: int, names: list[str], limits: dict[str, roofline.Roofline]
) -> Iterator[Measurement]:
    """Yield a line for every work, size, type and engine, given the limit of each type."""
    for label, dtype in TYPES.items():
        for depth, width in SIZES:
            made = works(depth, width, dtype)
            yield from measure_works(rounds, names, limits[label], label, made)


def works(depth: int, width: int, dtype: torch.dtype) -> list[Work]:
    """Return training and head fine-tuning of Bayesian networks of one size."""
    inputs, targets, *_ = loop.load_iris_without(loop.MAX_LOSS_ROW, dtype)
    rows = len(targets)
    spec = VariationalSpec(MLPSpec(depth, width, ACTIVATION))
    networks = [initialise(spec, (4,), 3, seed, dtype) for seed in range(engines.SEEDS)]
    training = Task(
        network=networks[0],
        objective=VariationalObjective(rows=rows),
        parameters=stack_modules(networks),
        inputs=inputs[None],
        targets=targets,
        weights=uniform_weights(rows, dtype).expand(engines.SEEDS, -1),
    )
    fastest = ENGINES.create(engines.engines()[0])
    trained = fastest.fit(training, Recipe(engines.WARM_EPOCHS)).parameters
    for network, flat in zip(networks, trained, strict=True):
        load_flat(network, flat)
    with torch.no_grad():
        features = torch.stack([network.features(inputs) for network in networks])
    removals = engines.REMOVALS
    removed = torch.arange(removals).repeat(engines.SEEDS)[:, None]
    heads = Task(
        network=networks[0].head,
        objective=training.objective,
        parameters=stack_modules([n.head for n in networks]).repeat_interleave(removals, dim=0),
        inputs=features,
        targets=targets,
        weights=weights_without(rows, removed, "n", dtype),
    )
    return [
        _work(HEADS, (width, 3), depth, width, heads, dtype),
        _work(TRAINING, (4, *[width] * depth, 3), depth, width, training, dtype),
    ]


def _work(
    kind: str, sizes: tuple[int, ...], depth: int, width: int, task: Task, dtype: torch.dtype
) -> Work:
    flops, exponentials = roofline.work_of_an_epoch(sizes, task.inputs.shape[1])
    return Work(
        name=f"Bayesian {kind}",
        size=f"depth {depth}, width {width}",
        task=task,
        recipe=SHORTENED.get(kind),
        loop_seconds=partial(_loop_seconds, kind, depth, width, dtype),
        flops=3 * flops,  # a product of means, two of variances, each forwards and backwards
        exponentials=exponentials,
    )


def _loop_seconds(kind: str, depth: int, width: int, dtype: torch.dtype, seed: int) -> float:
    """Return the seconds of one epoch of the sequential loop."""
    inputs, targets, *_ = loop.load_iris_without(loop.MAX_LOSS_ROW, dtype)
    torch.manual_seed(seed)
    model = bayesian_loop.make_bayesian_mlp(4, width, depth, 3, ACTIVATION).to(dtype)
    head_only = kind == HEADS
    with loop.one_thread():
        started = time.perf_counter()
        loop.train(
            model,
            inputs,
            targets,
            epochs=engines.LOOP_EPOCHS,
            parameters=model.head.parameters() if head_only else None,
            criterion=bayesian_loop.criterion(len(targets), whole=not head_only),
        )
        return (time.perf_counter() - started) / engines.LOOP_EPOCHS

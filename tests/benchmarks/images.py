"""How many times faster work on image networks is than one row, or one model, after the other.

Random images in MNIST's sizes: speed does not depend on what they show. Loop and package
alternate in one process, both on all threads; a ratio is that of the medians over the
rounds. Only a part of the loop is run, of as many steps or rows as `LOOP_...` says, and scaled.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn import functional

from ifcheck.curvature.head import SoftmaxHeadLoss
from ifcheck.engines import ENGINES, Recipe, Task
from ifcheck.models import NETWORKS, Network, build, evaluate
from ifcheck.objective import Objective, uniform_weights, weights_without
from ifcheck.params import Layout, stack_modules
from ifcheck.removal.newton import HeadProblem, minimise_alike, polish_head

ROWS, REMOVALS, CLASSES = 60_000, 40, 10
LENET_ROWS, BATCH = 10_000, 1_024
WEIGHT_DECAY = 0.001
LOOP_EPOCHS, LOOP_SCORES, LOOP_HESSIANS, LOOP_LENET_EPOCHS = 20, 500, 50, 2
ENGINE_EPOCHS, LENET_EPOCHS = 200, 30
TELLING_SECONDS = 0.5  # what takes less is repeated within a round


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    work: str
    dtype: str
    loop_seconds: float | None  # None where there is no loop to compare with
    seconds: float


def measure(rounds: int) -> Iterator[Line]:
    """Yield a line for every work."""
    network, inputs, targets = _network("fc", {"width": 128}, ROWS, (1, 28, 28))
    for dtype in (torch.float32, torch.float64):
        yield _heads(rounds, network, inputs, targets, dtype)
    yield _scores(rounds, network, inputs, targets)
    yield _hessian(rounds, network, inputs, targets)
    yield _newton(rounds, network, inputs, targets)
    lenet, images, labels = _network("lenet", {}, LENET_ROWS, (1, 32, 32))
    for dtype in (torch.float32, torch.float64):
        yield _batches(rounds, lenet, images, labels, dtype)


def _network(
    name: str, options: dict[str, int], rows: int, shape: tuple[int, ...]
) -> tuple[Network, Tensor, Tensor]:
    torch.manual_seed(0)
    network = build(NETWORKS.create(name, options), shape, CLASSES)
    return network, torch.rand(rows, *shape), torch.randint(0, CLASSES, (rows,))


def _alternate(
    rounds: int, loop: Callable[[], float], ours: Callable[[], object]
) -> tuple[float, float]:
    """Return the medians of what the loop says it takes and of how long ours takes."""
    ours()  # what is allocated and loaded once
    repeats = repeats_to_tell(ours)
    pairs = [(loop(), timed(ours, repeats)) for _ in range(rounds)]
    return statistics.median(one for one, _ in pairs), statistics.median(own for _, own in pairs)


def repeats_to_tell(work: Callable[[], object]) -> int:
    """Return how often to repeat work within a round for the clock to tell its time."""
    return math.ceil(TELLING_SECONDS / timed(work, 1))


def timed(work: Callable[[], object], repeats: int) -> float:
    """Return the mean seconds of work over so many repeats."""
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - started) / repeats


def _head_task(network: Network, inputs: Tensor, targets: Tensor, dtype: torch.dtype) -> Task:
    features = evaluate(network.features, inputs).to(dtype)
    head = copy.deepcopy(network.head).to(dtype)
    removed = torch.arange(REMOVALS)[:, None]
    return Task(
        network=head,
        objective=Objective(WEIGHT_DECAY),
        parameters=stack_modules([head]).repeat(REMOVALS, 1),
        inputs=features[None],
        targets=targets,
        weights=weights_without(len(targets), removed, "n-1", dtype),
        seeds=(0,) * REMOVALS,
    )


def _heads(
    rounds: int, network: Network, inputs: Tensor, targets: Tensor, dtype: torch.dtype
) -> Line:
    task, engine = _head_task(network, inputs, targets, dtype), ENGINES.create("torch")

    def loop() -> float:
        model, rows = copy.deepcopy(network).to(dtype), inputs[1:].to(dtype)
        seconds = _retrain(model, rows, targets[1:], LOOP_EPOCHS, None)
        return seconds * REMOVALS * ENGINE_EPOCHS / LOOP_EPOCHS

    one, own = _alternate(rounds, loop, lambda: engine.fit(task, Recipe(ENGINE_EPOCHS)))
    scale = 2_000 / ENGINE_EPOCHS
    work = "fc 128, 60,000 rows: head without each of 40 rows, 2,000 epochs"
    return Line(work, str(dtype)[6:], one * scale, own * scale)


def _batches(
    rounds: int, network: Network, inputs: Tensor, targets: Tensor, dtype: torch.dtype
) -> Line:
    engine, recipe = ENGINES.create("torch"), Recipe(LENET_EPOCHS, batch_size=BATCH)

    def ours() -> object:
        return engine.fit(_head_task(network, inputs, targets, dtype), recipe)  # with its features

    def loop() -> float:
        model, rows = copy.deepcopy(network).to(dtype), inputs[1:].to(dtype)
        seconds = _retrain(model, rows, targets[1:], LOOP_LENET_EPOCHS, BATCH)
        return seconds * REMOVALS * LENET_EPOCHS / LOOP_LENET_EPOCHS

    work = "LeNet, 10,000 rows: head without each of 40 rows, 30 epochs of batches"
    return Line(work, str(dtype)[6:], *_alternate(rounds, loop, ours))


def _retrain(
    model: Network, inputs: Tensor, targets: Tensor, epochs: int, batch: int | None
) -> float:
    """Return how long an ordinary loop fine-tunes one head, everything below it frozen."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.head.requires_grad_(True)
    optimizer = torch.optim.Adam(model.head.parameters(), lr=1e-3, weight_decay=WEIGHT_DECAY)
    started = time.perf_counter()
    for _ in range(epochs):
        order = torch.arange(len(targets)) if batch is None else torch.randperm(len(targets))
        for rows in order.split(batch or len(targets)):
            x, y = (inputs, targets) if batch is None else (inputs[rows], targets[rows])
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            loss.item()
            optimizer.step()
    return time.perf_counter() - started


def _scores(rounds: int, network: Network, inputs: Tensor, targets: Tensor) -> Line:
    """Given the solve: the scores of all rows, from features that are there."""
    features, flat = _features(network, inputs)
    direction = torch.randn_like(flat)
    head = copy.deepcopy(network.head).double()
    parameters = list(head.parameters())

    def loop() -> float:
        started = time.perf_counter()
        for row in range(LOOP_SCORES):
            loss = functional.cross_entropy(head(features[row : row + 1]), targets[row : row + 1])
            gradients = torch.autograd.grad(loss, parameters)
            float(torch.cat([g.flatten() for g in gradients]) @ direction)
        return (time.perf_counter() - started) * ROWS / LOOP_SCORES

    loss = SoftmaxHeadLoss(CLASSES)
    one, own = _alternate(
        rounds, loop, lambda: loss.row_products(flat, features, targets, direction[None])
    )
    return Line("fc 128, 60,000 rows: scores for one test point", "float64", one, own)


def _hessian(rounds: int, network: Network, inputs: Tensor, targets: Tensor) -> Line:
    features, flat = _features(network, inputs)
    head = copy.deepcopy(network.head).double()
    layout = Layout.of(head)

    def row_loss(vector: Tensor, row: Tensor, target: Tensor) -> Tensor:
        outputs = functional_call(head, layout.unflatten(vector), (row[None],))
        return functional.cross_entropy(outputs, target[None])

    def loop() -> float:
        started = time.perf_counter()
        total = torch.zeros(len(flat), len(flat), dtype=flat.dtype)
        for row in range(LOOP_HESSIANS):
            total += torch.func.jacrev(grad(row_loss))(flat, features[row], targets[row])
        return (time.perf_counter() - started) * ROWS / LOOP_HESSIANS

    loss = SoftmaxHeadLoss(CLASSES)
    weights = uniform_weights(ROWS, flat.dtype, flat.device)
    one, own = _alternate(rounds, loop, lambda: loss.hessian(flat, features, targets, weights))
    return Line("fc 128, 60,000 rows: exact Hessian of the head", "float64", one, own)


def _newton(rounds: int, network: Network, inputs: Tensor, targets: Tensor) -> Line:
    """From where training might have ended: near the optimum, as its head is moved there."""
    exact, objective = copy.deepcopy(network).double(), Objective(WEIGHT_DECAY)
    train = (inputs.double(), targets)
    optimum = polish_head(exact, objective, train).flat[0]
    nn.utils.vector_to_parameters(
        optimum + 0.01 * torch.randn_like(optimum), exact.head.parameters()
    )
    removed = torch.arange(-1, REMOVALS)[:, None]
    weights = weights_without(ROWS, removed, "n-1")
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        found = minimise_alike(*HeadProblem.of(exact, objective, train, weights))
        seconds.append(time.perf_counter() - started)
        if not bool(found.converged.all()):
            raise RuntimeError("Newton's method did not converge")
    work = "fc 128, 60,000 rows: newton without each of 40 rows, features included"
    return Line(work, "float64", None, statistics.median(seconds))


def _features(network: Network, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return features and the head's flat parameters, in float64."""
    flat = nn.utils.parameters_to_vector(network.head.parameters()).detach().double()
    return evaluate(network.features, inputs).double(), flat

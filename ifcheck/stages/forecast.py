"""What a study of large networks will take, told before it is run.

A few short pieces of the same work are timed on random rows, and their times multiplied: seconds,
where the stages themselves at a small size (`--dry-run`) would take minutes. Times are those of
one seed after another, and count as if no training stopped early and no power iteration
converged: networks side by side, and most trainings, take less.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ifcheck.config import Config
from ifcheck.curvature.dense import Differentiable
from ifcheck.curvature.head_loss import head_loss
from ifcheck.curvature.operator import dense_bytes
from ifcheck.engines import Task, select_engine
from ifcheck.memory import LARGEST_IN_MEMORY, peak_device_bytes, peak_memory_bytes
from ifcheck.models import Network, evaluate, initialise
from ifcheck.objective import uniform_weights
from ifcheck.params import Layout, stack_modules
from ifcheck.removal import TRUTHS, RemovalProblem, Training
from ifcheck.removal.newton import SHARED_WORK, WORK_PER_ROW
from ifcheck.spectrum import SPECTRA
from ifcheck.stages.cells import Cell
from ifcheck.stages.removals import parse_removals
from ifcheck.stages.reporting import Reporter, duration
from ifcheck.stages.retrain import with_truth
from ifcheck.stages.selections import further_retrainings
from ifcheck.stages.setup import DTYPES, Setup, make_setup, truth_method
from ifcheck.stages.train import network_layout

HEAVY = 1e7  # training rows times parameters from which a study takes minutes
FIRST_ROWS, GROWTH = 16, 4  # of a timed piece, whose rows grow until its time tells something
TELLING_SECONDS, LONG_SECONDS = 0.2, 2.0
MULTIPLIED = 1_024  # rows and columns of the matrices by which multiplication is timed
NEWTON_HESSIANS = 5  # that `newton` forms for a problem, or for all alike problems, about
# Decompositions of a dense matrix take about so many multiplications of P x P matrices' work.
DECOMPOSITION = 12
# Copies of what a study holds: the inputs in the training's type and in float64; parameters with
# gradient, moments and best so far; features as evaluated, with ones, and transposed.
INPUT_COPIES, PARAMETER_COPIES, FEATURE_COPIES = 2, 7, 3
DOUBLE = 8  # bytes
DEFAULT_REMOVALS = 40


@dataclass
class Forecast:
    """What the cells of a study that are not finished will take."""

    seconds: dict[str, float] = field(default_factory=dict)  # by stage, at most
    memory_bytes: float = 0.0  # of the largest cell

    def add(self, step: str, seconds: float) -> None:
        """Add time of a stage."""
        self.seconds[step] = self.seconds.get(step, 0.0) + seconds

    def __str__(self) -> str:
        parts = [f"{step} {duration(seconds)}" for step, seconds in self.seconds.items()]
        return (
            f"this takes at most about {duration(sum(self.seconds.values()))} ({', '.join(parts)}) "
            f"and {self.memory_bytes / 1e9:.1f} GB of memory; less time where training stops early "
            "and power iteration converges, as they mostly do."
        )


def forecast(cells: Sequence[Cell], reporter: Reporter) -> Forecast | None:
    """Return what those of the cells that have large networks will take; None where none has.

    Raises: UnknownName, UnusableInput.
    """
    setups = [make_setup(cell.config) for cell in cells]
    large = [s for s in setups if s.dataset.train_rows(1) * network_layout(s).size >= HEAVY]
    if not large:
        return None
    found, progress = Forecast(), reporter.step("looking ahead", len(large))
    for setup in large:
        _add(found, setup)
        progress(1)
    return found


def _add(found: Forecast, setup: Setup) -> None:
    config, rows = setup.config, setup.dataset.train_rows(1)
    seeds = len(config.train.seeds)
    network = initialise(
        setup.spec, setup.dataset.input_shape, setup.dataset.classes, 0, setup.dtype
    ).to(setup.device)
    sample = _Sample(setup, network)
    found.add("train", seeds * rows * config.train.epochs * sample.training())
    features, head = sample.features(), sample.head_hessian()
    scores = (
        rows * (features + head) + DECOMPOSITION * sample.multiplication() * _head(network) ** 3
    )
    found.add("influence", seeds * len(config.study.estimators) * scores)
    removals = _removals(config, rows)
    retrainings = {f"retrain {truth}": with_truth(config, truth) for truth in config.study.truths}
    for step, own in (retrainings | further_retrainings(config)).items():
        part, count = make_setup(own).config, _removals(own, rows)
        if TRUTHS.create(part.retrain.truth).has_trajectory:
            few, more = (sample.retraining(part, count, epochs) for epochs in (1, 3))
            once = few + max(0.0, more - few) / 2 * (part.retrain.epochs - 1)
            once *= part.retrain.replicates
        else:
            once = features + head * _newton_hessians(setup, network, rows, count + 1)
        found.add(step.replace("-", " ", 1), seeds * rows * once)
    products = SPECTRA.create(config.eigen.method).products(network_layout(setup).size)
    products *= config.eigen.top
    if config.eigen.density:
        products += config.eigen.density_probes * config.eigen.density_steps
    eigen = products * sample.hessian_product()
    found.add("eigen", seeds * rows * eigen)
    found.memory_bytes = max(found.memory_bytes, _memory(setup, network, rows, removals))


def _removals(config: Config, rows: int) -> int:
    """Return how often rows leave; a file that says which (like:FILE) counts as the default's."""
    kind, text = parse_removals(config.retrain.removals, rows, config.retrain.group_size)
    if kind == "ids":
        return (text.count(",") + 1) // config.retrain.group_size
    return int(text) if text.isdecimal() else DEFAULT_REMOVALS


def _newton_hessians(setup: Setup, network: Network, rows: int, problems: int) -> int:
    """Return how many Hessians of the head `newton` forms for so many problems, about."""
    if problems * rows * _head(network) ** 2 < SHARED_WORK:
        return problems * NEWTON_HESSIANS
    convex = head_loss(network, setup.objective).convex
    return NEWTON_HESSIANS + (0 if convex else problems)  # which shows that each is a minimum


def _head(network: Network) -> int:
    return sum(parameter.numel() for parameter in network.head.parameters())


def _memory(setup: Setup, network: Network, rows: int, removals: int) -> float:
    """Return what a cell holds besides what timing its pieces took, and that."""
    seeds = len(setup.config.train.seeds)
    numbers = torch.Size(setup.dataset.input_shape).numel()
    inputs = INPUT_COPIES * rows * numbers * DOUBLE
    training = PARAMETER_COPIES * seeds * network_layout(setup).size * setup.dtype.itemsize
    features = rows * _head(network) / setup.dataset.classes * DOUBLE  # of one network, about
    retraining = FEATURE_COPIES * min(seeds * features, LARGEST_IN_MEMORY)
    newton = WORK_PER_ROW * rows * (removals + 1) * DOUBLE
    cuda = setup.device.type == "cuda"
    timed = peak_device_bytes(setup.device) if cuda else peak_memory_bytes()
    return timed + inputs + max(training, retraining, newton, dense_bytes(_head(network)))


@dataclass(frozen=True)
class _Sample:
    """Pieces of a cell's work on random inputs, each timed: seconds per row."""

    setup: Setup
    network: Network

    def training(self) -> float:
        """Return the time of one network's epoch."""
        name, objective = self.setup.config.run.engine, self.setup.objective
        recipe = replace(self.setup.plain_recipe(1, None, False), batch_size=None)
        _, engine = select_engine(name, self.network, objective, recipe)

        def epoch(rows: int) -> object:
            inputs, targets = self._rows(rows, self.setup.dtype)
            weights = uniform_weights(rows, self.setup.dtype, self.setup.device)[None]
            start = stack_modules([self.network])
            return engine.fit(
                Task(self.network, objective, start, inputs[None], targets, weights, (0,)), recipe
            )

        return self._per_row(epoch)

    def retraining(self, config: Config, removals: int, epochs: int) -> float:
        """Return the time of so many epochs without each of so many rows, and with all."""
        setup, whole = make_setup(config), config.retrain.params == "all"
        dtype = setup.dtype if whole else torch.float64
        method = truth_method(config.retrain)

        def epoch(rows: int) -> object:
            train = self._rows(rows, dtype)
            problem = RemovalProblem(
                networks=[copy.deepcopy(self.network).to(dtype)],
                live=None,
                objective=setup.objective,
                recipe=setup.plain_recipe(epochs, None, False),
                engine=config.run.engine,
                params=config.retrain.params,
                normalisation=config.retrain.normalisation,
                removed=torch.arange(removals, device=setup.device)[None, :, None] % rows,
                seeds=(0,),
                train=train,
                test=self._rows(1, dtype),
                training=Training(lambda _: copy.deepcopy(self.network), polish=False),
            )
            return method.remove(problem)

        return self._per_row(epoch)

    def features(self) -> float:
        """Return the time of the head's features in float64."""
        network = copy.deepcopy(self.network).double()
        return self._per_row(
            lambda rows: evaluate(network.features, self._rows(rows, torch.float64)[0])
        )

    def head_hessian(self) -> float:
        """Return the time of the head's Hessian in closed form, from features."""
        network, objective = copy.deepcopy(self.network).double(), self.setup.objective
        flat = Layout.of(network.head).flatten(dict(network.head.named_parameters())).detach()
        of_a_row = evaluate(network.features, self._rows(1, torch.float64)[0])

        def hessian(rows: int) -> object:
            features = of_a_row.expand(rows, *of_a_row.shape[1:]).contiguous()
            targets = self._rows(rows, torch.float64)[1]
            weights = uniform_weights(rows, torch.float64, self.setup.device)
            return head_loss(network, objective).hessian(flat, features, targets, weights)

        return self._per_row(hessian)

    def hessian_product(self) -> float:
        """Return the time of a product with the whole network's Hessian."""
        dtype = DTYPES[self.setup.config.eigen.dtype]
        network = copy.deepcopy(self.network).to(dtype)
        model = Differentiable(network, self.setup.objective)
        direction = torch.ones_like(model.parameters)[None]

        def product(rows: int) -> object:
            weights = uniform_weights(rows, dtype, self.setup.device)
            return model.hessian_products(*self._rows(rows, dtype), weights)(direction)

        return self._per_row(product)

    def multiplication(self) -> float:
        """Return the time of one multiplication and addition in a large float64 product."""
        matrix = torch.ones(MULTIPLIED, MULTIPLIED, dtype=torch.float64, device=self.setup.device)
        return self._timed(lambda size: matrix @ matrix, MULTIPLIED) / MULTIPLIED**3

    def _rows(self, rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        size, device = (rows, *self.setup.dataset.input_shape), self.setup.device
        targets = torch.arange(rows, device=device) % self.setup.dataset.classes
        generator = torch.Generator().manual_seed(0)
        return torch.rand(size, dtype=dtype, generator=generator).to(device), targets

    def _per_row(self, work: Callable[[int], object]) -> float:
        """Return how much longer more rows take; what a call takes beside them is no row's."""
        limit = self.setup.dataset.train_rows(1)
        work(FIRST_ROWS)  # pays for what is loaded once
        fewer, before = FIRST_ROWS, self._timed(work, FIRST_ROWS)
        while True:
            rows = max(FIRST_ROWS + 1, min(GROWTH * fewer, limit))
            seconds = self._timed(work, rows)
            if seconds >= TELLING_SECONDS or rows >= limit:
                return (seconds - before) / (rows - fewer) if seconds > before else seconds / rows
            fewer, before = rows, seconds

    def _timed(self, work: Callable[[int], object], rows: int) -> float:
        """Return how long work on so many rows takes: the shorter of two times, if they are short.

        The longer one has waited for something else.
        """
        shortest = math.inf
        for _ in range(2):
            started = time.perf_counter()
            work(rows)
            if self.setup.device.type == "cuda":
                torch.cuda.synchronize(self.setup.device)
            shortest = min(shortest, time.perf_counter() - started)
            if shortest >= LONG_SECONDS:
                break
        return shortest

"""What a study of large networks will take, told before it is run.

A few short pieces of the same work are timed on random rows, and their times multiplied: seconds,
where the stages themselves at a small size (`--dry-run`) would take minutes. Times are those of
one seed after another, and count as if no training stopped early and no power iteration
converged: networks side by side, and most trainings, take less.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ifcheck.config import Config
from ifcheck.curvature.dense import Differentiable
from ifcheck.curvature.head_loss import head_loss
from ifcheck.curvature.operator import DENSE_COPIES
from ifcheck.engines import Task, select_engine
from ifcheck.memory import peak_memory_bytes
from ifcheck.models import Network, evaluate, initialise
from ifcheck.objective import uniform_weights
from ifcheck.params import Layout, stack_modules
from ifcheck.removal import TRUTHS, RemovalProblem
from ifcheck.spectrum import SPECTRA
from ifcheck.spectrum.power import PowerIteration
from ifcheck.stages.cells import FINISHED_FILE, Cell
from ifcheck.stages.fragility import check_study, with_truth
from ifcheck.stages.reporting import Reporter, Silent
from ifcheck.stages.retrain import parse_removals
from ifcheck.stages.setup import Setup, make_setup
from ifcheck.stages.stage import stage
from ifcheck.stages.train import network_layout

HEAVY = 1e7  # training rows times parameters from which a study takes minutes
FIRST_ROWS, GROWTH = 16, 4  # of a timed piece, whose rows grow until its time tells something
TELLING_SECONDS, LONG_SECONDS = 0.2, 2.0
MULTIPLIED = 1_024  # rows and columns of the matrices by which multiplication is timed
SHARED_HESSIANS = 3  # that `newton` forms for a softmax head, about
# Decompositions of a dense matrix take about so many multiplications of P x P matrices' work.
DECOMPOSITION = 12
# Copies of what a study holds: the inputs in the training's type and in float64; parameters with
# gradient, moments and best so far; features as evaluated, with ones, and transposed.
INPUT_COPIES, PARAMETER_COPIES, FEATURE_COPIES = 2, 7, 3
DOUBLE = 8  # bytes


@dataclass
class Forecast:
    """What the cells of a study that are not finished will take."""

    seconds: dict[str, float] = field(default_factory=dict)  # by stage, at most
    memory_bytes: float = 0.0  # of the largest cell

    def add(self, step: str, seconds: float) -> None:
        """Add time of a stage."""
        self.seconds[step] = self.seconds.get(step, 0.0) + seconds

    @property
    def total_seconds(self) -> float:
        """Time of all stages together."""
        return sum(self.seconds.values())


@stage
def forecast_study(config: Config, out: Path, reporter: Reporter | None = None) -> Forecast | None:
    """Return what the unfinished large cells of a study will take; None where there are none.

    Raises: UnknownName, UnusableInput.
    """
    reporter = reporter or Silent()
    todo = [
        (cell, setup)
        for cell, setup in ((cell, make_setup(cell.config)) for cell in check_study(config))
        if setup.dataset.train_rows(1) * network_layout(setup).size >= HEAVY
        and not (out / "cells" / cell.id / FINISHED_FILE).is_file()
    ]
    if not todo:
        return None
    found, progress = Forecast(), reporter.step("looking ahead", len(todo))
    for cell, setup in todo:
        _add(found, cell, setup)
        progress(1)
    return found


def _add(found: Forecast, cell: Cell, setup: Setup) -> None:
    config, objective = cell.config, setup.objective
    seeds, rows = len(config.train.seeds), setup.dataset.train_rows(1)
    network = initialise(
        setup.spec, setup.dataset.input_shape, setup.dataset.classes, 0, setup.dtype
    ).to(setup.device)
    sample = _Sample(setup, network)
    found.add("train", seeds * config.train.epochs * rows * sample.training())
    head = sample.head_hessian()
    size = sum(parameter.numel() for parameter in network.head.parameters())
    decomposition = DECOMPOSITION * size**3 * sample.multiplication()
    found.add("influence", seeds * len(config.study.estimators) * (rows * head + decomposition))
    _, text = parse_removals(config.retrain.removals, rows)
    removals = int(text) if text.isdecimal() else text.count(",") + 1
    for truth in config.study.truths:
        part = with_truth(config, truth)
        if TRUTHS.create(part.retrain.truth).has_trajectory:
            passes = part.retrain.epochs * sample.retraining(part, removals)
        else:
            convex = head_loss(network, objective).convex
            passes = head * (SHARED_HESSIANS + (0 if convex else removals + 1))
        found.add(f"retrain {truth}", seeds * rows * passes)
    method = SPECTRA.create(config.eigen.method)
    if isinstance(method, PowerIteration):
        found.add("eigen", seeds * rows * method.iterations * sample.hessian_product())
    found.memory_bytes = max(found.memory_bytes, _memory(setup, network, rows, seeds))


def _memory(setup: Setup, network: Network, rows: int, seeds: int) -> float:
    """Return what a cell holds besides what timing its pieces took, and that."""
    numbers = torch.Size(setup.dataset.input_shape).numel()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    head = sum(parameter.numel() for parameter in network.head.parameters())
    columns = head / setup.dataset.classes
    inputs = INPUT_COPIES * rows * numbers * DOUBLE
    training = PARAMETER_COPIES * seeds * parameters * setup.dtype.itemsize
    retraining = FEATURE_COPIES * seeds * rows * columns * DOUBLE
    return peak_memory_bytes() + inputs + max(training, retraining, DENSE_COPIES * head**2 * DOUBLE)


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

    def retraining(self, config: Config, removals: int) -> float:
        """Return the time of one epoch without each of so many rows, and with all."""
        setup, whole = make_setup(config), config.retrain.params == "all"
        dtype = setup.dtype if whole else torch.float64
        method = TRUTHS.create(config.retrain.truth)

        def epoch(rows: int) -> object:
            train = self._rows(rows, dtype)
            problem = RemovalProblem(
                networks=[copy.deepcopy(self.network).to(dtype)],
                live=None,
                objective=setup.objective,
                recipe=setup.plain_recipe(1, None, False),
                engine=config.run.engine,
                params=config.retrain.params,
                normalisation=config.retrain.normalisation,
                removed=torch.arange(removals, device=setup.device)[None] % rows,
                seeds=(0,),
                train=train,
                test=self._rows(1, dtype),
            )
            return method.remove(problem)

        return self._per_row(epoch)

    def head_hessian(self) -> float:
        """Return the time of the head's Hessian in closed form."""
        network, objective = copy.deepcopy(self.network).double(), self.setup.objective

        def hessian(rows: int) -> object:
            inputs, targets = self._rows(rows, torch.float64)
            weights = uniform_weights(rows, torch.float64, self.setup.device)
            flat = Layout.of(network.head).flatten(dict(network.head.named_parameters()))
            features = evaluate(network.features, inputs)
            return head_loss(network, objective).hessian(flat.detach(), features, targets, weights)

        return self._per_row(hessian)

    def hessian_product(self) -> float:
        """Return the time of a product with the whole network's Hessian, in float64."""
        network = copy.deepcopy(self.network).double()
        model = Differentiable(network, self.setup.objective)
        direction = torch.ones_like(model.parameters)[None]

        def product(rows: int) -> object:
            weights = uniform_weights(rows, torch.float64, self.setup.device)
            return model.hessian_product(*self._rows(rows, torch.float64), weights, direction)

        return self._per_row(product)

    def multiplication(self) -> float:
        """Return the time of one multiplication and addition in a large float64 product."""
        matrix = torch.ones(MULTIPLIED, MULTIPLIED, dtype=torch.float64, device=self.setup.device)
        return self._timed(lambda size: matrix @ matrix, MULTIPLIED) / MULTIPLIED**3

    def _rows(self, rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        shape, device = self.setup.dataset.input_shape, self.setup.device
        targets = torch.arange(rows, device=device) % self.setup.dataset.classes
        return torch.rand(rows, *shape, dtype=dtype, device=device), targets

    def _per_row(self, work: Callable[[int], object]) -> float:
        """Return how much longer more rows take; what a call takes beside them is no row's."""
        fewer, before = FIRST_ROWS, self._timed(work, FIRST_ROWS)
        while True:
            rows = GROWTH * fewer
            seconds = self._timed(work, rows)
            if seconds >= TELLING_SECONDS or rows >= self.setup.dataset.train_rows(1):
                return max(0.0, seconds - before) / (rows - fewer)
            fewer, before = rows, seconds

    def _timed(self, work: Callable[[int], object], rows: int) -> float:
        """Return how long work on so many rows takes."""
        for _ in range(2):  # the first call pays for what is loaded once
            started = time.perf_counter()
            work(rows)
            if self.setup.device.type == "cuda":
                torch.cuda.synchronize(self.setup.device)
            seconds = time.perf_counter() - started
            if seconds >= LONG_SECONDS:
                break
        return seconds

"""The numba engine: each model's whole run compiled and in cache, models spread over threads."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ifcheck import memory
from ifcheck.engines.base import Fit, Progress, Recipe, State, Task, starting_state
from ifcheck.engines.compiled.bayesian import BayesianPerceptron
from ifcheck.engines.compiled.descent import Block, Models, Rows, Settings, advance
from ifcheck.engines.compiled.layers import ACTIVATIONS
from ifcheck.engines.compiled.perceptron import Perceptron
from ifcheck.engines.kernels import one_hot
from ifcheck.engines.optimiser import BETA1, BETA2, annealed_share
from ifcheck.engines.padding import pad_columns, pad_rows
from ifcheck.engines.pool import run_all
from ifcheck.engines.structure import means_then_rho, require_structure
from ifcheck.objective import VariationalObjective
from ifcheck.params import Layout

FIRST_BLOCK = 1  # epochs until the speed is known; later blocks are up to twice as long
BLOCK_SECONDS = 0.25  # between two reports of progress, and until Ctrl-C is heard
PARTS_PER_THREAD = 4  # of a block, so that a thread that was held up is waited for less


class Descent:
    """All models of a task between two blocks of epochs."""

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        after: Fit | None = None,
        rates: NDArray[np.float64] | None = None,
    ) -> None:
        """`rates` (models, epochs) takes the schedule's place, for tests of what is descended."""
        self._task = task
        self._recipe = recipe
        self._after = after
        self._rates = np.zeros((task.models, 0)) if rates is None else rates
        self._network = _compiled_network(task)
        self._places = means_then_rho(Layout.of(task.network))
        padded = pad_rows(task)
        self._rows = self._make_rows(padded.inputs, padded.targets, padded.weights)
        self._probes: Rows | None = None
        if task.probe_inputs is not None and task.probe_targets is not None:
            watched = torch.ones(task.models, len(task.probe_targets)).to(task.weights)
            self._probes = self._make_rows(task.probe_inputs, task.probe_targets, watched)
        start = starting_state(task, recipe, after)
        self._first = start.epoch
        self._models = self._make_models(start)
        self._every = recipe.record_every or max(1, recipe.epochs)
        self._settings = self._make_settings()
        self._losses = np.zeros((task.models, -(-recipe.epochs // self._every)))
        self._row_losses = np.empty_like(self._rows.weights)

    def _make_rows(self, inputs: Tensor, targets: Tensor, weights: Tensor) -> Rows:
        labels = one_hot(targets, int(self._network.sizes[-1]), weights.dtype)
        return Rows(
            inputs=memory.copy(inputs.flatten(2).transpose(1, 2)).numpy(),
            group=np.repeat(np.arange(len(inputs)), self._task.models_per_group),
            labels=labels.contiguous().numpy(),
            weights=weights.contiguous().numpy(),
        )

    def _make_models(self, start: State) -> Models:
        parameters, mean, square = map(
            self._from_flat, (start.parameters, start.mean, start.square)
        )
        none_averaged = torch.zeros_like(start.rates)
        schedule = torch.stack([start.rates, start.best, start.bad_epochs, none_averaged], dim=1)
        return Models(parameters, mean, square, np.zeros_like(parameters), schedule.numpy())

    def _from_flat(self, flat: Tensor) -> NDArray[Any]:
        values = torch.zeros_like(flat)
        values[:, self._places] = flat
        return np.asarray(pad_columns(values).numpy())

    def _to_flat(self, values: NDArray[Any]) -> Tensor:
        """Return a copy of parameters in the order of the network's layout."""
        return torch.from_numpy(values)[:, self._places]

    def _make_settings(self) -> Settings:
        recipe, averaging = self._recipe, self._recipe.averaging
        return Settings(
            weight_decay=float(self._task.objective.weight_decay),
            patience=float(recipe.patience),
            factor=float(recipe.factor),
            threshold=float(recipe.threshold),
            averaging_start=math.inf if averaging is None else float(averaging.start),
            averaging_rate=0.0 if averaging is None else float(averaging.learning_rate),
            stop_at_floor=recipe.stop_at_floor,
            frozen=False,
            record_every=self._every,
        )

    def run(self, progress: Progress) -> Fit:
        """Run all epochs, block by block."""
        probes = []
        for first, last in self._blocks():
            if self._probes is not None and self._recorded(first):
                probes.append(self._evaluate(self._probes)[1])
            block = self._block(first, last)
            self._advance(self._rows, self._settings, block, self._losses, self._row_losses)
            progress(self._task.models * (last - first))
        if self._probes is not None:
            probes.append(self._evaluate(self._probes)[1])
        return self._fit(torch.stack(probes, -1) if probes else None).following(self._after)

    def _fit(self, probes: Tensor | None) -> Fit:
        epochs = [e for e in range(self._first, self._recipe.epochs) if self._recorded(e)]
        losses = torch.from_numpy(self._losses[:, [e // self._every for e in epochs]])
        last_losses, _ = self._evaluate(self._rows)
        live, mean, square, average = map(self._to_flat, self._models[:4])
        rates, best, bad_epochs, averaged = torch.from_numpy(self._models.schedule).unbind(1)
        return Fit(
            parameters=average if bool((averaged > 0).any()) else live,
            state=State(
                epoch=self._recipe.epochs,
                parameters=live,
                mean=mean,
                square=square,
                rates=rates,
                best=best,
                bad_epochs=bad_epochs,
                stale_epochs=torch.zeros_like(bad_epochs),  # no recipe asks for it here
                largest_square=live[:, :0],
            ),
            recorded_epochs=torch.tensor([*epochs, self._recipe.epochs]),
            losses=torch.cat([losses, last_losses[:, None]], dim=1),
            probe_losses=probes,
        )

    def _recorded(self, epoch: int) -> bool:
        return self._recipe.record_every is not None and epoch % self._every == 0

    def _blocks(self) -> Iterator[tuple[int, int]]:
        """Yield blocks of about equal time, which end where a probe is recorded."""
        every = self._recipe.epochs if self._probes is None else self._every
        first, size = self._first, FIRST_BLOCK
        while first < self._recipe.epochs:
            last = min(first + size, (first // every + 1) * every, self._recipe.epochs)
            started = time.perf_counter()
            yield first, last
            seconds = max(time.perf_counter() - started, 1e-6)
            size = max(1, min(2 * size, int((last - first) * BLOCK_SECONDS / seconds)))
            first = last

    def _advance(
        self,
        rows: Rows,
        settings: Settings,
        block: Block,
        losses: NDArray[np.float64],
        row_losses: NDArray[np.floating],
    ) -> None:
        """Run all models through a block of epochs, parts of them at a time on torch's threads."""
        threads = torch.get_num_threads()
        parts = min(self._task.models, PARTS_PER_THREAD * threads)
        bounds = [self._task.models * part // parts for part in range(parts + 1)]

        def run(part: tuple[int, int]) -> None:
            advance(
                self._network,
                rows,
                self._models,
                settings,
                block,
                losses,
                row_losses,
                *part,
            )

        run_all(run, list(pairwise(bounds)), threads)

    def _evaluate(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return each model's loss (models,), and that of each row (models, rows)."""
        every_epoch = self._settings._replace(frozen=True, record_every=1)
        block = Block(0, np.ones((1, 2)), np.zeros((1, 2)), self._rates[:, :0])
        losses = np.empty((self._task.models, 1))
        of_rows = np.empty((self._task.models, rows.labels.shape[1]), rows.labels.dtype)
        self._advance(rows, every_epoch, block, losses, of_rows)
        return torch.from_numpy(losses[:, 0]), torch.from_numpy(of_rows)

    def _block(self, first: int, last: int) -> Block:
        """Return the epochs first..last-1 with what depends on them alone."""
        return Block(
            first,
            self._corrections(first, last),
            self._annealed(first, last),
            np.ascontiguousarray(self._rates[:, first:last]),
        )

    @staticmethod
    def _corrections(first: int, last: int) -> NDArray[np.float64]:
        steps = range(first + 1, last + 1)
        return np.array([[1 - BETA1**step, (1 - BETA2**step) ** 0.5] for step in steps])

    def _annealed(self, first: int, last: int) -> NDArray[np.float64]:
        averaging = self._recipe.averaging
        table = np.zeros((last - first, 2))
        for row, epoch in enumerate(range(first, last)):
            if averaging is not None and epoch > averaging.start:
                steps = epoch - math.floor(averaging.start) - 1
                table[row] = annealed_share(averaging, steps), annealed_share(averaging, steps + 1)
        return table


def _compiled_network(task: Task) -> Perceptron | BayesianPerceptron:
    """Return the task's network, and its objective, as compiled functions take them."""
    structure = require_structure(task.network)
    sizes = np.array(structure.sizes)
    weights = (sizes[:-1] + 1) * sizes[1:]  # of each layer, biases included
    plain = Perceptron(
        sizes=sizes,
        starts=np.concatenate([[0], np.cumsum(weights)[:-1]]),
        activation=ACTIVATIONS[structure.activation or "selu"],
    )
    if not structure.bayesian:
        return plain
    objective = task.objective
    if not isinstance(objective, VariationalObjective):
        raise TypeError(f"expected a variational objective, got {objective}")
    return BayesianPerceptron(
        *plain,
        certain=not structure.packed,
        half=task.parameters.shape[1] // 2,
        kl_share=objective.kl_weight / objective.rows,
        noise=objective.noise,
    )

"""The loop of epochs of the torch engines: differentiate, step, average, reschedule, record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from ifcheck import provenance
from ifcheck.engines.base import Fit, Progress, Recipe, State, Task, silent
from ifcheck.engines.batches import batches_of
from ifcheck.engines.kernels import Kernel
from ifcheck.engines.optimiser import Adam, Average, Schedule, schedule_for

PROGRESS_EVERY = 250  # steps between two reports, about
LISTEN_EVERY = 20  # epochs after which it is asked whether losses are still needed


def descend(
    kernel: Kernel,
    recipe: Recipe,
    state: State,
    schedule: Schedule | None = None,
    progress: Progress = silent,
) -> Fit:
    """Run the epochs that are left: differentiate, step, average, reschedule.

    The kernel stands at the parameters of `state`; `schedule` takes the place of the recipe's.
    The loss that the schedule sees is that of the weights before each step, as in a loop that
    calls `loss.backward(); optimiser.step()` and once an epoch `scheduler.step(loss)`.
    """
    schedule = schedule or schedule_for(recipe, state)
    updates = _Updates(kernel, recipe, state)
    average = Average(recipe.averaging)
    record = _Record(recipe, kernel)
    reported, listening = state.epoch, True
    still: Tensor | None = None  # the losses while no model moves
    for epoch in range(state.epoch, recipe.epochs):
        if listening and epoch % LISTEN_EVERY == 0:
            listening = schedule.listening(epoch)
        moving = schedule.moving(epoch)
        resting = moving is not None and not bool(moving.any())
        record.note_probes(epoch)
        if resting:
            if still is None and record.wants(epoch):
                still = updates.losses(epoch)
            record.note_losses(epoch, still)
        else:
            still = None
            wanted = listening or record.wants(epoch)
            losses = updates.of_epoch(epoch, schedule.rates, moving, wanted)
            record.note_losses(epoch, losses)
            average.update(epoch, kernel.parameters)
            schedule.step(epoch, losses)
        if (epoch + 1) % updates.progress_every == 0 or epoch + 1 == recipe.epochs:
            progress(kernel.task.models * (epoch + 1 - reported))
            reported = epoch + 1
    record.note_probes(recipe.epochs)
    record.note_losses(recipe.epochs, updates.losses(recipe.epochs) if still is None else still)
    live = kernel.to_flat(kernel.parameters)
    return Fit(
        parameters=live if average.value is None else kernel.to_flat(average.value),
        state=updates.state(recipe.epochs, live, schedule),
        recorded_epochs=torch.tensor(record.epochs),
        losses=torch.stack(record.losses, dim=-1),
        probe_losses=torch.stack(record.probes, dim=-1) if record.probes else None,
    )


class _Updates:
    """The steps of an epoch: one on all rows, or one on each batch."""

    def __init__(self, kernel: Kernel, recipe: Recipe, state: State) -> None:
        self._kernel, self._recipe = kernel, recipe
        self._adam = Adam(
            kernel.parameters,
            kernel.task.objective.weight_decay,
            kernel.from_flat(state.mean),
            kernel.from_flat(state.square),
            kernel.from_flat(state.largest_square) if recipe.amsgrad else None,
        )
        self._rows = kernel.task.inputs.shape[1]
        size = self._rows if recipe.batch_size is None else recipe.batch_size
        self._steps = -(-self._rows // size)  # in an epoch
        self.progress_every = max(1, PROGRESS_EVERY // self._steps)

    def of_epoch(
        self, epoch: int, rates: Tensor, moving: Tensor | None, with_losses: bool
    ) -> Tensor | None:
        """Take the steps of an epoch; return its mean losses (models,) where these are wanted."""
        self._adam.steps = epoch * self._steps
        with _drawing(self._kernel.task, epoch):
            return self._steps_of(epoch, rates, moving, with_losses)

    def losses(self, epoch: int) -> Tensor:
        """Return the losses (models,) on all rows where the models stand."""
        with _drawing(self._kernel.task, epoch):
            return self._kernel.differentiate()[0]

    def _steps_of(
        self, epoch: int, rates: Tensor, moving: Tensor | None, with_losses: bool
    ) -> Tensor | None:
        if self._recipe.batch_size is None:
            losses = None
            if with_losses:
                losses, gradient = self._kernel.differentiate()
            else:
                gradient = self._kernel.gradient()
            self._adam.step(gradient, rates, moving)
            return losses
        return self._of_batches(epoch, self._recipe.batch_size, rates, moving)

    def _of_batches(
        self, epoch: int, batch_size: int, rates: Tensor, moving: Tensor | None
    ) -> Tensor:
        task = self._kernel.task
        total = torch.zeros_like(rates)
        for batch in batches_of(task.seeds[0], epoch, self._rows, batch_size):
            positions = batch.to(task.targets.device)
            self._kernel.look_at(task.batch(positions))
            losses, gradient = self._kernel.differentiate()
            total += losses * task.weights[:, positions].sum(1)
            self._adam.step(gradient, rates, moving)
        self._kernel.look_at(task)
        return total / task.weights.sum(1)

    def state(self, epoch: int, live: Tensor, schedule: Schedule) -> State:
        """Return where the optimiser stands after so many epochs, at the parameters `live`."""
        to_flat, adam = self._kernel.to_flat, self._adam
        return State(
            epoch=epoch,
            parameters=live,
            mean=to_flat(adam.mean),
            square=to_flat(adam.square),
            rates=schedule.rates,
            best=schedule.best,
            bad_epochs=schedule.bad_epochs,
            stale_epochs=schedule.stale_epochs,
            largest_square=live[:, :0]
            if adam.largest_square is None
            else to_flat(adam.largest_square),
        )


@contextmanager
def _drawing(task: Task, epoch: int) -> Iterator[None]:
    """Seed torch's global generator for dropout by seed and epoch; leave it as it was after."""
    if not has_dropout(task.network):
        yield
        return
    with torch.random.fork_rng([task.parameters.device] if task.parameters.is_cuda else []):
        torch.manual_seed(provenance.named_seed(task.seeds[0], "dropout", epoch))
        yield


def has_dropout(network: nn.Module) -> bool:
    """Return whether a network draws random numbers while it is trained."""
    return any(isinstance(module, _DropoutNd) for module in network.modules())


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

    def note_probes(self, epoch: int) -> None:
        """Take down the losses of the probes, before the epoch's first step."""
        if not self.wants(epoch):
            return
        self.epochs.append(epoch)
        if self._kernel.task.probe_inputs is not None:
            self.probes.append(self._kernel.probe())

    def note_losses(self, epoch: int, losses: Tensor | None) -> None:
        """Take down the losses that the schedule watches."""
        if losses is not None and self.wants(epoch):
            self.losses.append(losses.clone())

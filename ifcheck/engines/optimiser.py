"""Adam, plateau schedule and weight averaging for a leading axis of independent models."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from ifcheck.engines.base import Averaging, Recipe, State

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # torch.optim.Adam's defaults, used by the paper
RATE_EPSILON = 1e-8  # ReduceLROnPlateau's: smaller decays of the rate are ignored


class Adam:
    """`torch.optim.Adam` with coupled weight decay, one learning rate per model.

    With `largest_square` (models, params) it is AMSGrad.
    The operations and their order are those of torch's single-tensor implementation, so
    that a model's float64 trajectory equals the sequential one up to its gradient's rounding.
    """

    def __init__(
        self,
        parameters: Tensor,
        weight_decay: float,
        mean: Tensor | None = None,
        square: Tensor | None = None,
        largest_square: Tensor | None = None,
    ) -> None:
        self.parameters = parameters  # (models, params), updated in place
        self.weight_decay = weight_decay
        self.steps = 0
        self.mean = torch.zeros_like(parameters) if mean is None else mean
        self.square = torch.zeros_like(parameters) if square is None else square
        self.largest_square = largest_square
        self._scratch = torch.empty_like(parameters)

    def step(self, gradient: Tensor, rates: Tensor, moving: Tensor | None = None) -> None:
        """Descend once, with those models (models,) that are moving; None: all.

        Shapes: gradient (models, params), consumed; rates (models,).
        """
        if moving is None or bool(moving.all()):
            self._step(gradient, rates)
            return
        state = [self.parameters, self.mean, self.square]
        if self.largest_square is not None:
            state.append(self.largest_square)
        before = [value.clone() for value in state]
        self._step(gradient, rates)
        for value, former in zip(state, before, strict=True):
            value.copy_(torch.where(moving[:, None], value, former))

    def _step(self, gradient: Tensor, rates: Tensor) -> None:
        self.steps += 1
        if self.weight_decay:
            gradient.add_(self.parameters, alpha=self.weight_decay)
        self.mean.lerp_(gradient, 1 - BETA1)
        self.square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        square = self.square
        if self.largest_square is not None:
            square = torch.maximum(self.largest_square, square, out=self.largest_square)
        denominator = torch.sqrt(square, out=self._scratch)
        denominator.div_((1 - BETA2**self.steps) ** 0.5).add_(EPSILON)
        sizes = (rates / (1 - BETA1**self.steps)).to(gradient.dtype)
        update = torch.mul(self.mean, sizes[:, None], out=gradient)
        self.parameters.sub_(update.div_(denominator))


class Schedule(Protocol):
    """Learning rates that react to each model's loss; all tensors (models,) float64."""

    rates: Tensor

    @property
    def best(self) -> Tensor:
        """The lowest loss that the plateau schedule has seen."""

    @property
    def bad_epochs(self) -> Tensor:
        """The epochs since then, or since the rate was lowered."""

    @property
    def stale_epochs(self) -> Tensor:
        """The epochs since then, whatever the rate did."""

    def moving(self, epoch: int) -> Tensor | None:
        """Return which models move in this epoch if some may rest; None: all."""

    def listening(self, epoch: int) -> bool:
        """Return whether any loss of this epoch can matter; if not, none of a later one can."""

    def step(self, epoch: int, losses: Tensor | None) -> None:
        """Take note of the losses (models,) of this epoch and set the next rates.

        None where nobody listens.
        """


class Plateau:
    """`ReduceLROnPlateau(mode="min", threshold_mode="rel")` for each model on its own."""

    def __init__(self, recipe: Recipe, state: State) -> None:
        self.recipe = recipe
        self.rates, self.best = state.rates, state.best
        self.bad_epochs, self.stale_epochs = state.bad_epochs.clone(), state.stale_epochs.clone()

    def moving(self, epoch: int) -> Tensor | None:
        """Return which models' rates can still fall, and which have not stopped early."""
        going: Tensor | None = self._above_floor() if self.recipe.stop_at_floor else None
        if self.recipe.early_stop is not None:
            going = self._going() if going is None else going & self._going()
        return going

    def _going(self) -> Tensor:
        """Return which models have not stopped early."""
        limit = math.inf if self.recipe.early_stop is None else self.recipe.early_stop
        return self.stale_epochs < limit

    def _above_floor(self) -> Tensor:
        return self.rates - self.rates * self.recipe.factor > RATE_EPSILON

    def listening(self, epoch: int) -> bool:
        """Return whether any rate can still fall, or any model stop early."""
        return self.recipe.early_stop is not None or bool(self._above_floor().any())

    def step(self, epoch: int, losses: Tensor | None) -> None:
        """Take note of the losses (models,) and lower the rates whose patience is exhausted.

        For models that have stopped early time stands still.
        """
        if losses is None:
            return
        current, going = losses.to(torch.float64), self._going()
        better = going & (current < self.best * (1.0 - self.recipe.threshold))
        self.best = torch.where(better, current, self.best)
        for epochs in (self.bad_epochs, self.stale_epochs):
            epochs.add_(going).masked_fill_(better, 0.0)
        exhausted = self.bad_epochs > self.recipe.patience
        lowered = exhausted & self._above_floor()
        self.rates = torch.where(lowered, self.rates * self.recipe.factor, self.rates)
        self.bad_epochs.masked_fill_(exhausted, 0.0)


class PlateauThenAnneal:
    """The plateau schedule until averaging starts, then `SWALR` towards its rate."""

    def __init__(self, plateau: Plateau, averaging: Averaging) -> None:
        self._plateau = plateau
        self._averaging = averaging
        self._annealed = 0  # steps of SWALR taken
        self.rates = plateau.rates

    @property
    def best(self) -> Tensor:
        return self._plateau.best

    @property
    def bad_epochs(self) -> Tensor:
        return self._plateau.bad_epochs

    @property
    def stale_epochs(self) -> Tensor:
        return self._plateau.stale_epochs

    def moving(self, epoch: int) -> Tensor | None:
        return None if epoch > self._averaging.start else self._plateau.moving(epoch)

    def listening(self, epoch: int) -> bool:
        return epoch <= self._averaging.start and self._plateau.listening(epoch)

    def step(self, epoch: int, losses: Tensor | None) -> None:
        if epoch <= self._averaging.start:
            self._plateau.step(epoch, losses)
            self.rates = self._plateau.rates
            return
        before = annealed_share(self._averaging, self._annealed)
        after = annealed_share(self._averaging, self._annealed + 1)
        target = self._averaging.learning_rate
        if before == 1.0:  # torch forgets the initial rate once the target is reached
            initial = torch.full_like(self.rates, target)
        else:
            initial = (self.rates - before * target) / (1.0 - before)
        self.rates = target * after + initial * (1.0 - after)
        self._annealed += 1


def annealed_share(averaging: Averaging, steps: int) -> float:
    """Return how far `SWALR` has taken the rate to its target after `steps`, from 0 to 1."""
    done = min(1.0, steps / max(1, averaging.anneal_epochs))
    return (1.0 - math.cos(math.pi * done)) / 2.0


def schedule_for(recipe: Recipe, state: State) -> Schedule:
    """Return the schedule that a recipe asks for, going on from a state without averaging."""
    plateau = Plateau(recipe, state)
    return plateau if recipe.averaging is None else PlateauThenAnneal(plateau, recipe.averaging)


class Average:
    """The equal-weight average of weights, as `AveragedModel` computes it."""

    def __init__(self, averaging: Averaging | None) -> None:
        self._averaging = averaging
        self._count = 0
        self.value: Tensor | None = None

    def update(self, epoch: int, parameters: Tensor) -> None:
        """Let the weights after this epoch enter, if averaging has started."""
        if self._averaging is None or epoch <= self._averaging.start:
            return
        if self.value is None:
            self.value = parameters.clone()
        else:
            self.value.lerp_(parameters, 1.0 / (self._count + 1))
        self._count += 1

"""Adam, plateau schedule and weight averaging for a leading axis of independent models."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from ifcheck.engines.base import Averaging, Recipe

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # torch.optim.Adam's defaults, used by the paper
RATE_EPSILON = 1e-8  # ReduceLROnPlateau's: smaller decays of the rate are ignored


class Adam:
    """`torch.optim.Adam` with coupled weight decay, one learning rate per model.

    The operations and their order are those of torch's single-tensor implementation, so
    that a model's float64 trajectory equals the sequential one up to its gradient's rounding.
    """

    def __init__(self, parameters: Tensor, weight_decay: float) -> None:
        self.parameters = parameters  # (models, params), updated in place
        self.weight_decay = weight_decay
        self.steps = 0
        self._mean = torch.zeros_like(parameters)
        self._square = torch.zeros_like(parameters)
        self._scratch = torch.empty_like(parameters)

    def step(self, gradient: Tensor, rates: Tensor) -> None:
        """Descend once. Shapes: gradient (models, params), consumed; rates (models,)."""
        self.steps += 1
        if self.weight_decay:
            gradient.add_(self.parameters, alpha=self.weight_decay)
        self._mean.lerp_(gradient, 1 - BETA1)
        self._square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        denominator = torch.sqrt(self._square, out=self._scratch)
        denominator.div_((1 - BETA2**self.steps) ** 0.5).add_(EPSILON)
        sizes = (rates / (1 - BETA1**self.steps)).to(gradient.dtype)
        update = torch.mul(self._mean, sizes[:, None], out=gradient)
        self.parameters.sub_(update.div_(denominator))


class Schedule(Protocol):
    """Learning rates that react to each model's loss."""

    rates: Tensor  # (models,) float64

    def step(self, epoch: int, losses: Tensor) -> None:
        """Take note of the losses (models,) of this epoch and set the next rates."""


class Plateau:
    """`ReduceLROnPlateau(mode="min", threshold_mode="rel")` for each model on its own."""

    def __init__(self, models: int, recipe: Recipe, device: torch.device) -> None:
        self.recipe = recipe
        self.rates = torch.full((models,), recipe.learning_rate, dtype=torch.float64, device=device)
        self._best = torch.full_like(self.rates, math.inf)
        self._bad_epochs = torch.zeros_like(self.rates)

    def step(self, epoch: int, losses: Tensor) -> None:
        current = losses.to(torch.float64)
        better = current < self._best * (1.0 - self.recipe.threshold)
        self._best = torch.where(better, current, self._best)
        self._bad_epochs.add_(1.0).masked_fill_(better, 0.0)
        exhausted = self._bad_epochs > self.recipe.patience
        reduced = self.rates * self.recipe.factor
        lowered = exhausted & (self.rates - reduced > RATE_EPSILON)
        self.rates = torch.where(lowered, reduced, self.rates)
        self._bad_epochs.masked_fill_(exhausted, 0.0)


class PlateauThenAnneal:
    """The plateau schedule until averaging starts, then `SWALR` towards its rate."""

    def __init__(self, plateau: Plateau, averaging: Averaging) -> None:
        self._plateau = plateau
        self._averaging = averaging
        self._annealed = 0  # steps of SWALR taken
        self.rates = plateau.rates

    def step(self, epoch: int, losses: Tensor) -> None:
        if epoch <= self._averaging.start:
            self._plateau.step(epoch, losses)
            self.rates = self._plateau.rates
            return
        before, after = self._share(self._annealed), self._share(self._annealed + 1)
        target = self._averaging.learning_rate
        if before == 1.0:  # torch forgets the initial rate once the target is reached
            initial = torch.full_like(self.rates, target)
        else:
            initial = (self.rates - before * target) / (1.0 - before)
        self.rates = target * after + initial * (1.0 - after)
        self._annealed += 1

    def _share(self, steps: int) -> float:
        """Return how far towards the target the rate is after `steps`, from 0 to 1."""
        done = min(1.0, steps / max(1, self._averaging.anneal_epochs))
        return (1.0 - math.cos(math.pi * done)) / 2.0


def schedule_for(recipe: Recipe, models: int, device: torch.device) -> Schedule:
    """Return the schedule that a recipe asks for."""
    plateau = Plateau(models, recipe, device)
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

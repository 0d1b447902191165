"""The one interface of every training engine: a task and a recipe in, a fit out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from ifcheck.errors import UnusableInput
from ifcheck.objective import Objective
from ifcheck.registry import Registry

Progress = Callable[[int], None]
"""Called with the number of model-epochs just done, from time to time."""


def silent(_: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Averaging:
    """Stochastic weight averaging (Izmailov et al. 2018), with torch's semantics.

    For every epoch (counted from 0) greater than `start` the plateau schedule stops; after
    the optimiser's step the weights enter an equal-weight average and the learning rate
    moves towards `learning_rate` along a cosine over `anneal_epochs` epochs, as
    `torch.optim.swa_utils.AveragedModel` and `SWALR` do.
    """

    start: float
    anneal_epochs: int
    learning_rate: float = 1e-3


@dataclass(frozen=True)
class Recipe:
    """Adam with coupled weight decay and a plateau schedule for each model.

    With `batch_size` an epoch is a step for each batch of rows, in an order of the seed's own;
    the schedule watches the mean of the batches' losses.

    `patience`, `factor` and `threshold` have the meaning of
    `torch.optim.lr_scheduler.ReduceLROnPlateau`, which watches the weighted mean of the rows'
    losses, and with it a regulariser that the optimiser does not add by itself (a KL divergence).
    `record_every` asks for losses every so many epochs, at epoch 0 and at the end. With
    `stop_at_floor` a model stands still, moments and all, from the epoch at which its schedule
    would not lower its rate any more until averaging starts, or for good; with `early_stop` from
    so many epochs without improvement on.
    """

    epochs: int
    learning_rate: float = 1e-3
    patience: int = 100
    factor: float = 0.1
    threshold: float = 1e-4
    averaging: Averaging | None = None
    record_every: int | None = None
    stop_at_floor: bool = False
    early_stop: int | None = None
    batch_size: int | None = None
    amsgrad: bool = False  # Reddi et al. (2018)


@dataclass(frozen=True)
class Task:
    """Independent models of one architecture that share their rows.

    Model m sees `inputs[group[m]]`; a removed row is a zero in its weights. Models of one
    group stand together, and all groups have equally many. Inputs may be of another type than
    the parameters where a torch kernel reads them, which takes them in that of the parameters.
    """

    network: nn.Module  # the architecture; its values are not used
    objective: Objective
    parameters: Tensor  # (models, params) where training starts
    inputs: Tensor  # (groups, rows, features...)
    targets: Tensor  # (rows,)
    weights: Tensor  # (models, rows) shares of each row in the mean
    seeds: tuple[int, ...] = ()  # of each model, whose order of batches it names
    probe_inputs: Tensor | None = None  # (groups, tests, features...) watched, not trained on
    probe_targets: Tensor | None = None  # (tests,)

    @property
    def models(self) -> int:
        """How many models there are."""
        return len(self.parameters)

    @property
    def models_per_group(self) -> int:
        """How many models see the same inputs."""
        return self.models // len(self.inputs)

    def part(self, first: int, last: int) -> Task:
        """Return the same task for the models first..last-1: whole groups, or some of one."""
        models = slice(first, last)
        per_group = self.models_per_group
        shared = len(self.inputs) == 1
        groups = slice(0, 1) if shared else slice(first // per_group, -(-last // per_group))
        return replace(
            self,
            parameters=self.parameters[models],
            inputs=self.inputs[groups],
            weights=self.weights[models],
            seeds=self.seeds[models],
            probe_inputs=None if self.probe_inputs is None else self.probe_inputs[groups],
        )

    def batch(self, positions: Tensor) -> Task:
        """Return the same task on some of its rows, (batch,).

        Their weights are scaled to the sum of the weights of all rows, model by model; where all
        of a batch are zero they stay so.
        """
        weights = self.weights[:, positions]
        share = weights.sum(1, keepdim=True) / self.weights.sum(1, keepdim=True)
        return replace(
            self,
            inputs=self.inputs[:, positions],
            targets=self.targets[positions],
            weights=torch.where(share > 0, weights / share, 0.0),
        )


@dataclass(frozen=True)
class State:
    """Where a descent without averaging stands: all that is needed to go on from there."""

    epoch: int  # how many are done
    parameters: Tensor  # (models, params)
    mean: Tensor  # (models, params) Adam's first moment
    square: Tensor  # (models, params) Adam's second moment
    rates: Tensor  # (models,) float64
    best: Tensor  # (models,) float64, the lowest loss that the plateau schedule has seen
    bad_epochs: Tensor  # (models,) float64, epochs since, or since the rate was lowered
    stale_epochs: Tensor  # (models,) float64, epochs since, whatever the rate did
    largest_square: Tensor  # (models, params) AMSGrad's largest second moment; else (models, 0)

    @classmethod
    def initial(cls, parameters: Tensor, recipe: Recipe) -> State:
        """Return where a descent from `parameters` (models, params) starts."""
        zeros = torch.zeros_like(parameters)
        rates = torch.full_like(parameters[:, 0], recipe.learning_rate, dtype=torch.float64)
        epochs = torch.zeros_like(rates)
        return cls(
            epoch=0,
            parameters=parameters,
            mean=zeros,
            square=zeros,
            rates=rates,
            best=torch.full_like(rates, math.inf),
            bad_epochs=epochs,
            stale_epochs=epochs,
            largest_square=zeros if recipe.amsgrad else zeros[:, :0],
        )

    def part(self, first: int, last: int) -> State:
        """Return the state of the models first..last-1."""
        return State(self.epoch, *(value[first:last] for value in self._tensors()))

    @classmethod
    def joined(cls, states: Sequence[State]) -> State:
        """Return the state of all models of several states, in their order."""
        columns = zip(*(state._tensors() for state in states), strict=True)
        return cls(states[0].epoch, *(torch.cat(column) for column in columns))

    def _tensors(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)[1:]]


@dataclass(frozen=True)
class Fit:
    """Trained parameters and what was recorded on the way."""

    parameters: Tensor  # (models, params) the average where there is one, else the live weights
    state: State  # where the optimiser stands
    recorded_epochs: Tensor  # (E,)
    losses: Tensor  # (models, E) that the schedule watches, of the live weights before that epoch
    probe_losses: Tensor | None  # (models, tests, E) loss of each probe, likewise

    @property
    def live(self) -> Tensor:
        """The weights that the optimiser moved last. Shape: (models, params)."""
        return self.state.parameters

    @property
    def learning_rate(self) -> Tensor:
        """Each model's rate at the end. Shape: (models,)."""
        return self.state.rates

    def following(self, before: Fit | None) -> Fit:
        """Return this fit with what was recorded before it, by the fit that it went on from.

        The last record of `before` is of the epoch at which this fit starts.
        """
        if before is None:
            return self
        probes = None
        if self.probe_losses is not None and before.probe_losses is not None:
            probes = torch.cat([before.probe_losses[..., :-1], self.probe_losses], dim=-1)
        return replace(
            self,
            recorded_epochs=torch.cat([before.recorded_epochs[:-1], self.recorded_epochs]),
            losses=torch.cat([before.losses[:, :-1], self.losses], dim=1),
            probe_losses=probes,
        )


def starting_state(task: Task, recipe: Recipe, after: Fit | None) -> State:
    """Return where a fit starts: at the task's parameters, or where another fit ended.

    Raises: ValueError where the recipe cannot go on from there.
    """
    if after is None:
        return State.initial(task.parameters, recipe)
    last = recipe.epochs
    if recipe.averaging is not None:
        last = min(last, math.floor(recipe.averaging.start) + 1)
    if after.state.epoch > last:
        raise ValueError(f"a fit of {after.state.epoch} epochs is past epoch {last}")
    return after.state


class Engine(Protocol):
    """A backend; an entry of `ENGINES` is a frozen dataclass with these members."""

    rank: ClassVar[int]  # "auto" takes the lowest that can train the network

    def supports(self, network: nn.Module, objective: Objective, recipe: Recipe) -> bool:
        """Return whether this engine can train the network at all, by such a recipe."""

    def fit(
        self,
        task: Task,
        recipe: Recipe,
        progress: Progress = silent,
        after: Fit | None = None,
    ) -> Fit:
        """Train every model of the task for `recipe.epochs` epochs.

        With `after`, a fit of the same task whose recipe had fewer epochs and no averaging,
        go on from where it ended, with the result that training from the start would have.
        A model that turns non-finite stays so in its own row and disturbs no other.
        """


ENGINES: Registry[Engine] = Registry("engine")


def select_engine(
    name: str, network: nn.Module, objective: Objective, recipe: Recipe
) -> tuple[str, Engine]:
    """Return the engine called `name`, or with "auto" the fastest one that fits, and its name.

    Raises: UnknownName, and UnusableInput where the named engine cannot train the network.
    """
    names = list(ENGINES) if name == "auto" else [name]
    engines = {candidate: ENGINES.create(candidate) for candidate in names}
    fitting = [c for c, engine in engines.items() if engine.supports(network, objective, recipe)]
    if not fitting:
        raise UnusableInput(
            f"engine {name!r} cannot train {type(network).__name__} here: "
            f"{ENGINES.help(name).splitlines()[0]}",
            remedy="Use --engine auto.",
        )
    chosen = min(fitting, key=lambda candidate: engines[candidate].rank)
    return chosen, engines[chosen]

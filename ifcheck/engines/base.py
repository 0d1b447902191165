"""The one interface of every training engine: a task and a recipe in, a fit out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

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
    """Full-batch Adam with coupled weight decay and a plateau schedule for each model.

    `patience`, `factor` and `threshold` have the meaning of
    `torch.optim.lr_scheduler.ReduceLROnPlateau`, which watches the weighted data loss.
    `record_every` asks for losses every so many epochs, at epoch 0 and at the end.
    """

    epochs: int
    learning_rate: float = 1e-3
    patience: int = 100
    factor: float = 0.1
    threshold: float = 1e-4
    averaging: Averaging | None = None
    record_every: int | None = None


@dataclass(frozen=True)
class Task:
    """Independent models of one architecture that share their rows.

    Model m sees `inputs[group[m]]`; a removed row is a zero in its weights. Models of one
    group stand together, and all groups have equally many.
    """

    network: nn.Module  # the architecture; its values are not used
    objective: Objective
    parameters: Tensor  # (models, params) where training starts
    inputs: Tensor  # (groups, rows, features...)
    targets: Tensor  # (rows,)
    weights: Tensor  # (models, rows) shares of each row in the mean
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
        """Return the same task for the models first..last-1, which must be whole groups."""
        models = slice(first, last)
        per_group = self.models_per_group
        shared = len(self.inputs) == 1
        groups = slice(0, 1) if shared else slice(first // per_group, last // per_group)
        return replace(
            self,
            parameters=self.parameters[models],
            inputs=self.inputs[groups],
            weights=self.weights[models],
            probe_inputs=None if self.probe_inputs is None else self.probe_inputs[groups],
        )


@dataclass(frozen=True)
class Fit:
    """Trained parameters and what was recorded on the way."""

    parameters: Tensor  # (models, params) the average where there is one, else the live weights
    live: Tensor  # (models, params) where the optimiser stands
    learning_rate: Tensor  # (models,) at the end
    recorded_epochs: Tensor  # (E,)
    losses: Tensor  # (models, E) weighted data loss of the live weights before that epoch
    probe_losses: Tensor | None  # (models, tests, E) loss of each probe, likewise


class Engine(Protocol):
    """A backend; an entry of `ENGINES` is a frozen dataclass with these members."""

    def supports(self, network: nn.Module, objective: Objective) -> bool:
        """Return whether this engine can train the network at all."""

    def fit(self, task: Task, recipe: Recipe, progress: Progress = silent) -> Fit:
        """Train every model of the task for `recipe.epochs` epochs.

        A model that turns non-finite stays so in its own row and disturbs no other.
        """


ENGINES: Registry[Engine] = Registry("engine")


def select_engine(name: str, network: nn.Module, objective: Objective) -> tuple[str, Engine]:
    """Return the engine called `name`; "auto" is the first registered one that fits.

    Raises: UnknownName, and UnusableInput where the named engine cannot train the network.
    """
    for candidate in ENGINES if name == "auto" else [name]:
        engine = ENGINES.create(candidate)
        if engine.supports(network, objective):
            return candidate, engine
    raise UnusableInput(
        f"engine {name!r} cannot train {type(network).__name__}.", remedy="Use --engine auto."
    )

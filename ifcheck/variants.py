"""How a network is trained: weight decay and weight averaging, by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from ifcheck.engines import Averaging, Recipe
from ifcheck.models import NetworkSpec
from ifcheck.objective import Objective
from ifcheck.registry import Registry

AVERAGING_START = 0.75  # share of training after which weights enter the average (the paper's)
AVERAGING_ANNEAL = 0.1  # share of training over which the rate moves to that of averaging


class Variant(Protocol):
    """An entry of `VARIANTS`: a frozen dataclass whose fields are the variant's options."""

    def network(self, spec: NetworkSpec) -> NetworkSpec:
        """Return the network that this variant trains in place of `spec`."""

    def objective(self) -> Objective:
        """Return what this variant descends."""

    def recipe(self, plain: Recipe) -> Recipe:
        """Return how this variant trains, given the plain recipe."""


VARIANTS: Registry[Variant] = Registry("variant")


def averaged(plain: Recipe) -> Recipe:
    """Return the recipe with stochastic weight averaging over its last quarter."""
    averaging = Averaging(
        start=AVERAGING_START * plain.epochs, anneal_epochs=int(AVERAGING_ANNEAL * plain.epochs)
    )
    return replace(plain, averaging=averaging)


class _Variant:
    """What the variants below share: the network as it is, the plain recipe, no regulariser."""

    def network(self, spec: NetworkSpec) -> NetworkSpec:
        return spec

    def objective(self) -> Objective:
        return Objective()

    def recipe(self, plain: Recipe) -> Recipe:
        return plain


@VARIANTS.register("none")
@dataclass(frozen=True)
class Unregularised(_Variant):
    """No regulariser."""


@VARIANTS.register("swa")
@dataclass(frozen=True)
class WeightAveraging(_Variant):
    """Stochastic weight averaging, no regulariser."""

    def recipe(self, plain: Recipe) -> Recipe:
        return averaged(plain)


@VARIANTS.register("l2")
@dataclass(frozen=True)
class WeightDecay(_Variant):
    """Coupled weight decay, biases included."""

    weight_decay: float = 0.005

    def __post_init__(self) -> None:
        if not self.weight_decay > 0:
            raise ValueError(f"weight_decay is {self.weight_decay!r}; expected a positive number")

    def objective(self) -> Objective:
        return Objective(self.weight_decay)


@VARIANTS.register("l2-swa")
@dataclass(frozen=True)
class WeightDecayWithAveraging(WeightDecay):
    """Coupled weight decay and stochastic weight averaging."""

    def recipe(self, plain: Recipe) -> Recipe:
        return averaged(plain)

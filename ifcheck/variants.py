"""How a network is trained: weight decay, weight averaging, Bayesian weights; by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from ifcheck.engines import Averaging, Recipe
from ifcheck.models import NetworkSpec, VariationalSpec
from ifcheck.models.moments import JACOBIANS
from ifcheck.models.variational import MEANS
from ifcheck.objective import Objective, VariationalObjective
from ifcheck.objective.variational import LIKELIHOODS
from ifcheck.registry import Registry

AVERAGING_START = 0.75  # share of training after which weights enter the average (the paper's)
AVERAGING_ANNEAL = 0.1  # share of training over which the rate moves to that of averaging


class Variant(Protocol):
    """An entry of `VARIANTS`: a frozen dataclass whose fields are the variant's options."""

    def network(self, spec: NetworkSpec) -> NetworkSpec:
        """Return the network that this variant trains in place of `spec`."""

    def objective(self, rows: int) -> Objective:
        """Return what this variant descends, given the number of training rows."""

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

    def objective(self, rows: int) -> Objective:
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

    def objective(self, rows: int) -> Objective:
        return Objective(self.weight_decay)


@VARIANTS.register("l2-swa")
@dataclass(frozen=True)
class WeightDecayWithAveraging(WeightDecay):
    """Coupled weight decay and stochastic weight averaging."""

    def recipe(self, plain: Recipe) -> Recipe:
        return averaged(plain)


@VARIANTS.register("bnn")
@dataclass(frozen=True)
class Bayesian(_Variant):
    """Gaussian weights by variational density propagation (Epifano et al., eqs. 3 to 14)."""

    kl_weight: float = 1.0  # of the KL divergence, where 1 is the bound's
    noise: float = 0.1  # variance of the likelihood beside the propagated one
    likelihood: str = "marginal"
    jacobian: str = "diagonal"
    means: str = "xavier-normal"
    rho: float = -5.0  # where the variances softplus(rho) start
    rho_spread: float = 0.0

    def __post_init__(self) -> None:
        for name in ("kl_weight", "noise"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected a positive number")
        known = {"likelihood": LIKELIHOODS, "jacobian": JACOBIANS, "means": MEANS}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; expected one of {', '.join(values)}"
                )
        if not self.rho_spread >= 0:
            raise ValueError(f"rho_spread is {self.rho_spread!r}; expected at least 0")

    def network(self, spec: NetworkSpec) -> NetworkSpec:
        return VariationalSpec(spec, self.means, self.rho, self.rho_spread)

    def objective(self, rows: int) -> Objective:
        return VariationalObjective(
            rows=rows,
            kl_weight=self.kl_weight,
            noise=self.noise,
            likelihood=self.likelihood,
            jacobian=self.jacobian,
        )

"""Estimators of influence by name: which Hessian, of which parameters, how solved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ifcheck.config import InfluenceConfig, Normalisation
from ifcheck.registry import Registry


@dataclass(frozen=True)
class Estimator:
    """A complete description of an influence estimate."""

    params: str  # which parameters move
    hessian: str  # "objective": with the regulariser; "data": without
    damping: float  # added to the diagonal, in nats per squared parameter
    solver: str
    normalisation: (
        Normalisation  # "n-1": the mean of the rest is retrained; "n": the denominator stays
    )
    solver_options: Mapping[str, Any] = field(default_factory=dict)  # besides its own defaults
    step: str = "first-order"  # how far the parameters move
    curvature: str = "hessian"  # what stands for the Hessian of the data loss
    damping_path: tuple[float, ...] | None = None  # dampings at which rows are scored besides


# Around what is used in the field and what spectra of heads reach, in halves of powers of ten.
DAMPING_PATH = (0.0, *(digit * 10.0**power for power in range(-6, 1) for digit in (1, 3)), 10.0)

ESTIMATORS: Registry[Estimator] = Registry("estimator")


@ESTIMATORS.register("objective")
@dataclass(frozen=True)
class ObjectiveEstimator(Estimator):
    """Hessian of what was optimised, regulariser and bias included; the default."""

    params: str = "head"
    hessian: str = "objective"
    damping: float = 0.0
    solver: str = "exact"
    normalisation: Normalisation = "n-1"


@ESTIMATORS.register("second-order")
@dataclass(frozen=True)
class SecondOrderEstimator(ObjectiveEstimator):
    """As `objective`, with the interaction of the rows that leave (Basu et al. 2020)."""

    step: str = "second-order"


@ESTIMATORS.register("newton-step")
@dataclass(frozen=True)
class NewtonStepEstimator(ObjectiveEstimator):
    """One Newton step of the objective without the row, whose own curvature leaves with it."""

    step: str = "newton"


@dataclass(frozen=True)
class _Baseline(ObjectiveEstimator):
    """Scores without curvature, of the head's gradients where they take any."""

    normalisation: Normalisation = "n"


@ESTIMATORS.register("gradient-dot")
@dataclass(frozen=True)
class GradientDotBaseline(_Baseline):
    """Baseline: the product of the test point's and the row's gradient."""

    step: str = "gradient-dot"


@ESTIMATORS.register("gradient-cosine")
@dataclass(frozen=True)
class GradientCosineBaseline(_Baseline):
    """Baseline: the cosine of the test point's and the row's gradient."""

    step: str = "gradient-cosine"


@ESTIMATORS.register("train-loss")
@dataclass(frozen=True)
class TrainLossBaseline(_Baseline):
    """Baseline: the row's own loss."""

    step: str = "train-loss"


@ESTIMATORS.register("same-class")
@dataclass(frozen=True)
class SameClassBaseline(_Baseline):
    """Baseline: whether the row is of the test point's class."""

    step: str = "same-class"


@ESTIMATORS.register("random")
@dataclass(frozen=True)
class RandomBaseline(_Baseline):
    """Baseline: random numbers, the level that chance reaches."""

    step: str = "random"


@ESTIMATORS.register("paper")
@dataclass(frozen=True)
class PaperEstimator(Estimator):
    """Data Hessian of the last layer, damping 0.01: the text of Epifano et al., section 2.2."""

    params: str = "head"
    hessian: str = "data"
    damping: float = 0.01
    solver: str = "exact"
    normalisation: Normalisation = "n"


@ESTIMATORS.register("authors")
@dataclass(frozen=True)
class AuthorsEstimator(Estimator):
    """Last layer's weight matrix only, data Hessian, undamped: the authors' released files."""

    params: str = "layer:head.weight"
    hessian: str = "data"
    damping: float = 0.0
    solver: str = "exact"
    normalisation: Normalisation = "n"


@ESTIMATORS.register("authors-bnn")
@dataclass(frozen=True)
class AuthorsBayesianEstimator(Estimator):
    """The means of a Bayesian head, data Hessian, damping 0.001: the authors' released files."""

    params: str = "head-mean"
    hessian: str = "data"
    damping: float = 0.001
    solver: str = "exact"
    normalisation: Normalisation = "n"


def resolve_estimator(config: InfluenceConfig) -> Estimator:
    """Return the named estimator with the parts that were given one by one replaced.

    A damping of "path" or "auto" leaves the named one and asks for the path besides.
    """
    named = ESTIMATORS.create(config.estimator)
    parts = {part: getattr(named, part) for part in Estimator.__dataclass_fields__}
    given = {part: value for part in parts if (value := getattr(config, part)) is not None}
    if isinstance(config.damping, str):
        del given["damping"]
        given = {"damping_path": DAMPING_PATH} | given
    return Estimator(**(parts | given))

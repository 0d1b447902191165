"""Influence scores: the predicted change of a test loss when a training row is removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ifcheck.config import InfluenceConfig, Normalisation
from ifcheck.curvature.local import LocalModel
from ifcheck.registry import Registry
from ifcheck.solvers import SOLVERS, Solution, Spectrum


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
    """Return the named estimator with the parts that were given one by one replaced."""
    named = ESTIMATORS.create(config.estimator)
    parts = {part: getattr(named, part) for part in Estimator.__dataclass_fields__}
    given = {part: value for part in parts if (value := getattr(config, part)) is not None}
    return Estimator(**(parts | given))


@dataclass(frozen=True)
class Scores:
    """Scores of one network with the certificate of the solve behind them."""

    values: Tensor  # (tests, rows) predicted change of the test loss on removal, in nats
    solution: Solution
    spectrum: Spectrum


def influence_scores(model: LocalModel, estimator: Estimator) -> Scores:
    """Predict the change of each test loss if one training row is removed.

    Positive means that removal hurts. With g_t and g_i the gradients of a test point and of
    a training row, H the estimator's Hessian and Omega the regulariser:

        normalisation n      1/n      g_t^T H^-1 g_i
        normalisation n-1    1/(n-1)  g_t^T H^-1 (g_i + grad Omega)

    the second because the mean over the rest weighs the data more against Omega. (It is the
    derivative at a stationary point; the term is the same for every row, so it moves the
    intercept, not ranks.)
    The estimator's normalisation must be one that `Objective.normalisation` gives: a Bayesian
    objective keeps 1/n on removal, and its score is the first.
    Raises: Diverged; UnusableInput where the solver needs a matrix that is too large.
    Reference: Koh & Liang (2017), eq. 2.
    """
    operator = model.hessian
    if estimator.hessian == "objective":
        operator = operator.plus_diagonal(model.regulariser_curvature)
    solver = SOLVERS.create(estimator.solver, estimator.solver_options)
    prepared = solver.prepare(operator, estimator.damping)
    solution = prepared.solve(model.test_gradients)
    rows, products = model.rows, model.train_products(solution.x)
    if estimator.normalisation == "n":
        values = products / rows
    else:
        shift = solution.x @ model.regulariser_gradient
        rest = rows - 1 if rows > 1 else torch.nan  # there is no mean over no rows
        values = (products + shift[:, None]) / rest
    return Scores(values=values, solution=solution, spectrum=prepared.spectrum)

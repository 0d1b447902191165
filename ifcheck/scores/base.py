"""What a removal's step is: from one network's curvature and gradients to scores of all rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ifcheck.curvature.local import LocalModel
from ifcheck.curvature.operator import HessianOperator
from ifcheck.objective import Objective
from ifcheck.params import Layout
from ifcheck.registry import Registry
from ifcheck.scores.estimators import Estimator
from ifcheck.solvers import SOLVERS, Prepared, Solution, Spectrum


@dataclass(frozen=True)
class Scores:
    """Scores of one network with the certificate of the solve behind them."""

    values: Tensor  # (tests, rows) predicted change of the test loss on removal, in nats
    solution: Solution
    spectrum: Spectrum


class Step(Protocol):
    """An entry of `STEPS`: how the parameters are taken to move when a row leaves."""

    def check(self, estimator: Estimator, layout: Layout, objective: Objective) -> None:
        """Refuse an estimator that the step is not known for. Raises: UnusableInput."""

    def scores(self, model: LocalModel, estimator: Estimator) -> Scores:
        """Predict the change of each test loss if one training row is removed."""


STEPS: Registry[Step] = Registry("step")


def remaining_rows(model: LocalModel, estimator: Estimator) -> float:
    """Return by what the mean without one row divides; there is no mean over no rows."""
    if estimator.normalisation == "n":
        return model.rows
    return model.rows - 1 if model.rows > 1 else torch.nan


def prepare(operator: HessianOperator, estimator: Estimator) -> Prepared:
    """Make the estimator's solver ready for an operator and the estimator's damping."""
    solver = SOLVERS.create(estimator.solver, estimator.solver_options)
    return solver.prepare(operator, estimator.damping)


def regularised(
    operator: HessianOperator, model: LocalModel, estimator: Estimator
) -> HessianOperator:
    """Return the data's curvature with the regulariser's, where the estimator takes it."""
    if estimator.hessian == "objective":
        return operator.plus_diagonal(model.regulariser_curvature)
    return operator


def row_products(model: LocalModel, estimator: Estimator, solved: Tensor) -> Tensor:
    """Return x^T g_i, or x^T (g_i + grad Omega) for n - 1, of solved x (tests, params).

    Shape: (tests, rows).
    """
    products = model.train_products(solved)
    if estimator.normalisation == "n-1":
        products = products + (solved @ model.regulariser_gradient)[:, None]
    return products

"""What a removal's step is: from one network's curvature and gradients to scores of all rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ifcheck.curvature.local import LocalModel
from ifcheck.curvature.operator import HessianOperator
from ifcheck.objective import Objective
from ifcheck.params import Layout
from ifcheck.registry import Registry
from ifcheck.scores.estimators import Estimator
from ifcheck.solvers import SOLVERS, Prepared, Solution, Spectrum
from ifcheck.solvers.iterative import UNKNOWN


@dataclass(frozen=True)
class Scores:
    """Scores of one network with the certificate of the solve behind them."""

    values: Tensor  # (tests, rows) predicted change of the test loss on removal, in nats
    solution: Solution  # of the test points' gradients
    prepared: Prepared | None  # what solved; None where there was nothing to solve

    @property
    def spectrum(self) -> Spectrum:
        """What is known of the eigenvalues of the undamped Hessian."""
        return UNKNOWN if self.prepared is None else self.prepared.spectrum


@dataclass(frozen=True)
class GroupScores:
    """Scores of one network's groups of rows, each with the certificate of the solves behind it."""

    values: Tensor  # (tests, groups) predicted change of the test loss on removal, in nats
    rel_residual: Tensor  # (groups,) the largest
    converged: Tensor  # (groups,) bool
    reason: str = ""  # why what did not converge did not


class Step(Protocol):
    """An entry of `STEPS`: how the parameters are taken to move when a row leaves."""

    has_path: ClassVar[bool]  # whether `damping_path` gives its scores along dampings
    is_baseline: ClassVar[bool]  # whether it uses no curvature, and is there to be beaten
    # Parts of an estimator that change its scores; one that is not there has no effect. None: all.
    uses: ClassVar[frozenset[str] | None]

    def check(self, estimator: Estimator, layout: Layout, objective: Objective) -> None:
        """Refuse an estimator that the step is not known for. Raises: UnusableInput."""

    def scores(self, model: LocalModel, estimator: Estimator) -> Scores:
        """Predict the change of each test loss if one training row is removed."""

    def group_scores(
        self, model: LocalModel, estimator: Estimator, scores: Scores, groups: Tensor
    ) -> GroupScores:
        """Predict the change if all rows of a group are removed; `scores` are the single rows'.

        `groups` are positions of rows, shape (groups, rows of a group).
        """


STEPS: Registry[Step] = Registry("step")


def remaining_rows(model: LocalModel, estimator: Estimator, removed: int = 1) -> float:
    """Return by what the mean without some rows divides; there is no mean over no rows."""
    if estimator.normalisation == "n":
        return model.rows
    return model.rows - removed if model.rows > removed else torch.nan


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


def denominator_drop(estimator: Estimator, removed: int = 1) -> int:
    """Return by how much the mean's denominator falls: by k rows, or not at all where it stays.

    So often do the regulariser and the mean loss leave with the rows: a mean over fewer weighs what
    is left of the data more.
    """
    return removed if estimator.normalisation == "n-1" else 0


def row_products(model: LocalModel, estimator: Estimator, solved: Tensor) -> Tensor:
    """Return x^T g_i, or x^T (g_i + grad Omega) for n - 1, of solved x (tests, params).

    Shape: (tests, rows).
    """
    products = model.train_products(solved)
    return products + denominator_drop(estimator) * (solved @ model.regulariser_gradient)[:, None]


def null_scores(model: LocalModel, solved: Tensor) -> Tensor:
    """Predict what removing nothing changes, from solved x = H^-1 g_t (tests, params).

    One Newton step of the training objective R moves the test loss by -x^T grad R: zero where
    training ended at a stationary point. Shape: (tests,), in nats.
    """
    mean = model.train_sums(solved.new_ones(1, model.rows))[0] / model.rows
    return -solved @ (mean + model.regulariser_gradient)


def group_gradients(model: LocalModel, estimator: Estimator, groups: Tensor) -> Tensor:
    """Return sum g_i, or sum (g_i + grad Omega) for n - 1, over each group (groups, k).

    Shape: (groups, params).
    """
    inside = torch.zeros(len(groups), model.rows).to(model.test_gradients)
    sums = model.train_sums(inside.scatter_(1, groups, 1.0))
    return sums + denominator_drop(estimator, groups.shape[1]) * model.regulariser_gradient

"""Influence functions: the first-order effect of a row on the test loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ifcheck.curvature.local import LocalModel
from ifcheck.objective import Objective
from ifcheck.params import Layout
from ifcheck.scores.base import (
    STEPS,
    GroupScores,
    Scores,
    prepare,
    regularised,
    remaining_rows,
    row_products,
)
from ifcheck.scores.estimators import Estimator


@STEPS.register("first-order")
@dataclass(frozen=True)
class FirstOrder:
    """The derivative in the row's weight (Koh & Liang 2017, eq. 2).

    With g_t and g_i the gradients of a test point and of a training row, H the estimator's
    Hessian and Omega the regulariser:

        normalisation n      1/n      g_t^T H^-1 g_i
        normalisation n-1    1/(n-1)  g_t^T H^-1 (g_i + grad Omega)

    the second because the mean over the rest weighs the data more against Omega. (It is the
    derivative at a stationary point; the term is the same for every row, so it moves the
    intercept, not ranks.)
    Of a group of k rows it is the sum, over n - k (Koh et al. 2019).
    The estimator's normalisation must be one that `Objective.normalisation` gives: a Bayesian
    objective keeps 1/n on removal, and its score is the first.
    """

    has_path: ClassVar[bool] = True
    is_baseline: ClassVar[bool] = False
    uses: ClassVar[frozenset[str] | None] = None

    def check(self, estimator: Estimator, layout: Layout, objective: Objective) -> None:
        """Everything has a first order."""

    def scores(self, model: LocalModel, estimator: Estimator) -> Scores:
        """Raises: Diverged; UnusableInput where the solver needs a matrix that is too large."""
        prepared = prepare(regularised(model.hessian, model, estimator), estimator)
        solution = prepared.solve(model.test_gradients)
        return Scores(first_order(model, estimator, solution.x), solution, prepared)

    def group_scores(
        self, model: LocalModel, estimator: Estimator, scores: Scores, groups: Tensor
    ) -> GroupScores:
        """Sum the scores of the rows of each group."""
        left = remaining_rows(model, estimator, groups.shape[1])
        shares = remaining_rows(model, estimator) / left
        values = scores.values[:, groups].sum(-1) * shares
        residual, converged = scores.solution.rel_residual, scores.solution.converged
        every = torch.ones(len(groups)).to(residual)
        return GroupScores(values, residual.max() * every, (every > 0) & converged.all())


def first_order(model: LocalModel, estimator: Estimator, solved: Tensor) -> Tensor:
    """Return the scores of all rows from H^-1 g_t (tests, params). Shape: (tests, rows)."""
    return row_products(model, estimator, solved) / remaining_rows(model, estimator)

"""A Newton step of the objective without rows: their own curvature leaves with them."""

from __future__ import annotations

import dataclasses
import functools
import math
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
    group_gradients,
    prepare,
    regularised,
    remaining_rows,
    row_products,
)
from ifcheck.scores.estimators import Estimator
from ifcheck.scores.first_order import FirstOrder
from ifcheck.scores.own_curvature import Inverse, check_plain_head
from ifcheck.solvers import Solution

# Of m I - U^T A^-1 U, below which a row takes all the curvature of a direction with it.
SINGULAR = 1e-9


@STEPS.register("newton")
@dataclass(frozen=True)
class NewtonStep:
    """One Newton step from a stationary point, by a low-rank update for each row.

    With m = n - 1 (or n, where the denominator stays), A the Hessian with all rows over m, and
    h_i = U_i U_i^T the row's own share of it, of rank below the number of classes:

        (A - h_i / m)^-1 = A^-1 + A^-1 U_i (m I - U_i^T A^-1 U_i)^-1 U_i^T A^-1

    (Woodbury), and the score is g_t^T times that times (g_i + grad Omega) / m (g_i / m). The
    matrix A^-1 is formed once. A row without which the Hessian is singular has no score: nan.
    A group's Hessian is solved with by itself, m = n - k.
    Reference: Koh et al. (2019), section 3; Pregibon (1981).
    """

    has_path: ClassVar[bool] = False
    is_baseline: ClassVar[bool] = False
    uses: ClassVar[frozenset[str] | None] = None

    def check(self, estimator: Estimator, layout: Layout, objective: Objective) -> None:
        check_plain_head(estimator, layout, objective)

    def scores(self, model: LocalModel, estimator: Estimator) -> Scores:
        """Raises: Diverged; RunFailed where memory is short; UnusableInput, see `check`."""
        left = remaining_rows(model, estimator)
        if math.isnan(left):
            return FirstOrder().scores(model, estimator)  # whose values are nan as well
        operator = regularised(model.hessian.times(model.rows / left), model, estimator)
        inverse = Inverse.of(operator, model, estimator)
        own, forms, solution = inverse.own, inverse.forms, inverse.solution
        factors = own.factors()
        reduced = left * torch.eye(own.classes).to(forms) - factors.mT @ forms @ factors
        values, vectors = torch.linalg.eigh(reduced)
        singular = values[:, 0] <= SINGULAR * left
        turned = torch.einsum("nab,nca,nc->nb", vectors, factors, inverse.steps)
        inner = torch.einsum("nab,nb->na", vectors, turned / values)
        correction = torch.einsum("tna,nab,nb->tn", own.products(solution.x), factors, inner)
        scores = (row_products(model, estimator, solution.x) + correction) / left
        scores = torch.where(singular, torch.nan, scores)
        return Scores(scores, _told(solution, int(singular.sum())), inverse.prepared)

    def group_scores(
        self, model: LocalModel, estimator: Estimator, scores: Scores, groups: Tensor
    ) -> GroupScores:
        """Raises: Diverged; RunFailed where memory is short."""
        left = remaining_rows(model, estimator, groups.shape[1])
        gradients = group_gradients(model, estimator, groups) / left
        dense = functools.cache(model.hessian.dense)  # which all groups' begin with
        whole = dataclasses.replace(model.hessian, dense=dense).times(model.rows / left)
        solutions = []
        for group, gradient in zip(groups, gradients, strict=True):
            theirs = model.hessian_at(group).times(-len(group) / left)
            operator = regularised(whole.plus(theirs), model, estimator)
            solutions.append(prepare(operator, estimator).solve(gradient[None]))
        moved = torch.cat([solution.x for solution in solutions])
        return GroupScores(
            model.test_gradients @ moved.mT,
            torch.cat([solution.rel_residual for solution in solutions]),
            torch.cat([solution.converged for solution in solutions]),
            next((solution.reason for solution in solutions if solution.reason), ""),
        )


def _told(solution: Solution, singular: int) -> Solution:
    """Return the solution with how many rows have no score."""
    if not singular:
        return solution
    said = f"{singular} rows whose removal leaves a singular Hessian have no score"
    return dataclasses.replace(solution, reason="; ".join(filter(None, [solution.reason, said])))

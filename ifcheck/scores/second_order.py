"""Second-order influence: how rows that leave together change each other's effect."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    denominator_drop,
    group_gradients,
    prepare,
    regularised,
    remaining_rows,
    row_products,
)
from ifcheck.scores.estimators import Estimator
from ifcheck.scores.own_curvature import Inverse, check_plain_head


@STEPS.register("second-order")
@dataclass(frozen=True)
class SecondOrder:
    """The first order and the interaction of the rows that leave (Basu et al. 2020).

    With r the sum of g_i + grad Omega over a group of k rows, h the sum of their Hessians, H the
    estimator's Hessian, of which D is the data's part, and m = n - k:

        g_t^T (H^-1 + H^-1 (h - k D) H^-1 / m) r / m

    which expands the Newton step without the group to second order in what leaves. (The third
    derivatives of the loss are left out, as there.) Where the denominator stays at n, m is n, and
    there is neither k D nor grad Omega. A single row is a group of one.
    """

    has_path: ClassVar[bool] = False
    is_baseline: ClassVar[bool] = False
    uses: ClassVar[frozenset[str] | None] = None

    def check(self, estimator: Estimator, layout: Layout, objective: Objective) -> None:
        check_plain_head(estimator, layout, objective)

    def scores(self, model: LocalModel, estimator: Estimator) -> Scores:
        """Raises: Diverged; RunFailed where memory is short; UnusableInput, see `check`."""
        left = remaining_rows(model, estimator)
        inverse = Inverse.of(regularised(model.hessian, model, estimator), model, estimator)
        solved = inverse.solution.x
        first = row_products(model, estimator, solved)
        back = inverse.prepared.solve(model.hessian.product(solved))
        own = torch.einsum(
            "tna,nab,nb->tn", inverse.own.products(solved), inverse.own.hessians(), inverse.steps
        )
        shared = denominator_drop(estimator) * row_products(model, estimator, back.x)
        values = (first + (own - shared) / left) / left
        solution = replace(
            inverse.solution,
            rel_residual=torch.maximum(inverse.solution.rel_residual, back.rel_residual),
            converged=inverse.solution.converged & back.converged,
            reason=inverse.solution.reason or back.reason,
        )
        return Scores(values, solution, inverse.prepared)

    def group_scores(
        self, model: LocalModel, estimator: Estimator, scores: Scores, groups: Tensor
    ) -> GroupScores:
        """Raises: Diverged."""
        size = groups.shape[1]
        left = remaining_rows(model, estimator, size)
        whole = regularised(model.hessian, model, estimator)
        prepared = scores.prepared or prepare(whole, estimator)
        moved = prepared.solve(group_gradients(model, estimator, groups))
        theirs = [
            size * model.hessian_at(group).product(step[None])
            for group, step in zip(groups, moved.x, strict=True)
        ]
        weight = denominator_drop(estimator, size)
        bent = torch.cat(theirs) - weight * model.hessian.product(moved.x)
        values = (model.test_gradients @ moved.x.mT + scores.solution.x @ bent.mT / left) / left
        # The test points' solutions, and those of the group.
        residual = torch.maximum(moved.rel_residual, scores.solution.rel_residual.max())
        converged = moved.converged & scores.solution.converged.all()
        return GroupScores(values, residual, converged, moved.reason)

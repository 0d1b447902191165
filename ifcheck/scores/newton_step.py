"""A Newton step of the objective without a row: its own curvature leaves with it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from ifcheck.curvature.local import LocalModel
from ifcheck.errors import UnusableInput
from ifcheck.scores.base import STEPS, Scores, remaining_rows
from ifcheck.scores.estimators import Estimator
from ifcheck.scores.first_order import FirstOrder
from ifcheck.solvers import SOLVERS, Solution


@STEPS.register("newton")
@dataclass(frozen=True)
class NewtonStep:
    """One Newton step from a stationary point, by a low-rank update for each row.

    With m = n - 1 (or n, where the denominator stays), A the Hessian with all rows over m, and
    h_i = U_i U_i^T the row's own share of it, of rank below the number of classes:

        (A - h_i / m)^-1 = A^-1 + A^-1 U_i (m I - U_i^T A^-1 U_i)^-1 U_i^T A^-1

    (Woodbury), and the score is g_t^T times that times (g_i + grad Omega) / m (g_i / m). The
    matrix A^-1 is formed once. Reference: Koh et al. (2019), section 3; Pregibon (1981).
    """

    def scores(self, model: LocalModel, estimator: Estimator) -> Scores:
        """Raises: Diverged; UnusableInput for other parameters than those of a softmax head."""
        if model.row_curvature is None:
            raise UnusableInput(
                "--step newton takes a row's own Hessian away, which is known in closed form "
                "for the parameters of a plain network's head alone.",
                remedy="Use --params head, a variant other than bnn and --curvature hessian, or "
                "--step first-order.",
            )
        left = remaining_rows(model, estimator)
        if math.isnan(left):
            return FirstOrder().scores(model, estimator)  # whose values are nan as well
        own = model.row_curvature()
        operator = model.hessian.times(model.rows / left)
        if estimator.hessian == "objective":
            operator = operator.plus_diagonal(model.regulariser_curvature)
        solver = SOLVERS.create(estimator.solver, estimator.solver_options)
        prepared = solver.prepare(operator, estimator.damping)
        solution = prepared.solve(model.test_gradients)
        identity = torch.eye(operator.size, dtype=torch.float64, device=operator.device)
        inverse = prepared.solve(identity)

        products = model.train_products(solution.x)
        forms = own.forms(inverse.x)
        right = torch.einsum("nab,nb->na", forms, own.residual)
        if estimator.normalisation == "n-1":
            products = products + (solution.x @ model.regulariser_gradient)[:, None]
            right = right + own.products((inverse.x @ model.regulariser_gradient)[None])[0]
        factors = own.factors()
        reduced = left * torch.eye(own.classes).to(forms) - factors.mT @ forms @ factors
        inner = torch.linalg.solve(reduced, (factors.mT @ right[..., None]).squeeze(-1))
        correction = torch.einsum("tna,nab,nb->tn", own.products(solution.x), factors, inner)
        return Scores(
            (products + correction) / left, _certified(solution, inverse), prepared.spectrum
        )


def _certified(solution: Solution, inverse: Solution) -> Solution:
    """Return a solution as converged as the inverse that was used beside it."""
    worst = inverse.rel_residual.max()
    return replace(
        solution,
        rel_residual=torch.maximum(solution.rel_residual, worst),
        converged=solution.converged & inverse.converged.all(),
        reason=solution.reason or inverse.reason,
    )

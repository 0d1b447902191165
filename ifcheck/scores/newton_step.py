"""A Newton step of the objective without a row: its own curvature leaves with it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ifcheck.curvature.kinds import CURVATURES
from ifcheck.curvature.local import LocalModel
from ifcheck.curvature.operator import BYTES, HessianOperator, require_memory
from ifcheck.errors import UnusableInput
from ifcheck.objective import Objective
from ifcheck.params import Layout
from ifcheck.scores.base import (
    STEPS,
    Scores,
    prepare,
    regularised,
    remaining_rows,
    row_products,
)
from ifcheck.scores.estimators import Estimator
from ifcheck.scores.first_order import FirstOrder
from ifcheck.solvers import Solution
from ifcheck.solvers.base import relative_residual

DENSE_COPIES = 7  # of the matrix that are alive together: measured 6.5
PROBES = 10  # random right-hand sides by which the inverse is certified
CERTIFIED = 1e-5  # relative residual on them, which are of condition squared
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
    Reference: Koh et al. (2019), section 3; Pregibon (1981).
    """

    def check(self, estimator: Estimator, layout: Layout, objective: Objective) -> None:
        head = torch.isin(layout.positions(estimator.params), layout.positions("head"))
        linear = CURVATURES.create(estimator.curvature).of_linear_outputs
        if not (bool(head.all()) and linear and type(objective) is Objective):
            raise _refused()

    def scores(self, model: LocalModel, estimator: Estimator) -> Scores:
        """Raises: Diverged; RunFailed where memory is short; UnusableInput, see `check`."""
        if model.row_curvature is None:
            raise _refused()
        left = remaining_rows(model, estimator)
        if math.isnan(left):
            return FirstOrder().scores(model, estimator)  # whose values are nan as well
        own, size = model.row_curvature(), model.hessian.size
        require_memory(
            DENSE_COPIES * BYTES * size**2,
            model.hessian.device,
            f"the inverse Hessian of {size:,} parameters takes",
            remedy="Use --step first-order.",
        )
        operator = regularised(model.hessian.times(model.rows / left), model, estimator)
        prepared = prepare(operator, estimator)
        solution = prepared.solve(model.test_gradients)
        identity = torch.eye(size, dtype=torch.float64, device=operator.device)
        inverse = prepared.solve(identity).x
        solution = _certified(solution, inverse, operator.plus_diagonal(estimator.damping))

        products = row_products(model, estimator, solution.x)
        forms = own.forms(inverse)
        right = torch.einsum("nab,nb->na", forms, own.residual)
        if estimator.normalisation == "n-1":
            right = right + own.products((inverse @ model.regulariser_gradient)[None])[0]
        factors = own.factors()
        reduced = left * torch.eye(own.classes).to(forms) - factors.mT @ forms @ factors
        values, vectors = torch.linalg.eigh(reduced)
        singular = values[:, 0] <= SINGULAR * left
        turned = torch.einsum("nab,nca,nc->nb", vectors, factors, right)
        inner = torch.einsum("nab,nb->na", vectors, turned / values)
        correction = torch.einsum("tna,nab,nb->tn", own.products(solution.x), factors, inner)
        scores = torch.where(singular, torch.nan, (products + correction) / left)
        return Scores(scores, _told(solution, int(singular.sum())), prepared.spectrum)


def _refused() -> UnusableInput:
    return UnusableInput(
        "--step newton takes a row's own Hessian away, which is known in closed form for the "
        "parameters of a plain network's head alone.",
        remedy="Use --params head, a variant other than bnn and --curvature hessian, or --step "
        "first-order.",
    )


def _certified(solution: Solution, inverse: Tensor, operator: HessianOperator) -> Solution:
    """Return a solution as converged as the inverse that is used beside it.

    The inverse is tried on random vectors of the matrix's range: what is beside the range, where
    the matrix is singular, no gradient of a row has a part in.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(PROBES, operator.size, generator=generator, dtype=torch.float64)
    right = operator.product(drawn.to(inverse))
    worst = relative_residual(operator.product(right @ inverse) - right, right).max()
    fine = worst <= CERTIFIED
    converged, reason = solution.converged & fine, solution.reason
    if not bool(fine) and not reason:
        reason = f"the inverse leaves a relative residual of {float(worst):.1e}"
    residual = torch.maximum(solution.rel_residual, worst)
    return replace(solution, rel_residual=residual, converged=converged, reason=reason)


def _told(solution: Solution, singular: int) -> Solution:
    """Return the solution with how many rows have no score."""
    if not singular:
        return solution
    said = f"{singular} rows whose removal leaves a singular Hessian have no score"
    return replace(solution, reason="; ".join(filter(None, [solution.reason, said])))

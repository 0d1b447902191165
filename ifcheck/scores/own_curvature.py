"""What steps share that take a row's own curvature away, in closed form for plain heads."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ifcheck.curvature.kinds import CURVATURES
from ifcheck.curvature.local import LocalModel
from ifcheck.curvature.operator import BYTES, HessianOperator, require_memory
from ifcheck.curvature.row_curvature import RowCurvature
from ifcheck.errors import UnusableInput
from ifcheck.objective import Objective
from ifcheck.params import Layout
from ifcheck.scores.base import denominator_drop, prepare
from ifcheck.scores.estimators import Estimator
from ifcheck.solvers import Prepared, Solution
from ifcheck.solvers.base import relative_residual

DENSE_COPIES = 7  # of the matrix that are alive together: measured 6.5
PROBES = 10  # random right-hand sides by which the inverse is certified
CERTIFIED = 1e-5  # relative residual on them, which are of condition squared


def check_plain_head(estimator: Estimator, layout: Layout, objective: Objective) -> None:
    """Refuse parameters whose rows have no curvature in closed form. Raises: UnusableInput."""
    head = torch.isin(layout.positions(estimator.params), layout.positions("head"))
    linear = CURVATURES.create(estimator.curvature).of_linear_outputs
    if not (bool(head.all()) and linear and type(objective) is Objective):
        raise _refused(estimator)


@dataclass(frozen=True)
class Inverse:
    """The inverse of a Hessian beside the rows' own curvature."""

    own: RowCurvature
    prepared: Prepared
    solution: Solution  # of the test points' gradients, as converged as the inverse
    forms: Tensor  # (rows, classes, classes) of the inverse, see `RowCurvature.forms`
    steps: Tensor  # (rows, classes) how the logits of each row move along H^-1 (g_i + grad Omega)

    @classmethod
    def of(cls, operator: HessianOperator, model: LocalModel, estimator: Estimator) -> Inverse:
        """Form the inverse of operator + damping I. Raises: RunFailed where memory is short.

        Raises also: Diverged, and UnusableInput for a model without `row_curvature`.
        """
        if model.row_curvature is None:
            raise _refused(estimator)
        own, size = model.row_curvature(), operator.size
        require_memory(
            DENSE_COPIES * BYTES * size**2,
            operator.device,
            f"the inverse Hessian of {size:,} parameters takes",
            remedy="Use --step first-order.",
        )
        prepared = prepare(operator, estimator)
        identity = torch.eye(size, dtype=torch.float64, device=operator.device)
        inverse = prepared.solve(identity).x
        damped = operator.plus_diagonal(estimator.damping)
        solution = _certified(prepared.solve(model.test_gradients), inverse, damped)
        forms = own.forms(inverse)
        steps = torch.einsum("nab,nb->na", forms, own.residual)
        if denominator_drop(estimator):
            steps = steps + own.products((inverse @ model.regulariser_gradient)[None])[0]
        return cls(own, prepared, solution, forms, steps)


def _refused(estimator: Estimator) -> UnusableInput:
    return UnusableInput(
        f"--step {estimator.step} takes a row's own Hessian away, which is known in closed form "
        "for the parameters of a plain network's head alone.",
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

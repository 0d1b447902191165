"""EK-FAC: the inverse of an approximation whose eigenvectors are Kronecker products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ifcheck.curvature.ekfac import require_curvlinops
from ifcheck.curvature.kronecker import KroneckerMatrix
from ifcheck.curvature.operator import HessianOperator
from ifcheck.errors import UnusableInput
from ifcheck.solvers.base import SOLVERS, Prepared, Solution, Spectrum, pseudo_inverse, rounding
from ifcheck.solvers.iterative import UNKNOWN, Damped, Stopping, checked


@dataclass(frozen=True)
class _Prepared:
    matrix: Damped
    stopping: Stopping
    approximation: KroneckerMatrix  # undamped
    spectrum: Spectrum = UNKNOWN

    def solve(self, rhs: Tensor) -> Solution:
        """Solve with the approximation, and tell the residual with the matrix itself."""
        rhs = checked(rhs)
        least = rounding(rhs.shape[-1], float(self.approximation.values.abs().max()))

        def inverse(values: Tensor) -> Tensor:
            return pseudo_inverse(values + self.matrix.damping, least)

        x = self.approximation.function_product(inverse, rhs)
        steps = torch.zeros(len(rhs), dtype=torch.int64, device=rhs.device)
        solution = self.matrix.solution(x, rhs, steps, self.stopping)
        if not solution.reason:
            return solution
        return replace(solution, reason=f"EK-FAC is an approximation: {solution.reason}")

    def along(self, rhs: Tensor, dampings: Sequence[float]) -> list[Solution]:
        operator = self.matrix.operator
        return [replace(self, matrix=Damped(operator, d)).solve(rhs) for d in dampings]


@SOLVERS.register("ekfac")
@dataclass(frozen=True)
class EKFAC:
    """Eigenvalue-corrected Kronecker factors of each layer, `pip install 'ifcheck[ekfac]'`.

    George et al. (2018), for influence Grosse et al. (2023), by curvlinops. It approximates the
    Gauss-Newton matrix, also where `curvature` is `hessian` (for `empirical-fisher` that), layer by
    layer, by a diagonal in a Kronecker product's eigenvectors; damping and weight decay add to its
    eigenvalues. What is zero to rounding with them, as `exact` has it, is dropped: the
    pseudo-inverse. The residual is with the Hessian itself, and tells how good that is.
    """

    tolerance: float = 1e-6  # of the residual, from which the solution counts as one

    def __post_init__(self) -> None:
        Stopping(self.tolerance)  # which checks it
        require_curvlinops()

    def prepare(self, operator: HessianOperator, damping: float) -> Prepared:
        """Raises: UnusableInput where there is no such approximation; RunFailed, Diverged."""
        if operator.kronecker is None:
            raise UnusableInput(
                "the solver ekfac has no approximation of this Hessian: it knows the curvature of "
                "plain networks' layers, and regularisers that curve alike in all parameters.",
                remedy="Use another --solver.",
            )
        stopping = Stopping(self.tolerance)
        return _Prepared(Damped(operator, damping), stopping, operator.kronecker())

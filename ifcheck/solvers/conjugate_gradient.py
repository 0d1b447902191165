"""Conjugate gradient on products with the Hessian, for what has no room for a matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ifcheck.curvature.operator import HessianOperator
from ifcheck.errors import Diverged
from ifcheck.solvers.base import SOLVERS, Prepared, Solution, Spectrum
from ifcheck.solvers.iterative import UNKNOWN, Damped, Stopping, checked

# Of the largest curvature met so far: below it a curvature is zero to rounding.
ROUNDING = 1e-12


@dataclass(frozen=True)
class _Prepared:
    matrix: Damped
    stopping: Stopping
    spectrum: Spectrum = UNKNOWN

    def solve(self, rhs: Tensor) -> Solution:
        """Solve for each row side by side.

        Raises: Diverged at a direction without positive curvature, or where something is not
        finite.
        """
        rhs = checked(rhs)
        x, residual, direction = torch.zeros_like(rhs), rhs.clone(), rhs.clone()
        squared = residual.square().sum(-1)
        goal = (self.stopping.tolerance * rhs.norm(dim=-1)).square()
        steps = torch.zeros(len(rhs), dtype=torch.int64, device=rhs.device)
        going, scale = squared > goal, 0.0
        for _ in range(self.stopping.iterations):
            if not bool(going.any()):
                break
            image = self.matrix.product(direction[going])
            product = (direction[going] * image).sum(-1)
            curvature = product / direction[going].square().sum(-1)  # of a unit vector
            scale = max(scale, float(curvature.abs().max()))
            self._refuse(curvature, ROUNDING * scale)
            size = (squared[going] / product)[:, None]
            x[going] += size * direction[going]
            residual[going] -= size * image
            steps[going] += 1
            after = residual.square().sum(-1)
            # The solved ones stay as they are.
            turn = after / torch.where(squared > 0, squared, 1.0)
            direction = residual + turn[:, None] * direction
            squared = after
            going = going & (squared > goal)
        return self.matrix.solution(x, rhs, steps, self.stopping)

    def _refuse(self, curvature: Tensor, rounding: float) -> None:
        if bool((curvature <= rounding).any()):
            raise Diverged(
                f"conjugate gradient met a direction without positive curvature "
                f"({float(curvature.min()):.1e}) at damping {self.matrix.damping:g}: the Hessian "
                "is not positive definite.",
                remedy="Raise --damping, use --solver minres, or --solver exact where the Hessian "
                "fits.",
            )


@SOLVERS.register("cg")
@dataclass(frozen=True)
class ConjugateGradient(Stopping):
    """Conjugate gradient (Hestenes & Stiefel 1952), right-hand sides side by side, in float64.

    Needs a positive definite H + damping I, and says so where it is not. Learns nothing about the
    spectrum: its extremes are nan, its counts -1.
    """

    def prepare(self, operator: HessianOperator, damping: float) -> Prepared:
        return _Prepared(Damped(operator, damping), self)

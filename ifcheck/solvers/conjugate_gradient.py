"""Conjugate gradient on products with the Hessian, for what has no room for a matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ifcheck.curvature.operator import HessianOperator
from ifcheck.errors import Diverged
from ifcheck.solvers.base import SOLVERS, Prepared, Solution, Spectrum, relative_residual

UNKNOWN = Spectrum(smallest=math.nan, largest=math.nan, null_space=-1, negative=-1)
# Of the largest curvature met so far: below it a curvature is zero to rounding.
ROUNDING = 1e-12


@dataclass(frozen=True)
class _Products:
    """H + damping I by its products."""

    operator: HessianOperator
    damping: float
    tolerance: float
    iterations: int
    spectrum: Spectrum = UNKNOWN

    def product(self, directions: Tensor) -> Tensor:
        return self.operator.product(directions) + self.damping * directions

    def solve(self, rhs: Tensor) -> Solution:
        """Solve for each row side by side.

        Raises: Diverged at a direction without positive curvature, or where something is not
        finite.
        """
        rhs = rhs.to(torch.float64)
        self._require_finite(rhs, "a gradient of a test point")
        x, residual, direction = torch.zeros_like(rhs), rhs.clone(), rhs.clone()
        squared = residual.square().sum(-1)
        goal = (self.tolerance * rhs.norm(dim=-1)).square()
        steps = torch.zeros(len(rhs), dtype=torch.int64, device=rhs.device)
        going, scale = squared > goal, 0.0
        for _ in range(self.iterations):
            if not bool(going.any()):
                break
            image = self.product(direction[going])
            product = (direction[going] * image).sum(-1)
            curvature = product / direction[going].square().sum(-1)  # of a unit vector
            scale = max(scale, float(curvature.abs().max()))
            self._refuse(curvature, ROUNDING * scale)
            size = (squared[going] / product)[:, None]
            x[going] += size * direction[going]
            residual[going] -= size * image
            steps[going] += 1
            after = residual.square().sum(-1)
            turn = after / torch.where(
                squared > 0, squared, 1.0
            )  # the solved ones stay as they are
            direction = residual + turn[:, None] * direction
            squared = after
            going = going & (squared > goal)
        relative = relative_residual(self.product(x) - rhs, rhs)
        # The recurrence's residual drifts from the true one by rounding: twice is granted.
        return Solution(x, relative, steps, relative <= 2 * self.tolerance)

    def _require_finite(self, values: Tensor, what: str) -> None:
        if not bool(values.isfinite().all()):
            raise Diverged(
                f"{what} is not finite.",
                remedy="The network has diverged: train it again with a smaller learning rate.",
            )

    def _refuse(self, curvature: Tensor, rounding: float) -> None:
        self._require_finite(curvature, "a product with the Hessian")
        if bool((curvature <= rounding).any()):
            raise Diverged(
                f"conjugate gradient met a direction without positive curvature "
                f"({float(curvature.min()):.1e}) at damping {self.damping:g}: the Hessian is not "
                "positive definite.",
                remedy="Raise --damping, or use --solver exact where the Hessian fits.",
            )


@SOLVERS.register("cg")
@dataclass(frozen=True)
class ConjugateGradient:
    """Conjugate gradient (Hestenes & Stiefel 1952), right-hand sides side by side, in float64.

    Needs a positive definite H + damping I, and says so where it is not. Learns nothing about the
    spectrum: its extremes are nan, its counts -1.
    """

    tolerance: float = 1e-6  # of the residual, relative to the right-hand side
    iterations: int = 1_000

    def prepare(self, operator: HessianOperator, damping: float) -> Prepared:
        return _Products(operator, damping, self.tolerance, self.iterations)

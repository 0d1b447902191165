"""Conjugate gradient on products with the Hessian, for what has no room for a matrix."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ifcheck.curvature.extremes import largest_eigenpairs
from ifcheck.curvature.operator import HessianOperator
from ifcheck.errors import Diverged
from ifcheck.solvers.base import SOLVERS, Prepared, Solution, Spectrum, rounding
from ifcheck.solvers.iterative import UNKNOWN, Damped, Stopping, checked, require_whole
from ifcheck.solvers.krylov import solve_along

# Of the largest curvature met so far: below it a curvature is zero to rounding.
ROUNDING = 1e-12
PRECONDITIONER_TOLERANCE = 1e-2  # of its eigenvalues, which are only to stand out no more


@dataclass(frozen=True)
class _Prepared:
    matrix: Damped
    stopping: Stopping
    rank: int  # of the preconditioner
    spectrum: Spectrum = UNKNOWN

    @functools.cached_property
    def preconditioner(self) -> Callable[[Tensor], Tensor]:
        """From residuals (rhs, params) to the same; a path of dampings does without."""
        return _deflation(self.matrix, self.rank) if self.rank else _unchanged

    def solve(self, rhs: Tensor) -> Solution:
        """Solve for each row side by side.

        Raises: Diverged at a direction without positive curvature, where something is not finite,
        or where the preconditioner's eigenvalues are not found.
        """
        rhs = checked(rhs)
        x, residual = torch.zeros_like(rhs), rhs.clone()
        direction = turned = self.preconditioner(residual)
        product = (residual * turned).sum(-1)
        goal = self.stopping.tolerance * rhs.norm(dim=-1)
        steps = torch.zeros(len(rhs), dtype=torch.int64, device=rhs.device)
        scale = 0.0
        for _ in range(self.stopping.iterations):
            going = residual.norm(dim=-1) > goal
            if not bool(going.any()):
                break
            image = self.matrix.product(direction[going])
            bend = (direction[going] * image).sum(-1)
            curvature = bend / direction[going].square().sum(-1)  # of a unit vector
            scale = max(scale, float(curvature.abs().max()))
            self._refuse(curvature, ROUNDING * scale)
            size = (product[going] / bend)[:, None]
            x[going] += size * direction[going]
            residual[going] -= size * image
            steps[going] += 1
            turned = self.preconditioner(residual)
            after = (residual * turned).sum(-1)
            # The solved ones stay as they are.
            share = after / torch.where(product > 0, product, 1.0)
            direction = turned + share[:, None] * direction
            product = after
        return self.matrix.solution(x, rhs, steps, self.stopping)

    def along(self, rhs: Tensor, dampings: Sequence[float]) -> list[Solution]:
        return solve_along(self.matrix.operator, rhs, dampings, self.stopping, definite=True)

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

    With a `preconditioner` of so many of the largest eigenvalues, found by Lanczos, these count
    as the smallest of them: where a few stand out, as those of networks do, iterations fall by
    the square root of how far. Worth it for many right-hand sides.
    """

    preconditioner: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole("preconditioner", self.preconditioner, 0)

    def prepare(self, operator: HessianOperator, damping: float) -> Prepared:
        return _Prepared(Damped(operator, damping), self, self.preconditioner)


def _unchanged(residuals: Tensor) -> Tensor:
    return residuals.clone()  # residuals move in place


def _deflation(matrix: Damped, rank: int) -> Callable[[Tensor], Tensor]:
    """Return what scales the largest eigenvalues down to the smallest of them.

    Of those that are positive: a negative one is for the iteration to find.
    """
    found = largest_eigenpairs(
        matrix.operator.plus_diagonal(matrix.damping), rank, PRECONDITIONER_TOLERANCE
    )
    values, vectors = (torch.from_numpy(array).to(matrix.operator.device) for array in found)
    positive = values > rounding(matrix.operator.size, float(values.abs().max()))
    values, vectors = values[positive], vectors[:, positive]
    if not len(values):
        return _unchanged
    shares = values.min() / values - 1

    def precondition(residuals: Tensor) -> Tensor:
        return residuals + ((residuals @ vectors) * shares) @ vectors.mT

    return precondition

"""What iterative solvers share: when they stop, products with H + damping I, what is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from ifcheck.curvature.operator import HessianOperator, require_finite
from ifcheck.solvers.base import Solution, Spectrum, relative_residual

UNKNOWN = Spectrum(smallest=math.nan, largest=math.nan, null_space=-1, negative=-1)


@dataclass(frozen=True)
class Stopping:
    """Options of an iterative solver that say when it stops."""

    tolerance: float = 1e-6  # of the residual, relative to the right-hand side
    iterations: int = 1_000

    def __post_init__(self) -> None:
        if not self.tolerance > 0:
            raise ValueError(f"tolerance is {self.tolerance!r}; expected a positive number")
        require_whole("iterations", self.iterations, 1)


@dataclass(frozen=True)
class Damped:
    """H + damping I, by products that are checked."""

    operator: HessianOperator
    damping: float

    def product(self, directions: Tensor) -> Tensor:
        """Return (H + damping I) v for directions v (D, params). Raises: Diverged."""
        images = self.operator.product(directions) + self.damping * directions
        require_finite(images, "a product with the Hessian")
        return images

    def linear_operator(self) -> LinearOperator:
        """Return the same as scipy sees it."""
        return self.operator.plus_diagonal(self.damping).linear_operator()

    def solution(self, x: Tensor, rhs: Tensor, steps: Tensor, stopping: Stopping) -> Solution:
        """Return x (rhs, params) with the residual that it has, whatever a recurrence said."""
        relative = relative_residual(self.product(x) - rhs, rhs)
        # A recurrence's residual drifts from the true one by rounding: twice is granted.
        converged = relative <= 2 * stopping.tolerance
        reason = ""
        if not bool(converged.all()):
            after = f" after {int(steps.max()):,} iterations" if bool(steps.any()) else ""
            reason = (
                f"a relative residual of {float(relative.max()):.1e}{after}; "
                f"{stopping.tolerance:.0e} was asked for"
            )
        return Solution(x, relative, steps, converged, reason)


def failed(rhs: Tensor, reason: str) -> Solution:
    """Return what stands for the solutions of right-hand sides (rhs, params) that failed."""
    unknown = torch.full_like(rhs[:, 0], torch.nan)
    steps = torch.zeros_like(unknown, dtype=torch.int64)
    return Solution(torch.full_like(rhs, torch.nan), unknown, steps, steps > 0, reason)


def checked(rhs: Tensor) -> Tensor:
    """Return gradients to solve for in float64. Raises: Diverged where one is not finite."""
    require_finite(rhs, "a gradient")
    return rhs.to(torch.float64)


def require_whole(name: str, value: object, least: int) -> None:
    """Raises: TypeError, ValueError for an option that is not a whole number of at least that."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r}; expected a whole number")
    if value < least:
        raise ValueError(f"{name} is {value}; expected at least {least}")

"""LiSSA: the Neumann series of the inverse, with its residual watched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ifcheck.curvature.extremes import largest_eigenvalue
from ifcheck.curvature.operator import HessianOperator
from ifcheck.errors import Diverged
from ifcheck.solvers.base import SOLVERS, Prepared, Solution, Spectrum
from ifcheck.solvers.iterative import Damped, Stopping, checked, failed

# Of the largest eigenvalue, which the scale only has to exceed by less than its half.
EIGENVALUE_TOLERANCE = 1e-2
MARGIN = 1.05  # scale over the largest eigenvalue, found to that tolerance
# A residual cannot grow where all eigenvalues are in [0, 2 scale]; more than this is not rounding.
GROWTH = 1e-6


@dataclass(frozen=True)
class _Prepared:
    matrix: Damped
    options: Lissa
    spectrum: Spectrum

    @property
    def scale(self) -> float:
        """By what the residual is divided in an iteration."""
        if self.options.scale is not None:
            return self.options.scale
        # That of a Hessian of zeros alone does not matter.
        return MARGIN * abs(self.spectrum.largest + self.matrix.damping) or 1.0

    def solve(self, rhs: Tensor) -> Solution:
        """Solve for each row side by side. Raises: Diverged as soon as a residual grows."""
        rhs = checked(rhs)
        x, residual = torch.zeros_like(rhs), rhs.clone()
        size = residual.norm(dim=-1)
        goal, rate = self.options.tolerance * size, torch.zeros_like(size)
        steps = torch.zeros(len(rhs), dtype=torch.int64, device=rhs.device)
        for _ in range(self.options.iterations):
            going = size > goal
            if not bool(going.any()):
                break
            step = residual[going] / self.scale
            image = self.matrix.product(step)
            x[going] += step
            residual[going] -= image
            steps[going] += 1
            after = residual.norm(dim=-1)
            rate[going] = after[going] / size[going]
            self._refuse_growth(step, image, rate[going])
            size = after
        solution = self.matrix.solution(x, rhs, steps, self.options)
        if not solution.reason:
            return solution
        missing = _missing_iterations(solution.rel_residual, rate, self.options.tolerance)
        return replace(solution, reason=f"{solution.reason}: {missing}")

    def along(self, rhs: Tensor, dampings: Sequence[float]) -> list[Solution]:
        """Sum the series anew for each: they share the largest eigenvalue alone."""
        solutions = []
        for damping in dampings:
            shifted = replace(self, matrix=Damped(self.matrix.operator, damping))
            try:
                solutions.append(shifted.solve(rhs))
            except Diverged as error:
                solutions.append(failed(rhs, error.message))
        return solutions

    def _refuse_growth(self, step: Tensor, image: Tensor, growth: Tensor) -> None:
        worst = int(growth.argmax())
        if not growth[worst] > 1 + GROWTH:
            return
        direction = step[worst]
        curvature = float(direction @ image[worst] / direction.square().sum())
        if curvature < self.scale:  # of what grows, and of what has not died out beside it
            cause = "a direction of negative curvature"
            if curvature < 0:
                cause += f" ({curvature:.1e})"
            remedy = "Raise --damping above its magnitude, or use --solver minres or exact."
        else:
            cause = f"an eigenvalue above 2 * scale (curvature {curvature:.3g})"
            remedy = "Give a larger scale: --set influence.solver_options.scale="
            remedy += f"{MARGIN * curvature:.3g}, or leave it out."
        raise Diverged(
            f"LiSSA diverges at scale {self.scale:.3g} and damping {self.matrix.damping:g}: its "
            f"residual grew by {float(growth[worst]) - 1:.1e} in an iteration, by {cause}.",
            remedy=remedy,
        )


def _missing_iterations(relative: Tensor, rate: Tensor, tolerance: float) -> str:
    """Say how many more iterations would do if residuals went on falling as in the last one."""
    worst = int(relative.argmax())
    if not rate[worst] < 1:
        return "it stands still, the gradient has a part where the Hessian is zero"
    more = math.log(tolerance / float(relative[worst])) / math.log(float(rate[worst]))
    return f"about {math.ceil(more):,} more would do"


@SOLVERS.register("lissa")
@dataclass(frozen=True)
class Lissa(Stopping):
    """LiSSA (Agarwal et al. 2017) on all rows: x <- x + (g - (H + damping I) x) / scale.

    That is the Neumann series of the inverse, cut off after `iterations` terms (its depth) or
    where the residual is small enough. It converges where all eigenvalues are in (0, 2 scale), by
    the factor max |1 - eigenvalue / scale| in an iteration. Without a `scale` it is 1.05 times the
    largest eigenvalue, found by Lanczos. Products are with the Hessian of all rows, not of
    batches: what is left at the end is the series' error, and no sampling.
    """

    iterations: int = 10_000
    scale: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale is not None and not self.scale > 0:
            raise ValueError(f"scale is {self.scale!r}; expected a positive number")

    def prepare(self, operator: HessianOperator, damping: float) -> Prepared:
        """Raises: Diverged where the largest eigenvalue is not found."""
        largest = math.nan
        if self.scale is None:
            largest = largest_eigenvalue(operator, EIGENVALUE_TOLERANCE)
        spectrum = Spectrum(math.nan, largest, null_space=-1, negative=-1)
        return _Prepared(Damped(operator, damping), self, spectrum)

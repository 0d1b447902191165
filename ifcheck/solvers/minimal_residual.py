"""Minimal residuals on products with the Hessian, which may be indefinite or singular."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, minres
from torch import Tensor

from ifcheck.curvature.operator import HessianOperator
from ifcheck.solvers.base import SOLVERS, Prepared, Solution, Spectrum
from ifcheck.solvers.iterative import UNKNOWN, Damped, Stopping, checked
from ifcheck.solvers.krylov import solve_along

FURTHER = 1e-2  # by which the tolerance that scipy is given falls from one start to the next
FIRST_CHECK = 10  # iterations after which the residual is looked at
CHECKS = 1.1  # times as many until it is looked at again: a tenth of the products goes there
# Of the residual: a solution that leaves so little less is no better, only longer. A right-hand
# side with a part beside the range has solutions of any length.
GAIN = 1e-4
PATIENCE = 2  # times as many iterations as the best solution took end the search for a better one
LEAST_TOLERANCE = 1e-16  # below it there is rounding
NO_CURVATURE = 1e-9  # of a direction, beside that of the right-hand side


@dataclass(frozen=True)
class _Prepared:
    matrix: Damped
    stopping: Stopping
    spectrum: Spectrum = UNKNOWN

    def solve(self, rhs: Tensor) -> Solution:
        """Solve for each row in turn. Raises: Diverged where something is not finite."""
        rhs = checked(rhs)
        operator = self.matrix.linear_operator()
        found = [self._solve_one(operator, row) for row in rhs.cpu().numpy()]
        x = torch.from_numpy(np.array([solution for solution, _ in found])).to(rhs)
        steps = torch.tensor([steps for _, steps in found], device=rhs.device)
        return self.matrix.solution(x.view_as(rhs), rhs, steps, self.stopping)

    def along(self, rhs: Tensor, dampings: Sequence[float]) -> list[Solution]:
        return solve_along(self.matrix.operator, rhs, dampings, self.stopping, definite=False)

    def _solve_one(
        self, operator: LinearOperator, rhs: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], int]:
        """Return a solution (params,) and how many iterations it took.

        Scipy measures a residual by |A| |x| + |b|: it is asked for little, and stopped where the
        residual is small beside |b|. Where it is content before, it starts again from there and is
        asked for less, unless what is left has no curvature.
        """
        size, iterations = float(np.linalg.norm(rhs)), self.stopping.iterations
        goal = self.stopping.tolerance * size
        asked = max(LEAST_TOLERANCE, FURTHER**2 * self.stopping.tolerance)
        x, residual, image, steps = np.zeros_like(rhs), rhs, operator.matvec(rhs), 0
        least = NO_CURVATURE * float(np.linalg.norm(image)) / (size or 1.0)
        while size > goal and steps < iterations and asked >= LEAST_TOLERANCE:
            if np.linalg.norm(image) <= least * size:
                break
            change, taken = _minimise(operator, residual, goal, asked, iterations - steps, least)
            after = residual - operator.matvec(change)
            asked, steps = FURTHER * asked, steps + taken
            if np.linalg.norm(after) < size:
                x, residual, size = x + change, after, float(np.linalg.norm(after))
                image = operator.matvec(residual)
        return x, steps


class _Enough(Exception):
    """Raised in the middle of scipy's iteration."""


def _minimise(
    operator: LinearOperator,
    rhs: NDArray[np.float64],
    goal: float,
    tolerance: float,
    iterations: int,
    least: float,
) -> tuple[NDArray[np.float64], int]:
    """Return scipy's solution (params,), of a residual of `goal` if it can, and its iterations.

    It is the first one of about its residual. Where a right-hand side has a part beside the range,
    scipy passes over it into rounding, and no curvature below `least` lets a solution be so long.
    """
    longest = np.linalg.norm(rhs) / least
    best = before = np.zeros_like(rhs)
    residual, found, steps, check = np.linalg.norm(rhs), 0, 0, FIRST_CHECK

    def keep(x: NDArray[np.float64]) -> None:
        nonlocal best, residual, found
        left = np.linalg.norm(rhs - operator.matvec(x))
        if left < (1 - GAIN) * residual:
            best, residual, found = x.copy(), left, steps

    def watch(x: NDArray[np.float64]) -> None:
        nonlocal before, steps, check
        steps += 1
        if np.linalg.norm(x) > longest:
            keep(before)
            raise _Enough
        before = x
        if steps >= check:
            check = int(CHECKS * check) + 1
            keep(x)
            if residual <= goal or steps > PATIENCE * max(found, FIRST_CHECK):
                raise _Enough

    with suppress(_Enough):
        last, _ = minres(operator, rhs, rtol=tolerance, maxiter=iterations, callback=watch)
        keep(last)
    return best, steps


@SOLVERS.register("minres")
@dataclass(frozen=True)
class MinimalResidual(Stopping):
    """Minimal residuals (Paige & Saunders 1975), by scipy: also where the Hessian is indefinite.

    Of a singular system it finds the solution in the range, if there is one, and tells by its
    residual where there is none. Learns nothing about the spectrum.
    """

    def prepare(self, operator: HessianOperator, damping: float) -> Prepared:
        return _Prepared(Damped(operator, damping), self)

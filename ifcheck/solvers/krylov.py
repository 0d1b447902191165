"""Solutions for many dampings from one Krylov space, the same for every shift of the matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ifcheck.curvature.operator import BYTES, HessianOperator, require_memory
from ifcheck.solvers.base import Solution, rounding
from ifcheck.solvers.iterative import Damped, Stopping, checked

FIRST_CHECK = 8  # steps after which the residuals are looked at first
CHECKS = 1.2  # times as many steps until they are looked at again
INVARIANT = 1e-13  # of the matrix's size: what is left of a direction is rounding


@dataclass(frozen=True)
class _Space:
    """The Krylov space of one right-hand side, in which the matrix is V T V^T."""

    vectors: Tensor  # (steps, params), orthonormal
    values: Tensor  # (steps,) eigenvalues of T, ascending
    rotation: Tensor  # (steps, steps) eigenvectors of T, columns
    beyond: float  # what is left of the last direction's image beside the space
    size: float  # of the right-hand side

    def coordinates(self, damping: float) -> Tensor:
        """Return y of the Galerkin solution V^T y. Shape: (steps,)."""
        damped = self.values + damping
        usable = damped.abs() > rounding(len(damped), float(self.values.abs().max()))
        inverse = torch.where(usable, 1 / torch.where(usable, damped, 1.0), 0.0)
        return self.rotation @ (inverse * self.rotation[0]) * self.size

    def residual(self, damping: float) -> float:
        """Return the relative residual, as far as it is beside the space."""
        return self.beyond * abs(float(self.coordinates(damping)[-1])) / self.size


def solve_along(
    operator: HessianOperator,
    rhs: Tensor,
    dampings: Sequence[float],
    stopping: Stopping,
    definite: bool,
) -> list[Solution]:
    """Solve (H + damping I) x = g for each damping, with products for a single Krylov space each g.

    Lanczos with full reorthogonalisation (Golub & Van Loan 2013, section 10.1); the shifted
    systems share its basis (Frommer & Glaessner 1998). Where `definite`, a damping that leaves a
    negative eigenvalue does not count as converged.
    Raises: Diverged where something is not finite; RunFailed where memory is short.
    """
    rhs = checked(rhs)
    spaces = [_space(operator, row, dampings, stopping) for row in rhs]
    steps = torch.tensor([len(space.values) for space in spaces], device=rhs.device)
    return [
        _solution(Damped(operator, damping), rhs, spaces, steps, stopping, definite)
        for damping in dampings
    ]


def _solution(
    matrix: Damped,
    rhs: Tensor,
    spaces: Sequence[_Space],
    steps: Tensor,
    stopping: Stopping,
    definite: bool,
) -> Solution:
    found = [space.coordinates(matrix.damping) @ space.vectors for space in spaces]
    solution = matrix.solution(torch.stack(found), rhs, steps, stopping)
    values = torch.cat([space.values for space in spaces])
    least = float(values.min())
    zero = rounding(matrix.operator.size, float(values.abs().max()))
    if not definite or least + matrix.damping >= -zero:
        return solution
    reason = f"the Hessian has a negative eigenvalue of {least:.1e} or less"
    return replace(solution, converged=torch.zeros_like(solution.converged), reason=reason)


def _space(
    operator: HessianOperator, rhs: Tensor, dampings: Sequence[float], stopping: Stopping
) -> _Space:
    """Enlarge the space until every damping is solved, or nothing is left outside it."""
    most = min(stopping.iterations, operator.size)
    require_memory(
        BYTES * most * operator.size,
        operator.device,
        f"the directions of {most:,} iterations on {operator.size:,} parameters take",
        remedy="Ask for fewer: --set influence.solver_options.iterations=100",
    )
    vectors = rhs.new_empty(most, operator.size)  # which takes memory only as it is filled
    diagonal: list[float] = []
    beside: list[float] = []
    size = float(rhs.norm())
    direction, check = rhs / (size or 1.0), FIRST_CHECK
    for step in range(most):
        vectors[step] = direction
        image = Damped(operator, 0.0).product(direction[None])[0]
        diagonal.append(float(image @ direction))
        so_far = vectors[: step + 1]
        scale = float(image.norm())
        for _ in range(2):  # once leaves what rounding mixes in
            image = image - (so_far @ image) @ so_far
        left = float(image.norm())
        last = left <= INVARIANT * scale or step + 1 == most
        if last or step + 1 >= check:
            space = _of(so_far, diagonal, beside, left, size)
            if last or all(space.residual(d) <= stopping.tolerance for d in dampings):
                break
            check = int(CHECKS * check) + 1
        beside.append(left)
        direction = image / left
    return space


def _of(
    vectors: Tensor, diagonal: Sequence[float], beside: Sequence[float], beyond: float, size: float
) -> _Space:
    tridiagonal = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if beside:
        outer = torch.diag(torch.tensor(beside, dtype=torch.float64), 1)
        tridiagonal = tridiagonal + outer + outer.mT
    values, rotation = torch.linalg.eigh(tridiagonal.to(vectors))
    return _Space(vectors, values, rotation, beyond, size or 1.0)

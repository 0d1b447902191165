"""Solutions for many dampings from one Krylov space, the same for every shift of the matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ifcheck.curvature.operator import BYTES, HessianOperator, require_memory
from ifcheck.solvers.base import Solution, pseudo_inverse, rounding
from ifcheck.solvers.iterative import Damped, Stopping, checked

FIRST_CHECK = 8  # steps after which the residuals are looked at first
# Times as many until they are looked at again: a look takes as many multiplications as the steps
# cubed, and steps beyond the last that was needed take a product each.
CHECKS = 1.2
FIRST_ROOM = 32  # directions that room is made for first; then for twice as many
INVARIANT = 1e-13  # of the matrix's size: what is left of a direction is rounding


@dataclass(frozen=True)
class _Space:
    """The Krylov space of one right-hand side, in which the matrix is V T V^T."""

    tridiagonal: Tensor  # T (steps, steps)
    beyond: float  # what is left of the last direction's image beside the space
    size: float  # of the right-hand side

    def coordinates(self, damping: float, definite: bool) -> Tensor:
        """Return y of the solution V^T y: of Galerkin's, or of least residual. Shape: (steps,)."""
        steps = len(self.tridiagonal)
        damped = self.tridiagonal + damping * torch.eye(steps).to(self.tridiagonal)
        first = torch.zeros(steps + 1).to(damped)
        first[0] = self.size
        if definite:
            values, rotation = torch.linalg.eigh(damped)
            inverse = pseudo_inverse(values, rounding(steps, float(values.abs().max())))
            galerkin: Tensor = rotation @ (inverse * (rotation.mT @ first[:-1]))
            return galerkin
        taller = torch.cat([damped, torch.zeros(1, steps).to(damped)])
        taller[-1, -1] = self.beyond
        rank = rounding(steps, 1.0)
        # Where singular values are cut off, which torch does on the CPU alone.
        pair = taller.cpu(), first.cpu()[:, None]
        solved: Tensor = torch.linalg.lstsq(*pair, rcond=rank, driver="gelsd").solution
        return solved[:, 0].to(damped.device)

    def residual(self, damping: float, definite: bool) -> float:
        """Return the relative residual, as far as the space tells it."""
        y = self.coordinates(damping, definite)
        inside = self.tridiagonal @ y + damping * y
        inside[0] -= self.size
        return float(torch.hypot(inside.norm(), self.beyond * y[-1])) / self.size


def solve_along(
    operator: HessianOperator,
    rhs: Tensor,
    dampings: Sequence[float],
    stopping: Stopping,
    definite: bool,
) -> list[Solution]:
    """Solve (H + damping I) x = g for each damping, with products for a single Krylov space each g.

    Lanczos with full reorthogonalisation (Golub & Van Loan 2013, section 10.1); the shifted
    systems share its basis (Frommer & Glaessner 1998). Where `definite`, in it is what conjugate
    gradient finds, and a damping that leaves a negative eigenvalue does not count as converged;
    else what has the least residual.
    Raises: Diverged where something is not finite; RunFailed where memory is short.
    """
    rhs = checked(rhs)
    found = [_solve_one(operator, row, dampings, stopping, definite) for row in rhs]
    steps = torch.tensor([steps for _, steps, _ in found], device=rhs.device)
    least = min(least for _, _, least in found)
    solutions = []
    for place, damping in enumerate(dampings):
        x = torch.stack([solved[place] for solved, _, _ in found])
        solution = Damped(operator, damping).solution(x, rhs, steps, stopping)
        if definite and least + damping < 0:
            reason = f"the Hessian has a negative eigenvalue of {least:.1e} or less"
            failed = torch.zeros_like(solution.converged)
            solution = replace(solution, converged=failed, reason=reason)
        solutions.append(solution)
    return solutions


def _solve_one(
    operator: HessianOperator,
    rhs: Tensor,
    dampings: Sequence[float],
    stopping: Stopping,
    definite: bool,
) -> tuple[Tensor, int, float]:
    """Return solutions (dampings, params), the steps, and the space's smallest eigenvalue.

    Zero where that is rounding. The space grows until every damping is solved, or nothing is left
    outside it.
    """
    most = min(stopping.iterations, operator.size)
    vectors = rhs.new_empty(0, operator.size)
    diagonal: list[float] = []
    beside: list[float] = []
    size = float(rhs.norm()) or 1.0
    direction, check = rhs / size, FIRST_CHECK
    for step in range(most):
        if step == len(vectors):
            vectors = _with_room(vectors, min(most, max(FIRST_ROOM, 2 * step)))
        vectors[step] = direction
        image = Damped(operator, 0.0).product(direction[None])[0]
        diagonal.append(float(image @ direction))
        scale = float(image.norm())
        for _ in range(2):  # once leaves what rounding mixes in
            image = image - (vectors[: step + 1] @ image) @ vectors[: step + 1]
        left = float(image.norm())
        last = left <= INVARIANT * scale or step + 1 == most
        if last or step + 1 >= check:
            space = _Space(_tridiagonal(diagonal, beside).to(rhs), left, size)
            if last or all(space.residual(d, definite) <= stopping.tolerance for d in dampings):
                break
            check = int(CHECKS * check) + 1
        beside.append(left)
        direction = image / left
    coordinates = torch.stack([space.coordinates(damping, definite) for damping in dampings])
    values = torch.linalg.eigvalsh(space.tridiagonal)
    zero = rounding(operator.size, float(values.abs().max()))
    least = float(values.min()) if float(values.min()) < -zero else 0.0
    return coordinates @ vectors[: len(diagonal)], len(diagonal), least


def _with_room(vectors: Tensor, count: int) -> Tensor:
    """Return the directions with room for more. Raises: RunFailed where memory is short."""
    size = vectors.shape[1]
    require_memory(
        BYTES * count * size,
        vectors.device,
        f"the directions of {count:,} iterations on {size:,} parameters take",
        remedy="Ask for fewer: --set influence.solver_options.iterations=100",
    )
    larger = vectors.new_empty(count, size)
    larger[: len(vectors)] = vectors
    return larger


def _tridiagonal(diagonal: Sequence[float], beside: Sequence[float]) -> Tensor:
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if not beside:
        return matrix
    outer = torch.diag(torch.tensor(beside, dtype=torch.float64), 1)
    return matrix + outer + outer.mT

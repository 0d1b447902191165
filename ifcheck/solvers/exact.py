"""Exact solves from a factorisation in float64, with a certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ifcheck.curvature.extremes import largest_eigenpairs
from ifcheck.curvature.factors import cholesky_solve
from ifcheck.curvature.operator import HessianOperator, plus_diagonal
from ifcheck.errors import Diverged
from ifcheck.solvers.base import (
    SOLVERS,
    Prepared,
    Solution,
    Spectrum,
    pseudo_inverse,
    relative_residual,
    rounding,
)

# A gradient of a softmax head has no part in the exact null space, and what else is dropped
# shows in the residual; float64 solves of condition number 1e10 still reach this.
RESIDUAL_TOLERANCE = 1e-6
# Parameters up to which all eigenvalues take seconds: at 10,010 they take minutes, Cholesky's
# factor seconds.
DECOMPOSED_PARAMETERS = 5_000
# Of the extreme eigenvalues there, which are told and not calculated with: eigenvalues crowd at
# the weight decay, and closer ones would take hundreds of products with a matrix of 0.8 GB.
LANCZOS_TOLERANCE = 1e-4


def _solution(x: Tensor, matrix: Tensor, damping: float, rhs: Tensor) -> Solution:
    relative = relative_residual(x @ matrix + damping * x - rhs, rhs)
    steps = torch.zeros(len(rhs), dtype=torch.int64, device=rhs.device)
    converged = relative <= RESIDUAL_TOLERANCE
    reason = ""
    if not bool(converged.all()):
        reason = (
            f"a relative residual of {float(relative.max()):.1e}: the gradient of a test point has "
            "a part where the Hessian is zero to rounding, or nearly so"
        )
    return Solution(x, relative, steps, converged, reason)


@dataclass(frozen=True)
class _Eigendecomposition:
    """V diag(values) V^T, solved on the directions that are not null to rounding."""

    matrix: Tensor  # (params, params) undamped
    values: Tensor  # (params,) undamped, ascending
    vectors: Tensor  # (params, params), columns
    tolerance: float  # up to which a damped eigenvalue is zero
    damping: float
    spectrum: Spectrum

    def solve(self, rhs: Tensor) -> Solution:
        inverse = pseudo_inverse(self.values + self.damping, self.tolerance)
        x = ((rhs @ self.vectors) * inverse) @ self.vectors.mT
        return _solution(x, self.matrix, self.damping, rhs)

    def along(self, rhs: Tensor, dampings: Sequence[float]) -> list[Solution]:
        return [replace(self, damping=damping).solve(rhs) for damping in dampings]


@dataclass(frozen=True)
class _Cholesky:
    """L L^T of a matrix whose undamped eigenvalues all exceed rounding."""

    matrix: Tensor  # (params, params) undamped
    factor: Tensor  # (params, params), lower, with damping
    damping: float
    spectrum: Spectrum

    @classmethod
    def of(cls, matrix: Tensor, damping: float, spectrum: Spectrum) -> _Cholesky:
        factor = torch.linalg.cholesky(plus_diagonal(matrix, damping))
        return cls(matrix, factor, damping, spectrum)

    def solve(self, rhs: Tensor) -> Solution:
        return _solution(cholesky_solve(self.factor, rhs), self.matrix, self.damping, rhs)

    def along(self, rhs: Tensor, dampings: Sequence[float]) -> list[Solution]:
        """Factorise anew for each: here that takes less than all eigenvalues do."""
        return [self.of(self.matrix, damping, self.spectrum).solve(rhs) for damping in dampings]


@SOLVERS.register("exact")
@dataclass(frozen=True)
class Exact:
    """Eigendecomposition in float64; drops eigenvalues that are zero to rounding.

    Softmax-head Hessians are singular by construction: one vector added to the weights of
    all classes changes nothing. Eigenvalues of magnitude at most p * eps * lambda_max cannot
    be told from zero and are dropped, which makes this the pseudo-inverse. A large matrix that
    has none of these, nor negative ones, goes by its Cholesky factor instead.
    """

    def prepare(self, operator: HessianOperator, damping: float) -> Prepared:
        """Raises: Diverged where the matrix is not finite; UnusableInput where it does not fit."""
        matrix = operator.dense().to(torch.float64)
        if not bool(torch.isfinite(matrix).all()):
            raise Diverged(
                "the Hessian is not finite.",
                remedy="The network has diverged: train it again with a smaller learning rate.",
            )
        if len(matrix) > DECOMPOSED_PARAMETERS:
            prepared = _definite(matrix, damping)
            if prepared is not None:
                return prepared
        values, vectors = torch.linalg.eigh(matrix)
        tolerance = rounding(len(values), float(values.abs().max()))
        return _Eigendecomposition(
            matrix=matrix,
            values=values,
            vectors=vectors,
            tolerance=tolerance,
            damping=damping,
            spectrum=Spectrum(
                smallest=float(values[0]),
                largest=float(values[-1]),
                null_space=int((values.abs() <= tolerance).sum()),
                negative=int((values < -tolerance).sum()),
            ),
        )


def _definite(matrix: Tensor, damping: float) -> _Cholesky | None:
    """Return the Cholesky factor of a matrix without eigenvalues that exact solves drop, or None.

    That of matrix - tolerance I proves it (Sylvester's law of inertia).
    """
    largest = _largest_eigenvalue(HessianOperator.of_matrix(matrix))
    least = rounding(len(matrix), largest)
    factor, info = torch.linalg.cholesky_ex(plus_diagonal(matrix, -least))
    if int(info) > 0:
        return None
    inverse = HessianOperator(
        len(matrix), lambda right: cholesky_solve(factor, right), lambda: factor, matrix.device
    )
    spectrum = Spectrum(1 / _largest_eigenvalue(inverse) + least, largest, null_space=0, negative=0)
    return _Cholesky.of(matrix, damping, spectrum)


def _largest_eigenvalue(operator: HessianOperator) -> float:
    """Return that of a positive definite operator. Raises: Diverged where it is not found."""
    values, _ = largest_eigenpairs(operator, 1, LANCZOS_TOLERANCE)
    return float(values[0])

"""Exact solves from an eigendecomposition in float64, with a certificate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ifcheck.errors import Diverged
from ifcheck.solvers.base import SOLVERS, Prepared, Solution, Spectrum

# A gradient of a softmax head has no part in the exact null space, and what else is dropped
# shows in the residual; float64 solves of condition number 1e10 still reach this.
RESIDUAL_TOLERANCE = 1e-6


@dataclass(frozen=True)
class _Eigendecomposition:
    """V diag(values) V^T, solved on the directions that are not null to rounding."""

    matrix: Tensor  # (params, params) with damping
    values: Tensor  # (params,) with damping, ascending
    vectors: Tensor  # (params, params), columns
    kept: Tensor  # (params,) bool
    spectrum: Spectrum

    def solve(self, rhs: Tensor) -> Solution:
        inverse = torch.where(self.kept, 1.0 / torch.where(self.kept, self.values, 1.0), 0.0)
        x = ((rhs @ self.vectors) * inverse) @ self.vectors.mT
        size = rhs.norm(dim=-1)
        residual = (x @ self.matrix - rhs).norm(dim=-1)
        relative = torch.where(size == 0, 0.0, residual / size)
        return Solution(
            x=x,
            rel_residual=relative,
            steps=torch.zeros(len(rhs), dtype=torch.int64, device=rhs.device),
            converged=relative <= RESIDUAL_TOLERANCE,
        )


@SOLVERS.register("exact")
@dataclass(frozen=True)
class Exact:
    """Eigendecomposition in float64; drops eigenvalues that are zero to rounding.

    Softmax-head Hessians are singular by construction: one vector added to the weights of
    all classes changes nothing. Eigenvalues of magnitude at most p * eps * lambda_max cannot
    be told from zero and are dropped, which makes this the pseudo-inverse.
    """

    def prepare(self, matrix: Tensor, damping: float) -> Prepared:
        """Raises: Diverged where the matrix is not finite."""
        if not bool(torch.isfinite(matrix).all()):
            raise Diverged(
                "the Hessian is not finite.",
                remedy="The network has diverged: train it again with a smaller learning rate.",
            )
        matrix = matrix.to(torch.float64)
        values, vectors = torch.linalg.eigh(matrix)
        tolerance = len(values) * torch.finfo(torch.float64).eps * float(values.abs().max())
        damped = values + damping
        return _Eigendecomposition(
            matrix=matrix + damping * torch.eye(len(values)).to(matrix),
            values=damped,
            vectors=vectors,
            kept=damped.abs() > tolerance,
            spectrum=Spectrum(
                smallest=float(values[0]),
                largest=float(values[-1]),
                null_space=int((values.abs() <= tolerance).sum()),
                negative=int((values < -tolerance).sum()),
            ),
        )

"""The Hessian's largest eigenvalues alone, by Lanczos."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ifcheck.curvature.extremes import largest_eigenpairs
from ifcheck.curvature.operator import HessianOperator
from ifcheck.solvers.base import SOLVERS, Prepared, Solution, Spectrum, pseudo_inverse, rounding
from ifcheck.solvers.iterative import Damped, Stopping, checked, require_whole


@dataclass(frozen=True)
class _Prepared:
    matrix: Damped
    stopping: Stopping
    values: Tensor  # (rank,) of the matrix without its shift
    vectors: Tensor  # (params, rank)
    spectrum: Spectrum

    def solve(self, rhs: Tensor) -> Solution:
        """Solve in the space of the vectors, and beside it as if there were its shift alone."""
        rhs = checked(rhs)
        within = rhs @ self.vectors
        beside = self.matrix.operator.shift + self.matrix.damping
        least = rounding(self.matrix.operator.size, float(self.values.abs().max()))
        inverse = pseudo_inverse(self.values + beside, least)
        x = (within * inverse) @ self.vectors.mT
        if beside > 0:
            x += (rhs - within @ self.vectors.mT) / beside
        steps = torch.zeros(len(rhs), dtype=torch.int64, device=rhs.device)
        return self.matrix.solution(x, rhs, steps, self.stopping)

    def along(self, rhs: Tensor, dampings: Sequence[float]) -> list[Solution]:
        operator = self.matrix.operator
        return [replace(self, matrix=Damped(operator, d)).solve(rhs) for d in dampings]


@SOLVERS.register("lanczos")
@dataclass(frozen=True)
class LowRank:
    """The data's `rank` eigenvalues of largest magnitude, by Lanczos; the others count as zero.

    Weight decay and damping curve all directions alike, and count in full: what is beside these
    eigenvectors is divided by them. Without either it is left out (Schioppa et al. 2022). An
    approximation: the residual tells of what.
    """

    rank: int = 50
    tolerance: float = 1e-6  # of the residual, from which the solution counts as one

    def __post_init__(self) -> None:
        require_whole("rank", self.rank, 1)
        Stopping(self.tolerance)  # which checks it

    def prepare(self, operator: HessianOperator, damping: float) -> Prepared:
        """Raises: Diverged where the eigenvalues are not found."""
        found = largest_eigenpairs(operator.plus_diagonal(-operator.shift), self.rank, 0.0)
        values, vectors = (torch.from_numpy(array).to(operator.device) for array in found)
        largest = float(values.max()) if bool((values > 0).any()) else math.nan
        spectrum = Spectrum(math.nan, largest + operator.shift, null_space=-1, negative=-1)
        stopping = Stopping(self.tolerance)
        return _Prepared(Damped(operator, damping), stopping, values, vectors, spectrum)

"""What a solver is: prepare an operator once, solve for many right-hand sides, with residuals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ifcheck.registry import Registry


@dataclass(frozen=True)
class Solution:
    """Solutions of several right-hand sides, each with its certificate."""

    x: Tensor  # (rhs, params)
    rel_residual: Tensor  # (rhs,) |(H + damping I) x - g| / |g|; 0 where g is 0
    steps: Tensor  # (rhs,) iterations; 0 for direct solvers
    converged: Tensor  # (rhs,) bool


@dataclass(frozen=True)
class Spectrum:
    """What a solver learnt about the undamped operator."""

    smallest: float
    largest: float
    null_space: int  # eigenvalues that are zero to rounding
    negative: int  # eigenvalues below zero beyond rounding


class Prepared(Protocol):
    """A factorised operator."""

    @property
    def spectrum(self) -> Spectrum:
        """The extreme eigenvalues of the undamped operator."""

    def solve(self, rhs: Tensor) -> Solution:
        """Solve for each row of `rhs` (rhs, params)."""


class Solver(Protocol):
    """An entry of `SOLVERS`: a frozen dataclass whose fields are the solver's options."""

    def prepare(self, matrix: Tensor, damping: float) -> Prepared:
        """Factorise H + damping I for a symmetric `matrix` H (params, params)."""


SOLVERS: Registry[Solver] = Registry("solver")

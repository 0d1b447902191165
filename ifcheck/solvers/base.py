"""What a solver is: prepare an operator once, solve for many right-hand sides, with residuals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ifcheck.curvature.operator import HessianOperator
from ifcheck.registry import Registry


@dataclass(frozen=True)
class Solution:
    """Solutions of several right-hand sides, each with its certificate."""

    x: Tensor  # (rhs, params)
    rel_residual: Tensor  # (rhs,) |(H + damping I) x - g| / |g|; 0 where g is 0
    steps: Tensor  # (rhs,) iterations; 0 for direct solvers
    converged: Tensor  # (rhs,) bool
    reason: str = ""  # why what did not converge did not


@dataclass(frozen=True)
class Spectrum:
    """What a solver learnt about the undamped operator."""

    smallest: float  # nan where it did not
    largest: float
    null_space: int  # eigenvalues that are zero to rounding; -1 where they were not counted
    negative: int  # eigenvalues below zero beyond rounding; -1 where they were not counted


class Prepared(Protocol):
    """A factorised operator."""

    @property
    def spectrum(self) -> Spectrum:
        """What is known of the eigenvalues of the undamped operator."""

    def solve(self, rhs: Tensor) -> Solution:
        """Solve for each row of `rhs` (rhs, params)."""

    def along(self, rhs: Tensor, dampings: Sequence[float]) -> list[Solution]:
        """Solve with each of other dampings, from one factorisation or space as far as it goes.

        A damping at which the solver fails has a solution of nan, with the reason.
        """


class Solver(Protocol):
    """An entry of `SOLVERS`: a frozen dataclass whose fields are the solver's options."""

    def prepare(self, operator: HessianOperator, damping: float) -> Prepared:
        """Make ready to solve with H + damping I."""


SOLVERS: Registry[Solver] = Registry("solver")


def relative_residual(residual: Tensor, rhs: Tensor) -> Tensor:
    """Return |residual| / |rhs| of each row; 0 where `rhs` is 0. Shape: (rhs,)."""
    size = rhs.norm(dim=-1)
    return torch.where(size == 0, 0.0, residual.norm(dim=-1) / size)


def pseudo_inverse(values: Tensor, zero: float) -> Tensor:
    """Return 1 / values, and 0 where a value's magnitude is at most `zero`."""
    usable = values.abs() > zero
    return torch.where(usable, 1.0 / torch.where(usable, values, 1.0), 0.0)


def rounding(size: int, largest: float) -> float:
    """Return the magnitude up to which an eigenvalue of a matrix cannot be told from zero."""
    return size * torch.finfo(torch.float64).eps * largest

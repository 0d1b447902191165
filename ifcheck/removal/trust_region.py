"""Newton's step in a trust region, for several problems side by side.

The region's radius is steered through the damping of Newton's equation (More 1978).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

# Of the decrease that the quadratic model predicts (Nocedal & Wright 2006, algorithm 4.1): below
# the first a step is undone, below the second the region shrinks, above the third it grows.
ACCEPTED, POOR, GOOD = 1e-4, 0.25, 0.75
FACTOR = 4.0  # by which the damping that stands for the region's radius changes
# A predicted decrease below this share of the objective is not measured by its difference: that is
# rounding where the features of deep Bayesian networks have variances of 1e7.
FINE = 1e-8
LEAST_DAMPING = 1e-4  # of the Hessian's mean diagonal; less counts as none
MAX_FACTORS = 60  # 4^60: a Hessian that is not positive definite then is not finite


class Smooth(Protocol):
    """Several functions of P parameters each."""

    def value(self, flat: Tensor) -> Tensor:
        """Return the functions at flat parameters (problems, P). Shape: (problems,)."""

    def gradient(self, flat: Tensor) -> Tensor:
        """Return the gradients. Shape: (problems, P)."""


def trust_region_step(
    problem: Smooth, matrix: Tensor, flat: Tensor, slope: Tensor, damping: Tensor
) -> tuple[Tensor, Tensor]:
    """Return where a step leads, which is nowhere if it is undone, and the damping of the next.

    `matrix` (problems, P, P) are the Hessians at `flat` (problems, P), `slope` the gradients. The
    damping (problems,) is none as long as the quadratic model predicts well, more where it does
    not or where a Hessian is not positive definite.
    A step is judged by the decrease of the objective over the one that was predicted. Near the
    optimum, where rounding hides the decrease, it is judged by how much shorter a second step of
    the same kind would be (Deuflhard 2011, section 2.1: natural monotonicity); where that would
    not be shorter, an increase within rounding passes.
    """
    least = LEAST_DAMPING * matrix.diagonal(dim1=-2, dim2=-1).abs().mean(-1)
    factor, damping = _factorise(matrix, damping, least)
    direction = -_solve_factored(factor, slope)
    bend = (direction[:, None] @ matrix @ direction[..., None]).flatten()
    predicted = -(slope * direction).sum(-1) - 0.5 * bend
    before, after = problem.value(flat), flat + direction
    slack = 4 * torch.finfo(flat.dtype).eps * before.abs()
    ratio = (before - problem.value(after) + slack) / (predicted + slack)
    length = direction.norm(dim=-1)
    shorter = length - damping * _solve_factored(factor, direction).norm(dim=-1)  # as predicted
    fine = (predicted <= FINE * before.abs()) & (shorter > 0)
    if bool(fine.any()):
        second = _solve_factored(factor, problem.gradient(after)).norm(dim=-1)
        ratio = torch.where(fine, (length - second) / shorter, ratio)
    accepted = ratio > ACCEPTED
    larger = torch.maximum(FACTOR * damping, least)
    smaller = torch.where(damping <= least, 0.0, damping / FACTOR)
    following = torch.where(ratio > GOOD, smaller, torch.where(ratio > POOR, damping, larger))
    return torch.where(accepted[:, None], after, flat), following


def _solve_factored(factor: Tensor, right: Tensor) -> Tensor:
    """Return the solutions (problems, P) of equations whose Cholesky factors are known."""
    return torch.cholesky_solve(right[..., None], factor).squeeze(-1)


def _factorise(matrix: Tensor, damping: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Return Cholesky factors of matrix + damping I, with more damping where there is none."""
    identity = torch.eye(matrix.shape[-1]).to(matrix)
    for _ in range(MAX_FACTORS):
        factor, info = torch.linalg.cholesky_ex(matrix + damping[:, None, None] * identity)
        if not bool(info.any()):
            break
        damping = torch.where(info > 0, torch.maximum(FACTOR * damping, least), damping)
    return factor, damping

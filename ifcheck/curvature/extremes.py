"""Outer eigenvalues and their vectors, by scipy's Lanczos with restarts."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, eigsh

from ifcheck.curvature.operator import HessianOperator
from ifcheck.errors import Diverged

Pairs = tuple[NDArray[np.float64], NDArray[np.float64]]
END_TOLERANCE = 5e-5  # of the largest magnitude twice, to which the other end is found
RESTARTS = 300  # some thousands of products; what stands apart takes a few


def largest_eigenpairs(operator: HessianOperator, count: int, tolerance: float) -> Pairs:
    """Return the eigenvalues of largest magnitude (count,), rising, and vectors (size, count).

    `tolerance` is of the eigenvalues, relative; 0 is rounding. All of them where `count` is as
    many as there are. Raises: Diverged where they do not converge.
    """
    return _eigenpairs(operator, count, tolerance, "LM")


def largest_eigenvalue(operator: HessianOperator, tolerance: float) -> float:
    """Return the largest eigenvalue, which may be negative. Raises: Diverged."""
    return float(_eigenpairs(operator, 1, tolerance, "LA")[0][0])


def end_of_spectrum(operator: HessianOperator, sign: float, magnitude: float) -> float:
    """Return the largest (sign 1) or smallest (-1) eigenvalue, to 1e-4 of the largest magnitude.

    The end is shifted away from zero by that magnitude, so that eigenvalues which crowd at zero,
    as those of networks do, are not told apart in vain. nan where it is not found.
    """
    shift = magnitude or 1.0
    try:
        found = largest_eigenvalue(operator.times(sign).plus_diagonal(shift), END_TOLERANCE)
    except Diverged:
        return math.nan
    return sign * (found - shift)


def _eigenpairs(operator: HessianOperator, count: int, tolerance: float, which: str) -> Pairs:
    size, linear = operator.size, operator.linear_operator()
    if count >= size:
        matrix = linear.matmat(np.eye(size))
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
        return values, vectors
    # The same in every run. Not of ones: these are an eigenvector of every softmax head's Hessian.
    start = np.random.default_rng(0).standard_normal(size)
    if not linear.matvec(start).any():  # which is to say that it is zero
        return np.zeros(count), np.eye(size, count)
    try:
        values, vectors = eigsh(
            linear, k=count, which=which, v0=start, tol=tolerance, maxiter=RESTARTS
        )
    except ArpackError as error:
        raise Diverged(
            f"the outer eigenvalues of the Hessian were not found: {error}",
            remedy="`ifcheck influence`: add some --damping, or use --solver cg. `ifcheck eigen`: "
            "use --method power.",
        ) from error
    order = values.argsort()
    return values[order], vectors[:, order]

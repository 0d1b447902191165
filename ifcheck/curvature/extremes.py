"""Largest eigenvalues and their vectors, by scipy's Lanczos with restarts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from ifcheck.errors import Diverged


def largest_eigenpairs(
    operator: LinearOperator, count: int, tolerance: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the eigenvalues of largest magnitude (count,), rising, and vectors (size, count).

    `tolerance` is of the eigenvalues, relative; 0 is rounding. All of them where `count` is as
    many as there are. Raises: Diverged where they do not converge.
    """
    return _eigenpairs(operator, count, tolerance, "LM")


def outermost_eigenpairs(
    operator: LinearOperator, count: int, tolerance: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the same for the `count` smallest and the `count` largest eigenvalues together."""
    return _eigenpairs(operator, 2 * count, tolerance, "BE")


def _eigenpairs(
    operator: LinearOperator, count: int, tolerance: float, which: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    size = operator.shape[0]
    if count >= size:
        matrix = operator.matmat(np.eye(size))
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
        return values, vectors
    # The same in every run. Not of ones: these are an eigenvector of every softmax head's Hessian.
    start = np.random.default_rng(0).standard_normal(size)
    if not operator.matvec(start).any():  # which is to say that it is zero
        return np.zeros(count), np.eye(size, count)
    try:
        values, vectors = eigsh(operator, k=count, which=which, v0=start, tol=tolerance)
    except ArpackError as error:
        raise Diverged(
            f"the extreme eigenvalues of the Hessian were not found: {error}",
            remedy="Add some --damping, or use --solver cg.",
        ) from error
    order = values.argsort()
    return values[order], vectors[:, order]

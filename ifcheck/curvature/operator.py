"""A Hessian as solvers see it: its products with directions, and the matrix where that fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from ifcheck.curvature.kronecker import KroneckerMatrix
from ifcheck.errors import Diverged, RunFailed

# Matrices of the Hessian's size that are alive together at most while it is made and solved with:
# measured 4.8 with all eigenvalues, 4.3 with Cholesky's factor, 2.6 while a softmax head's is made.
DENSE_COPIES = 5
BYTES = 8  # of a float64
CPU = torch.device("cpu")


@dataclass(frozen=True)
class HessianOperator:
    """A symmetric matrix (params, params) in float64 that need not be formed."""

    size: int
    product: Callable[[Tensor], Tensor]  # (D, params) -> (D, params), row by row H v
    dense: Callable[[], Tensor]  # the matrix; raises RunFailed or UnusableInput where too large
    device: torch.device = CPU
    # What approximates it, where that is known; may raise UnusableInput, RunFailed or Diverged.
    kronecker: Callable[[], KroneckerMatrix] | None = None
    shift: float = 0.0  # of all eigenvalues alike, by diagonals that were added

    @classmethod
    def of_matrix(cls, matrix: Tensor) -> HessianOperator:
        """Return the operator of a symmetric matrix."""
        return cls(
            len(matrix), lambda directions: directions @ matrix, lambda: matrix, matrix.device
        )

    def plus_diagonal(self, diagonal: Tensor | float) -> HessianOperator:
        """Return the operator of H + diag(diagonal)."""
        kronecker, shift = self.kronecker, _shift(diagonal)
        return HessianOperator(
            self.size,
            lambda directions: self.product(directions) + diagonal * directions,
            lambda: plus_diagonal(self.dense(), diagonal),
            self.device,
            None if kronecker is None or shift is None else lambda: kronecker().plus(shift),
            self.shift + (shift or 0.0),
        )

    def times(self, factor: float) -> HessianOperator:
        """Return the operator of factor * H."""
        kronecker = self.kronecker
        return HessianOperator(
            self.size,
            lambda directions: factor * self.product(directions),
            lambda: factor * self.dense(),
            self.device,
            None if kronecker is None else lambda: kronecker().times(factor),
            factor * self.shift,
        )

    def plus(self, other: HessianOperator) -> HessianOperator:
        """Return the operator of H + other."""
        return HessianOperator(
            self.size,
            lambda directions: self.product(directions) + other.product(directions),
            lambda: self.dense() + other.dense(),
            self.device,
            shift=self.shift + other.shift,
        )

    def linear_operator(self) -> LinearOperator:
        """Return the same as scipy sees it, on numpy's arrays of columns (params, D)."""

        def products(columns: NDArray[np.float64]) -> NDArray[np.float64]:
            directions = torch.from_numpy(np.ascontiguousarray(columns.T)).to(self.device)
            images = self.product(directions)
            require_finite(images, "a product with the Hessian")
            columns_of_images: NDArray[np.float64] = images.cpu().numpy().T
            return columns_of_images

        def product(column: NDArray[np.float64]) -> NDArray[np.float64]:
            return products(column.reshape(-1, 1)).ravel()

        return LinearOperator(
            (self.size, self.size),
            matvec=product,
            rmatvec=product,
            matmat=products,
            rmatmat=products,
            dtype=np.float64,
        )


def _shift(diagonal: Tensor | float) -> float | None:
    """Return the one value of a diagonal, or None where there are several."""
    if not isinstance(diagonal, Tensor):
        return diagonal
    least, largest = diagonal.aminmax()
    return float(least) if bool(least == largest) else None


def require_finite(values: Tensor, what: str) -> None:
    """Raises: Diverged where a value is not finite."""
    if not bool(values.isfinite().all()):
        raise Diverged(
            f"{what} is not finite.",
            remedy="The network has diverged: train it again with a smaller learning rate.",
        )


def plus_diagonal(matrix: Tensor, diagonal: Tensor | float) -> Tensor:
    """Return matrix + diag(diagonal), with no other matrix of its size."""
    result = matrix.clone()
    result.diagonal().add_(diagonal)
    return result


def dense_bytes(size: int) -> int:
    """Return the memory that making and solving with a dense Hessian takes at most."""
    return DENSE_COPIES * BYTES * size**2


def require_memory_for_dense(size: int, device: torch.device) -> None:
    """Refuse a dense Hessian that does not fit now. Raises: RunFailed."""
    require_memory(
        dense_bytes(size),
        device,
        f"a dense Hessian of {size:,} parameters takes",
        remedy="Use --solver cg, which needs products with the Hessian alone.",
    )


def require_memory(needed: int, device: torch.device, what: str, remedy: str) -> None:
    """Refuse `what` takes more bytes than are free now. Raises: RunFailed."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        available = torch.cuda.mem_get_info(device)[0] + unused
    else:
        available = psutil.virtual_memory().available
    if needed > available:
        raise RunFailed(
            f"{what} {needed / 1e9:.1f} GB; {available / 1e9:.1f} GB are free.", remedy=remedy
        )

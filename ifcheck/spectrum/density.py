"""The density of all eigenvalues, and their sum, by stochastic Lanczos quadrature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from ifcheck import provenance
from ifcheck.curvature.operator import HessianOperator, require_finite, require_memory

BASIS_BYTES = 1 << 30  # of the vectors of probes that go side by side; one probe's may take more
GRID_POINTS = 512
WIDTH = 1e-2  # standard deviation of the smoothing Gaussian, beside the range of eigenvalues
MARGIN = 4  # standard deviations of it that the grid goes beyond the outermost eigenvalues
ZERO = 1e-6  # of the largest magnitude; an eigenvalue nearer to zero counts as zero
FLOAT64 = 8  # bytes
BREAKDOWN = 1e-12  # of the norm of a product, below which the Krylov space is complete


@dataclass(frozen=True)
class Quadrature:
    """Nodes and weights of each probe's v^T f(H) v = sum_k weights_k f(nodes_k), |v| = 1."""

    size: int  # parameters
    nodes: NDArray[np.float64]  # (probes, steps)
    weights: NDArray[np.float64]  # (probes, steps) that sum to 1

    def mean(self, values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the mean over eigenvalues of f, given f at the nodes (..., probes, steps).

        And its standard error over the probes, nan for a single one. Shapes: (...).
        """
        of_probes = (self.weights * values).sum(-1)
        probes = of_probes.shape[-1]
        spread = of_probes.std(-1, ddof=1) if probes > 1 else np.full(of_probes.shape[:-1], np.nan)
        return of_probes.mean(-1), spread / np.sqrt(probes)

    def trace(self) -> tuple[float, float]:
        """Return the sum of all eigenvalues (Hutchinson 1990), and its standard error."""
        mean, error = self.mean(self.nodes)
        return float(self.size * mean), float(self.size * error)

    def negative_share(self) -> tuple[float, float, float]:
        """Return bounds of the share of negative eigenvalues, and the standard error of either.

        A step is not integrated exactly: the node that stands for eigenvalues crowded at zero lies
        on one side of it. What is below the last node under zero is negative for certain, and what
        is from the second node above it on is not (Chebyshev, Markov and Stieltjes; Golub &
        Meurant 2010, section 6.3). The error of the mean over probes comes on top.
        """
        below = self.nodes < -ZERO * np.abs(self.nodes).max()  # nodes rise
        last_below = below & ~np.roll(below, -1, axis=1)
        first_above = ~below & np.roll(below, 1, axis=1)
        first_above[:, 0] = ~below[:, 0]
        last_below[:, -1] = below[:, -1]
        low, low_error = self.mean((below & ~last_below).astype(np.float64))
        high, high_error = self.mean((below | first_above).astype(np.float64))
        return float(low), float(high), float(max(low_error, high_error))

    def density(
        self, grid: NDArray[np.float64], width: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the density of eigenvalues, smoothed by a Gaussian, on a grid (points,).

        And its standard error; it integrates to 1.
        """
        distance = (grid[:, None, None] - self.nodes) / width
        return self.mean(np.exp(-0.5 * distance**2) / (width * np.sqrt(2 * np.pi)))


def quadrature(operator: HessianOperator, probes: int, steps: int, seed: int) -> Quadrature:
    """Run Lanczos from random signs, with full reorthogonalisation.

    References: Ubaru, Chen & Saad (2017); Ghorbani, Krishnan & Xiao (2019), algorithm 1.
    Raises: RunFailed where the vectors of one probe do not fit into memory.
    """
    steps = min(steps, operator.size)
    bytes_of_one = FLOAT64 * steps * operator.size
    require_memory(
        bytes_of_one,
        operator.device,
        f"{steps} Lanczos vectors of {operator.size:,} parameters take",
        remedy="Use fewer: --set eigen.density_steps=20",
    )
    generator = torch.Generator().manual_seed(provenance.named_seed(seed, "density"))
    together = max(1, BASIS_BYTES // bytes_of_one)
    nodes, weights = [], []
    for first in range(0, probes, together):
        count = min(together, probes - first)
        signs = torch.randint(0, 2, (count, operator.size), generator=generator, dtype=torch.int8)
        start = (2.0 * signs.double() - 1).to(operator.device) / operator.size**0.5
        for diagonal, beside in zip(*_tridiagonals(operator, start, steps), strict=True):
            values, vectors = eigh_tridiagonal(diagonal, beside)
            nodes.append(values)
            weights.append(vectors[0] ** 2)
    return Quadrature(operator.size, np.array(nodes), np.array(weights))


def common_grid(found: Sequence[Quadrature]) -> tuple[NDArray[np.float64], float]:
    """Return points that hold all eigenvalues of several networks, and the smoothing's width."""
    lowest = min(quadrature.nodes.min() for quadrature in found)
    highest = max(quadrature.nodes.max() for quadrature in found)
    width = WIDTH * (highest - lowest) or WIDTH * (abs(highest) or 1.0)
    return np.linspace(lowest - MARGIN * width, highest + MARGIN * width, GRID_POINTS), width


def _tridiagonals(
    operator: HessianOperator, start: Tensor, steps: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the diagonals (probes, steps) and what is beside them (probes, steps - 1)."""
    basis = start.new_zeros(len(start), steps, start.shape[1])
    diagonal, beside = start.new_zeros(len(start), steps), start.new_zeros(len(start), steps - 1)
    current = start
    for step in range(steps):
        basis[:, step] = current
        image = operator.product(current)
        require_finite(image, "a product with the Hessian")
        scale = image.norm(dim=1)
        diagonal[:, step] = (current * image).sum(1)
        so_far = basis[:, : step + 1]
        for _ in range(2):  # twice is enough (Parlett 1998, section 6.9)
            image = image - ((so_far @ image[..., None]).mT @ so_far).squeeze(1)
        if step + 1 == steps:
            break
        length = image.norm(dim=1)
        complete = length <= BREAKDOWN * scale
        beside[:, step] = torch.where(complete, 0.0, length)
        length = torch.where(complete, torch.inf, length)  # nothing more: nodes without weight
        current = image / length[:, None]
    return diagonal.cpu().numpy(), beside.cpu().numpy()

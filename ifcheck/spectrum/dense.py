"""All eigenvalues of the full Hessian, for networks of up to a few thousand parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ifcheck.curvature.dense import MAX_DENSE_PARAMETERS
from ifcheck.errors import UnusableInput
from ifcheck.models import Network
from ifcheck.objective import Objective
from ifcheck.spectrum.base import SPECTRA, Eigenvalues, network_hessian


@SPECTRA.register("dense")
@dataclass(frozen=True)
class Dense:
    """Full Hessian by automatic differentiation, all eigenvalues by LAPACK."""

    side_by_side: ClassVar[bool] = True

    def products(self, size: int) -> int:
        return size

    def eigenvalues(
        self,
        network: Network,
        objective: Objective,
        train: tuple[Tensor, Tensor],
        *,
        with_regulariser: bool,
        top: int,
        seed: int,
    ) -> Eigenvalues:
        """Raises: UnusableInput where the network is too large, or has fewer than `top` values."""
        operator = network_hessian(network, objective, train, with_regulariser)
        size = operator.size
        if size > MAX_DENSE_PARAMETERS or top > size:
            raise UnusableInput(
                f"--method dense --top {top} got a network of {size:,} parameters; "
                f"expected at least {top} and at most {MAX_DENSE_PARAMETERS:,}.",
                remedy="Use --method power, or a smaller --top.",
            )
        matrix = operator.dense()
        values, vectors = torch.linalg.eigh(matrix)
        order = values.abs().argsort(descending=True)[:top]
        residuals = (matrix @ vectors[:, order] - values[order] * vectors[:, order]).norm(dim=0)
        return Eigenvalues(
            values=values[order],
            rel_residual=residuals / values[order].abs(),
            smallest=float(values[0]),
            largest=float(values[-1]),
        )

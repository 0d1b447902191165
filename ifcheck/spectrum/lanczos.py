"""Both ends of the spectrum by Lanczos, for networks whose Hessian does not fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ifcheck.curvature.extremes import outermost_eigenpairs
from ifcheck.errors import UnusableInput
from ifcheck.models import Network
from ifcheck.objective import Objective
from ifcheck.spectrum.base import SPECTRA, Eigenvalues, network_hessian

ARPACK_VECTORS = 20  # that ARPACK holds, at least; it restarts a few times


@SPECTRA.register("lanczos")
@dataclass(frozen=True)
class Lanczos:
    """Lanczos with implicit restarts (Lehoucq et al. 1998), by scipy: both ends, with residuals.

    Finds the largest and the smallest eigenvalues, so that those of largest magnitude are among
    them, from products with the Hessian alone. `tolerance` is of the eigenvalues, relative.
    """

    tolerance: float = 1e-8
    side_by_side: ClassVar[bool] = True

    def products(self, size: int) -> int:
        return min(size, 10 * ARPACK_VECTORS)

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
        """Raises: UnusableInput for more values than there are; Diverged where not found."""
        operator = network_hessian(network, objective, train, with_regulariser)
        if top > operator.size:
            raise UnusableInput(
                f"--top {top} asks for more eigenvalues than a network of {operator.size} "
                "parameters has.",
                remedy=f"Ask for at most {operator.size}.",
            )
        found = outermost_eigenpairs(operator.linear_operator(), top, self.tolerance)
        values, vectors = (torch.from_numpy(array).to(operator.device) for array in found)
        order = values.abs().argsort(descending=True)[:top]
        kept = vectors[:, order].mT
        difference = operator.product(kept) - values[order, None] * kept
        return Eigenvalues(
            values=values[order],
            rel_residual=difference.norm(dim=1) / values[order].abs(),
            smallest=float(values.min()),
            largest=float(values.max()),
        )

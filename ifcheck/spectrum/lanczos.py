"""Both ends of the spectrum by Lanczos, for networks whose Hessian does not fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ifcheck.curvature.extremes import end_of_spectrum, largest_eigenpairs
from ifcheck.models import Network
from ifcheck.objective import Objective
from ifcheck.spectrum.base import SPECTRA, Eigenvalues, network_hessian, require_as_many

ARPACK_VECTORS = 20  # that ARPACK holds, at least; it restarts a few times


@SPECTRA.register("lanczos")
@dataclass(frozen=True)
class Lanczos:
    """Lanczos with implicit restarts (Lehoucq et al. 1998), by scipy, from products alone.

    Finds the eigenvalues of largest magnitude to `tolerance`, relative, with their residuals, and
    the other end of the spectrum to 1e-4 of the largest magnitude; nan if that is not found.
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
        require_as_many(top, operator.size)
        found = largest_eigenpairs(operator, top, self.tolerance)
        values, vectors = (torch.from_numpy(array).to(operator.device) for array in found)
        order = values.abs().argsort(descending=True)
        values, kept = values[order], vectors[:, order].mT
        difference = operator.product(kept) - values[:, None] * kept
        magnitude = float(values[0].abs())
        # An end whose sign is among the values of largest magnitude is there itself.
        return Eigenvalues(
            values=values,
            rel_residual=difference.norm(dim=1) / values.abs(),
            smallest=float(values.min())
            if bool((values < 0).any())
            else end_of_spectrum(operator, -1.0, magnitude),
            largest=float(values.max())
            if bool((values > 0).any())
            else end_of_spectrum(operator, 1.0, magnitude),
        )

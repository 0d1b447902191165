"""What an eigenvalue method is: a float64 network and its rows in, certified eigenvalues out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from ifcheck.curvature.operator import HessianOperator
from ifcheck.curvature.rows import NetworkRows
from ifcheck.errors import UnusableInput
from ifcheck.models import Network
from ifcheck.objective import Objective
from ifcheck.params import Layout
from ifcheck.registry import Registry


@dataclass(frozen=True)
class Eigenvalues:
    """Eigenvalues of the Hessian over all parameters, by falling magnitude."""

    values: Tensor  # (top,) in nats per squared parameter
    rel_residual: Tensor  # (top,) |H v - value v| / |value|
    smallest: float  # of all eigenvalues; nan where the method cannot know it
    largest: float  # likewise


class SpectrumMethod(Protocol):
    """An entry of `SPECTRA`: a frozen dataclass whose fields are the method's options."""

    side_by_side: ClassVar[bool]  # whether several networks may be measured at once

    def products(self, size: int) -> int:
        """Return how many products with a Hessian of `size` parameters a value takes at most."""

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
        """Return the `top` eigenvalues of largest magnitude.

        The Hessian is that of the mean data loss, plus that of the regulariser if asked.
        """


def require_as_many(top: int, size: int) -> None:
    """Refuse more values than a network has parameters. Raises: UnusableInput."""
    if top > size:
        raise UnusableInput(
            f"--top {top} asks for more eigenvalues than a network of {size} parameters has.",
            remedy=f"Ask for at most {size}.",
        )


def network_hessian(
    network: Network,
    objective: Objective,
    train: tuple[Tensor, Tensor],
    with_regulariser: bool,
) -> HessianOperator:
    """Return the Hessian over all parameters; the matrix stays in the network's type."""
    rows = NetworkRows.of(network, objective, "all", train)
    at = rows.parameters

    def product(directions: Tensor) -> Tensor:
        return rows.hessian_product(directions.to(at.dtype)).double()

    operator = HessianOperator(len(at), product, rows.hessian, rows.device)
    if not with_regulariser:
        return operator
    is_rho = Layout.of(network).is_rho.to(at.device)
    return operator.plus_diagonal(objective.regulariser_curvature(at, is_rho).double())


SPECTRA: Registry[SpectrumMethod] = Registry("eigenvalue method")

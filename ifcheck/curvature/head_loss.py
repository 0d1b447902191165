"""The loss of a network's last layer as a function of its flat parameters, in closed form."""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import Tensor

from ifcheck.curvature.head import SoftmaxHeadLoss
from ifcheck.curvature.variational_head import VariationalHeadLoss
from ifcheck.models import Network
from ifcheck.objective import Objective, VariationalObjective


class HeadLoss(Protocol):
    """Losses and derivatives of heads in float64, problems side by side along leading axes (...).

    Features are what `Network.features` returns, (rows, F) or packed (rows, 2, F), shared by the
    problems or with their leading axes; flat parameters (..., P); targets (rows,); row weights
    (..., rows). Regularisers have no part in it.
    """

    convex: ClassVar[bool]  # in the parameters, so that with a regulariser there is one minimum

    def losses(self, flat: Tensor, features: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each row in nats. Shape: (..., rows)."""

    def row_gradients(self, flat: Tensor, features: Tensor, targets: Tensor) -> Tensor:
        """Return the gradient of each row's loss. Shape: (..., rows, P)."""

    def row_products(
        self, flat: Tensor, features: Tensor, targets: Tensor, directions: Tensor
    ) -> Tensor:
        """Return the derivative of each row's loss along directions (D, P), for one problem.

        One pass over the features and no gradient of any row. Shape: (D, rows).
        """

    def mean_gradient(
        self, flat: Tensor, features: Tensor, targets: Tensor, weights: Tensor
    ) -> Tensor:
        """Return the gradient of the weighted data loss. Shape: (..., P)."""

    def hessian_product(
        self, flat: Tensor, features: Tensor, targets: Tensor, weights: Tensor, directions: Tensor
    ) -> Tensor:
        """Return H v for directions v (D, P), H that of `hessian`, for one problem.

        Block by block of rows. Shape: (D, P).
        """

    def hessian(self, flat: Tensor, features: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Return the Hessian of the weighted data loss. Shape: (..., P, P)."""


def head_loss(network: Network, objective: Objective) -> HeadLoss:
    """Return the loss of this network's head."""
    classes = network.head.out_features
    if isinstance(objective, VariationalObjective):
        return VariationalHeadLoss(classes, objective)
    return SoftmaxHeadLoss(classes)

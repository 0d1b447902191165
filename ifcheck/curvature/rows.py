"""The training rows of one network as functions of a selection of its parameters, in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from ifcheck.curvature.dense import Differentiable, HessianProducts, require_dense_size
from ifcheck.curvature.ekfac import ekfac
from ifcheck.curvature.head import SoftmaxHeadLoss
from ifcheck.curvature.head_loss import HeadLoss, head_loss
from ifcheck.curvature.kronecker import KroneckerMatrix
from ifcheck.curvature.operator import require_memory_for_dense
from ifcheck.errors import UnusableInput
from ifcheck.models import Network, evaluate
from ifcheck.objective import Objective, uniform_weights
from ifcheck.params import Layout, load_flat

ROW_VALUES = 1 << 22  # of rows' gradients that are alive together: 32 MB


class TrainingRows(Protocol):
    """Derivatives of the mean data loss, and of each row's, in P selected parameters."""

    @property
    def parameters(self) -> Tensor:
        """Where the selected parameters stand, (P,)."""

    @property
    def count(self) -> int:
        """How many rows there are."""

    @property
    def device(self) -> torch.device:
        """Where they are."""

    def hessian_product(self, directions: Tensor) -> Tensor:
        """Return H v for directions v (D, P). Shape: (D, P)."""

    def hessian(self) -> Tensor:
        """Return H (P, P). Raises: RunFailed, UnusableInput where it is too large."""

    def gauss_newton_product(self, directions: Tensor) -> Tensor:
        """Return G v for directions v (D, P), G as H with the outputs taken as linear."""

    def gauss_newton(self) -> Tensor:
        """Return G (P, P). Raises: RunFailed, UnusableInput where it is too large."""

    def kronecker(self, empirical: bool) -> KroneckerMatrix:
        """Approximate G, or the empirical Fisher matrix, by Kronecker factors; see `ekfac`.

        Raises: UnusableInput for other parameters than those of whole layers; RunFailed, Diverged.
        """

    def require_dense(self) -> None:
        """Refuse a matrix (P, P) that is too large to make. Raises: RunFailed, UnusableInput."""

    def row_gradients(self, rows: slice) -> Tensor:
        """Return the gradients of some rows' losses. Shape: (some rows, P)."""

    def row_products(self, directions: Tensor) -> Tensor:
        """Return the derivative of each row's loss along directions (D, P). Shape: (D, rows)."""

    def combined_gradients(self, shares: Tensor) -> Tensor:
        """Return sums of the rows' gradients with shares (D, rows). Shape: (D, P)."""


@dataclass(frozen=True)
class NetworkRows:
    """Any parameters of any network, by automatic differentiation, block by block of rows."""

    model: Differentiable
    inputs: Tensor
    targets: Tensor
    weights: Tensor  # (rows,) equal shares

    @classmethod
    def of(
        cls, network: Network, objective: Objective, selection: str, train: tuple[Tensor, Tensor]
    ) -> NetworkRows:
        """Return the rows `train` (inputs, targets). Raises: UnusableInput for a random network."""
        require_deterministic(network)
        model = Differentiable(network, objective, selection)
        return cls(model, *train, _equal_shares(train[0]))

    @property
    def parameters(self) -> Tensor:
        return self.model.parameters

    @property
    def count(self) -> int:
        return len(self.targets)

    @property
    def device(self) -> torch.device:
        return self.inputs.device

    @functools.cached_property
    def _hessian_products(self) -> HessianProducts:
        return self.model.hessian_products(self.inputs, self.targets, self.weights)

    def hessian_product(self, directions: Tensor) -> Tensor:
        return self._hessian_products(directions)

    def hessian(self) -> Tensor:
        return self.model.hessian(self.inputs, self.targets, self.weights)

    def gauss_newton_product(self, directions: Tensor) -> Tensor:
        return self.model.gauss_newton_product(self.inputs, self.targets, self.weights, directions)

    def gauss_newton(self) -> Tensor:
        self.require_dense()
        return self.gauss_newton_product(torch.eye(len(self.parameters)).to(self.parameters))

    def kronecker(self, empirical: bool) -> KroneckerMatrix:
        return self.model.kronecker(self.inputs, self.targets, empirical)

    def require_dense(self) -> None:
        require_dense_size(len(self.parameters))
        require_memory_for_dense(len(self.parameters), self.device)

    def row_gradients(self, rows: slice) -> Tensor:
        return self.model.row_gradients(self.inputs[rows], self.targets[rows])

    def row_products(self, directions: Tensor) -> Tensor:
        return self.model.row_products(self.inputs, self.targets, directions)

    def combined_gradients(self, shares: Tensor) -> Tensor:
        return self.model.combined_gradients(self.inputs, self.targets, shares)


@dataclass(frozen=True)
class HeadRows:
    """Parameters of the head alone, in closed form from cached features."""

    loss: HeadLoss
    flat: Tensor  # all of the head's parameters
    within: Tensor  # (P,) which of them are selected
    features: Tensor
    targets: Tensor
    weights: Tensor  # (rows,) equal shares
    whole: Callable[[], NetworkRows]  # the same rows, for what has no closed form

    @classmethod
    def of(
        cls, network: Network, objective: Objective, selection: str, train: tuple[Tensor, Tensor]
    ) -> HeadRows:
        """Return the rows `train` (inputs, targets). Raises: UnusableInput for a random network."""
        require_deterministic(network)
        layout = Layout.of(network)
        flat = layout.flatten(dict(network.named_parameters())).detach()
        head, device = layout.positions("head"), train[0].device
        within = torch.searchsorted(head, layout.positions(selection)).to(device)
        features = evaluate(network.features, train[0])
        return cls(
            loss=head_loss(network, objective),
            flat=flat[head.to(device)],
            within=within,
            features=features,
            targets=train[1],
            weights=_equal_shares(features),
            whole=functools.cache(lambda: NetworkRows.of(network, objective, selection, train)),
        )

    @property
    def parameters(self) -> Tensor:
        return self.flat[self.within]

    @property
    def count(self) -> int:
        return len(self.targets)

    @property
    def device(self) -> torch.device:
        return self.features.device

    def hessian_product(self, directions: Tensor) -> Tensor:
        moved = self.loss.hessian_product(
            self.flat, self.features, self.targets, self.weights, self._embedded(directions)
        )
        return moved[:, self.within]

    def hessian(self) -> Tensor:
        self.require_dense()
        matrix = self.loss.hessian(self.flat, self.features, self.targets, self.weights)
        if len(self.within) == len(matrix):
            return matrix
        return matrix[self.within][:, self.within]

    def gauss_newton_product(self, directions: Tensor) -> Tensor:
        if self._linear:
            return self.hessian_product(directions)
        return self.whole().gauss_newton_product(directions)

    def gauss_newton(self) -> Tensor:
        return self.hessian() if self._linear else self.whole().gauss_newton()

    def kronecker(self, empirical: bool) -> KroneckerMatrix:
        if not isinstance(self.loss, SoftmaxHeadLoss) or len(self.within) < len(self.flat):
            return self.whole().kronecker(empirical)  # which refuses
        head = nn.Linear(self.features.shape[1], self.loss.classes, device=self.device)
        load_flat(head, self.flat)
        return ekfac(head, ("weight", "bias"), self.features, self.targets, empirical)

    def require_dense(self) -> None:
        require_memory_for_dense(len(self.flat), self.device)

    def row_gradients(self, rows: slice) -> Tensor:
        return self.gradients_of(self.features[rows], self.targets[rows])

    def gradients_of(self, features: Tensor, targets: Tensor) -> Tensor:
        """Return the gradients of any rows' losses. Shape: (rows, P)."""
        return self.loss.row_gradients(self.flat, features, targets)[:, self.within]

    def row_products(self, directions: Tensor) -> Tensor:
        embedded = self._embedded(directions)
        return self.loss.row_products(self.flat, self.features, self.targets, embedded)

    def combined_gradients(self, shares: Tensor) -> Tensor:
        rows = self.flat, self.features, self.targets
        sums = [self.loss.mean_gradient(*rows, share)[self.within] for share in shares]
        return torch.stack(sums) if sums else shares.new_zeros(0, len(self.within))

    @property
    def _linear(self) -> bool:
        """Whether the outputs are linear in the parameters, so that G is H."""
        return isinstance(self.loss, SoftmaxHeadLoss)

    def _embedded(self, directions: Tensor) -> Tensor:
        whole = torch.zeros_like(self.flat).repeat(len(directions), 1)
        whole[:, self.within] = directions
        return whole


def _equal_shares(values: Tensor) -> Tensor:
    """Return the shares of the mean over rows of this type and on this device."""
    return uniform_weights(len(values), values.dtype, values.device)


def require_deterministic(network: nn.Module) -> None:
    """Refuse a network that is another function at every call. Raises: UnusableInput."""
    for name, module in network.named_modules():
        if module.training and isinstance(module, (_DropoutNd, _NormBase)):
            raise UnusableInput(
                f"{name} ({type(module).__name__}) is in training mode: products with the "
                "curvature would be of another function each time.",
                remedy="Call network.eval() first.",
            )

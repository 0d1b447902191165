"""Any network and any selection of parameters, by automatic differentiation in float64."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from ifcheck.curvature.ekfac import ekfac
from ifcheck.curvature.kronecker import KroneckerMatrix
from ifcheck.errors import UnusableInput
from ifcheck.models import rows_at_once
from ifcheck.objective import Objective, weighted_mean
from ifcheck.params import Layout

COLUMNS_AT_ONCE = 32  # of the Hessian: what a network of width 50 needs for them stays in cache
MAX_DENSE_PARAMETERS = 5_000  # 200 MB for the matrix in float64, and about a minute to make
# torch's level of forward-mode differentiation is one for all threads: a thread that leaves it
# takes away the others' derivatives, which are zero from then on, without a word.
_FORWARD_MODE = threading.Lock()


class Differentiable:
    """Losses of one network as functions of a selection of its flat parameters."""

    def __init__(self, network: nn.Module, objective: Objective, selection: str = "all") -> None:
        self._network = network
        self._objective = objective
        self._layout = Layout.of(network).part(selection)
        named = {name: tensor.detach() for name, tensor in network.named_parameters()}
        self._fixed = {n: t for n, t in named.items() if n not in self._layout.names}
        self.parameters = self._layout.flatten(named)  # (params,)

    def row_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the gradient of each row's loss. Shape: (rows, params)."""

        def row_loss(selected: Tensor, row: Tensor, target: Tensor) -> Tensor:
            return self._losses(selected, row.unsqueeze(0), target.unsqueeze(0)).sum()

        gradients: Tensor = vmap(grad(row_loss), in_dims=(None, 0, 0))(
            self.parameters, inputs, targets
        )
        return gradients

    def row_products(self, inputs: Tensor, targets: Tensor, directions: Tensor) -> Tensor:
        """Return the derivative of each row's loss along directions (D, params).

        By forward-mode differentiation: one pass over the rows for each direction, and no
        gradient of any row. Shape: (D, rows).
        """
        parts = []
        for rows in self._blocks(inputs):

            def losses(selected: Tensor, rows: slice = rows) -> Tensor:
                return self._losses(selected, inputs[rows], targets[rows])

            parts.append(torch.stack([_along(losses, self.parameters, d) for d in directions]))
        return torch.cat(parts, dim=1)

    def hessian(self, inputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Return the Hessian of the weighted data loss. Shape: (params, params).

        Raises: UnusableInput where the selection is too large.
        """
        require_dense_size(len(self.parameters))
        leaf = self.parameters.clone().requires_grad_()
        with torch.enable_grad():
            loss = weighted_mean(self._losses(leaf, inputs, targets), weights)
            (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
        # torch.func.hessian does the same, all columns at once: slower, and a second to import.
        rows = [
            torch.autograd.grad(
                gradient,
                leaf,
                directions,
                retain_graph=True,
                is_grads_batched=True,
                materialize_grads=True,
            )[0]
            for directions in torch.eye(len(leaf)).to(leaf).split(COLUMNS_AT_ONCE)
        ]
        matrix = torch.cat(rows)
        return (matrix + matrix.mT) / 2

    def hessian_products(self, inputs: Tensor, targets: Tensor, weights: Tensor) -> HessianProducts:
        """Return products with the Hessian of the weighted data loss (Pearlmutter 1994)."""

        def losses(selected: Tensor, rows: slice) -> Tensor:
            return self._losses(selected, inputs[rows], targets[rows])

        return HessianProducts(losses, self.parameters, weights, self._blocks(inputs))

    def gauss_newton_product(
        self, inputs: Tensor, targets: Tensor, weights: Tensor, directions: Tensor
    ) -> Tensor:
        """Return G v for directions v (D, params), block by block of rows.

        G = sum_i w_i J_i^T (d^2 l_i / d outputs^2) J_i, J_i the Jacobian of the row's outputs
        (Martens 2020, section 8.1). Shape: (D, params).
        """
        products = torch.zeros_like(directions)
        for rows in self._blocks(inputs):

            def outputs(selected: Tensor, rows: slice = rows) -> Tensor:
                return self._outputs(selected, inputs[rows])

            parameters = self.parameters.clone().requires_grad_()
            with torch.enable_grad():
                values = outputs(parameters)
                leaf = values.detach().requires_grad_()
                losses = self._objective.per_example_loss(leaf, targets[rows])
                (slopes,) = torch.autograd.grad(
                    weighted_mean(losses, weights[rows]), leaf, create_graph=True
                )
            for product, direction in zip(products, directions, strict=True):
                moved = _along(outputs, self.parameters, direction)
                (bent,) = torch.autograd.grad(slopes, leaf, moved, retain_graph=True)
                product += torch.autograd.grad(values, parameters, bent, retain_graph=True)[0]
        return products

    def combined_gradients(self, inputs: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
        """Return sum_i shares_i g_i for shares (D, rows) of the rows' gradients g_i. (D, params)"""
        sums = shares.new_zeros(len(shares), len(self.parameters))
        for rows in self._blocks(inputs):
            parameters = self.parameters.clone().requires_grad_()
            with torch.enable_grad():
                losses = self._losses(parameters, inputs[rows], targets[rows])
            for total, share in zip(sums, shares, strict=True):
                total += torch.autograd.grad(losses, parameters, share[rows], retain_graph=True)[0]
        return sums

    def kronecker(self, inputs: Tensor, targets: Tensor, empirical: bool) -> KroneckerMatrix:
        """Approximate G by Kronecker factors, see `ekfac`. Raises: UnusableInput, RunFailed."""
        return ekfac(self._network, self._layout.names, inputs, targets, empirical)

    def _blocks(self, inputs: Tensor) -> tuple[slice, ...]:
        """Return which rows are differentiated together; slices, which copy nothing."""
        step = rows_at_once(self._network, inputs)
        return tuple(slice(start, start + step) for start in range(0, len(inputs), step))

    def _losses(self, selected: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        return self._objective.per_example_loss(self._outputs(selected, inputs), targets)

    def _outputs(self, selected: Tensor, inputs: Tensor) -> Tensor:
        tensors = self._fixed | self._layout.unflatten(selected)
        outputs: Tensor = functional_call(self._network, tensors, (inputs,))
        return outputs


def _along(function: Callable[[Tensor], Tensor], at: Tensor, direction: Tensor) -> Tensor:
    """Return the derivative of a function's values along a direction, in one forward pass."""
    with _FORWARD_MODE:
        derivative: Tensor = jvp(function, (at,), (direction,), strict=True)[1]
    return derivative


class HessianProducts:
    """Products H v, H of the weighted mean of losses at one point, block by block of rows.

    Where one block holds all rows its gradient is differentiated once and kept, which halves the
    time of every later product.
    """

    def __init__(
        self,
        losses: Callable[[Tensor, slice], Tensor],
        at: Tensor,
        weights: Tensor,
        blocks: Iterable[slice],
    ) -> None:
        """`losses` gives those of some rows at flat parameters (params,); the blocks are all."""
        self._losses, self._at, self._weights = losses, at.detach(), weights
        self._blocks = tuple(blocks)
        self._kept: tuple[Tensor, Tensor] | None = None

    def __call__(self, directions: Tensor) -> Tensor:
        """Return H v for directions v (D, params). Shape: (D, params)."""
        products = torch.zeros_like(directions)
        for rows in self._blocks:
            leaf, gradient = self._kept or self._differentiate(rows)
            if len(self._blocks) == 1:
                self._kept = leaf, gradient
            for product, direction in zip(products, directions, strict=True):
                product += torch.autograd.grad(gradient, leaf, direction, retain_graph=True)[0]
        return products

    def _differentiate(self, rows: slice) -> tuple[Tensor, Tensor]:
        leaf = self._at.clone().requires_grad_()
        with torch.enable_grad():
            loss = weighted_mean(self._losses(leaf, rows), self._weights[rows])
            (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
        return leaf, gradient


def require_dense_size(size: int) -> None:
    """Refuse a matrix of more parameters than differentiation takes in minutes.

    Raises: UnusableInput.
    """
    if size > MAX_DENSE_PARAMETERS:
        raise UnusableInput(
            f"a dense Hessian of {size:,} parameters was asked for; "
            f"by automatic differentiation it takes at most {MAX_DENSE_PARAMETERS:,}.",
            remedy="Use --solver cg with some --damping, or --params head.",
        )

"""One trained network seen from close by: Hessian and gradients for selected parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ifcheck.curvature.dense import Differentiable
from ifcheck.curvature.head import SoftmaxHeadLoss
from ifcheck.curvature.head_loss import head_loss
from ifcheck.curvature.operator import HessianOperator, require_memory_for_dense
from ifcheck.curvature.row_curvature import RowCurvature
from ifcheck.models import Network, evaluate
from ifcheck.objective import Objective, uniform_weights
from ifcheck.params import Layout


@dataclass(frozen=True)
class LocalModel:
    """What influence functions know about a trained network, in float64."""

    hessian: HessianOperator  # of the mean data loss, without regulariser
    rows: int  # that were trained on
    train_products: Callable[[Tensor], Tensor]  # (D, params) -> (D, rows), see `row_products`
    test_gradients: Tensor  # (tests, params)
    regulariser_gradient: Tensor  # (params,)
    regulariser_curvature: Tensor  # (params,) the diagonal of its Hessian, which has no other part
    # Where the rows' own Hessians are of low rank.
    row_curvature: Callable[[], RowCurvature] | None = None


def local_model(
    network: Network,
    objective: Objective,
    selection: str,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
) -> LocalModel:
    """Return Hessian and gradients with respect to the selected parameters.

    Parameters of the head alone go through the closed form; others through automatic
    differentiation of the whole network. `train` and `test` are (inputs, targets).
    """
    layout = Layout.of(network)
    positions = layout.positions(selection)
    if bool(torch.isin(positions, layout.positions("head")).all()):
        return _closed_form(network, objective, positions, train, test)
    model = Differentiable(network, objective, selection)
    weights = uniform_weights(len(train[1]), train[0].dtype, train[0].device)
    is_rho = layout.is_rho[positions].to(train[0].device)
    return LocalModel(
        hessian=HessianOperator(
            size=len(positions),
            product=lambda directions: model.hessian_product(*train, weights, directions),
            dense=lambda: model.hessian(*train, weights),
            device=train[0].device,
        ),
        rows=len(train[1]),
        train_products=lambda directions: model.row_products(*train, directions),
        test_gradients=model.row_gradients(*test),
        regulariser_gradient=objective.regulariser_gradient(model.parameters, is_rho),
        regulariser_curvature=objective.regulariser_curvature(model.parameters, is_rho),
    )


def _closed_form(
    network: Network,
    objective: Objective,
    positions: Tensor,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
) -> LocalModel:
    layout = Layout.of(network)
    within = torch.searchsorted(layout.positions("head"), positions).to(train[0].device)
    flat = layout.flatten(dict(network.named_parameters())).detach()
    head_flat = flat[layout.positions("head").to(flat.device)]
    is_rho = layout.is_rho[positions].to(flat.device)
    features = evaluate(network.features, train[0])
    test_features = evaluate(network.features, test[0])
    weights = uniform_weights(len(train[1]), features.dtype, features.device)
    loss = head_loss(network, objective)

    def embedded(directions: Tensor) -> Tensor:
        whole = torch.zeros_like(head_flat).repeat(len(directions), 1)
        whole[:, within] = directions
        return whole

    def train_products(directions: Tensor) -> Tensor:
        return loss.row_products(head_flat, features, train[1], embedded(directions))

    def product(directions: Tensor) -> Tensor:
        moved = loss.hessian_product(head_flat, features, train[1], weights, embedded(directions))
        return moved[:, within]

    def dense() -> Tensor:
        require_memory_for_dense(len(head_flat), head_flat.device)
        matrix = loss.hessian(head_flat, features, train[1], weights)
        return matrix if len(within) == len(matrix) else matrix[within][:, within]

    def row_curvature() -> RowCurvature:
        return RowCurvature.of(head_flat, features, train[1], within)

    return LocalModel(
        hessian=HessianOperator(len(within), product, dense, features.device),
        rows=len(train[1]),
        train_products=train_products,
        test_gradients=loss.row_gradients(head_flat, test_features, test[1])[:, within],
        regulariser_gradient=objective.regulariser_gradient(head_flat[within], is_rho),
        regulariser_curvature=objective.regulariser_curvature(head_flat[within], is_rho),
        row_curvature=row_curvature if isinstance(loss, SoftmaxHeadLoss) else None,
    )

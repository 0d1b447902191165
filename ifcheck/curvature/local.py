"""One trained network seen from close by: curvature and gradients for selected parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ifcheck.curvature.head import SoftmaxHeadLoss, row_blocks
from ifcheck.curvature.kinds import CURVATURES
from ifcheck.curvature.operator import HessianOperator
from ifcheck.curvature.row_curvature import RowCurvature
from ifcheck.curvature.rows import ROW_VALUES, HeadRows, NetworkRows, TrainingRows
from ifcheck.models import Network, evaluate
from ifcheck.objective import Objective
from ifcheck.params import Layout
from ifcheck.provenance import named_seed

DRAWS = "random scores"  # for which seeds are drawn


@dataclass(frozen=True)
class LocalModel:
    """What influence functions know about a trained network, in float64."""

    hessian: HessianOperator  # or what stands for it, of the mean data loss, without regulariser
    rows: int  # that were trained on
    hessian_at: Callable[[Tensor], HessianOperator]  # the same of the rows at some positions
    train_products: Callable[[Tensor], Tensor]  # (D, params) -> (D, rows), see `row_products`
    train_sums: Callable[[Tensor], Tensor]  # (D, rows) -> (D, params), see `combined_gradients`
    train_norms: Callable[[], Tensor]  # (rows,) sizes of the rows' gradients
    train_losses: Callable[[], Tensor]  # (rows,) in nats
    train_targets: Tensor  # (rows,)
    test_targets: Tensor  # (tests,)
    test_gradients: Tensor  # (tests, params)
    regulariser_gradient: Tensor  # (params,)
    regulariser_curvature: Tensor  # (params,) the diagonal of its Hessian, which has no other part
    draw_seeds: tuple[int, ...]  # (tests,) of what is drawn at random for each test point
    # Where the rows' own Hessians are of low rank.
    row_curvature: Callable[[], RowCurvature] | None = None


def local_model(
    network: Network,
    objective: Objective,
    selection: str,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    curvature: str = "hessian",
) -> LocalModel:
    """Return curvature and gradients with respect to the selected parameters.

    Parameters of the head alone go through the closed form; others through automatic
    differentiation of the whole network. `train` and `test` are (inputs, targets).
    Raises: UnknownName, and UnusableInput for a network that is in training mode.
    """
    layout = Layout.of(network)
    positions = layout.positions(selection)
    kind = CURVATURES.create(curvature)
    inputs, targets = train
    rows: TrainingRows
    rows_of: type[HeadRows | NetworkRows]
    row_curvature = None
    if bool(torch.isin(positions, layout.positions("head")).all()):
        head = rows = HeadRows.of(network, objective, selection, train)
        rows_of = HeadRows
        test_gradients = head.gradients_of(evaluate(network.features, test[0]), test[1])
        if isinstance(head.loss, SoftmaxHeadLoss) and kind.of_linear_outputs:

            def row_curvature() -> RowCurvature:
                return RowCurvature.of(head.flat, head.features, head.targets, head.within)

    else:
        whole = rows = NetworkRows.of(network, objective, selection, train)
        rows_of = NetworkRows
        # Row by row: torch.func.grad, which takes rows together, is two seconds to import.
        each = torch.eye(len(test[1])).to(test[0])
        test_gradients = whole.model.combined_gradients(*test, each)

    def hessian_at(positions: Tensor) -> HessianOperator:
        some = inputs[positions], targets[positions]
        return kind.operator(rows_of.of(network, objective, selection, some))

    is_rho = layout.is_rho[positions].to(rows.device)
    return LocalModel(
        hessian=kind.operator(rows),
        rows=rows.count,
        hessian_at=hessian_at,
        train_products=rows.row_products,
        train_sums=rows.combined_gradients,
        train_norms=lambda: _norms(rows),
        train_losses=lambda: objective.per_example_loss(evaluate(network, inputs), targets),
        train_targets=targets,
        test_targets=test[1],
        test_gradients=test_gradients,
        regulariser_gradient=objective.regulariser_gradient(rows.parameters, is_rho),
        regulariser_curvature=objective.regulariser_curvature(rows.parameters, is_rho),
        draw_seeds=tuple(named_seed(0, DRAWS, place) for place in range(len(test[1]))),
        row_curvature=row_curvature,
    )


def _norms(rows: TrainingRows) -> Tensor:
    """Return the sizes of the rows' gradients, of which some are alive together. Shape: (rows,)."""
    blocks = row_blocks(rows.count, len(rows.parameters), ROW_VALUES)
    return torch.cat([rows.row_gradients(block).norm(dim=-1) for block in blocks])

"""The Bayesian head in closed form, from cached moments of its features.

With means W~ = (W, b) and variances S~ = softplus(rho~), both (classes, features + 1), and for
each row h~ = (m, 1), q~ = (m^2 + s, 1), s~ = (s, 0), the logits have

    means  mu_c = W~_c . h~        variances  t_c = S~_c . q~ + (W~_c)^2 . s~

and the loss is a function of these 2 C numbers alone, whose derivatives come from automatic
differentiation; those of mu and t with respect to W~ and rho~ are written out. Flat parameters
stand in torch's order: W, b, rho of W, rho of b; P = 2 classes * (features + 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ifcheck.curvature.dense import HessianProducts
from ifcheck.curvature.head import (
    OUTER_VALUES,
    as_matrix,
    flat_order,
    flat_to_matrix,
    matrix_to_flat,
    outer,
    row_blocks,
    times_columns,
    weighted_outer,
    with_bias_column,
    with_last_column,
)
from ifcheck.models.moments import softplus
from ifcheck.objective import VariationalObjective


class _Columns(NamedTuple):
    """What a row contributes, each (..., rows, features + 1)."""

    mean: Tensor  # h~
    square: Tensor  # q~, the second moment
    variance: Tensor  # s~


@dataclass(frozen=True)
class VariationalHeadLoss:
    """Loss of a Gaussian head on packed features (..., rows, 2, F); see `HeadLoss`."""

    classes: int
    objective: VariationalObjective
    convex: ClassVar[bool] = False

    def losses(self, flat: Tensor, features: Tensor, targets: Tensor) -> Tensor:
        return self._losses(self._outputs(flat, _columns(features)), targets)

    def row_gradients(self, flat: Tensor, features: Tensor, targets: Tensor) -> Tensor:
        columns = _columns(features)
        of_mean, of_variance = self._slopes(self._outputs(flat, columns), targets).unbind(-2)
        by_square, by_variance = (
            outer(of_variance, values) for values in (columns.square, columns.variance)
        )
        means, rho = (matrix.unsqueeze(-3) for matrix in self._matrices(flat))
        return _chain(means, rho, outer(of_mean, columns.mean), by_variance, by_square)

    def row_products(
        self, flat: Tensor, features: Tensor, targets: Tensor, directions: Tensor
    ) -> Tensor:
        columns = _columns(features)
        slopes = self._slopes(self._outputs(flat, columns), targets)
        means, rho = self._matrices(flat)
        of_means, of_rho = self._matrices(directions)
        variance = columns.square @ (torch.sigmoid(rho) * of_rho).mT
        variance += columns.variance @ (2 * means * of_means).mT
        moved = torch.stack([columns.mean @ of_means.mT, variance], dim=-2)
        return (moved * slopes).sum((-2, -1))

    def mean_gradient(
        self, flat: Tensor, features: Tensor, targets: Tensor, weights: Tensor
    ) -> Tensor:
        columns = _columns(features)
        slopes = self._slopes(self._outputs(flat, columns), targets) * weights[..., None, None]
        return _chain(*self._matrices(flat), *_sums(slopes, columns))

    def hessian_product(
        self, flat: Tensor, features: Tensor, targets: Tensor, weights: Tensor, directions: Tensor
    ) -> Tensor:
        def losses(flat: Tensor, rows: slice) -> Tensor:
            return self.losses(flat, features[rows], targets[rows])

        blocks = row_blocks(len(features), flat.shape[-1], OUTER_VALUES)
        return HessianProducts(losses, flat, weights, blocks)(directions)

    def hessian(self, flat: Tensor, features: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        columns, classes = _columns(features), self.classes
        slopes, bends = self._derivatives(self._outputs(flat, columns), targets)
        means, rho = self._matrices(flat)
        _, by_variance, by_square = _sums(slopes * weights[..., None, None], columns)
        bends = bends * weights[..., None, None]
        of_means = bends[..., :classes, :classes].flatten(-2)
        of_both = bends[..., :classes, classes:].flatten(-2)
        of_variances = bends[..., classes:, classes:].flatten(-2)
        h, q, s = columns
        rise, slope = 2 * means, torch.sigmoid(rho)  # d t / d W~ = rise * s~, d S~ / d rho~
        mixed = self._blocks(of_both, h, s) * _right(rise)
        both_means = self._blocks(of_means, h, h) + mixed + mixed.transpose(-4, -3).mT
        both_means += _left(rise) * self._blocks(of_variances, s, s) * _right(rise)
        mean_rho = self._blocks(of_both, h, q)
        mean_rho = (mean_rho + _left(rise) * self._blocks(of_variances, s, q)) * _right(slope)
        both_rho = _left(slope) * self._blocks(of_variances, q, q) * _right(slope)
        order = flat_order(classes, h.shape[-1], h.device)
        quarters = [as_matrix(blocks, order) for blocks in (both_means, mean_rho, both_rho)]
        upper = torch.cat(quarters[:2], dim=-1)
        lower = torch.cat([quarters[1].mT, quarters[2]], dim=-1)
        own = _join(2 * by_variance, by_square * slope * (1 - slope))
        return torch.cat([upper, lower], dim=-2) + torch.diag_embed(own)

    def _blocks(self, bends: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Return the sum over rows for each pair of classes. Shape: (..., C, C, F + 1, F + 1)."""
        summed = weighted_outer(bends, left, right)
        blocks: Tensor = summed.unflatten(-3, (self.classes, self.classes))
        return blocks

    def _matrices(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Return W~ and rho~, each (..., classes, F + 1)."""
        means, rho = flat.chunk(2, dim=-1)
        return flat_to_matrix(means, self.classes), flat_to_matrix(rho, self.classes)

    def _outputs(self, flat: Tensor, columns: _Columns) -> Tensor:
        """Return the moments of the logits. Shape: (..., rows, 2, classes)."""
        means, rho = self._matrices(flat)
        variance = times_columns(columns.square, softplus(rho))
        variance = variance + times_columns(columns.variance, means.square())
        return torch.stack([times_columns(columns.mean, means), variance], dim=-2)

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        leading = outputs.shape[:-2]
        losses = self.objective.per_example_loss(
            outputs.flatten(0, -3), targets.expand(leading).flatten()
        )
        shaped: Tensor = losses.unflatten(0, leading)
        return shaped

    def _slopes(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the derivative of each row's loss in its outputs, of their shape."""
        leaf = outputs.detach().requires_grad_()
        with torch.enable_grad():
            (slopes,) = torch.autograd.grad(self._losses(leaf, targets).sum(), leaf)
        return slopes

    def _derivatives(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same and the second derivatives, (..., rows, 2 classes, 2 classes)."""
        leaf = outputs.detach().requires_grad_()
        with torch.enable_grad():
            loss = self._losses(leaf, targets).sum()
            (slopes,) = torch.autograd.grad(loss, leaf, create_graph=True)
            of_each = slopes.flatten(-2).flatten(0, -2).sum(0)
        bends = [
            torch.autograd.grad(value, leaf, retain_graph=True)[0].flatten(-2) for value in of_each
        ]
        return slopes.detach(), torch.stack(bends, dim=-2)


def _columns(features: Tensor) -> _Columns:
    mean, variance = features.unbind(-2)
    squares = with_bias_column(mean)
    squares[..., :-1].square_().add_(variance)
    return _Columns(with_bias_column(mean), squares, with_last_column(variance, 0.0))


def _sums(slopes: Tensor, columns: _Columns) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sums over rows of dL/dmu h~, dL/dt s~ and dL/dt q~: (..., classes, F + 1)."""
    of_mean, of_variance = (values.mT for values in slopes.unbind(-2))
    return of_mean @ columns.mean, of_variance @ columns.variance, of_variance @ columns.square


def _chain(
    means: Tensor, rho: Tensor, by_mean: Tensor, by_variance: Tensor, by_square: Tensor
) -> Tensor:
    """Return flat gradients from what `_sums` returns, or from its terms."""
    return _join(by_mean + 2 * means * by_variance, torch.sigmoid(rho) * by_square)


def _join(of_means: Tensor, of_rho: Tensor) -> Tensor:
    return torch.cat([matrix_to_flat(of_means), matrix_to_flat(of_rho)], dim=-1)


def _left(values: Tensor) -> Tensor:
    """Return (..., C, A) so that it multiplies the left sides of blocks (..., C, D, A, B)."""
    return values[..., :, None, :, None]


def _right(values: Tensor) -> Tensor:
    """Return (..., D, B) so that it multiplies the right sides of blocks (..., C, D, A, B)."""
    return values[..., None, :, None, :]

"""The softmax head in closed form: losses, gradients and Hessians from cached features.

With features h~ = (h, 1), logits z = W~ h~ and p = softmax(z), for each row

    gradient  (p - y) h~^T            Hessian  (diag(p) - p p^T) (x) h~ h~^T

in the order (class, feature). Everything here takes and returns torch's order instead: the
weight matrix row by row, then the biases; P = classes * (features + 1). Leading axes (...)
are problems that are solved side by side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ifcheck import memory

OUTER_VALUES = 1 << 22  # of outer products that are alive together: 32 MB
JOINT_VALUES = 1 << 20  # of p (x) h that are alive together: 8 MB


def with_bias_column(features: Tensor) -> Tensor:
    """Return features (..., rows, F) with a last column of ones."""
    return with_last_column(features, 1.0)


def with_last_column(features: Tensor, value: float) -> Tensor:
    """Return features (..., rows, F) with one more column of this value; not under vmap."""
    shape = (*features.shape[:-1], features.shape[-1] + 1)
    columns = memory.empty(shape, features.dtype, features.device)
    columns[..., :-1], columns[..., -1] = features, value
    return columns


def flat_to_matrix(flat: Tensor, classes: int) -> Tensor:
    """Return flat parameters (..., P) as (..., classes, F + 1), the bias last."""
    features = flat.shape[-1] // classes - 1
    weight = flat[..., : classes * features].unflatten(-1, (classes, features))
    return torch.cat([weight, flat[..., classes * features :].unsqueeze(-1)], dim=-1)


def matrix_to_flat(matrix: Tensor) -> Tensor:
    """Return (..., classes, F + 1) as flat parameters (..., P)."""
    return torch.cat([matrix[..., :-1].flatten(-2), matrix[..., -1]], dim=-1)


@dataclass(frozen=True)
class SoftmaxHeadLoss:
    """Cross-entropy of a linear head; see `HeadLoss` for the shapes."""

    classes: int
    convex: ClassVar[bool] = True

    def losses(self, flat: Tensor, features: Tensor, targets: Tensor) -> Tensor:
        log_probabilities = self.logits(flat, features).log_softmax(-1)
        places = targets.unsqueeze(-1).expand(*log_probabilities.shape[:-1], 1)
        return -log_probabilities.gather(-1, places).squeeze(-1)

    def row_gradients(self, flat: Tensor, features: Tensor, targets: Tensor) -> Tensor:
        residual = self._residual(self.logits(flat, features), targets)
        return matrix_to_flat(residual.unsqueeze(-1) * with_bias_column(features).unsqueeze(-2))

    def mean_gradient(
        self, flat: Tensor, features: Tensor, targets: Tensor, weights: Tensor
    ) -> Tensor:
        weighted = self._residual(self.logits(flat, features), targets) * weights.unsqueeze(-1)
        of_weights = (weighted.mT @ features).flatten(-2)
        return torch.cat([of_weights, weighted.sum(-2)], dim=-1)

    def hessian_product(
        self, flat: Tensor, features: Tensor, targets: Tensor, weights: Tensor, directions: Tensor
    ) -> Tensor:
        standing, moving = (flat_to_matrix(t, self.classes) for t in (flat, directions))
        product = torch.zeros_like(moving)
        for rows in row_blocks(len(features), directions.shape[-1], JOINT_VALUES):
            columns = with_bias_column(features[rows])
            p = times_columns(columns, standing).softmax(-1)
            moved = times_columns(columns, moving)
            change = p * (moved - (p * moved).sum(-1, keepdim=True))  # of the residual
            product += (change * weights[rows, None]).mT @ columns
        return matrix_to_flat(product)

    def hessian(self, flat: Tensor, features: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Return the Hessian of the weighted data loss, which the targets have no part in."""
        p = self.logits(flat, features).softmax(-1)
        columns = with_bias_column(features)
        order = flat_order(self.classes, columns.shape[-1], columns.device)
        if columns.dim() == 2 and columns.numel() * columns.shape[-1] > OUTER_VALUES:
            shares = weights.expand(p.shape[:-1]).reshape(-1, len(columns))
            each = [
                as_matrix(joint_outer(columns, *problem), order)
                for problem in zip(p.reshape(-1, *p.shape[-2:]), shares, strict=True)
            ]
            if p.dim() == 2:
                return each[0]  # which is large: no copy
            return torch.stack(each).view(*p.shape[:-2], *each[0].shape)
        curvature = torch.diag_embed(p) - outer(p, p)
        summed = weighted_outer((curvature * weights[..., None, None]).flatten(-2), columns)
        return as_matrix(summed.unflatten(-3, (self.classes, self.classes)), order)

    def row_products(
        self, flat: Tensor, features: Tensor, targets: Tensor, directions: Tensor
    ) -> Tensor:
        # Logits and their changes in one product, which takes most of the time.
        matrices = flat_to_matrix(torch.cat([flat[None], directions]), self.classes).flatten(0, 1)
        values = torch.addmm(matrices[:, -1], features, matrices[:, :-1].mT)
        logits, moved = values[:, : self.classes], values[:, self.classes :]
        residual = self._residual(logits, targets)
        products: Tensor = moved.unflatten(1, (-1, self.classes)) * residual[:, None]
        return products.sum(-1).mT

    def logits(self, flat: Tensor, features: Tensor) -> Tensor:
        """Return the logits. Shape: (..., rows, classes)."""
        matrices = flat_to_matrix(flat, self.classes)
        if features.dim() == 2 and matrices.dim() == 2:  # the common case, without copies
            return torch.addmm(matrices[:, -1], features, matrices[:, :-1].mT)
        return times_columns(features, matrices[..., :-1]) + matrices[..., None, :, -1]

    def _residual(self, logits: Tensor, targets: Tensor) -> Tensor:
        probabilities = logits.softmax(-1)
        return probabilities - functional.one_hot(targets, self.classes).to(probabilities)


def outer(left: Tensor, right: Tensor) -> Tensor:
    """Return the outer products of the last axis. Shape: (..., left, right)."""
    return left.unsqueeze(-1) * right.unsqueeze(-2)


def times_columns(columns: Tensor, matrices: Tensor) -> Tensor:
    """Return columns (..., rows, A) @ matrices (..., C, A)^T, in one product where rows are shared.

    Shape: (..., rows, C).
    """
    if columns.dim() == 2 and matrices.dim() == 3:
        side_by_side = columns @ matrices.flatten(0, 1).mT
        stacked: Tensor = side_by_side.unflatten(1, matrices.shape[:2])
        return stacked.movedim(1, 0)
    return columns @ matrices.mT


def weighted_outer(weights: Tensor, left: Tensor, right: Tensor | None = None) -> Tensor:
    """Return sum_i weights_i left_i right_i^T over rows, block by block of rows.

    Shapes: (..., rows, K), (..., rows, A), (..., rows, B) -> (..., K, A, B); without `right` it is
    `left`. The outer products are formed once for all problems whose sides are broadcast.
    """
    right = left if right is None else right
    sizes = left.shape[-1], right.shape[-1]
    total = None
    for rows in row_blocks(left.shape[-2], math.prod(sizes), OUTER_VALUES):
        products = outer(left[..., rows, :], right[..., rows, :]).flatten(-2)
        summed = weights[..., rows, :].mT @ products
        total = summed if total is None else total.add_(summed)
    if total is None:
        raise ValueError("there are no rows to sum over")
    result: Tensor = total.unflatten(-1, sizes)
    return result


def joint_outer(columns: Tensor, probabilities: Tensor, weights: Tensor) -> Tensor:
    """Return sum_i w_i (diag(p_i) - p_i p_i^T) (x) h_i h_i^T, for many rows of many features.

    Products of matrices for each class with those after it. As probabilities sum to one, a class's
    own block is minus the sum of its blocks with the others: no product, and no difference of
    nearly equal numbers where a probability is near one.
    Shapes: (rows, A), (rows, C), (rows,) -> (C, C, A, A).
    """
    classes, size = probabilities.shape[1], columns.shape[1]
    upper = columns.new_zeros(classes * size, classes * size)
    for rows in row_blocks(len(columns), classes * size, JOINT_VALUES):
        h = columns[rows] * weights[rows, None].sqrt()
        joint = (probabilities[rows, :, None] * h[:, None]).flatten(1)  # p (x) h
        for start in range(0, len(upper) - size, size):
            own, others = slice(start, start + size), slice(start + size, None)
            upper[own, others].addmm_(joint[:, own].mT, joint[:, others], alpha=-1)
    blocks = (upper + upper.mT).view(classes, size, classes, size)
    blocks.diagonal(dim1=0, dim2=2).copy_(-blocks.sum(2).movedim(0, -1))
    return blocks.movedim(1, 2)


def row_blocks(rows: int, values: int, alive: int) -> Iterator[slice]:
    """Return blocks of rows of so many values each, of which `alive` may be there together."""
    step = max(1, alive // values)
    return (slice(start, start + step) for start in range(0, rows, step))


def as_matrix(blocks: Tensor, order: Tensor) -> Tensor:
    """Return blocks (..., C, C, F + 1, F + 1) as a matrix in torch's order of parameters."""
    size = blocks.shape[-1]
    of_class, of_feature = order // size, order % size
    ordered: Tensor = blocks[
        ..., of_class[:, None], of_class, of_feature[:, None], of_feature
    ]  # in one copy
    return ordered


def flat_order(classes: int, columns: int, device: torch.device) -> Tensor:
    """Return where each flat parameter stands in the order (class, feature)."""
    positions = torch.arange(classes * columns, device=device).view(classes, columns)
    return matrix_to_flat(positions)

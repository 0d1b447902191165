"""The softmax head in closed form: losses, gradients and Hessians from cached features.

With features h~ = (h, 1), logits z = W~ h~ and p = softmax(z), for each row

    gradient  (p - y) h~^T            Hessian  (diag(p) - p p^T) (x) h~ h~^T

in the order (class, feature). Everything here takes and returns torch's order instead: the
weight matrix row by row, then the biases; P = classes * (features + 1). Leading axes (...)
are problems that are solved side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional


def with_bias_column(features: Tensor) -> Tensor:
    """Return features (..., rows, F) with a last column of ones."""
    return torch.cat([features, torch.ones_like(features[..., :1])], dim=-1)


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
        residual = self._residual(flat, features, targets)
        return matrix_to_flat(residual.unsqueeze(-1) * with_bias_column(features).unsqueeze(-2))

    def mean_gradient(
        self, flat: Tensor, features: Tensor, targets: Tensor, weights: Tensor
    ) -> Tensor:
        weighted = self._residual(flat, features, targets) * weights.unsqueeze(-1)
        return matrix_to_flat(weighted.mT @ with_bias_column(features))

    def hessian(self, flat: Tensor, features: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Return the Hessian of the weighted data loss, which the targets have no part in.

        The rows' outer products h~ h~^T, (rows, (F + 1)^2), are shared by all problems whose
        features are broadcast, so that one matrix product serves them all.
        """
        probabilities = self.logits(flat, features).softmax(-1)
        curvature = torch.diag_embed(probabilities) - outer(probabilities, probabilities)
        columns = with_bias_column(features)
        blocks = weighted_outer(curvature * weights[..., None, None], columns, columns)
        return as_matrix(blocks, flat_order(self.classes, columns.shape[-1], columns.device))

    def logits(self, flat: Tensor, features: Tensor) -> Tensor:
        """Return the logits. Shape: (..., rows, classes)."""
        return with_bias_column(features) @ flat_to_matrix(flat, self.classes).mT

    def _residual(self, flat: Tensor, features: Tensor, targets: Tensor) -> Tensor:
        probabilities = self.logits(flat, features).softmax(-1)
        return probabilities - functional.one_hot(targets, self.classes).to(probabilities)


def outer(left: Tensor, right: Tensor) -> Tensor:
    """Return the outer products of the last axis. Shape: (..., left, right)."""
    return left.unsqueeze(-1) * right.unsqueeze(-2)


def weighted_outer(curvature: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return sum_i curvature_i (x) left_i right_i^T over rows.

    Shapes: (..., rows, C, C), (..., rows, A), (..., rows, B) -> (..., C, C, A, B). The outer
    products are formed once for all problems whose `left` and `right` are broadcast.
    """
    classes = curvature.shape[-1]
    products = outer(left, right).flatten(-2)
    blocks = curvature.flatten(-2).mT @ products
    shapes = blocks.unflatten(-1, (left.shape[-1], right.shape[-1]))
    separate: Tensor = shapes.unflatten(-3, (classes, classes))
    return separate


def as_matrix(blocks: Tensor, order: Tensor) -> Tensor:
    """Return blocks (..., C, C, F + 1, F + 1) as a matrix in torch's order of parameters."""
    matrix = blocks.movedim(-2, -3).flatten(-4, -3).flatten(-2)  # (class, feature) both ways
    ordered: Tensor = matrix[..., order, :][..., order]
    return ordered


def flat_order(classes: int, columns: int, device: torch.device) -> Tensor:
    """Return where each flat parameter stands in the order (class, feature)."""
    positions = torch.arange(classes * columns, device=device).view(classes, columns)
    return matrix_to_flat(positions)

"""The softmax head in closed form: losses, gradients and Hessians from cached features.

With features h~ = (h, 1), logits z = W~ h~ and p = softmax(z), for each row

    gradient  (p - y) h~^T            Hessian  (diag(p) - p p^T) (x) h~ h~^T

in the order (class, feature). Everything here takes and returns torch's order instead: the
weight matrix row by row, then the biases; P = classes * (features + 1). Leading axes (...)
are problems that are solved side by side.
"""

from __future__ import annotations

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


def logits(flat: Tensor, features: Tensor, classes: int) -> Tensor:
    """Return the logits. Shapes: (..., P), (..., rows, F) -> (..., rows, classes)."""
    return with_bias_column(features) @ flat_to_matrix(flat, classes).mT


def losses(flat: Tensor, features: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Return the cross-entropy of each row in nats. Shape: (..., rows)."""
    log_probabilities = logits(flat, features, classes).log_softmax(-1)
    return -log_probabilities.gather(-1, _expand(targets, log_probabilities)).squeeze(-1)


def row_gradients(flat: Tensor, features: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Return the gradient of each row's loss. Shape: (..., rows, P)."""
    residual = logits(flat, features, classes).softmax(-1)
    residual = residual - functional.one_hot(targets, classes).to(residual)
    columns = with_bias_column(features)
    return matrix_to_flat(residual.unsqueeze(-1) * columns.unsqueeze(-2))


def mean_gradient(
    flat: Tensor, features: Tensor, targets: Tensor, weights: Tensor, classes: int
) -> Tensor:
    """Return the gradient of the weighted data loss, `weights` (..., rows). Shape: (..., P)."""
    residual = logits(flat, features, classes).softmax(-1)
    residual = residual - functional.one_hot(targets, classes).to(residual)
    weighted = residual * weights.unsqueeze(-1)
    return matrix_to_flat(weighted.mT @ with_bias_column(features))


def hessian(flat: Tensor, features: Tensor, weights: Tensor, classes: int) -> Tensor:
    """Return the Hessian of the weighted data loss, without regulariser. Shape: (..., P, P).

    The rows' outer products h~ h~^T, (rows, (F + 1)^2), are shared by all problems whose
    features are broadcast, so that one matrix product serves them all.
    """
    probabilities = logits(flat, features, classes).softmax(-1)
    curvature = torch.diag_embed(probabilities) - probabilities.unsqueeze(
        -1
    ) * probabilities.unsqueeze(-2)
    curvature = (curvature * weights[..., None, None]).flatten(-2)  # (..., rows, C * C)
    columns = with_bias_column(features)
    outer = (columns.unsqueeze(-1) * columns.unsqueeze(-2)).flatten(-2)
    blocks = (curvature.mT @ outer).unflatten(-1, (columns.shape[-1],) * 2)
    blocks = blocks.unflatten(-3, (classes, classes))  # (..., C, C, F + 1, F + 1)
    matrix = blocks.movedim(-2, -3).flatten(-4, -3).flatten(-2)  # rows (C, F + 1), columns alike
    order = _order(classes, columns.shape[-1], matrix.device)
    ordered: Tensor = matrix[..., order, :][..., order]
    return ordered


def _order(classes: int, columns: int, device: torch.device) -> Tensor:
    """Return where each flat parameter stands in the order (class, feature)."""
    positions = torch.arange(classes * columns, device=device).view(classes, columns)
    return matrix_to_flat(positions)


def _expand(targets: Tensor, like: Tensor) -> Tensor:
    return targets.unsqueeze(-1).expand(*like.shape[:-1], 1)

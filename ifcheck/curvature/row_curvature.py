"""What each row adds to the Hessian of a softmax head, in factors.

With features h~ = (h, 1) and p = softmax(z), row i adds h_i = (diag(p) - p p^T) (x) h~ h~^T, which
is U U^T with U = B (x) h~ and B = diag(sqrt p) - p sqrt(p)^T.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ifcheck.curvature.head import SoftmaxHeadLoss, flat_order, with_bias_column


@dataclass(frozen=True)
class RowCurvature:
    """The rows of a plain head, seen from a selection of P of its flat parameters."""

    features: Tensor  # (rows, F)
    probabilities: Tensor  # (rows, classes)
    residual: Tensor  # (rows, classes) p - y, so that the row's gradient is (p - y) (x) h~
    within: Tensor  # (P,) which of the head's flat parameters are selected

    @classmethod
    def of(cls, flat: Tensor, features: Tensor, targets: Tensor, within: Tensor) -> RowCurvature:
        """Return that of a head at its flat parameters."""
        classes = len(flat) // (features.shape[1] + 1)
        probabilities = SoftmaxHeadLoss(classes).logits(flat, features).softmax(-1)
        labels = functional.one_hot(targets, classes).to(probabilities)
        return cls(features, probabilities, probabilities - labels, within)

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return self.probabilities.shape[1]

    def factors(self) -> Tensor:
        """Return B of each row. Shape: (rows, classes, classes)."""
        roots = self.probabilities.sqrt()
        return torch.diag_embed(roots) - self.probabilities[..., None] * roots[:, None]

    def hessians(self) -> Tensor:
        """Return B B^T = diag(p) - p p^T of each row. Shape: (rows, classes, classes)."""
        probabilities = self.probabilities
        return torch.diag_embed(probabilities) - probabilities[..., None] * probabilities[:, None]

    def products(self, vectors: Tensor) -> Tensor:
        """Return (I (x) h~)^T v for vectors v (D, P). Shape: (D, rows, classes)."""
        size = self.classes * (self.features.shape[1] + 1)
        whole = vectors.new_zeros(len(vectors), size)
        whole[:, self.within] = vectors
        return SoftmaxHeadLoss(self.classes).logits(whole, self.features)

    def forms(self, matrix: Tensor) -> Tensor:
        """Return (I (x) h~)^T M (I (x) h~) for a symmetric matrix M (P, P).

        Shape: (rows, classes, classes).
        """
        columns = with_bias_column(self.features)
        width = columns.shape[1]
        places = flat_order(self.classes, width, matrix.device)[self.within]
        joint = matrix.new_zeros(self.classes * width, self.classes * width)
        joint[places[:, None], places] = matrix
        blocks = joint.view(self.classes, width, self.classes, width)
        forms = matrix.new_empty(len(columns), self.classes, self.classes)
        for a in range(self.classes):
            for b in range(a + 1):
                forms[:, a, b] = forms[:, b, a] = ((columns @ blocks[a, :, b]) * columns).sum(1)
        return forms

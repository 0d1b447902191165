"""What plain networks descend: a weighted mean of cross-entropies, plus weight decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ifcheck.config import Normalisation
from ifcheck.objective.weights import weighted_mean


@dataclass(frozen=True)
class Objective:
    """R(theta) = sum_i w_i l(z_i, theta) + weight_decay / 2 |theta|^2, with row weights w.

    `l` is the cross-entropy of the softmax, in nats. Adam with *coupled* weight decay
    descends exactly this: `torch.optim.Adam(weight_decay=w)` adds w * theta to the gradient
    of the data term, biases included.

    Regularisers are sums over parameters, each of its own; `is_rho` (params,) says which
    parameters stand for the variance of a weight (`Layout.is_rho`). It makes no difference here.
    """

    weight_decay: float = 0.0  # what the optimiser adds to the gradient by itself

    # Whether the optimiser adds the regulariser, and the plateau schedule sees the data loss alone.
    coupled: ClassVar[bool] = True

    @property
    def regularised(self) -> bool:
        """Whether there is a regulariser, so that the objective has a finite optimum."""
        return self.weight_decay > 0

    def normalisation(self, asked: Normalisation) -> Normalisation:
        """Return what the mean over the rest runs over on removal: what was asked for."""
        return asked

    def per_example_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return l(z_i, theta) for each row. Shapes: (rows, classes), (rows,) -> (rows,)."""
        return functional.cross_entropy(outputs, targets, reduction="none")

    def negative_log_probability(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return -log of the probability that each row's target is given, in nats. (rows,)."""
        return self.per_example_loss(outputs, targets)

    def data_loss(self, outputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted mean of the per-example losses; `weights` (rows,) are the shares."""
        return weighted_mean(self.per_example_loss(outputs, targets), weights)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return the class that each row's outputs speak for. Shape: (rows,)."""
        return outputs.argmax(1)

    def regulariser(self, parameters: Tensor, is_rho: Tensor) -> Tensor:
        """Return weight_decay / 2 |theta|^2 of flat parameters (..., params). Shape: (...)."""
        return 0.5 * self.weight_decay * parameters.square().sum(-1)

    def regulariser_gradient(self, parameters: Tensor, is_rho: Tensor) -> Tensor:
        """Return its gradient, weight_decay * theta. Shape: (..., params)."""
        return self.weight_decay * parameters

    def regulariser_curvature(self, parameters: Tensor, is_rho: Tensor) -> Tensor:
        """Return the diagonal of its Hessian, which has no other part. Shape: (..., params)."""
        return torch.full_like(parameters, self.weight_decay)

"""The objective of a Bayesian network: a Gaussian likelihood and a KL divergence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ifcheck.config import Normalisation
from ifcheck.models.moments import Moments, softmax, softplus
from ifcheck.objective.cross_entropy import Objective

LIKELIHOODS = ("marginal", "expected")

# Of a weight's variance: softplus(rho) reaches it at rho = -69, below float32's normal numbers.
SMALLEST_VARIANCE = 1e-30


def kl_divergence(parameters: Tensor, is_rho: Tensor) -> Tensor:
    """Return KL(q || N(0, 1)) in nats, term by term; their sum is that of all weights.

    A mean has the term w^2 / 2; a rho, with the variance S = softplus(rho), (S - 1 - log S) / 2.
    Shapes: parameters (..., params), is_rho (params,) -> (..., params).
    """
    variance = variance_of(parameters)
    return 0.5 * torch.where(is_rho, variance - 1.0 - variance.log(), parameters.square())


def variance_of(rho: Tensor) -> Tensor:
    """Return softplus(rho), bounded away from zero, so that its logarithm is finite."""
    return softplus(rho).clamp_min(SMALLEST_VARIANCE)


@dataclass(frozen=True)
class VariationalObjective(Objective):
    """R = sum_i w_i L_i + kl_weight / rows * KL(q || N(0, 1)), with row weights w = 1 / rows.

    With m and v the propagated mean and variance of the softmax, and y the one-hot label,

        marginal   L_i = 1/2 sum_c [log((v_c + noise) / noise) + (y_c - m_c)^2 / (v_c + noise)]
        expected   L_i = 1/2 sum_c [((y_c - m_c)^2 + v_c) / noise]

    in nats and without -log noise, a constant that would make the loss negative: a relative
    plateau threshold then counts a constant loss as an improvement, and the rate never falls.
    The first is -log N(y; m, v + noise), the second -E log N(y; softmax, noise), the data term of
    the strict bound. Epifano et al., eq. 5, is no bound as printed: the README says more.

    If a row is removed its weight becomes zero, and all else stays: with the mean over the rest
    *and* KL / (rows - 1), the minimum is the same.
    """

    weight_decay: float = field(default=0.0, init=False)
    rows: int = 1  # that were trained on
    kl_weight: float = 1.0
    noise: float = 0.1
    likelihood: str = "marginal"
    jacobian: str = "diagonal"  # of the softmax

    coupled: ClassVar[bool] = False

    @property
    def regularised(self) -> bool:
        return self.kl_weight > 0

    def normalisation(self, asked: Normalisation) -> Normalisation:
        """Return "n": both give the same minimum, and this one by the plainer formula."""
        return "n"

    def per_example_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return L_i. Shapes: packed moments of the logits (rows, 2, classes), (rows,)."""
        mean, variance = softmax(Moments.unpack(outputs), self.jacobian)
        classes = torch.arange(mean.shape[1], device=mean.device)
        squared = ((targets[:, None] == classes).to(mean) - mean).square()
        if self.likelihood == "expected":
            return 0.5 * ((squared + variance) / self.noise).sum(1)
        noisy = variance + self.noise
        return 0.5 * (torch.log1p(variance / self.noise) + squared / noisy).sum(1)

    def negative_log_probability(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return -log of the softmax's mean at the target, which L_i saturates beside. (rows,)."""
        return super().per_example_loss(outputs[:, 0], targets)

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs[:, 0].argmax(1)

    def regulariser(self, parameters: Tensor, is_rho: Tensor) -> Tensor:
        """Return kl_weight / rows * KL of flat parameters (..., params). Shape: (...)."""
        return self._share * kl_divergence(parameters, is_rho).sum(-1)

    def regulariser_gradient(self, parameters: Tensor, is_rho: Tensor) -> Tensor:
        slope = torch.sigmoid(parameters)  # of the variance
        of_rho = 0.5 * slope * (1.0 - 1.0 / variance_of(parameters))
        return self._share * torch.where(is_rho, of_rho, parameters)

    def regulariser_curvature(self, parameters: Tensor, is_rho: Tensor) -> Tensor:
        slope, variance = torch.sigmoid(parameters), variance_of(parameters)
        bend = slope * (1.0 - slope)
        of_rho = 0.5 * (bend * (1.0 - 1.0 / variance) + (slope / variance).square())
        return self._share * torch.where(is_rho, of_rho, 1.0)

    @property
    def _share(self) -> float:
        return self.kl_weight / self.rows

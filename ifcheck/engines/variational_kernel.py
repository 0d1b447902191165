"""Bayesian multilayer perceptrons and heads by hand: moments forward, derivatives backward.

M models, W units, N rows: means and variances are (M, W, N). With z and t the mean and variance
before an activation f, a = f(z) and s = f'(z)^2 t after it, and q = a^2 + s:

    z = W a + b                       t = S q + W^2 s + S_b
    dW = dz a^T + 2 W (dt s^T)        dS = dt q^T         (and sums over rows for the biases)
    da = W^T dz + 2 a (S^T dt)        ds = (S + W^2)^T dt
    dz = da f' + 2 ds t f' f''        dt = ds f'^2

where products without a transpose are element by element in the last two lines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ifcheck import memory
from ifcheck.engines.base import Task
from ifcheck.engines.kernels import columns_of, layer_views, one_hot, per_model, probes
from ifcheck.engines.padding import missing
from ifcheck.engines.structure import means_then_rho, require_structure
from ifcheck.models.moments import SELU, Elementwise, ReLU, Tanh
from ifcheck.objective import VariationalObjective, kl_divergence, weighted_mean
from ifcheck.objective.variational import variance_of
from ifcheck.params import Layout


class _Layer(NamedTuple):
    """What stands below a layer; `variance` is None where the inputs are certain."""

    mean: Tensor  # (M, W, N)
    square: Tensor  # (M, W, N) second moment
    variance: Tensor | None  # (M, W, N)


class VariationalKernel:
    """Batched differentiation of a Bayesian network's marginal likelihood and KL divergence.

    The kernel's own order of parameters: all means, layer by layer, then all rho.
    """

    def __init__(self, task: Task) -> None:
        structure, objective = require_structure(task.network), task.objective
        if not structure.bayesian or not isinstance(objective, VariationalObjective):
            raise TypeError(f"expected a Bayesian network, got {type(task.network).__name__}")
        self._sizes, self._packed = structure.sizes, structure.packed
        self._activation, self._bend = ACTIVATIONS[structure.activation or "tanh"]
        layout = Layout.of(task.network)
        half = layout.size // 2
        self._half = half + missing(half)  # of the kernel's order: whole vector registers
        places = means_then_rho(layout) + missing(half) * layout.is_rho
        self._places = places.to(task.parameters.device)
        self.parameters = self.from_flat(task.parameters)
        self.task = task
        self._share = torch.zeros_like(self.parameters[0])  # of each term of the KL divergence
        self._share[self._places] = objective.kl_weight / objective.rows
        self._is_rho = torch.arange(len(self._share), device=self._share.device) >= self._half
        self._noise = objective.noise
        self.look_at(task)
        self._gradient = torch.zeros_like(self.parameters)
        self._means, self._rho = self.parameters.split(self._half, dim=1)
        self._layers = layer_views(self._means, self._sizes)
        self._mean_gradients, self._rho_gradients = (
            layer_views(part, self._sizes) for part in self._gradient.split(self._half, dim=1)
        )

    def to_flat(self, parameters: Tensor) -> Tensor:
        return parameters[:, self._places]

    def from_flat(self, flat: Tensor) -> Tensor:
        values = torch.zeros_like(flat[:, :1]).repeat(1, 2 * self._half)
        values[:, self._places] = flat
        return values

    def look_at(self, rows: Task) -> None:
        self._inputs = self._expand(rows.inputs)
        self._output = _GaussianOutput(rows, self._noise, self._sizes[-1])

    def differentiate(self) -> tuple[Tensor, Tensor]:
        variances = variance_of(self._rho)
        layers, mean, variance = self._forward(self._inputs, variances)
        losses, *upstream = self._output.differentiate(mean, variance)
        self._backward(layers, variances, *upstream)
        kl = kl_divergence(self.parameters, self._is_rho)
        return losses + (self._share * kl).sum(1), self._gradient

    def gradient(self) -> Tensor:
        variances = variance_of(self._rho)
        layers, mean, variance = self._forward(self._inputs, variances)
        self._backward(layers, variances, *self._output.delta(mean, variance))
        return self._gradient

    def probe(self) -> Tensor:
        inputs, targets = probes(self.task)
        _, mean, variance = self._forward(self._expand(inputs), variance_of(self._rho))
        labels = one_hot(targets, self._sizes[-1], mean.dtype)
        return self._output.losses(mean, variance, labels)

    def _expand(self, inputs: Tensor) -> _Layer:
        """Return what stands below the first layer, for each model."""
        dtype = self.parameters.dtype
        if not self._packed:
            mean = columns_of(inputs, dtype)
            square = memory.copy(mean).square_()
            return _Layer(per_model(self.task, mean), per_model(self.task, square), None)
        mean, variance = (columns_of(part, dtype) for part in inputs.unbind(2))
        square = memory.copy(mean).square_().add_(variance)
        return _Layer(*(per_model(self.task, values) for values in (mean, square, variance)))

    def _forward(self, inputs: _Layer, variances: Tensor) -> tuple[list[_Layer], Tensor, Tensor]:
        """Return what stands below each layer, and mean and variance of the logits."""
        below, layers = inputs, []
        squared = layer_views(self._means.square(), self._sizes)
        spreads = layer_views(variances, self._sizes)
        for index, (weight, bias) in enumerate(self._layers):
            layers.append(below)
            mean = torch.baddbmm(bias, weight, below.mean)
            variance = torch.baddbmm(spreads[index][1], spreads[index][0], below.square)
            if below.variance is not None:
                variance.baddbmm_(squared[index][0], below.variance)
            if index + 1 < len(self._layers):
                value = self._activation.value(mean)
                variance = variance.mul_(self._activation.slope(value).square_())
                below = _Layer(value, value.square().add_(variance), variance)
        return layers, mean, variance

    def _backward(
        self, layers: list[_Layer], variances: Tensor, of_mean: Tensor, of_variance: Tensor
    ) -> None:
        """Fill the gradient from d loss / d mean and / d variance of the logits."""
        both = layer_views(self._means.square() + variances, self._sizes)
        spreads = layer_views(variances, self._sizes)
        for index in range(len(layers) - 1, -1, -1):
            below, (weight, _) = layers[index], self._layers[index]
            weight_gradient, bias_gradient = self._mean_gradients[index]
            weight_gradient.copy_(torch.bmm(of_mean, below.mean.mT))
            if below.variance is not None:
                of_square = torch.bmm(of_variance, below.variance.mT)
                weight_gradient.addcmul_(weight, of_square, value=2)
            torch.sum(of_mean, dim=2, keepdim=True, out=bias_gradient)
            weight_gradient, bias_gradient = self._rho_gradients[index]
            weight_gradient.copy_(torch.bmm(of_variance, below.square.mT))
            torch.sum(of_variance, dim=2, keepdim=True, out=bias_gradient)
            if index and below.variance is not None:
                of_square = torch.bmm(spreads[index][0].mT, of_variance)
                of_value = torch.bmm(weight.mT, of_mean).addcmul_(below.mean, of_square, value=2)
                of_spread = torch.bmm(both[index][0].mT, of_variance)
                slope = self._activation.slope(below.mean)
                of_mean = of_value.mul_(slope)
                of_mean.addcmul_(of_spread, self._bend(below.mean, below.variance))
                of_variance = of_spread.mul_(slope.square_())
        of_kl = 0.5 * self._share[self._half :] * (1.0 - 1.0 / variances)
        self._gradient[:, : self._half].addcmul_(self._share[: self._half], self._means)
        self._gradient[:, self._half :].add_(of_kl).mul_(torch.sigmoid(self._rho))


class _GaussianOutput:
    """-log N(label; softmax mean, softmax variance + noise) of logits, and its derivatives."""

    def __init__(self, task: Task, noise: float, classes: int) -> None:
        self._labels = one_hot(task.targets, classes, task.weights.dtype)
        self._weights = task.weights
        self._noise = noise

    def losses(self, mean: Tensor, variance: Tensor, labels: Tensor) -> Tensor:
        """Return each row's loss, (M, N), from moments of the logits (M, classes, N)."""
        return self._losses(_Softmax.of(mean, variance, labels))

    def differentiate(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return losses (M,), d loss / d mean and d loss / d variance, (M, classes, N)."""
        softmax = _Softmax.of(mean, variance, self._labels)
        losses = weighted_mean(self._losses(softmax), self._weights)
        return losses, *self._delta(softmax, variance)

    def delta(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same derivatives where nobody asks for the losses."""
        return self._delta(_Softmax.of(mean, variance, self._labels), variance)

    def _losses(self, softmax: _Softmax) -> Tensor:
        squared = softmax.residual.square() / (softmax.variance + self._noise)
        return 0.5 * (torch.log1p(softmax.variance / self._noise) + squared).sum(1)

    def _delta(self, softmax: _Softmax, variance: Tensor) -> tuple[Tensor, Tensor]:
        weights, p, slope = self._weights[:, None, :], softmax.mean, softmax.slope
        inverse = 1.0 / (softmax.variance + self._noise)
        ratio = softmax.residual * inverse
        of_spread = 0.5 * (inverse - ratio.square())
        of_p = ratio + 2.0 * of_spread * slope * (1.0 - 2.0 * p) * variance
        of_mean = p * (of_p - (p * of_p).sum(1, keepdim=True)) * weights
        return of_mean, of_spread * slope.square() * weights


class _Softmax(NamedTuple):
    """Moments of the softmax of logits, each (M, classes, N)."""

    mean: Tensor
    slope: Tensor  # of the softmax in its own logit
    variance: Tensor
    residual: Tensor  # mean less label

    @classmethod
    def of(cls, mean: Tensor, variance: Tensor, labels: Tensor) -> _Softmax:
        """Propagate moments of the logits; `labels` are one-hot."""
        p = mean.softmax(1)
        slope = p * (1.0 - p)
        return cls(p, slope, slope.square() * variance, p - labels)


def _no_bend(value: Tensor, variance: Tensor) -> Tensor:
    return torch.zeros_like(value)


def _bend_of_tanh(value: Tensor, variance: Tensor) -> Tensor:
    return -4.0 * value * variance


def _bend_of_selu(value: Tensor, variance: Tensor) -> Tensor:
    return torch.where(value > 0, 0.0, 2.0 * variance)


# Each with 2 t f' f'' as a function of the value a and of the variance s = f'^2 t after it.
ACTIVATIONS: dict[str, tuple[type[Elementwise], Callable[[Tensor, Tensor], Tensor]]] = {
    "selu": (SELU, _bend_of_selu),
    "tanh": (Tanh, _bend_of_tanh),
    "relu": (ReLU, _no_bend),
}

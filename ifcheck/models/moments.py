"""Layers that propagate means and variances: variational density propagation.

Weights and biases are independent Gaussians, and so, by assumption, are all values of a layer:
the layers after the first leave out that units which share inputs correlate. References: Dera et
al. (2019); Epifano et al., eqs. 6 to 14.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

RHO = "_rho"  # ends the name of a parameter rho that stands for the variance softplus(rho)
JACOBIANS = ("diagonal", "full")  # of the softmax
SELU_ALPHA, SELU_SCALE = 1.6732632423543772848, 1.0507009873554804934  # Klambauer et al. (2017)
SOFTPLUS_THRESHOLD = 40.0  # beyond it log(1 + e^x) is x to the last digit of float64


class Moments(NamedTuple):
    """Mean and variance of every value of a layer."""

    mean: Tensor  # (rows, ...)
    variance: Tensor  # (rows, ...)

    @classmethod
    def of_certain(cls, values: Tensor) -> Moments:
        """Return the moments of values that are known."""
        return cls(values, torch.zeros_like(values))

    @classmethod
    def unpack(cls, packed: Tensor) -> Moments:
        """Return the moments in a tensor (rows, 2, ...), means first."""
        return cls(*packed.unbind(1))

    def pack(self) -> Tensor:
        """Return one tensor (rows, 2, ...), means first."""
        return torch.stack(self, dim=1)


def softplus(rho: Tensor) -> Tensor:
    """Return log(1 + e^rho), the variance that rho stands for; by log1p, and positive."""
    return functional.softplus(rho, threshold=SOFTPLUS_THRESHOLD)


class GaussianLayer(nn.Module):
    """What layers with weights share: a mean and a rho for each weight and each bias."""

    weight: nn.Parameter
    bias: nn.Parameter
    weight_rho: nn.Parameter
    bias_rho: nn.Parameter

    def __init__(self, plain: nn.Linear | nn.Conv2d) -> None:
        """Take the means from a plain layer; every rho is zero until it is set."""
        super().__init__()
        if plain.bias is None:
            raise ValueError(f"a {type(plain).__name__} without biases has no Bayesian form here")
        for name, value in (("weight", plain.weight), ("bias", plain.bias)):
            self.register_parameter(name, nn.Parameter(value.detach().clone()))
        for name, value in (("weight", plain.weight), ("bias", plain.bias)):
            self.register_parameter(name + RHO, nn.Parameter(torch.zeros_like(value)))

    def forward(self, moments: Moments) -> Moments:
        """Return the moments of weight * input + bias: exact for independent inputs (eq. 12).

        The variance of a product of independent w and x is S (m^2 + s) + w^2 s.
        """
        mean, variance = moments
        spread = self.combine(
            mean.square() + variance, softplus(self.weight_rho), softplus(self.bias_rho)
        )
        return Moments(
            self.combine(mean, self.weight, self.bias),
            spread + self.combine(variance, self.weight.square(), None),
        )

    def combine(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Apply the plain layer's map with these weights and biases."""
        raise NotImplementedError(f"{type(self).__name__} must define combine()")


class Linear(GaussianLayer):
    """A linear layer of Gaussian weights."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain)
        self.in_features, self.out_features = plain.in_features, plain.out_features

    def combine(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.linear(inputs, weight, bias)


class Conv2d(GaussianLayer):
    """A 2-d convolution of Gaussian weights, padded with certain zeros."""

    def __init__(self, plain: nn.Conv2d) -> None:
        super().__init__(plain)
        if plain.padding_mode != "zeros":
            raise ValueError(f"padding mode is {plain.padding_mode!r}; expected 'zeros'")
        self._geometry = (plain.stride, plain.padding, plain.dilation, plain.groups)

    def combine(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        stride, padding, dilation, groups = self._geometry
        return functional.conv2d(inputs, weight, bias, stride, padding, dilation, groups)


class Elementwise(nn.Module):
    """f(mean) and f'(mean)^2 variance: a first-order Taylor series (eqs. 8 to 10)."""

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()

    def forward(self, moments: Moments) -> Moments:
        value = self.value(moments.mean)
        return Moments(value, self.slope(value).square() * moments.variance)

    @staticmethod
    def value(argument: Tensor) -> Tensor:
        """Return f of the argument."""
        raise NotImplementedError("an activation must define value()")

    @staticmethod
    def slope(value: Tensor) -> Tensor:
        """Return f' where f has this value."""
        raise NotImplementedError("an activation must define slope()")


class SELU(Elementwise):
    """Scaled exponential linear units."""

    @staticmethod
    def value(argument: Tensor) -> Tensor:
        return functional.selu(argument)

    @staticmethod
    def slope(value: Tensor) -> Tensor:
        return torch.where(value > 0, SELU_SCALE, value + SELU_SCALE * SELU_ALPHA)


class Tanh(Elementwise):
    """The hyperbolic tangent."""

    @staticmethod
    def value(argument: Tensor) -> Tensor:
        return torch.tanh(argument)

    @staticmethod
    def slope(value: Tensor) -> Tensor:
        return 1.0 - value.square()


class ReLU(Elementwise):
    """Rectified linear units; at zero the slope is zero, as torch's."""

    @staticmethod
    def value(argument: Tensor) -> Tensor:
        return functional.relu(argument)

    @staticmethod
    def slope(value: Tensor) -> Tensor:
        return (value > 0).to(value.dtype)


class AvgPool2d(nn.Module):
    """The mean of each window, whose values are independent."""

    def __init__(self, plain: nn.AvgPool2d) -> None:
        super().__init__()
        if plain.ceil_mode or not plain.count_include_pad or plain.divisor_override:
            raise ValueError("windows of average pooling must all be of one size")
        self._geometry = (plain.kernel_size, plain.stride, plain.padding)
        sides = plain.kernel_size if isinstance(plain.kernel_size, tuple) else (plain.kernel_size,)
        self._values = math.prod(sides * (2 // len(sides)))  # in a window

    def forward(self, moments: Moments) -> Moments:
        mean, variance = (functional.avg_pool2d(values, *self._geometry) for values in moments)
        return Moments(mean, variance / self._values)


class MaxPool2d(nn.Module):
    """The largest mean of each window, and its variance: max to first order at the means."""

    def __init__(self, plain: nn.MaxPool2d) -> None:
        super().__init__()
        self._geometry = (
            plain.kernel_size,
            plain.stride,
            plain.padding,
            plain.dilation,
            plain.ceil_mode,
        )

    def forward(self, moments: Moments) -> Moments:
        mean, places = functional.max_pool2d(moments.mean, *self._geometry, return_indices=True)
        chosen = moments.variance.flatten(-2).gather(-1, places.flatten(-2))
        return Moments(mean, chosen.view_as(mean))


class Flatten(nn.Module):
    """Each row's values in a line."""

    def __init__(self, plain: nn.Flatten) -> None:
        super().__init__()
        if (plain.start_dim, plain.end_dim) != (1, -1):
            raise ValueError("a flattening must keep the rows and nothing else")

    def forward(self, moments: Moments) -> Moments:
        return Moments(*(values.flatten(1) for values in moments))


def softmax(moments: Moments, jacobian: str = "diagonal") -> Moments:
    """Return the moments of the softmax over dimension 1 (eqs. 13 and 14).

    With p the softmax of the means and J its Jacobian diag(p) - p p^T: p, and the variance
    sum_k J_ck^2 s_k; of which jacobian "diagonal" keeps the term k = c, as eq. 14 does (at p:
    eq. 14 misprints the symbol). That is 0.5 to 0.7 of the sampled variance; "full" has the rest.
    """
    p = moments.mean.softmax(1)
    own = (p * (1.0 - p)).square() * moments.variance
    if jacobian == "diagonal":
        return Moments(p, own)
    of_all = p.square() * (p.square() * moments.variance).sum(1, keepdim=True)
    return Moments(p, own + of_all - p.square().square() * moments.variance)


LAYERS: dict[type[nn.Module], Callable[..., nn.Module]] = {
    nn.Linear: Linear,
    nn.Conv2d: Conv2d,
    nn.SELU: SELU,
    nn.Tanh: Tanh,
    nn.ReLU: ReLU,
    nn.AvgPool2d: AvgPool2d,
    nn.MaxPool2d: MaxPool2d,
    nn.Flatten: Flatten,
}


def bayesian(plain: nn.Module) -> nn.Module:
    """Return the layer that propagates moments where `plain` propagates values.

    Raises: ValueError where there is none.
    """
    if type(plain) not in LAYERS:
        known = ", ".join(layer.__name__ for layer in LAYERS)
        raise ValueError(f"{type(plain).__name__} has no Bayesian form; expected one of {known}")
    return LAYERS[type(plain)](plain)

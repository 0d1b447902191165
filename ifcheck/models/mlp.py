"""Multilayer perceptrons of any depth and width."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ifcheck.models.base import NETWORKS, Network

ACTIVATIONS: dict[str, type[nn.Module]] = {"selu": nn.SELU, "tanh": nn.Tanh, "relu": nn.ReLU}


class MLP(Network):
    """`depth` hidden layers of `width` units, then a linear head of logits."""

    def __init__(
        self, inputs: int, width: int, depth: int, classes: int, activation: str = "selu"
    ) -> None:
        super().__init__()
        self.activation = activation
        self.layer_sizes = (inputs, *[width] * depth, classes)
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip(self.layer_sizes[:-2], self.layer_sizes[1:-1], strict=True):
            layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[activation]()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(self.layer_sizes[-2], classes)

    def features(self, inputs: Tensor) -> Tensor:
        """Return the last hidden activations. Shape: (rows, width)."""
        features: Tensor = self.body(inputs.flatten(1))
        return features


@NETWORKS.register("mlp")
@dataclass(frozen=True)
class MLPSpec:
    """Fully connected network: depth hidden layers of equal width."""

    convolutional: ClassVar[bool] = False

    depth: int = 1
    width: int = 5
    activation: str = "selu"

    def __post_init__(self) -> None:
        for name in ("depth", "width"):
            size = getattr(self, name)
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ValueError(f"{name} is {size!r}; expected an integer of at least 1")
        if self.activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"activation is {self.activation!r}; expected one of {known}")

    def build(self, input_shape: tuple[int, ...], classes: int) -> Network:
        return MLP(math.prod(input_shape), self.width, self.depth, classes, self.activation)


@NETWORKS.register("fc")
@dataclass(frozen=True)
class FullyConnectedSpec(MLPSpec):
    """Fully connected network of one hidden tanh layer: the study's on MNIST."""

    width: int = 128
    activation: str = "tanh"

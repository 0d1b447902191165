"""Convolutional networks for images of 32 x 32 pixels: LeNet-5 and VGG13."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ifcheck.models.base import NETWORKS, Network

SIDE = 32
VGG13_BLOCKS = (64, 128, 256, 512, 512)  # channels of both convolutions of each block
VGG13_LINEAR = (4096, 4096, 1000)


class ConvolutionalNetwork(Network):
    """Layers in sequence, the last of which is the head."""

    def __init__(self, body: Sequence[nn.Module], features: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)
        self.head = nn.Linear(features, classes)

    def features(self, inputs: Tensor) -> Tensor:
        """Return the last hidden activations. Shape: (rows, features)."""
        features: Tensor = self.body(inputs)
        return features


def _channels(network: str, input_shape: tuple[int, ...]) -> int:
    """Return how many channels images have. Raises: ValueError where they do not fit."""
    if len(input_shape) != 3 or input_shape[1:] != (SIDE, SIDE):
        raise ValueError(
            f"{network} takes images of {SIDE} x {SIDE} pixels; rows have shape {input_shape}"
        )
    return input_shape[0]


@NETWORKS.register("lenet")
@dataclass(frozen=True)
class LeNetSpec:
    """LeNet-5 with tanh and average pooling (LeCun et al. 1998); its head has 84 features."""

    convolutional: ClassVar[bool] = True

    def build(self, input_shape: tuple[int, ...], classes: int) -> Network:
        body: list[nn.Module] = []
        channels = _channels("lenet", input_shape)
        for filters in (6, 16):
            body += [nn.Conv2d(channels, filters, 5), nn.Tanh(), nn.AvgPool2d(2)]
            channels = filters
        body += [nn.Conv2d(channels, 120, 5), nn.Tanh(), nn.Flatten()]
        body += [nn.Linear(120, 84), nn.Tanh()]
        return ConvolutionalNetwork(body, 84, classes)


@NETWORKS.register("vgg13")
@dataclass(frozen=True)
class VGG13Spec:
    """VGG13 (Simonyan & Zisserman 2015): five blocks, then 4096-4096-1000 units with dropout."""

    convolutional: ClassVar[bool] = True
    dropout: float = 0.4

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout!r}; expected at least 0 and below 1")

    def build(self, input_shape: tuple[int, ...], classes: int) -> Network:
        body: list[nn.Module] = []
        channels = _channels("vgg13", input_shape)
        for filters in VGG13_BLOCKS:
            for _ in range(2):
                body += [nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU()]
                channels = filters
            body.append(nn.MaxPool2d(2))
        body.append(nn.Flatten())
        for units in VGG13_LINEAR:
            body += [nn.Linear(channels, units), nn.ReLU(), nn.Dropout(self.dropout)]
            channels = units
        return ConvolutionalNetwork(body, channels, classes)

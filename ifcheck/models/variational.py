"""Bayesian counterparts of networks: Gaussian weights, moments in place of values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ifcheck.models.base import Network, NetworkSpec
from ifcheck.models.moments import RHO, GaussianLayer, Linear, Moments, bayesian

MEANS = ("xavier-normal", "default")


class VariationalHead(Linear):
    """The last layer, from and to packed moments: (rows, 2, features) to (rows, 2, classes)."""

    def forward(self, packed: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(Moments.unpack(packed)).pack()


class VariationalNetwork(Network):
    """A network whose weights are Gaussian; its outputs are the moments of the logits.

    Features and logits are packed: (rows, 2, ...), means first.
    """

    head: VariationalHead  # type: ignore[assignment]

    def __init__(self, plain: Network) -> None:
        """Take the means from a plain network: a `body` in sequence, and a linear head.

        Raises: ValueError for a network or a layer that has no Bayesian form.
        """
        super().__init__()
        body = getattr(plain, "body", None)
        if not isinstance(body, nn.Sequential) or not isinstance(plain.head, nn.Linear):
            raise ValueError(
                f"{type(plain).__name__} has no Bayesian form: that needs a body of layers in "
                "sequence and a linear head"
            )
        self.body = nn.Sequential(*(bayesian(layer) for layer in body))
        self.head = VariationalHead(plain.head)
        self._flat = isinstance(next(iter(body), plain.head), nn.Linear)

    def features(self, inputs: Tensor) -> Tensor:
        """Return the moments that the head sees. Shape: (rows, 2, head.in_features)."""
        moments = Moments.of_certain(inputs.flatten(1) if self._flat else inputs)
        for layer in self.body:
            moments = layer(moments)
        return moments.pack()


@dataclass(frozen=True)
class VariationalSpec:
    """The Bayesian counterpart of another network.

    Means start as `means` says, biases then at zero; every rho is drawn from U(rho, rho +
    rho_spread).
    """

    plain: NetworkSpec
    means: str = "xavier-normal"  # or "default": torch's own, as the plain network's
    rho: float = -5.0
    rho_spread: float = 0.0

    @property
    def convolutional(self) -> bool:
        return self.plain.convolutional

    def build(self, input_shape: tuple[int, ...], classes: int) -> Network:
        network = VariationalNetwork(self.plain.build(input_shape, classes))
        for layer in network.modules():
            if isinstance(layer, GaussianLayer):
                self._initialise(layer)
        return network

    def _initialise(self, layer: GaussianLayer) -> None:
        if self.means == "xavier-normal":
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        for name in ("weight" + RHO, "bias" + RHO):
            rho = layer.get_parameter(name)
            with torch.no_grad():
                rho.uniform_().mul_(self.rho_spread).add_(self.rho)

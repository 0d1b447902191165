"""What a network is: a plain `nn.Module` made of a body and a linear head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from ifcheck import memory, provenance
from ifcheck.errors import UnusableInput
from ifcheck.registry import Registry


class Network(nn.Module):
    """A network whose last layer is named: `forward(x) = head(features(x))`.

    Influence and retraining of the last layer treat everything below the head as a fixed
    feature extractor (Koh & Liang 2017, section 5).
    """

    head: nn.Linear

    def features(self, inputs: Tensor) -> Tensor:
        """Return what the head sees. Shape: (rows, head.in_features)."""
        raise NotImplementedError(f"{type(self).__name__} must define features()")

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits. Shape: (rows, classes)."""
        logits: Tensor = self.head(self.features(inputs))
        return logits


class NetworkSpec(Protocol):
    """An entry of `NETWORKS`: a frozen dataclass whose fields are the network's options."""

    @property
    def convolutional(self) -> bool:
        """Whether images are padded and standardised, as convolutional networks take them."""

    def build(self, input_shape: tuple[int, ...], classes: int) -> Network:
        """Return a freshly initialised network, drawing from torch's global generator."""


ROWS_AT_ONCE = 1_024  # whose activations are alive together: 2.5 GB for VGG13 in float64
# Of them, where derivatives of derivatives are taken, which keep each several times: 0.5 GB.
DERIVED_VALUES = 1 << 26

NETWORKS: Registry[NetworkSpec] = Registry("network")


def initialise(
    spec: NetworkSpec, input_shape: tuple[int, ...], classes: int, seed: int, dtype: torch.dtype
) -> Network:
    """Build a network with torch's default initialisation, drawn from the named seed "init".

    Drawn in float32 and then converted, so that float32 and float64 start from equal values.
    The global generator is left as it was. Raises: UnusableInput where it does not fit the rows.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(provenance.named_seed(seed, "init"))
        return build(spec, input_shape, classes).to(dtype).eval()


def build(spec: NetworkSpec, input_shape: tuple[int, ...], classes: int) -> Network:
    """Build a network for rows of this shape. Raises: UnusableInput where there is none."""
    try:
        return spec.build(input_shape, classes)
    except ValueError as error:
        raise UnusableInput(
            f"the network cannot be built: {error}.",
            remedy="Choose another --network, --variant or --dataset.",
        ) from error


def evaluate(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Return what a network, or its features, gives for inputs (rows, ...), without gradients.

    Large results are mapped from a file, see `memory.empty`; small ones may share memory with the
    inputs where the function's do.
    """
    with torch.no_grad():
        first = function(inputs[:ROWS_AT_ONCE])
        if len(inputs) <= ROWS_AT_ONCE:
            return first
        results = memory.empty((len(inputs), *first.shape[1:]), first.dtype, first.device)
        results[:ROWS_AT_ONCE] = first
        for start in range(ROWS_AT_ONCE, len(inputs), ROWS_AT_ONCE):
            block = slice(start, start + ROWS_AT_ONCE)
            results[block] = function(inputs[block])
        return results


def rows_at_once(network: nn.Module, inputs: Tensor) -> int:
    """Return how many rows to differentiate twice together, at most `ROWS_AT_ONCE`.

    By the activations that the first of the inputs (rows, ...) leaves behind.
    """
    sizes: list[int] = []

    def note(_module: nn.Module, _inputs: object, outputs: Tensor | tuple[Tensor, ...]) -> None:
        values = (outputs,) if isinstance(outputs, Tensor) else outputs  # means and variances
        sizes.extend(tensor.numel() for tensor in values)

    leaves = [module for module in network.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(note) for module in leaves]
    try:
        evaluate(network, inputs[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return max(1, min(ROWS_AT_ONCE, DERIVED_VALUES // max(1, sum(sizes))))

"""Matrices that are block diagonal in layers, with Kronecker products for eigenvectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ifcheck.curvature.head import flat_to_matrix, matrix_to_flat


@dataclass(frozen=True)
class KroneckerLayer:
    """(Q_o (x) Q_i) diag(values) (Q_o (x) Q_i)^T of a layer's weight (O, I) and bias (O,)."""

    outputs: Tensor  # (O, O) Q_o, eigenvectors in columns
    inputs: Tensor  # (I + 1, I + 1) Q_i, the bias last
    values: Tensor  # (O, I + 1) eigenvalues


@dataclass(frozen=True)
class KroneckerMatrix:
    """A symmetric matrix (params, params) of layers, one after the other in the flat parameters."""

    layers: tuple[KroneckerLayer, ...]

    @property
    def values(self) -> Tensor:
        """All eigenvalues, layer by layer. Shape: (params,)."""
        return torch.cat([layer.values.flatten() for layer in self.layers])

    def plus(self, shift: float) -> KroneckerMatrix:
        """Return K + shift I."""
        return self._with_values(lambda values: values + shift)

    def times(self, factor: float) -> KroneckerMatrix:
        """Return factor * K."""
        return self._with_values(lambda values: factor * values)

    def function_product(self, function: Callable[[Tensor], Tensor], directions: Tensor) -> Tensor:
        """Return f(K) v for directions v (D, params); f is given eigenvalues of any shape.

        Shape: (D, params).
        """
        images = []
        sizes = [layer.values.numel() for layer in self.layers]
        for layer, part in zip(self.layers, directions.split(sizes, dim=-1), strict=True):
            within = layer.outputs.mT @ flat_to_matrix(part, len(layer.outputs)) @ layer.inputs
            image = layer.outputs @ (within * function(layer.values)) @ layer.inputs.mT
            images.append(matrix_to_flat(image))
        return torch.cat(images, dim=-1)

    def _with_values(self, function: Callable[[Tensor], Tensor]) -> KroneckerMatrix:
        return KroneckerMatrix(
            tuple(replace(layer, values=function(layer.values)) for layer in self.layers)
        )

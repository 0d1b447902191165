"""Tests of curvature, and the plain numpy network that they differentiate."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.special import logsumexp

from tests import oracles
from tests.oracles import Array, Labels


def layers_of(flat: Array, sizes: Sequence[int]) -> list[tuple[Array, Array]]:
    """Weights and biases of a flat vector that holds W row by row, then b, layer by layer."""
    layers, start = [], 0
    for fan_in, fan_out in pairwise(sizes):
        middle, end = start + fan_in * fan_out, start + (fan_in + 1) * fan_out
        layers.append((flat[start:middle].reshape(fan_out, fan_in), flat[middle:end]))
        start = end
    return layers


def mlp_loss(
    flat: Array,
    sizes: Sequence[int],  # (inputs, hidden..., classes)
    activation: str,
    inputs: Array,  # (rows, inputs)
    targets: Labels,  # (rows,)
    weights: Array,  # (rows,)
) -> float:
    """Weighted sum of the rows' cross-entropies, in nats."""
    logits = oracles.numpy_mlp(layers_of(flat, sizes), inputs, activation)
    losses = logsumexp(logits, axis=1) - logits[np.arange(len(targets)), targets]
    return float(weights @ losses)

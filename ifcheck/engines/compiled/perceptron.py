"""Multilayer perceptrons of plain weights, and heads, for the compiled loop of epochs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ifcheck.engines.compiled import network as generic
from ifcheck.engines.compiled.layers import (
    backward,
    cross_entropy,
    forward,
    softmax_backward,
    weighted_sum,
)
from ifcheck.engines.compiled.network import implements

_options: dict[str, Any] = {"error_model": "numpy", "cache": True}


class Perceptron(NamedTuple):
    """A network of linear layers and one kind of activation; parameters in torch's order."""

    sizes: NDArray[np.int64]  # (layers + 1,) units of every layer, input and output included
    starts: NDArray[np.int64]  # (layers,) where each layer's parameters start
    activation: int


class Workspace(NamedTuple):
    """Memory of one thread, of one model at a time; small enough to stay in its cache."""

    activations: NDArray[Any]  # (layers + 1, widest, rows)
    deltas: NDArray[Any]  # (layers + 1, widest, rows) d loss / d activation
    largest: NDArray[Any]  # (rows,) logit
    total: NDArray[Any]  # (rows,) sum of exp(logit - largest)
    gradient: NDArray[Any]  # (params,)
    turned: NDArray[Any]  # (params,) a layer's transpose
    zeros: NDArray[Any]  # (widest,)


@njit(**_options)
def zeros(size: int, like: Any) -> Any:
    """Return zeros (size,); numba compiles np.empty at once, np.zeros takes it a second."""
    values = np.empty(size, like)
    for k in range(size):
        values[k] = 0.0
    return values


@njit(**_options)
def widest(sizes: Any) -> int:
    """Return the largest number of units in a layer."""
    largest = 0
    for width in sizes:
        largest = max(largest, width)
    return largest


@implements(generic.make_workspace, Perceptron)
def _make_workspace(network: Perceptron, rows: int, parameters: Any) -> Workspace:
    sizes = network.sizes
    layers, width = sizes.size, widest(sizes)
    count, like = parameters.shape[1], parameters.dtype
    return Workspace(
        np.empty((layers, width, rows), like),
        np.empty((layers, width, rows), like),
        np.empty(rows, like),
        np.empty(rows, like),
        zeros(count, like),
        np.empty(count, like),
        zeros(width, like),
    )


@implements(generic.enter_inputs, Perceptron)
def _enter_inputs(network: Perceptron, inputs: Any, work: Workspace) -> None:
    for feature in range(inputs.shape[0]):
        for j in range(inputs.shape[1]):
            work.activations[0, feature, j] = inputs[feature, j]


@implements(generic.evaluate, Perceptron)
def _evaluate(
    network: Perceptron, parameters: Any, labels: Any, weights: Any, work: Workspace
) -> None:
    sizes = network.sizes
    forward(sizes, network.starts, network.activation, parameters, work.activations)
    logits, delta = work.activations[-1, : sizes[-1]], work.deltas[-1, : sizes[-1]]
    softmax_backward(logits, labels, weights, delta, work.largest, work.total)


@implements(generic.objective, Perceptron)
def _objective(
    network: Perceptron,
    parameters: Any,
    labels: Any,
    weights: Any,
    work: Workspace,
    row_losses: Any,
) -> float:
    logits = work.activations[-1, : network.sizes[-1]]
    cross_entropy(logits, labels, work.largest, work.total, row_losses)
    return weighted_sum(weights, row_losses)


@implements(generic.differentiate, Perceptron)
def _differentiate(network: Perceptron, parameters: Any, work: Workspace) -> None:
    backward(
        network.sizes,
        network.starts,
        network.activation,
        parameters,
        work.activations,
        work.deltas,
        work.turned,
        work.zeros,
        work.gradient,
    )

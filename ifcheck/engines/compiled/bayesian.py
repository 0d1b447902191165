"""Bayesian multilayer perceptrons, and heads, for the compiled loop of epochs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ifcheck.engines.compiled import network as generic
from ifcheck.engines.compiled.functions import FAST
from ifcheck.engines.compiled.layers import weighted_sum
from ifcheck.engines.compiled.moments import (
    backward_moments,
    forward_moments,
    kl_divergence,
    likelihood,
    likelihood_backward,
    spread,
)
from ifcheck.engines.compiled.network import implements
from ifcheck.engines.compiled.perceptron import widest, zeros


class BayesianPerceptron(NamedTuple):
    """A perceptron of Gaussian weights, and its objective: all means, then all rho."""

    sizes: NDArray[np.int64]  # (layers + 1,) units of every layer, input and output included
    starts: NDArray[np.int64]  # (layers,) where each layer's means start
    activation: int
    certain: bool  # whether inputs are values; else their means stand above their variances
    half: int  # parameters: so many means, then as many rho
    kl_share: float  # of the divergence, in the objective
    noise: float  # variance of the likelihood beside the propagated one


class Workspace(NamedTuple):
    """Memory of one thread, of one model at a time."""

    values: NDArray[Any]  # (layers + 1, widest, rows) means
    spreads: NDArray[Any]  # (layers + 1, 2 widest, rows) second moments above variances
    of_values: NDArray[Any]  # (2, widest, rows)
    of_spreads: NDArray[Any]  # (2, 2 widest, rows)
    noisy: NDArray[Any]  # (classes, rows) variance of the softmax, noise included
    residual: NDArray[Any]  # (classes, rows) softmax less label
    total: NDArray[Any]  # (rows,)
    variances: NDArray[Any]  # (half,) of weights and biases
    slopes: NDArray[Any]  # (half,) of the variances in rho
    gradient: NDArray[Any]  # (params,)
    paired: NDArray[Any]  # (params,)
    turned: NDArray[Any]  # (params,)
    zeros: NDArray[Any]  # (2 widest,)


@njit(fastmath=FAST, error_model="numpy", cache=True)
def finish_gradient(means: Any, work: Workspace, kl_share: float) -> None:
    """Turn derivatives in variances into those in rho, and add the KL divergence's."""
    half, of = means.size, means.dtype.type
    share, one, rest = of(kl_share), of(1.0), of(0.5 * kl_share)
    for k in range(half):
        work.gradient[k] += share * means[k]
        of_variance = work.gradient[half + k] + rest * (one - one / work.variances[k])
        work.gradient[half + k] = of_variance * work.slopes[k]


@implements(generic.make_workspace, BayesianPerceptron)
def _make_workspace(network: BayesianPerceptron, rows: int, parameters: Any) -> Workspace:
    sizes = network.sizes
    layers, width, classes = sizes.size, widest(sizes), sizes[-1]
    count, like = parameters.shape[1], parameters.dtype
    return Workspace(
        np.empty((layers, width, rows), like),
        np.empty((layers, 2 * width, rows), like),
        np.empty((2, width, rows), like),
        np.empty((2, 2 * width, rows), like),
        np.empty((classes, rows), like),
        np.empty((classes, rows), like),
        np.empty(rows, like),
        np.empty(network.half, like),
        np.empty(network.half, like),
        zeros(count, like),
        np.empty(count, like),
        np.empty(count, like),
        zeros(2 * width, like),
    )


@implements(generic.enter_inputs, BayesianPerceptron)
def _enter_inputs(network: BayesianPerceptron, inputs: Any, work: Workspace) -> None:
    """Inputs are values (features, rows), or moments (2 features, rows)."""
    certain, features, zero = network.certain, network.sizes[0], inputs.dtype.type(0.0)
    for feature in range(features):
        for j in range(inputs.shape[1]):
            mean = inputs[feature, j]
            variance = zero if certain else inputs[features + feature, j]
            work.values[0, feature, j] = mean
            work.spreads[0, feature, j] = mean * mean + variance
            if not certain:
                work.spreads[0, features + feature, j] = variance


@implements(generic.evaluate, BayesianPerceptron)
def _evaluate(
    network: BayesianPerceptron, parameters: Any, labels: Any, weights: Any, work: Workspace
) -> None:
    half, layers, classes = network.half, network.sizes.size - 1, network.sizes[-1]
    spread(parameters[half : 2 * half], work.variances, work.slopes)
    forward_moments(
        network.sizes,
        network.starts,
        network.activation,
        network.certain,
        parameters[:half],
        work.variances,
        work.values,
        work.spreads,
        work.paired,
    )
    likelihood_backward(
        work.values[-1, :classes],
        work.spreads[-1, classes : 2 * classes],
        labels,
        weights,
        network.noise,
        work.of_values[layers % 2, :classes],
        work.of_spreads[layers % 2, :classes],
        work.noisy,
        work.residual,
        work.total,
    )


@implements(generic.objective, BayesianPerceptron)
def _objective(
    network: BayesianPerceptron,
    parameters: Any,
    labels: Any,
    weights: Any,
    work: Workspace,
    row_losses: Any,
) -> float:
    likelihood(work.noisy, work.residual, network.noise, row_losses)
    divergence = kl_divergence(parameters[: network.half], work.variances)
    return weighted_sum(weights, row_losses) + network.kl_share * divergence


@implements(generic.differentiate, BayesianPerceptron)
def _differentiate(network: BayesianPerceptron, parameters: Any, work: Workspace) -> None:
    half = network.half
    means = parameters[:half]
    backward_moments(
        network.sizes,
        network.starts,
        network.activation,
        network.certain,
        means,
        work.variances,
        work.values,
        work.spreads,
        work.of_values,
        work.of_spreads,
        work.paired,
        work.turned,
        work.zeros,
        work.gradient[:half],
        work.gradient[half : 2 * half],
    )
    finish_gradient(means, work, network.kl_share)

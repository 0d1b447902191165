"""A block of epochs for several Bayesian models, compiled: as `descent`, with moments."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ifcheck.engines.compiled.descent import (
    Architecture,
    Block,
    Models,
    Rows,
    Settings,
    attention,
    move,
)
from ifcheck.engines.compiled.functions import FAST, flush_denormals, restore_denormals
from ifcheck.engines.compiled.layers import weighted_sum
from ifcheck.engines.compiled.moments import (
    backward_moments,
    forward_moments,
    kl_divergence,
    likelihood,
    likelihood_backward,
    spread,
)

_options: dict[str, Any] = {"error_model": "numpy", "cache": True}


class Bayes(NamedTuple):
    """What an objective with a KL divergence asks of every epoch."""

    kl_share: float  # of the divergence, in the objective
    noise: float  # variance of the likelihood beside the propagated one
    certain: bool  # whether inputs are values; else their means stand above their variances
    half: int  # parameters: so many means, then as many rho


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


@njit(**_options)
def make_workspace(sizes: Any, rows: int, half: int, parameters: Any) -> Workspace:
    """Return memory for models of these sizes and of the type of `parameters` (models, params)."""
    layers, count, like = sizes.size - 1, parameters.shape[1], parameters.dtype
    classes, widest = sizes[-1], 0
    for width in sizes:
        widest = max(widest, width)
    # Numba compiles np.empty at once; np.zeros and slice assignments cost a second each.
    gradient, zeros = np.empty(count, like), np.empty(2 * widest, like)
    for k in range(count):
        gradient[k] = 0.0
    for k in range(2 * widest):
        zeros[k] = 0.0
    return Workspace(
        np.empty((layers + 1, widest, rows), like),
        np.empty((layers + 1, 2 * widest, rows), like),
        np.empty((2, widest, rows), like),
        np.empty((2, 2 * widest, rows), like),
        np.empty((classes, rows), like),
        np.empty((classes, rows), like),
        np.empty(rows, like),
        np.empty(half, like),
        np.empty(half, like),
        gradient,
        np.empty(count, like),
        np.empty(count, like),
        zeros,
    )


@njit(**_options)
def enter_inputs(inputs: Any, certain: bool, features: int, work: Workspace) -> None:
    """Write one group's inputs (features, rows), or moments (2 features, rows), below layer 0."""
    zero = inputs.dtype.type(0.0)
    for feature in range(features):
        for j in range(inputs.shape[1]):
            mean = inputs[feature, j]
            variance = zero if certain else inputs[features + feature, j]
            work.values[0, feature, j] = mean
            work.spreads[0, feature, j] = mean * mean + variance
            if not certain:
                work.spreads[0, features + feature, j] = variance


@njit(fastmath=FAST, **_options)
def finish_gradient(means: Any, work: Workspace, kl_share: float) -> None:
    """Turn derivatives in variances into those in rho, and add the KL divergence's."""
    half, of = means.size, means.dtype.type
    share, one, rest = of(kl_share), of(1.0), of(0.5 * kl_share)
    for k in range(half):
        work.gradient[k] += share * means[k]
        of_variance = work.gradient[half + k] + rest * (one - one / work.variances[k])
        work.gradient[half + k] = of_variance * work.slopes[k]


@njit(inline="always", **_options)
def evaluate(
    architecture: Architecture,
    bayes: Bayes,
    means: Any,
    rho: Any,
    labels: Any,
    weights: Any,
    work: Workspace,
) -> None:
    """Propagate moments, and set the derivatives of the weighted losses in those of the logits."""
    sizes, starts, activation = architecture
    layers, classes = sizes.size - 1, sizes[-1]
    spread(rho, work.variances, work.slopes)
    forward_moments(
        sizes,
        starts,
        activation,
        bayes.certain,
        means,
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
        bayes.noise,
        work.of_values[layers % 2, :classes],
        work.of_spreads[layers % 2, :classes],
        work.noisy,
        work.residual,
        work.total,
    )


@njit(inline="always", **_options)
def differentiate(architecture: Architecture, bayes: Bayes, means: Any, work: Workspace) -> None:
    """Set the gradient of the objective in means and rho, after `evaluate`."""
    sizes, starts, activation = architecture
    half = bayes.half
    backward_moments(
        sizes,
        starts,
        activation,
        bayes.certain,
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
    finish_gradient(means, work, bayes.kl_share)


@njit(**_options)
def descend(
    architecture: Architecture,
    bayes: Bayes,
    rows: Rows,
    models: Models,
    settings: Settings,
    block: Block,
    losses: Any,
    examples: Any,
    work: Workspace,
    model: int,
) -> None:
    """Run one model through a block of epochs, in place; its inputs stand in `work`."""
    half, noise = bayes.half, bayes.noise
    labels, weights = rows.labels, rows.weights[model]
    parameters, mean, square = models.parameters[model], models.mean[model], models.square[model]
    means, rho = parameters[:half], parameters[half : 2 * half]
    average, schedule = models.average[model], models.schedule[model]
    for index in range(block.corrections.shape[0]):
        epoch = block.first + index
        averaging, listening, recorded, standing = attention(schedule, settings, epoch)
        if standing and not recorded:
            continue
        evaluate(architecture, bayes, means, rho, labels, weights, work)
        loss = 0.0
        if listening or recorded:
            likelihood(work.noisy, work.residual, noise, examples)
            loss = weighted_sum(weights, examples)
            loss += bayes.kl_share * kl_divergence(means, work.variances)
        if recorded:
            losses[epoch // settings.record_every] = loss
        if standing or settings.frozen:
            continue
        differentiate(architecture, bayes, means, work)
        move(
            parameters,
            mean,
            square,
            average,
            schedule,
            work.gradient,
            settings,
            block,
            model,
            index,
            loss,
            averaging,
            listening,
        )


@njit(**_options, nogil=True)
def advance(
    architecture: Architecture,
    bayes: Bayes,
    rows: Rows,
    models: Models,
    settings: Settings,
    block: Block,
    losses: Any,
    row_losses: Any,
    first_model: int,
    last_model: int,
) -> None:
    """Run Bayesian models through a block of epochs, in place; see `descent.advance`.

    The losses that are recorded, and that the schedule hears, include the KL divergence.
    """
    features, count = architecture.sizes[0], rows.weights.shape[1]
    work = make_workspace(architecture.sizes, count, bayes.half, models.parameters)
    former = flush_denormals()
    for model in range(first_model, last_model):
        enter_inputs(rows.inputs[rows.group[model]], bayes.certain, features, work)
        descend(
            architecture,
            bayes,
            rows,
            models,
            settings,
            block,
            losses[model],
            row_losses[model],
            work,
            model,
        )
    restore_denormals(former)

"""A block of epochs for several models, compiled: one model's whole block at a time, in cache."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ifcheck.engines.compiled.functions import FAST, flush_denormals, restore_denormals
from ifcheck.engines.compiled.layers import (
    backward,
    cross_entropy,
    forward,
    softmax_backward,
    weighted_sum,
)
from ifcheck.engines.optimiser import BETA1, BETA2, EPSILON, RATE_EPSILON

RATE, BEST, BAD_EPOCHS, AVERAGED = 0, 1, 2, 3  # columns of a model's schedule
_options: dict[str, Any] = {"error_model": "numpy", "cache": True}


class Rows(NamedTuple):
    """Rows of the data, to be trained on or looked at."""

    inputs: NDArray[Any]  # (groups, features, rows)
    group: NDArray[np.int64]  # (models,) whose inputs a model sees
    labels: NDArray[Any]  # (classes, rows) one-hot
    weights: NDArray[Any]  # (models, rows)


class Models(NamedTuple):
    """Where the models stand between two blocks; changed in place."""

    parameters: NDArray[Any]  # (models, params)
    mean: NDArray[Any]  # (models, params) Adam's first moment
    square: NDArray[Any]  # (models, params) Adam's second moment
    average: NDArray[Any]  # (models, params) equal-weight average, where there is one
    schedule: NDArray[np.float64]  # (models, 4): rate, best loss, bad epochs, weights averaged


class Settings(NamedTuple):
    """What a recipe and its objective ask of every epoch."""

    weight_decay: float
    patience: float
    factor: float
    threshold: float
    averaging_start: float  # infinite without averaging
    averaging_rate: float
    stop_at_floor: bool
    frozen: bool  # evaluate and record, but move no model
    record_every: int


class Block(NamedTuple):
    """Some epochs, and what depends on the epoch alone."""

    first: int
    corrections: NDArray[np.float64]  # (epochs, 2) of Adam's moments: 1-b1^t, sqrt(1-b2^t)
    annealed: NDArray[
        np.float64
    ]  # (epochs, 2) share of the way to the averaging rate: before, after
    rates: NDArray[np.float64]  # (models, epochs) to use instead of the schedule's; or (models, 0)


@njit(**_options, fastmath=FAST)
def adam(
    parameters: Any,
    gradient: Any,
    mean: Any,
    square: Any,
    weight_decay: float,
    step: float,
    root_correction: float,
) -> None:
    """Take one step of Adam with coupled weight decay, by torch's formula."""
    of = parameters.dtype.type
    decay, size, root = of(weight_decay), of(step), of(root_correction)
    share1, beta2, share2, epsilon = of(1 - BETA1), of(BETA2), of(1 - BETA2), of(EPSILON)
    for k in range(parameters.size):
        g = gradient[k] + decay * parameters[k]
        m = mean[k] + share1 * (g - mean[k])
        v = beta2 * square[k] + share2 * g * g
        mean[k] = m
        square[k] = v
        parameters[k] -= size * m / (np.sqrt(v) / root + epsilon)


@njit(**_options)
def at_floor(schedule: Any, factor: float) -> bool:
    """Return whether ReduceLROnPlateau would not lower this rate any more."""
    return schedule[RATE] - schedule[RATE] * factor <= RATE_EPSILON


@njit(**_options)
def plateau(schedule: Any, loss: float, settings: Any) -> None:
    """Let ReduceLROnPlateau take note of a loss."""
    if loss < schedule[BEST] * (1.0 - settings.threshold):
        schedule[BEST] = loss
        schedule[BAD_EPOCHS] = 0.0
    else:
        schedule[BAD_EPOCHS] += 1.0
    if schedule[BAD_EPOCHS] > settings.patience:
        if not at_floor(schedule, settings.factor):
            schedule[RATE] *= settings.factor
        schedule[BAD_EPOCHS] = 0.0


@njit(**_options)
def anneal(schedule: Any, before: float, after: float, target: float) -> None:
    """Move the rate as SWALR does; `before` and `after` are shares of the way to the target."""
    initial = target if before == 1.0 else (schedule[RATE] - before * target) / (1.0 - before)
    schedule[RATE] = target * after + initial * (1.0 - after)


@njit(**_options)
def enter_average(average: Any, parameters: Any, schedule: Any) -> None:
    """Let the parameters enter the equal-weight average."""
    share = parameters.dtype.type(1.0 / (schedule[AVERAGED] + 1.0))
    for k in range(parameters.size):
        average[k] += share * (parameters[k] - average[k])
    schedule[AVERAGED] += 1.0


@njit(**_options)
def attention(schedule: Any, settings: Any, epoch: int) -> tuple[bool, bool, bool, bool]:
    """Return whether a model is averaging, listens to its loss, is recorded, and stands still.

    Nobody listens to the loss where the rate has reached its floor or follows the annealing of
    an average: there it is computed only to be recorded.
    """
    averaging = epoch > settings.averaging_start
    listening = not averaging and not at_floor(schedule, settings.factor)
    recorded = epoch % settings.record_every == 0
    standing = settings.stop_at_floor and not averaging and not listening
    return averaging, listening, recorded, standing


@njit(inline="always", **_options)
def move(
    parameters: Any,
    mean: Any,
    square: Any,
    average: Any,
    schedule: Any,
    gradient: Any,
    settings: Settings,
    block: Block,
    model: int,
    index: int,
    loss: float,
    averaging: bool,
    listening: bool,
) -> None:
    """Take one step, let the parameters enter the average, and set the next rate."""
    rate = block.rates[model, index] if block.rates.shape[1] else schedule[RATE]
    step, root = rate / block.corrections[index, 0], block.corrections[index, 1]
    adam(parameters, gradient, mean, square, settings.weight_decay, step, root)
    if averaging:
        enter_average(average, parameters, schedule)
        before, after = block.annealed[index, 0], block.annealed[index, 1]
        anneal(schedule, before, after, settings.averaging_rate)
    elif listening:
        plateau(schedule, loss, settings)


class Architecture(NamedTuple):
    """The network that all models share."""

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
def make_workspace(sizes: Any, rows: int, parameters: Any) -> Workspace:
    """Return memory for models of these sizes and of the type of `parameters` (models, params)."""
    layers, count, like = sizes.size - 1, parameters.shape[1], parameters.dtype
    widest = 0
    for width in sizes:
        widest = max(widest, width)
    # Numba compiles np.empty at once; np.zeros and slice assignments cost a second each.
    activations = np.empty((layers + 1, widest, rows), like)
    deltas = np.empty((layers + 1, widest, rows), like)
    largest, total = np.empty(rows, like), np.empty(rows, like)
    gradient, turned, zeros = np.empty(count, like), np.empty(count, like), np.empty(widest, like)
    for k in range(count):
        gradient[k] = 0.0
    for k in range(widest):
        zeros[k] = 0.0
    return Workspace(activations, deltas, largest, total, gradient, turned, zeros)


@njit(inline="always", **_options)
def descend(
    architecture: Architecture,
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
    sizes, starts, activation = architecture
    activations, deltas, largest, total, gradient, turned, zeros = work
    logits, delta = activations[-1, : sizes[-1]], deltas[-1, : sizes[-1]]
    labels, weights = rows.labels, rows.weights[model]
    parameters, mean, square = models.parameters[model], models.mean[model], models.square[model]
    average, schedule = models.average[model], models.schedule[model]
    for index in range(block.corrections.shape[0]):
        epoch = block.first + index
        averaging, listening, recorded, standing = attention(schedule, settings, epoch)
        if standing and not recorded:
            continue
        forward(sizes, starts, activation, parameters, activations)
        softmax_backward(logits, labels, weights, delta, largest, total)
        loss = 0.0
        if listening or recorded:
            cross_entropy(logits, labels, largest, total, examples)
            loss = weighted_sum(weights, examples)
        if recorded:
            losses[epoch // settings.record_every] = loss
        if standing or settings.frozen:
            continue
        backward(
            sizes, starts, activation, parameters, activations, deltas, turned, zeros, gradient
        )
        move(
            parameters,
            mean,
            square,
            average,
            schedule,
            gradient,
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
    rows: Rows,
    models: Models,
    settings: Settings,
    block: Block,
    losses: Any,
    row_losses: Any,
    first_model: int,
    last_model: int,
) -> None:
    """Run the models first_model..last_model-1 through a block of epochs, in place.

    `losses` (models, records) takes the weighted data loss before every epoch that is a
    multiple of `settings.record_every`, in the column of that multiple; `row_losses` (models,
    rows) each row's loss when it was last computed. A model's numbers depend on nothing but
    its own rows and state, whoever is trained beside it.
    """
    features, count = architecture.sizes[0], rows.weights.shape[1]
    work = make_workspace(architecture.sizes, count, models.parameters)
    former = flush_denormals()
    for model in range(first_model, last_model):
        for feature in range(features):
            for j in range(count):
                work.activations[0, feature, j] = rows.inputs[rows.group[model], feature, j]
        descend(
            architecture,
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

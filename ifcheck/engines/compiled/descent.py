"""A block of epochs for several models, compiled: one model's whole block at a time, in cache."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ifcheck.engines.compiled.functions import FAST, flush_denormals, restore_denormals
from ifcheck.engines.compiled.network import (
    differentiate,
    enter_inputs,
    evaluate,
    make_workspace,
    objective,
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
def descend(
    network: Any,
    rows: Rows,
    models: Models,
    settings: Settings,
    block: Block,
    losses: Any,
    row_losses: Any,
    work: Any,
    model: int,
) -> None:
    """Run one model through a block of epochs, in place; its inputs stand in `work`."""
    labels, weights = rows.labels, rows.weights[model]
    parameters, mean, square = models.parameters[model], models.mean[model], models.square[model]
    average, schedule = models.average[model], models.schedule[model]
    for index in range(block.corrections.shape[0]):
        epoch = block.first + index
        averaging, listening, recorded, standing = attention(schedule, settings, epoch)
        if standing and not recorded:
            continue
        evaluate(network, parameters, labels, weights, work)
        loss = 0.0
        if listening or recorded:
            loss = objective(network, parameters, labels, weights, work, row_losses)
        if recorded:
            losses[epoch // settings.record_every] = loss
        if standing or settings.frozen:
            continue
        differentiate(network, parameters, work)
        rate = block.rates[model, index] if block.rates.shape[1] else schedule[RATE]
        step, root = rate / block.corrections[index, 0], block.corrections[index, 1]
        adam(parameters, work.gradient, mean, square, settings.weight_decay, step, root)
        if averaging:
            enter_average(average, parameters, schedule)
            before, after = block.annealed[index, 0], block.annealed[index, 1]
            anneal(schedule, before, after, settings.averaging_rate)
        elif listening:
            plateau(schedule, loss, settings)


@njit(**_options, nogil=True)
def advance(
    network: Any,
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

    `network` is of a kind that implements `ifcheck.engines.compiled.network`. `losses` (models,
    records) takes the loss that the schedule hears before every epoch that is a multiple of
    `settings.record_every`, in the column of that multiple; `row_losses` (models, rows) each
    row's loss when it was last computed. A model's numbers depend on nothing but its own rows
    and state, whoever is trained beside it.
    """
    work = make_workspace(network, rows.weights.shape[1], models.parameters)
    former = flush_denormals()
    for model in range(first_model, last_model):
        enter_inputs(network, rows.inputs[rows.group[model]], work)
        descend(
            network,
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

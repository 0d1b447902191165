"""Which rows are test points: by leave-one-out loss, at random, or by id."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ifcheck import provenance
from ifcheck.artifacts import cache_folder, write_text
from ifcheck.datasets import Dataset
from ifcheck.engines import Recipe, Task, select_engine
from ifcheck.errors import IfcheckError, UnusableInput
from ifcheck.models import initialise
from ifcheck.models.mlp import MLPSpec
from ifcheck.objective import weights_without
from ifcheck.params import stack_modules
from ifcheck.removal.selection import largest, parse_count, parse_ids, random_rows
from ifcheck.stages.reporting import Reporter
from ifcheck.variants import WeightDecay

# The search is one and the same for every cell and seed of a data set (the paper's protocol),
# so it does not follow the user's network, variant, engine, seed or number of epochs.
SEARCH_NETWORK = MLPSpec(depth=1, width=5)
SEARCH_VARIANT = WeightDecay()
SEARCH_SEED = 0
SEARCH_EPOCHS = 1_000
SEARCH_PARTS = 150  # of the rows, left out in turn: on Iris every row alone, as in the paper


def count_test_points(specification: str, dataset: Dataset) -> int:
    """Return how many test points `max-loss[:K]`, `random:K` or `ids:…` names.

    Raises: UnusableInput.
    """
    kind, _, text = specification.partition(":")
    rows = dataset.row_ids
    if kind == "ids":
        table = "the test set" if dataset.has_test_set else "the table"
        return len(parse_ids(text, specification, rows, f"Name rows of {table}, each once."))
    if specification == "max-loss":
        return 1
    if kind in ("max-loss", "random"):
        available = len(rows) if dataset.has_test_set else len(rows) - 1
        return parse_count(text, specification, available, f"{kind}:3")
    raise UnusableInput(
        f"--test-points got {specification!r}; expected max-loss[:K], random:K or ids:1,2,3.",
        remedy="Leave it out for the row of largest loss.",
    )


def watched_rows(
    specification: str, dataset: Dataset, dataset_name: str, reporter: Reporter
) -> NDArray[np.int64]:
    """Return the ids of the rows that are watched in training and not trained on.

    Of a table these are the test points, which must be known before training: `max-loss` finds
    the rows that a network that did not see them predicts worst. Of a data set with a test set
    they are all rows of it. Raises: UnusableInput.
    """
    count = count_test_points(specification, dataset)
    rows = dataset.row_ids
    if dataset.has_test_set:
        return rows
    named = _named_points(specification, rows, count)
    if named is not None:
        return named
    return rows[largest(held_out_losses(dataset, dataset_name, reporter), count)]


def choose_test_points(
    specification: str,
    dataset: Dataset,
    watched: NDArray[np.int64],
    losses: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Return the ids of each network's test points, given its losses (S, rows) on watched rows.

    With a test set, `max-loss` is the largest loss of each network; otherwise all have the same
    test points. Shape: (S, T).
    """
    count = count_test_points(specification, dataset)
    if not dataset.has_test_set:
        return np.tile(watched, (len(losses), 1))
    named = _named_points(specification, watched, count)
    if named is not None:
        return np.tile(named, (len(losses), 1))
    return np.stack([watched[largest(row, count)] for row in losses])


def _named_points(
    specification: str, rows: NDArray[np.int64], count: int
) -> NDArray[np.int64] | None:
    """Return the ids that `random:K` or `ids:…` names; None for the rows of largest loss."""
    kind, _, text = specification.partition(":")
    if kind == "ids":
        return parse_ids(text, specification, rows)
    if kind == "random":
        return rows[random_rows(count, len(rows), SEARCH_SEED, "test-points")]
    return None


def held_out_losses(dataset: Dataset, name: str, reporter: Reporter) -> NDArray[np.float64]:
    """Return the loss of each row under a network that did not see it, in nats.

    Found once per data set and version of ifcheck, then kept in the user's cache folder.
    Limits on training rows make no difference. Shape: (rows,).
    """
    dataset = dataclasses.replace(dataset, limit_train=None)  # type: ignore[type-var]
    # Any split holds every row of the table, so its digest is that of the data.
    key = dataset.split(dataset.row_ids[:1].tolist()).digest[:16]
    path = cache_folder() / f"{name}-{key}-{provenance.code_revision()}.json"
    cached = _read_cache(path, len(dataset.row_ids))
    if cached is not None:
        return cached
    losses = _search(dataset, reporter)
    try:
        write_text(path, json.dumps(losses.tolist()))
    except IfcheckError as error:
        reporter.note(f"the search for test points is not cached: {error.message}")
    return losses


def _search(dataset: Dataset, reporter: Reporter) -> NDArray[np.float64]:
    """Train one float64 network without each part of the rows, all at once."""
    rows = dataset.row_ids
    parts = np.array_split(rows, min(SEARCH_PARTS, len(rows)))
    splits = [dataset.split(part.tolist()) for part in parts]
    inputs = np.empty((len(parts), len(rows), *splits[0].train_inputs.shape[1:]))
    targets = np.empty(len(rows), dtype=np.int64)
    left_out = np.full((len(parts), len(parts[0])), -1)
    for index, split in enumerate(splits):  # each scales the whole table in its own way
        inputs[index, split.train_ids] = split.train_inputs
        inputs[index, split.test_ids] = split.test_inputs
        targets[split.test_ids] = split.test_targets
        left_out[index, : len(split.test_ids)] = split.test_ids
    losses = _train(torch.from_numpy(inputs), torch.from_numpy(targets), left_out, reporter)
    return np.concatenate([losses[index, part] for index, part in enumerate(parts)])


def _train(
    inputs: torch.Tensor, targets: torch.Tensor, left_out: NDArray[np.int64], reporter: Reporter
) -> NDArray[np.float64]:
    """Return each network's losses on all rows. Shape: (parts, rows)."""
    parts, rows = inputs.shape[:2]
    network = initialise(
        SEARCH_NETWORK, tuple(inputs.shape[2:]), int(targets.max()) + 1, SEARCH_SEED, inputs.dtype
    )
    objective = SEARCH_VARIANT.objective(rows - 1)
    task = Task(
        network=network,
        objective=objective,
        parameters=stack_modules([network]).expand(parts, -1),
        inputs=inputs,
        targets=targets,
        weights=weights_without(rows, torch.from_numpy(left_out), "n-1"),
        probe_inputs=inputs,
        probe_targets=targets,
    )
    progress = reporter.step("finding the test point", parts * SEARCH_EPOCHS)
    recipe = Recipe(SEARCH_EPOCHS)
    fit = select_engine("auto", network, objective, recipe)[1].fit(task, recipe, progress)
    if fit.probe_losses is None:
        raise RuntimeError("the engine did not record the losses")
    return fit.probe_losses[:, :, -1].numpy()


def _read_cache(path: Path, rows: int) -> NDArray[np.float64] | None:
    """Return the cached losses, or None where there are none that can be used."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(values, list) and len(values) == rows
    if not whole or not all(type(v) is float and math.isfinite(v) for v in values):
        return None
    return np.array(values)

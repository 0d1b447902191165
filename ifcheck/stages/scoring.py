"""Scores of each network of a run, and of its groups of rows, as an artifact holds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ifcheck.curvature.local import DRAWS, LocalModel, local_model
from ifcheck.engines import run_each
from ifcheck.provenance import named_seed
from ifcheck.scores import (
    STEPS,
    DampingPath,
    Scores,
    damping_path,
    influence_scores,
    null_scores,
)
from ifcheck.solvers import Solution
from ifcheck.stages.removals import check_removals, largest_groups, select_removals
from ifcheck.stages.reporting import Reporter
from ifcheck.stages.run import Run

Arrays = dict[str, NDArray[Any]]

# From a network's place in the run and its rows' scores (T, N) to positions (K, G).
GroupChoice = Callable[[int, NDArray[np.float64]], NDArray[np.int64]]


@dataclass(frozen=True)
class NetworkScores:
    """What is kept of one network: not what solved, which is as large as the Hessian."""

    arrays: Arrays  # as an artifact holds them, without the axis of seeds
    reasons: tuple[str, ...]  # why what did not converge did not
    path_reasons: tuple[str, ...] = ()  # the same at each damping of the path


def score_networks(
    run: Run, choose_groups: GroupChoice | None, reporter: Reporter
) -> list[NetworkScores]:
    """Score every network's rows, along a path of dampings and in groups where that is asked for.

    Raises: Diverged, RunFailed, UnusableInput.
    """
    estimator, objective = run.setup.estimator, run.setup.objective
    tensors = run.tensors()
    progress = reporter.step(f"scoring with {run.setup.config.influence.estimator}", len(run.seeds))
    places = torch.from_numpy(run.split.places_of(run.test_ids)).to(run.setup.device)

    def score(index: int) -> NetworkScores:
        inputs, targets = tensors["test"]
        own = (inputs[places[index]], targets[places[index]])
        network = run.networks[index]
        model = local_model(
            network, objective, estimator.params, tensors["train"], own, estimator.curvature
        )
        seed, ids = int(run.seeds[index]), run.test_ids[index].tolist()
        seeds = tuple(named_seed(seed, DRAWS, test_id) for test_id in ids)
        model = replace(model, draw_seeds=seeds)
        path = None
        if estimator.damping_path:
            scores, path = damping_path(model, estimator)
        else:
            scores = influence_scores(model, estimator)
        arrays = _arrays_of_rows(scores) | _arrays_of_path(path)
        if not STEPS.create(estimator.step).is_baseline:
            arrays["null_scores"] = _array(null_scores(model, scores.solution.x))
        reasons = [scores.solution.reason]
        path_reasons = tuple(s.reason for s in path.solutions) if path is not None else ()
        if choose_groups is not None:
            positions = choose_groups(index, arrays["scores"])
            of_groups, reason = _arrays_of_groups(run, model, scores, positions)
            arrays |= of_groups
            reasons.append(reason)
        return NetworkScores(arrays, tuple(reasons), path_reasons)

    indices = range(len(run.networks))
    return run_each(score, indices, run.elements, run.setup.device, progress)


def group_choice(run: Run, influence_file: Path | None) -> GroupChoice | None:
    """Return what says which groups are scored; None where rows are removed one by one.

    `influence_file` is what top-score:K ranks by; without it, a network's own scores are.
    Raises: UnusableInput, ArtifactUnreadable, ArtifactMismatch.
    """
    settings = run.setup.config.retrain
    size = settings.group_size
    if size == 1 and not settings.removals.startswith("like:"):
        return None
    kind = check_removals(run.setup)
    if kind == "top-score" and influence_file is None:
        count = int(settings.removals.partition(":")[2])
        return lambda place, values: largest_groups(np.abs(values).max(axis=0), count, size)
    found = select_removals(run, influence_file)
    return None if found.shape[2] == 1 else lambda place, values: found[place]


def _arrays_of_rows(scores: Scores) -> Arrays:
    spectrum = scores.spectrum
    return {
        "scores": _array(scores.values),
        **_certificates([scores.solution], at=0),
        "hessian_min": np.array(spectrum.smallest),
        "hessian_max": np.array(spectrum.largest),
        "null_space": np.array(spectrum.null_space),
        "negative": np.array(spectrum.negative),
    }


def _certificates(solutions: Sequence[Solution], prefix: str = "", at: Any = slice(None)) -> Arrays:
    """Return residuals, convergence and iterations of solutions, shape (solutions, T)[at]."""
    return {
        f"{prefix}rel_residual": _array(torch.stack([s.rel_residual for s in solutions]))[at],
        f"{prefix}converged": _array(torch.stack([s.converged for s in solutions]))[at],
        f"{prefix}steps": _array(torch.stack([s.steps for s in solutions]))[at],
    }


def _arrays_of_path(path: DampingPath | None) -> Arrays:
    if path is None:
        return {}
    return {"path_scores": _array(path.values), **_certificates(path.solutions, prefix="path_")}


def _arrays_of_groups(
    run: Run, model: LocalModel, scores: Scores, positions: NDArray[np.int64]
) -> tuple[Arrays, str]:
    """Return the arrays about groups (K, G), and why what did not converge did not."""
    estimator = run.setup.estimator
    groups = torch.from_numpy(positions).to(run.setup.device)
    found = STEPS.create(estimator.step).group_scores(model, estimator, scores, groups)
    arrays = {
        "group_ids": run.split.train_ids[positions],
        "group_scores": _array(found.values),
        "group_residual": _array(found.rel_residual),
        "group_converged": _array(found.converged),
    }
    return arrays, found.reason


def _array(tensor: Tensor) -> NDArray[Any]:
    values: NDArray[Any] = tensor.cpu().numpy()
    return values

"""Stage `influence`: predicted change of the test loss for every training row."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ifcheck.artifacts import Artifact, write_artifact
from ifcheck.config import Config
from ifcheck.curvature.local import local_model
from ifcheck.engines import run_each
from ifcheck.params import Layout
from ifcheck.scores import STEPS, GroupScores, influence_scores
from ifcheck.solvers import Spectrum
from ifcheck.stages.removals import check_removals, largest_groups, select_removals
from ifcheck.stages.reporting import Reporter, Silent
from ifcheck.stages.run import Run, load_run
from ifcheck.stages.setup import Setup
from ifcheck.stages.stage import stage


@stage
def influence(
    config: Config,
    sources: Sequence[Path],
    out: Path,
    reporter: Reporter | None = None,
    explicit: dict[str, Any] | None = None,
    influence_file: Path | None = None,
) -> Artifact:
    """Score every training row of every seed with the configured estimator; write `out`.

    Where rows are removed in groups, the groups that `retrain` would remove are scored as well;
    for `--removals top-score:K` by the scores of `influence_file`, or else by their own.
    Raises: UnusableInput, ArtifactUnreadable, ArtifactMismatch, Diverged.
    """
    started = time.perf_counter()
    reporter = reporter or Silent()
    run = load_run(sources, config, explicit or {}, reporter)
    check_estimator(run.setup, Layout.of(run.networks[0]))
    scores = _score(run, _groups(run, influence_file), reporter)
    spectra = [score.spectrum for score in scores]
    arrays = {
        "seeds": run.seeds,
        "train_ids": run.split.train_ids,
        "test_ids": run.test_ids,
        "scores": _stacked(score.values for score in scores),
        "rel_residual": _stacked(score.rel_residual for score in scores),
        "converged": _stacked(score.converged for score in scores),
        "steps": _stacked(score.steps for score in scores),
        "hessian_min": np.array([s.smallest for s in spectra]),
        "hessian_max": np.array([s.largest for s in spectra]),
        "null_space": np.array([s.null_space for s in spectra]),
        "negative": np.array([s.negative for s in spectra]),
        **_group_arrays(run, [score.groups for score in scores]),
    }
    meta = {
        "config": run.setup.describe("influence"),
        "parents": run.parents,
        "not_converged": sorted({reason for score in scores for reason in score.reasons} - {""}),
        **run.setup.environment(started),
    }
    if "group_ids" in arrays:
        asked = run.setup.config.retrain
        meta["groups"] = {"removals": asked.removals, "group_size": asked.group_size}
    return write_artifact(out, "influence", arrays, meta)


def check_estimator(setup: Setup, layout: Layout) -> None:
    """Refuse an estimator that does not fit the network. Raises: UnknownName, UnusableInput."""
    layout.positions(setup.estimator.params)
    STEPS.create(setup.estimator.step).check(setup.estimator, layout, setup.objective)


@dataclass(frozen=True)
class _Scored:
    """What is kept of one network's scores: not what solved, which is as large as the Hessian."""

    values: Tensor  # (tests, rows)
    rel_residual: Tensor
    converged: Tensor
    steps: Tensor
    spectrum: Spectrum
    reasons: tuple[str, ...]
    groups: tuple[Tensor, GroupScores] | None  # positions (K, G), and their scores


# From a network's place in the run and its rows' scores (T, N) to positions (K, G).
Groups = Callable[[int, Tensor], Tensor]


def _groups(run: Run, influence_file: Path | None) -> Groups | None:
    """Return what says which groups are scored; None where rows are removed one by one."""
    settings = run.setup.config.retrain
    kind, size = check_removals(run.setup), settings.group_size
    if size == 1 and kind != "like":
        return None
    if kind == "top-score" and influence_file is None:
        count = int(settings.removals.partition(":")[2])

        def largest(place: int, values: Tensor) -> Tensor:
            sizes = values.abs().amax(0).cpu().numpy()
            return torch.from_numpy(largest_groups(sizes, count, size))

        return largest
    found = torch.from_numpy(select_removals(run, influence_file))
    return None if found.shape[2] == 1 else lambda place, values: found[place]


def _score(run: Run, groups: Groups | None, reporter: Reporter) -> list[_Scored]:
    estimator, objective = run.setup.estimator, run.setup.objective
    tensors, step = run.tensors(), STEPS.create(estimator.step)
    progress = reporter.step(f"scoring with {run.setup.config.influence.estimator}", len(run.seeds))
    places = torch.from_numpy(run.split.places_of(run.test_ids)).to(run.setup.device)

    def score(index: int) -> _Scored:
        inputs, targets = tensors["test"]
        own = (inputs[places[index]], targets[places[index]])
        network = run.networks[index]
        model = local_model(
            network, objective, estimator.params, tensors["train"], own, estimator.curvature
        )
        scores = influence_scores(model, estimator)
        solution, together = scores.solution, None
        if groups is not None:
            positions = groups(index, scores.values).to(run.setup.device)
            together = positions, step.group_scores(model, estimator, scores, positions)
        reasons = solution.reason, "" if together is None else together[1].reason
        return _Scored(
            scores.values,
            solution.rel_residual,
            solution.converged,
            solution.steps,
            scores.spectrum,
            reasons,
            together,
        )

    indices = range(len(run.networks))
    return run_each(score, indices, run.elements, run.setup.device, progress)


def _group_arrays(
    run: Run, found: list[tuple[Tensor, GroupScores] | None]
) -> dict[str, NDArray[Any]]:
    """Return the arrays about groups; none where rows are removed one by one."""
    groups = [of_network for of_network in found if of_network is not None]
    if not groups:
        return {}
    return {
        "group_ids": run.split.train_ids[_stacked(positions for positions, _ in groups)],
        "group_scores": _stacked(scores.values for _, scores in groups),
        "group_residual": _stacked(scores.rel_residual for _, scores in groups),
        "group_converged": _stacked(scores.converged for _, scores in groups),
    }


def _stacked(of_networks: Iterable[Tensor]) -> NDArray[Any]:
    """Return one array with the networks first."""
    return torch.stack(list(of_networks)).cpu().numpy()

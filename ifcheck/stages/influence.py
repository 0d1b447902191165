"""Stage `influence`: predicted change of the test loss for every training row."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ifcheck.artifacts import Artifact, write_artifact
from ifcheck.config import Config
from ifcheck.curvature.local import local_model
from ifcheck.engines import run_each
from ifcheck.params import Layout
from ifcheck.scores import STEPS, Scores, influence_scores
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
) -> Artifact:
    """Score every training row of every seed with the configured estimator; write `out`.

    Raises: UnusableInput, ArtifactUnreadable, ArtifactMismatch, Diverged.
    """
    started = time.perf_counter()
    reporter = reporter or Silent()
    run = load_run(sources, config, explicit or {}, reporter)
    check_estimator(run.setup, Layout.of(run.networks[0]))
    scores = _score(run, reporter)
    spectra = [score.spectrum for score in scores]
    arrays = {
        "seeds": run.seeds,
        "train_ids": run.split.train_ids,
        "test_ids": run.test_ids,
        "scores": torch.stack([s.values for s in scores]).cpu().numpy(),
        "rel_residual": torch.stack([s.solution.rel_residual for s in scores]).cpu().numpy(),
        "converged": torch.stack([s.solution.converged for s in scores]).cpu().numpy(),
        "steps": torch.stack([s.solution.steps for s in scores]).cpu().numpy(),
        "hessian_min": np.array([s.smallest for s in spectra]),
        "hessian_max": np.array([s.largest for s in spectra]),
        "null_space": np.array([s.null_space for s in spectra]),
        "negative": np.array([s.negative for s in spectra]),
    }
    meta = {
        "config": run.setup.describe("influence"),
        "parents": run.parents,
        "not_converged": sorted({s.solution.reason for s in scores} - {""}),
        **run.setup.environment(started),
    }
    return write_artifact(out, "influence", arrays, meta)


def check_estimator(setup: Setup, layout: Layout) -> None:
    """Refuse an estimator that does not fit the network. Raises: UnknownName, UnusableInput."""
    layout.positions(setup.estimator.params)
    STEPS.create(setup.estimator.step).check(setup.estimator, layout, setup.objective)


def _score(run: Run, reporter: Reporter) -> list[Scores]:
    estimator, objective = run.setup.estimator, run.setup.objective
    tensors = run.tensors()
    progress = reporter.step(f"scoring with {run.setup.config.influence.estimator}", len(run.seeds))
    places = torch.from_numpy(run.split.places_of(run.test_ids)).to(run.setup.device)

    def score(index: int) -> Scores:
        inputs, targets = tensors["test"]
        own = (inputs[places[index]], targets[places[index]])
        network = run.networks[index]
        model = local_model(
            network, objective, estimator.params, tensors["train"], own, estimator.curvature
        )
        return influence_scores(model, estimator)

    indices = range(len(run.networks))
    return run_each(score, indices, run.elements, run.setup.device, progress)

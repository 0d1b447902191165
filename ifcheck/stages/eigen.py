"""Stage `eigen`: the largest eigenvalues of each trained network's Hessian."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ifcheck.artifacts import Artifact, write_artifact
from ifcheck.config import Config
from ifcheck.engines import run_each
from ifcheck.spectrum import SPECTRA, Eigenvalues
from ifcheck.stages.reporting import Reporter, Silent
from ifcheck.stages.run import load_run
from ifcheck.stages.setup import DTYPES
from ifcheck.stages.stage import stage


@stage
def eigen(
    config: Config,
    sources: Sequence[Path],
    out: Path,
    reporter: Reporter | None = None,
    explicit: dict[str, Any] | None = None,
) -> Artifact:
    """Measure the curvature of every seed with the configured method; write `out`.

    Raises: UnusableInput, ArtifactUnreadable, ArtifactMismatch.
    """
    started = time.perf_counter()
    reporter = reporter or Silent()
    method = SPECTRA.create(config.eigen.method)
    run = load_run(sources, config, explicit or {}, reporter)
    dtype = DTYPES[config.eigen.dtype]
    networks, train = [network.to(dtype) for network in run.networks], run.tensors(dtype)["train"]
    progress = reporter.step(f"eigenvalues ({config.eigen.method})", len(run.seeds))

    def measure(index: int) -> Eigenvalues:
        return method.eigenvalues(
            networks[index],
            run.setup.objective,
            train,
            with_regulariser=config.eigen.hessian == "objective",
            top=config.eigen.top,
            seed=int(run.seeds[index]),
        )

    size = sum(parameter.numel() for parameter in run.networks[0].parameters())
    found = run_each(
        measure,
        range(len(run.seeds)),
        max(run.elements, size**2),
        run.setup.device,
        progress,
        side_by_side=method.side_by_side,
    )
    arrays = {
        "seeds": run.seeds,
        "values": torch.stack([e.values for e in found]).double().cpu().numpy(),
        "rel_residual": torch.stack([e.rel_residual for e in found]).double().cpu().numpy(),
        "min_value": np.array([e.smallest for e in found]),
        "max_value": np.array([e.largest for e in found]),
    }
    meta = {
        "config": run.setup.describe("eigen"),
        "parents": run.parents,
        **run.setup.environment(started, dtype=config.eigen.dtype),
    }
    return write_artifact(out, "eigen", arrays, meta)

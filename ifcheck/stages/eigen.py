"""Stage `eigen`: the largest eigenvalues of each trained network's Hessian."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ifcheck.artifacts import Artifact, write_artifact
from ifcheck.config import Config
from ifcheck.engines import run_each
from ifcheck.models import Network
from ifcheck.spectrum import SPECTRA, Eigenvalues
from ifcheck.spectrum.base import network_hessian
from ifcheck.spectrum.density import common_grid, quadrature
from ifcheck.stages.reporting import Reporter, Silent
from ifcheck.stages.run import Run, load_run
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
    if config.eigen.density:
        arrays |= _density(run, networks, train, reporter)
    meta = {
        "config": run.setup.describe("eigen"),
        "parents": run.parents,
        **run.setup.environment(started, dtype=config.eigen.dtype),
    }
    return write_artifact(out, "eigen", arrays, meta)


def _density(
    run: Run, networks: list[Network], train: tuple[Tensor, Tensor], reporter: Reporter
) -> dict[str, NDArray[Any]]:
    """Return the arrays of the density of each network's eigenvalues, on one grid."""
    settings, progress = run.setup.config.eigen, reporter.step("density", len(run.seeds))
    found = []
    for network, seed in zip(networks, run.seeds.tolist(), strict=True):
        operator = network_hessian(
            network, run.setup.objective, train, settings.hessian == "objective"
        )
        probes, steps = settings.density_probes, settings.density_steps
        found.append(quadrature(operator, probes, steps, seed))
        progress(1)
    grid, width = common_grid(found)
    arrays = {"density_grid": grid}
    for name, pairs in {
        "density": [each.density(grid, width) for each in found],
        "trace": [each.trace() for each in found],
    }.items():
        both = np.array(pairs)  # (S, 2, ...)
        arrays[name], arrays[f"{name}_error"] = both[:, 0], both[:, 1]
    shares = np.array([each.negative_share() for each in found])
    for place, name in enumerate(("low", "high", "error")):
        arrays[f"negative_share_{name}"] = shares[:, place]
    return arrays

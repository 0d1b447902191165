"""`ifcheck eigen`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ifcheck.cli import options, terminal
from ifcheck.cli.session import DESCRIPTION_KEYS, Session, dotted

if TYPE_CHECKING:
    from ifcheck.artifacts import Artifact

EIGEN_KEYS = {name: f"eigen.{name}" for name in ("method", "top", "hessian", "density")}


def eigen(
    session: Session,
    sources: options.Sources,
    method: options.Method = None,
    top: options.Top = None,
    hessian: options.Hessian = None,
    density: options.Density = None,
    dataset: options.Dataset = None,
    network: options.Network = None,
    depth: options.Depth = None,
    width: options.Width = None,
    activation: options.Activation = None,
    variant: options.Variant = None,
    test_points: options.TestPoints = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="File; RUN/eigen.npz if left out.")
    ] = None,
    force: options.Force = False,
) -> None:
    """Find the largest eigenvalues of the Hessian over all parameters.

    Example: `ifcheck eigen run/ --method power --top 1 --out run/eigen.npz`
    """
    flags = {**dotted(locals(), DESCRIPTION_KEYS), **dotted(locals(), EIGEN_KEYS)}
    config = session.configure(flags, sources)
    from ifcheck.artifacts import require_free
    from ifcheck.cli.summaries import artifact_record, default_out, extreme, median
    from ifcheck.stages.eigen import eigen as run_stage

    if session.dry_run:
        from ifcheck.cli.plans import show_plan
        from ifcheck.stages.estimate import estimate_eigenvalues

        show_plan(session, estimate_eigenvalues(config, sources))
        return
    target = out or default_out(sources, "eigen.npz")
    require_free(target, force)
    with terminal.live_progress() as reporter:
        artifact = run_stage(config, sources, target, reporter, session.explicit(flags))
    if session.json:
        terminal.show_json(artifact_record(artifact))
        return
    settings = artifact.meta["config"]["eigen"]
    terminal.show_facts(
        f"Hessian of the {settings['hessian']} loss, all parameters, "
        f"{len(artifact['seeds'])} networks, method {settings['method']}",
        {
            "top eigenvalue": f"{median(artifact['values'][:, 0])} (median), "
            f"{extreme(artifact['values'][:, 0])}",
            "smallest of all": median(artifact["min_value"]) + " (median)",
            "residual": f"{artifact['rel_residual'].max():.2g} at most, relative",
            **(_of_all(artifact) if settings["density"] else {}),
            "written": str(artifact.path),
        },
    )


def _of_all(artifact: Artifact) -> dict[str, str]:
    """Return what the density says of all eigenvalues, in the median over networks."""
    from ifcheck.cli.summaries import median

    low, high, error = (
        median(artifact[f"negative_share_{name}"]) for name in ("low", "high", "error")
    )
    return {
        "sum of all": f"{median(artifact['trace'])} ± {median(artifact['trace_error'])} "
        "(median, standard error)",
        "negative ones, as a share": f"{low} to {high} (medians of bounds), ± {error} "
        "(standard error)",
    }

"""`ifcheck retrain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ifcheck.cli import options, terminal
from ifcheck.cli.session import DESCRIPTION_KEYS, Session, dotted

if TYPE_CHECKING:
    from ifcheck.artifacts import Artifact

RETRAIN_KEYS = {
    name: f"retrain.{name}"
    for name in (
        "truth",
        "params",
        "removals",
        "group_size",
        "epochs",
        "replicates",
        "normalisation",
        "trajectory",
        "swa_restart",
        "stop_at_lr_floor",
    )
}


def retrain(
    session: Session,
    sources: options.Sources,
    truth: options.TruthName = None,
    removals: options.Removals = None,
    group_size: options.GroupSize = None,
    influence: Annotated[
        Path | None, typer.Option("--influence", help="Scores that top-score:K ranks by.")
    ] = None,
    params: options.Params = None,
    epochs: options.RetrainEpochs = None,
    replicates: options.Replicates = None,
    normalisation: options.NormalisationName = None,
    trajectory: options.Trajectory = None,
    swa_restart: options.SwaRestart = None,
    stop_at_lr_floor: options.StopAtFloor = None,
    dataset: options.Dataset = None,
    network: options.Network = None,
    depth: options.Depth = None,
    width: options.Width = None,
    activation: options.Activation = None,
    variant: options.Variant = None,
    test_points: options.TestPoints = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="File; RUN/retrain-TRUTH.npz if left out.")
    ] = None,
    force: options.Force = False,
) -> None:
    """Remove rows and retrain: the true change of the test loss, null run included.

    Example: `ifcheck retrain run/ --truth warm --removals top-loss:40 --out run/retrain-warm.npz`

    Example: `ifcheck retrain run/ --truth scratch --removals top-loss:4 --replicates 3`
    """
    flags = {**dotted(locals(), DESCRIPTION_KEYS), **dotted(locals(), RETRAIN_KEYS)}
    config = session.configure(flags, sources)
    from ifcheck.artifacts import require_free
    from ifcheck.cli.summaries import default_out
    from ifcheck.stages.asked import check_retrain_settings
    from ifcheck.stages.retrain import retrain as run_stage

    check_retrain_settings(config, session.asked(flags))
    explicit = session.explicit(flags)
    if session.dry_run:
        from ifcheck.cli.plans import show_plan
        from ifcheck.stages.estimate import estimate_retraining

        show_plan(session, estimate_retraining(config, sources, influence, explicit))
        return
    target = out or default_out(sources, f"retrain-{config.retrain.truth}.npz")
    require_free(target, force)
    with terminal.live_progress() as reporter:
        artifact = run_stage(config, sources, target, reporter, explicit, influence)
    _show(session, artifact)


def _show(session: Session, artifact: Artifact) -> None:
    from ifcheck.cli.summaries import artifact_record, extreme, median
    from ifcheck.stages.changes import changes_of

    if session.json:
        terminal.show_json(artifact_record(artifact))
        return
    for reason in artifact.meta["reasons"]:
        terminal.show_note(f"refused: {reason}")
    settings = artifact.meta["config"]["retrain"]
    changes = changes_of(artifact)
    times = f", mean of {changes.replicates} replicates" if changes.replicates > 1 else ""
    terminal.show_facts(
        f"{_removals(artifact)} removed in turn, "
        f"{len(artifact['seeds'])} networks, truth {settings['truth']}",
        {
            "moved": f"{settings['params']}, normalisation {settings['normalisation']}",
            "true change": f"{extreme(changes.drift_corrected)} nats, null drift taken off{times}",
            "null drift": f"{median(abs(changes.null_drift))} nats (median size; removing nothing)",
            "gradient norm": f"{median(artifact['grad_norm'])} (median at the end)",
            "converged": f"{artifact['converged'].mean():.0%}",
            **_minima(artifact),
            "written": str(artifact.path),
        },
    )


def _removals(artifact: Artifact) -> str:
    from ifcheck.stages.removals import removed_rows

    _, removals, size = removed_rows(artifact).shape
    return f"{removals} rows" if size == 1 else f"{removals} groups of {size} rows"


def _minima(artifact: Artifact) -> dict[str, str]:
    """Return how many removals ended where the Hessian is positive definite, if that is known."""
    found = artifact.arrays.get("positive_definite")
    return {} if found is None else {"in a minimum": f"{found.mean():.0%}"}

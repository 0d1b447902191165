"""`ifcheck influence`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ifcheck.cli import options, terminal
from ifcheck.cli.session import DESCRIPTION_KEYS, Session, dotted

if TYPE_CHECKING:
    from ifcheck.artifacts import Artifact
    from ifcheck.config import Config

INFLUENCE_KEYS = {
    name: f"influence.{name}"
    for name in (
        "estimator",
        "params",
        "curvature",
        "hessian",
        "damping",
        "solver",
        "normalisation",
        "step",
    )
} | {"removals": "retrain.removals", "group_size": "retrain.group_size"}


def influence(
    session: Session,
    sources: options.Sources,
    estimator: options.EstimatorName = None,
    params: options.Params = None,
    curvature: options.CurvatureName = None,
    hessian: options.Hessian = None,
    damping: options.Damping = None,
    solver: options.SolverName = None,
    normalisation: options.NormalisationName = None,
    step: options.StepName = None,
    group_size: options.GroupSize = None,
    held_out: options.HeldOut = None,
    removals: options.GroupRemovals = None,
    influence: options.RankingScores = None,
    dataset: options.Dataset = None,
    network: options.Network = None,
    depth: options.Depth = None,
    width: options.Width = None,
    activation: options.Activation = None,
    variant: options.Variant = None,
    test_points: options.TestPoints = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="File; RUN/influence-ESTIMATOR.npz if left out.")
    ] = None,
    force: options.Force = False,
) -> None:
    """Predict the change of the test loss if each training row is removed.

    Example: `ifcheck influence run/ --estimator objective --out run/influence-objective.npz`
    """
    flags = {**dotted(locals(), DESCRIPTION_KEYS), **dotted(locals(), INFLUENCE_KEYS)}
    config = session.configure(flags, sources)
    from ifcheck.artifacts import require_free
    from ifcheck.cli.summaries import default_out
    from ifcheck.stages.asked import check_influence_settings
    from ifcheck.stages.influence import influence as run_stage

    check_influence_settings(config, session.asked(flags))
    if session.dry_run:
        from ifcheck.cli.plans import show_plan
        from ifcheck.stages.estimate import estimate_influence

        show_plan(session, estimate_influence(config, sources, influence, held_out))
        return
    target = out or default_out(sources, f"influence-{config.influence.estimator}.npz")
    require_free(target, force)
    explicit = session.explicit(flags)
    with terminal.live_progress() as reporter:
        artifact = run_stage(config, sources, target, reporter, explicit, influence, held_out)
    _show(session, artifact)
    _show_notes(config, removals, influence, artifact)


def _show(session: Session, artifact: Artifact) -> None:
    from ifcheck.cli.summaries import artifact_record
    from ifcheck.scores import STEPS

    if session.json:
        terminal.show_json(artifact_record(artifact))
        return
    settings = artifact.meta["config"]["influence"]
    title = f"scores of {len(artifact['train_ids'])} rows, {len(artifact['seeds'])} networks"
    baseline = STEPS.create(settings["step"]).is_baseline
    terminal.show_facts(
        f"{title}, {'baseline' if baseline else 'estimator'} {settings['estimator']}",
        {
            **(_of_baseline(artifact) if baseline else _of_estimator(artifact)),
            **_groups(artifact),
            "written": str(artifact.path),
        },
    )


def _of_baseline(artifact: Artifact) -> dict[str, str]:
    """Return what a baseline's scores are; there is no curvature and no solve to tell of."""
    from ifcheck.cli.summaries import extreme

    settings = artifact.meta["config"]["influence"]
    return {"parameters": settings["params"], "score": extreme(artifact["scores"])}


def _of_estimator(artifact: Artifact) -> dict[str, str]:
    """Return what was taken for the Hessian, what was found, and the solves' certificate."""
    from ifcheck.cli.summaries import extreme, worst

    settings = artifact.meta["config"]["influence"]
    spectrum = {"Hessian eigenvalues": f"not all looked for by --solver {settings['solver']}"}
    if (artifact["null_space"] >= 0).all():
        spectrum = {
            "Hessian eigenvalues": f"{artifact['hessian_min'].min():.3g} to "
            f"{artifact['hessian_max'].max():.3g} (undamped)",
            "null space": f"{worst(artifact['null_space'])} dimensions at most; "
            f"{worst(artifact['negative'])} negative eigenvalues at most",
        }
    residual = (
        f"{artifact['rel_residual'].max():.2g} at most, relative; "
        f"{artifact['converged'].mean():.0%} converged"
    )
    if artifact["steps"].any():
        residual += f", {artifact['steps'].max():,} iterations at most"
    reasons = artifact.meta["not_converged"]
    return {
        "parameters": f"{settings['params']}; {settings['curvature']} of the "
        f"{settings['hessian']}, damping {settings['damping']:g}, normalisation "
        f"{settings['normalisation']}, step {settings['step']}",
        "score": f"{extreme(artifact['scores'])} nats (positive: removal hurts)",
        **spectrum,
        "residual of the solve": residual,
        **({"not converged": _first_of(reasons)} if reasons else {}),
        **_path(artifact),
    }


def _show_notes(
    config: Config, removals: str | None, influence: Path | None, artifact: Artifact
) -> None:
    """Say which options had nothing to do."""
    grouped = "group_ids" in artifact.arrays
    if removals is not None and not grouped:
        terminal.show_note("--removals says which groups are scored; there are none.")
    if influence is not None and not (grouped and "top-score" in config.retrain.removals):
        terminal.show_note("--influence ranks for groups of --removals top-score:K alone.")


def _first_of(reasons: list[str]) -> str:
    """Return a reason, and how many others the file has: networks differ in a number or two."""
    others = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return reasons[0].rstrip(".") + others


def _groups(artifact: Artifact) -> dict[str, str]:
    """Return what was found for groups of rows, if any were scored."""
    from ifcheck.cli.summaries import extreme

    if "group_ids" not in artifact.arrays:
        return {}
    _, groups, size = artifact["group_ids"].shape
    certificate = (
        f"residual {artifact['group_residual'].max():.2g} at most, "
        f"{artifact['group_converged'].mean():.0%} converged"
    )
    scores = f"{extreme(artifact['group_scores'])} nats; {certificate}"
    return {f"score of {groups} groups of {size}": scores}


def _path(artifact: Artifact) -> dict[str, str]:
    """Return what was found along a path of dampings, and which of them was chosen, if any."""
    if "path_scores" not in artifact.arrays:
        return {}
    dampings = artifact["damping_path"]
    facts = {
        "path of dampings": f"{len(dampings)} from {dampings.min():g} to {dampings.max():g}; "
        f"{artifact['path_converged'].mean():.0%} converged"
    }
    chosen = artifact.meta.get("damping_chosen")
    if chosen is not None:
        end = ", at an end of the path" if chosen["at_end_of_path"] else ""
        facts["damping chosen"] = (
            f"{chosen['damping']:g}{end}: mean Spearman {chosen['spearman']:.3f} with "
            f"{chosen['removals']} removals of {chosen['chosen_on']}"
        )
    return facts

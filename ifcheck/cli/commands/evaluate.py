"""`ifcheck evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ifcheck.cli import options, terminal
from ifcheck.cli.session import Session
from ifcheck.errors import EXIT_BELOW_THRESHOLD


def evaluate(
    session: Session,
    influence: Annotated[
        list[Path], typer.Option("--influence", help="Predicted changes; repeatable.")
    ],
    retrain: Annotated[list[Path], typer.Option("--retrain", help="True changes; repeatable.")],
    eigen: Annotated[Path | None, typer.Option("--eigen", help="Eigenvalues.")] = None,
    top_k: options.TopK = None,
    min_spearman: options.MinSpearman = None,
    require: options.Require = None,
    export: options.Export = None,
    out: Annotated[Path | None, typer.Option("--out", help="File for the records.")] = None,
    force: options.Force = False,
) -> None:
    """Say how well every prediction agrees with every truth.

    Example: `ifcheck evaluate --influence run/influence-paper.npz --retrain run/retrain-warm.npz`
    """
    flags = {
        "evaluate.top_k": top_k,
        "evaluate.min_spearman": min_spearman,
        "verdict.require": require,
    }
    config = session.configure(flags)
    from ifcheck.artifacts import require_free
    from ifcheck.cli.strata import show_strata
    from ifcheck.cli.subsets import show_datamodeling
    from ifcheck.cli.summaries import misses_requirement, misses_threshold
    from ifcheck.cli.tables import show_agreement, show_controls, show_gaps, show_paths
    from ifcheck.cli.verdicts import show_verdicts
    from ifcheck.stages.columns import agreement_tables
    from ifcheck.stages.evaluate import evaluate as run_stage
    from ifcheck.stages.exports import check_exports, export_table
    from ifcheck.stages.tables import plain

    check_exports(export or ())
    if session.dry_run:
        from ifcheck.cli.plans import show_plan
        from ifcheck.stages.estimate import estimate_evaluation

        show_plan(session, estimate_evaluation(config, influence, retrain))
        return
    if out is not None:
        require_free(out, force)
    evaluation = run_stage(config, influence, retrain, eigen, out)
    for path in export or ():
        export_table(path, *agreement_tables(evaluation.summaries))
    if session.json:
        terminal.show_json(plain(evaluation.to_dict(config)))
    else:
        show_agreement(evaluation.summaries)
        show_controls(evaluation.summaries)
        show_datamodeling(evaluation.summaries)
        show_strata(evaluation.strata)
        show_gaps(evaluation.gaps)
        show_paths(evaluation.paths)
        show_verdicts(evaluation.summaries)
    missed = misses_threshold(evaluation.summaries, config.evaluate.min_spearman)
    if missed or misses_requirement(evaluation.summaries, config.verdict.require):
        raise typer.Exit(EXIT_BELOW_THRESHOLD)

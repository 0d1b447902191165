"""`ifcheck diagnose`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ifcheck.cli import options, terminal
from ifcheck.cli.session import Session, dotted
from ifcheck.errors import EXIT_BELOW_THRESHOLD

if TYPE_CHECKING:
    from ifcheck.config import Config
    from ifcheck.stages.diagnose import Diagnosis

DIAGNOSE_KEYS = {
    "estimators": "diagnose.estimators",
    "truths": "diagnose.truths",
    "replicates": "diagnose.replicates",
    "removals": "retrain.removals",
    "group_size": "retrain.group_size",
    "require": "verdict.require",
}


def diagnose(
    session: Session,
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="Run folders, study folders, or checkpoint files of one run.", metavar="RUN..."
        ),
    ],
    estimators: Annotated[
        str | None, typer.Option("--estimator", help="Estimators to judge; a list.")
    ] = None,
    truths: Annotated[
        str | None,
        typer.Option(
            "--truth", help="Truths to follow them to; a list. Without scratch it is quick."
        ),
    ] = None,
    removals: options.Removals = None,
    group_size: options.GroupSize = None,
    replicates: options.Replicates = None,
    require: options.Require = None,
    export: options.Export = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder; RUN/diagnosis if left out. Resumed.")
    ] = None,
) -> None:
    """Say whether scores can be trusted on trained networks, and where they go wrong.

    Files in the run's folder are used where this configuration made them; what is missing is made
    in its folder `diagnosis`, where the next time finds it.

    Example: `ifcheck diagnose run/`

    Example: `ifcheck diagnose run/ --truth pbrf,newton,warm --require ranking`
    """
    flags = dotted(locals(), DIAGNOSE_KEYS)
    from ifcheck.cli.summaries import misses_requirement
    from ifcheck.stages.diagnose import diagnose as run_stage
    from ifcheck.stages.exports import check_exports
    from ifcheck.stages.reporting import Prefixed
    from ifcheck.stages.run_files import runs_of

    check_exports(export or ())
    runs = runs_of(sources)
    configs = {name: session.configure(flags, own) for name, own in runs.items()}
    several = len(runs) > 1
    folders = {name: out / name if out is not None and several else out for name in runs}
    if session.dry_run:
        _show_plan(session, [(configs[name], own, folders[name]) for name, own in runs.items()])
        return
    found: dict[str, Diagnosis] = {}
    explicit = session.explicit(flags)
    with terminal.live_progress() as reporter:
        for name, own in runs.items():
            told = Prefixed(reporter, name) if several else reporter
            found[name] = run_stage(configs[name], own, folders[name], told, explicit)
    _show(session, found, export or ())
    summaries = [summary for each in found.values() for summary in each.evaluation.summaries]
    if misses_requirement(summaries, next(iter(configs.values())).verdict.require):
        raise typer.Exit(EXIT_BELOW_THRESHOLD)


def _show_plan(session: Session, runs: Sequence[tuple[Config, list[Path], Path | None]]) -> None:
    from ifcheck.cli.plans import show_plan
    from ifcheck.stages.estimate import estimate_diagnosis, together

    show_plan(session, together([estimate_diagnosis(*run) for run in runs]))


def _show(session: Session, found: Mapping[str, Diagnosis], exports: Sequence[Path]) -> None:
    from ifcheck.cli.tables import show_agreement, show_controls, show_gaps
    from ifcheck.cli.verdicts import show_checks, show_steps, show_verdicts
    from ifcheck.stages.columns import agreement_tables
    from ifcheck.stages.exports import export_table
    from ifcheck.stages.reports import REPORT_FILE
    from ifcheck.stages.tables import plain

    tables = [
        table for each in found.values() for table in agreement_tables(each.evaluation.summaries)
    ]
    for path in exports:
        export_table(path, *tables)
    if session.json:
        terminal.show_json(plain({name: each.to_dict() for name, each in found.items()}))
        return
    for name, diagnosis in found.items():
        evaluation = diagnosis.evaluation
        if len(found) > 1:
            terminal.stdout().rule(name)
        show_agreement(evaluation.summaries)
        show_controls(evaluation.summaries)
        show_gaps(evaluation.gaps)
        show_checks(evaluation.summaries)
        show_steps(evaluation.gaps)
        show_verdicts(evaluation.summaries)
        terminal.stdout().print(f"written: {diagnosis.folder / REPORT_FILE}", soft_wrap=True)

"""`ifcheck compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ifcheck.cli import options, terminal
from ifcheck.cli.session import Session

if TYPE_CHECKING:
    from ifcheck.stages.compare import Comparison

SENTENCES = 10  # more than a screen of them is read in the tables


def compare(
    session: Session,
    first: Annotated[Path, typer.Argument(help="Folder of a study, A.", metavar="STUDY_A")],
    second: Annotated[Path, typer.Argument(help="Folder of another, B.", metavar="STUDY_B")],
    only_changed: Annotated[
        bool, typer.Option("--only-changed", help="Show what changed, and nothing else.")
    ] = False,
    export: options.Export = None,
    out: Annotated[Path | None, typer.Option("--out", help="JSON file for the comparison.")] = None,
    force: options.Force = False,
) -> None:
    """Say what changed from one study to another, with intervals.

    Example: `ifcheck compare study-before/ study-after/`
    """
    config = session.configure({})
    from ifcheck.artifacts import require_free
    from ifcheck.stages.compare import compare as run_stage
    from ifcheck.stages.compare_tables import comparison_tables
    from ifcheck.stages.exports import check_exports, export_table
    from ifcheck.stages.tables import plain

    check_exports(export or (), [first, second])
    if session.dry_run:
        from ifcheck.cli.plans import show_plan
        from ifcheck.stages.estimate import estimate_comparison

        show_plan(session, estimate_comparison(config, first, second))
        return
    if out is not None:
        require_free(out, force)
    comparison = run_stage(config, first, second, out)
    for path in export or ():
        export_table(path, *comparison_tables(comparison, only_changed))
    if session.json:
        terminal.show_json(plain(comparison.to_dict()))
    else:
        _show(comparison, only_changed)


def _show(comparison: Comparison, only_changed: bool) -> None:
    """Show settings first, then tables, what changed, and what only one study has."""
    from ifcheck.stages.compare_tables import comparison_tables, missing_lines, sentences

    for note in comparison.notes:
        terminal.show_note(note)
    _say(f"A: {comparison.first}", f"B: {comparison.second}")
    _say("Settings of B that differ:" if comparison.settings else "The settings are the same.")
    _say(*(f"  {line} in A" for line in comparison.settings))
    for table in comparison_tables(comparison, only_changed):
        if table.rows:
            terminal.show_table(table.caption, table.columns, table.rows, dense=True)
    said = sentences(comparison)
    _say(*said[:SENTENCES])
    if len(said) > SENTENCES:
        _say(f"And {len(said) - SENTENCES} more changed: --only-changed shows them.")
    _say(*(f"Only in A: {line}" for line in missing_lines(comparison.only_first)))
    _say(*(f"Only in B: {line}" for line in missing_lines(comparison.only_second)))


def _say(*lines: str) -> None:
    for line in lines:
        terminal.stdout().print(line, soft_wrap=True, markup=False, emoji=False)

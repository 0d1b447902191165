"""How verdicts, and the ways from prediction to truth, are told on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ifcheck.agreement.verdict import MARKS
from ifcheck.cli import terminal
from ifcheck.cli.tables import header
from ifcheck.stages.wording import UNDEFINED, cell_name, pair_name, prediction_name

Row = Mapping[str, Any]

FEW_CELLS = 5  # whose reasons and steps fit on a screen or two
OUTCOME_MARKS = {"pass": "✓", "warn": "!", "fail": "✗", "unknown": "?"}


def show_verdicts(summaries: Sequence[Row]) -> None:
    """Show what every pair comes to, and why."""
    judged = [summary for summary in summaries if summary.get("verdict")]
    rows = [
        [pair_name(s), s["verdict"], _named(s, "fail"), _named(s, "warn"), _named(s, "unknown")]
        for s in judged
    ]
    if not rows:
        return
    columns = ["prediction / truth", "verdict", "failed", "warned", "not known"]
    terminal.show_table("can the scores be trusted?", columns, rows, texts=len(columns))
    for summary in judged:
        told = f"{pair_name(summary)}: {summary['verdict']}. {summary['verdict_reason']}"
        terminal.stdout().print(told, soft_wrap=True)


def show_study_verdicts(summaries: Sequence[Row], gaps: Sequence[Row]) -> None:
    """Show a mark for each pair of every cell; of few cells also the reasons and the steps."""
    judged = [summary for summary in summaries if summary.get("verdict")]
    pairs = list(dict.fromkeys(header(row) for row in judged))
    cells: dict[str, dict[str, Row]] = {}
    for row in judged:
        cells.setdefault(cell_name(row), {})[header(row)] = row
    rows = [
        [name, *(MARKS[found[pair]["verdict"]] if pair in found else "" for pair in pairs)]
        for name, found in cells.items()
    ]
    if not rows:
        return
    terminal.show_table("can the scores be trusted?", ["variant size", *pairs], rows, dense=True)
    marks = ", ".join(f"{mark} {verdict}" for verdict, mark in MARKS.items())
    terminal.stdout().print(f"{marks}; why: verdict_reason in summary.csv", style="dim")
    if len(cells) > FEW_CELLS:
        return
    for row in judged:
        if row["verdict"] != "trust":
            told = f"{cell_name(row)}, {pair_name(row)}: {row['verdict']}. {row['verdict_reason']}"
            terminal.stdout().print(told, soft_wrap=True)
    for name in dict.fromkeys(cell_name(gap) for gap in gaps):
        terminal.stdout().print(name, style="bold")
        show_steps([gap for gap in gaps if cell_name(gap) == name])


def show_checks(summaries: Sequence[Row]) -> None:
    """Show every check of every pair, with the numbers behind it."""
    for summary in summaries:
        if not summary.get("verdict"):
            continue
        out = terminal.stdout()
        out.print(f"{pair_name(summary)}: {summary['verdict']}", style="bold")
        if not summary["checks"]:
            out.print(summary["verdict_reason"], soft_wrap=True)
        for check in summary["checks"]:
            mark = f"{OUTCOME_MARKS[check['outcome']]} {check['outcome']}"
            out.print(f"{mark:10}{check['name']:16}{check['sentence']}", soft_wrap=True)


def show_steps(gaps: Sequence[Row]) -> None:
    """Tell each step of the way from a prediction to the last truth in a sentence."""
    for name in dict.fromkeys(map(prediction_name, gaps)):
        terminal.stdout().print(f"{name}, from prediction to truth:", style="bold")
        for gap in gaps:
            if prediction_name(gap) == name:
                terminal.stdout().print(f"- {gap['sentence']}", soft_wrap=True)


def _named(summary: Row, outcome: str) -> str:
    names = [check["name"] for check in summary["checks"] if check["outcome"] == outcome]
    return ", ".join(names) or UNDEFINED

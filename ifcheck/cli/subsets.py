"""What summed predictions say about random subsets of the rows, where groups left at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ifcheck.cli import terminal
from ifcheck.cli.terminal import UNDEFINED, number


def show_datamodeling(summaries: Sequence[Mapping[str, Any]]) -> None:
    """Show the linear datamodeling score of each pair that has one."""
    rows = [
        [
            _name(summary),
            f"{summary['lds_kept_share']:.1%}",
            number(summary["lds"]),
            _interval(summary),
        ]
        for summary in summaries
        if summary["lds"] == summary["lds"]
    ]
    if rows:
        columns = ["prediction / truth", "rows kept", "score", "interval over subsets"]
        terminal.show_table("linear datamodeling score", columns, rows)


def _name(summary: Mapping[str, Any]) -> str:
    prediction = summary["influence"].removesuffix(".npz").removeprefix("influence-")
    truth = summary["retrain"].removesuffix(".npz").removeprefix("retrain-")
    return f"{prediction} / {truth}"


def _interval(summary: Mapping[str, Any]) -> str:
    if summary["lds_low"] != summary["lds_low"]:
        return UNDEFINED
    return f"{number(summary['lds_low'], 2)} to {number(summary['lds_high'], 2)}"

"""What summed predictions say about random subsets of the rows, where groups left at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ifcheck.cli import terminal
from ifcheck.stages.wording import between, number, pair_name


def show_datamodeling(summaries: Sequence[Mapping[str, Any]]) -> None:
    """Show the linear datamodeling score of each pair that has one."""
    rows = [
        [
            pair_name(summary),
            f"{summary['lds_kept_share']:.1%}",
            number(summary["lds"]),
            between(summary["lds_low"], summary["lds_high"]),
        ]
        for summary in summaries
        if summary["lds"] == summary["lds"]
    ]
    if rows:
        columns = ["prediction / truth", "rows kept", "score", "interval over subsets"]
        terminal.show_table("linear datamodeling score", columns, rows)

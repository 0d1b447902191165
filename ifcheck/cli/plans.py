"""How an estimate of a dry run is shown."""

from __future__ import annotations

from ifcheck.cli import terminal
from ifcheck.cli.session import Session
from ifcheck.stages.estimate import Estimate

MEBIBYTE = 1 << 20


def show_plan(session: Session, estimate: Estimate) -> None:
    """Show what would run and what it would take."""
    if session.json:
        terminal.show_json(estimate.to_dict())
        return
    rows = [[step, f"{seconds:.1f}"] for step, seconds in estimate.seconds.items()]
    rows.append(["in all", f"{estimate.total_seconds:.1f}"])
    terminal.show_table("would run", ["step", "seconds"], rows)
    terminal.show_facts(
        "",
        {
            "memory": f"{estimate.memory_bytes / MEBIBYTE:,.0f} MiB",
            "disk": f"{estimate.disk_bytes / MEBIBYTE:,.1f} MiB",
        },
    )

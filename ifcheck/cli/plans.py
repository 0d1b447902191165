"""How it is shown what a command would take."""

from __future__ import annotations

from ifcheck.cli import terminal
from ifcheck.cli.session import Session
from ifcheck.stages.estimate import Estimate
from ifcheck.stages.forecast import Forecast

MEBIBYTE, GIGABYTE = 1 << 20, 1e9
MINUTE, HOUR = 60, 3_600


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


def spoken(expected: Forecast) -> str:
    """Return a sentence about a forecast."""
    parts = [f"{step} {duration(seconds)}" for step, seconds in expected.seconds.items()]
    return (
        f"this takes at most about {duration(expected.total_seconds)} ({', '.join(parts)}) and "
        f"{expected.memory_bytes / GIGABYTE:.1f} GB of memory; less time where training stops "
        "early and power iteration converges, as they mostly do."
    )


def duration(seconds: float) -> str:
    """Return a time in the unit that fits it: 40 s, 12 min, 3.5 h."""
    if seconds < MINUTE:
        return f"{max(1, round(seconds))} s"
    if seconds < HOUR:
        return f"{round(seconds / MINUTE)} min"
    return f"{seconds / HOUR:.1f} h"

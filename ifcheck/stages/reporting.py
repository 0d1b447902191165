"""How a stage tells how far it is, without knowing who listens."""

from __future__ import annotations

from typing import Protocol

from ifcheck.engines import Progress, silent

MINUTE, HOUR = 60, 3_600


class Reporter(Protocol):
    """Someone who shows progress; the command line implements it with a live display."""

    def step(self, label: str, total: int) -> Progress:
        """Begin a piece of work of `total` units; call the result with units done."""

    def note(self, message: str) -> None:
        """Tell something worth knowing that is no error."""


class Silent:
    """Nobody listens."""

    def step(self, label: str, total: int) -> Progress:
        return silent

    def note(self, message: str) -> None:
        return None


class Prefixed:
    """Passes everything on, with the cell's name in front of each label."""

    def __init__(self, reporter: Reporter, prefix: str) -> None:
        self._reporter = reporter
        self._prefix = prefix

    def step(self, label: str, total: int) -> Progress:
        return self._reporter.step(f"{self._prefix}: {label}", total)

    def note(self, message: str) -> None:
        self._reporter.note(f"{self._prefix}: {message}")


def duration(seconds: float) -> str:
    """Return a time in the unit that fits it: 40 s, 12 min, 3.5 h."""
    if seconds < MINUTE:
        return f"{max(1, round(seconds))} s"
    if seconds < HOUR:
        return f"{round(seconds / MINUTE)} min"
    return f"{seconds / HOUR:.1f} h"

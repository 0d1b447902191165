"""How a stage tells how far it is, without knowing who listens."""

from __future__ import annotations

from typing import Protocol

from ifcheck.engines import Progress, silent


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

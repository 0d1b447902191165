"""Errors that a user can act on: what, got, expected, remedy, exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

NEAR = 0.5  # similarity from which a name is suggested: l2 for l3, iris for irsi

EXIT_DONE = 0
EXIT_BELOW_THRESHOLD = 1
EXIT_UNUSABLE_INPUT = 2
EXIT_FAILED_WHILE_RUNNING = 3
EXIT_INTERRUPTED = 130


class IfcheckError(Exception):
    """An error with a remedy; every error that ifcheck raises on purpose is one.

    `message` says what happened, what was found and what was expected; `remedy` says what
    to do about it; `exit_code` is what the command line returns.
    """

    exit_code = EXIT_UNUSABLE_INPUT

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class UnusableInput(IfcheckError):
    """An argument, a configuration or a file that cannot be used as given."""


class UnknownName(UnusableInput):
    """A name that no registry, schema or option list knows; suggests the nearest one."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        options = sorted(known)
        near = difflib.get_close_matches(str(name), options, n=1, cutoff=NEAR)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        super().__init__(
            f"unknown {what} {name!r}; expected one of: {', '.join(options)}.",
            remedy=f"{hint}Use one of the names above.",
        )


class ArtifactUnreadable(UnusableInput):
    """A file that is missing, truncated, foreign, or of another kind or schema."""


class ArtifactMismatch(UnusableInput):
    """An artifact that was made from other inputs than the ones it is used with."""


class OutputRefused(UnusableInput):
    """An output folder or file that must not be overwritten, or cannot be written."""


class RunFailed(IfcheckError):
    """Something went wrong while computing; what was finished is kept."""

    exit_code = EXIT_FAILED_WHILE_RUNNING


class Diverged(RunFailed):
    """A training or a solver produced non-finite numbers."""

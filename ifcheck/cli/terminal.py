"""Everything that is shown: data on stdout, messages and progress on stderr, one set of styles."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ifcheck.stages.wording import UNDEFINED as UNDEFINED
from ifcheck.stages.wording import number as number

MAX_WIDTH = 100  # tables fit terminals of this width
SLOW_STEP_SECONDS = 2.0  # steps that took longer are told where no live display is possible


@dataclass
class _Settings:
    """What the user asked of the display."""

    quiet: bool = False
    debug: bool = False
    json: bool = False


settings = _Settings()


def stdout() -> Console:
    """Return a console for data."""
    console = Console(highlight=False)
    narrow = console.is_terminal and console.width < MAX_WIDTH
    return console if narrow else Console(highlight=False, width=MAX_WIDTH)


def stderr() -> Console:
    """Return a console for messages."""
    return Console(stderr=True, highlight=False)


def show_error(message: str, remedy: str) -> None:
    """Show what is wrong and what to do; the traceback only where the user asked for it."""
    if settings.debug:
        traceback.print_exc()
    console = stderr()
    console.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    if remedy:
        console.print(Text.assemble(("remedy: ", "bold"), remedy), soft_wrap=True)


def show_note(message: str) -> None:
    """Show something worth knowing that is no error."""
    if not settings.quiet:
        stderr().print(Text.assemble(("note: ", "bold yellow"), message), soft_wrap=True)


class _Notes(logging.Handler):
    """Shows what is logged on the way as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        show_note(record.getMessage())


def show_logged_notes() -> None:
    """Show, from now on, what ifcheck logs."""
    logger = logging.getLogger("ifcheck")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _Notes) for handler in logger.handlers):
        logger.addHandler(_Notes())


def show_json(values: Any) -> None:
    """Print JSON on stdout."""
    sys.stdout.write(json.dumps(values, indent=1) + "\n")


def show_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    dense: bool = False,
    texts: int = 1,
) -> None:
    """Print a table; the first `texts` columns are text, the others are numbers."""
    padding = (0, 0 if dense else 1, 0, 0)
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=padding)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < texts else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    stdout().print(table)


def show_facts(title: str, facts: Mapping[str, str]) -> None:
    """Print named values under a title."""
    table = Table(title=title, box=None, show_header=False, title_justify="left")
    for name, value in facts.items():
        table.add_row(name, Text(value, overflow="fold"))
    stdout().print(table)


@dataclass
class LiveReporter:
    """Shows steps with bar and time left on a terminal, slow steps as lines elsewhere."""

    display: Progress | None

    def step(self, label: str, total: int) -> Callable[[int], None]:
        if self.display is None:
            return _LineStep(label, total)
        display = self.display
        task = display.add_task(label, total=total)

        def advance(done: int) -> None:
            display.advance(task, done)
            if display.tasks[display.task_ids.index(task)].finished:
                display.update(task, visible=False)

        return advance

    def note(self, message: str) -> None:
        show_note(message)


class _LineStep:
    """One line on stderr when a step that took a while is done."""

    def __init__(self, label: str, total: int) -> None:
        self._label = label
        self._left = total
        self._started = time.perf_counter()

    def __call__(self, done: int) -> None:
        self._left -= done
        seconds = time.perf_counter() - self._started
        if self._left <= 0 and seconds > SLOW_STEP_SECONDS and not settings.quiet:
            stderr().print(f"{self._label}: {seconds:.1f} s", soft_wrap=True)


@contextmanager
def live_progress() -> Iterator[LiveReporter]:
    """Yield a reporter with a live display on stderr, if that is a terminal."""
    console = stderr()
    if settings.quiet or not console.is_terminal:
        yield LiveReporter(None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as display:
        yield LiveReporter(display)

"""What a report consists of, whatever shows it: sections of text, findings, tables, pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args

from ifcheck.report.numbers import Number

Tone = Literal["good", "warn", "bad", "unknown"]
Outcome = Literal["pass", "warn", "fail", "unknown"]
OUTCOMES = get_args(Outcome)

MEDIA_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True)
class Badge:
    """A verdict in a word or two; the tone gives it a colour and a sign, so that either tells."""

    kind: ClassVar[str] = "badge"

    text: str
    tone: Tone


@dataclass(frozen=True)
class Link:
    """Text that leads to a section of the same report."""

    kind: ClassVar[str] = "link"

    text: str
    section: str  # its id


Cell = str | Number | Badge | Link


@dataclass(frozen=True)
class Column:
    """The head of a table's column; `hint` says in a sentence what its entries are."""

    title: str
    hint: str = ""
    is_numeric: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under columns, of which the first names the row.

    Raises: ValueError for a row of another length than the columns.
    """

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]

    def __post_init__(self) -> None:
        """Refuse rows that would shift under other columns' heads."""
        lengths = {len(row) for row in self.rows} - {len(self.columns)}
        if lengths:
            raise ValueError(
                f"{self.caption}: rows of {sorted(lengths)} cells under {len(self.columns)} columns"
            )

    @property
    def reasons(self) -> list[str]:
        """Return why numbers of this table are undefined, each reason once."""
        cells = (cell for row in self.rows for cell in row if isinstance(cell, Number))
        return list(dict.fromkeys(cell.reason for cell in cells if cell.reason))


@dataclass(frozen=True)
class Picture:
    """A picture with what it shows and how to read it."""

    title: str
    caption: str
    content: bytes
    media_type: str

    @classmethod
    def read(cls, path: Path, title: str, caption: str) -> Picture:
        """Read an SVG or PNG file. Raises: KeyError for another suffix, OSError."""
        return cls(title, caption, path.read_bytes(), MEDIA_TYPES[path.suffix])


@dataclass(frozen=True)
class Check:
    """One of the grounds of a finding."""

    name: str
    outcome: Outcome
    found: Number
    expected: str
    sentence: str


@dataclass(frozen=True)
class Finding:
    """A verdict on one thing, why, and the checks that it rests on."""

    title: str
    badge: Badge
    sentence: str
    checks: Sequence[Check] = ()

    @property
    def tally(self) -> str:
        """Return how many checks came out how, such as `3 pass, 1 fail`."""
        counts = Counter(check.outcome for check in self.checks)
        return ", ".join(f"{counts[name]} {name}" for name in OUTCOMES if counts[name])


@dataclass(frozen=True)
class Section:
    """A part of the report with a heading; shown in this order."""

    id: str  # without white space; what links name
    title: str
    badges: Sequence[Badge] = ()
    paragraphs: Sequence[str] = ()
    findings: Sequence[Finding] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    terms: Sequence[tuple[str, str]] = ()  # words and what they mean
    folded: Sequence[tuple[str, str]] = ()  # titles and long plain text, shown on demand
    starts_page: bool = False  # when printed


@dataclass(frozen=True)
class Report:
    """The whole: a title, what this is, sections, what made it.

    Raises: ValueError for sections that share an id, and for an id that no link can name.
    """

    title: str
    intro: Sequence[str]
    sections: Sequence[Section]
    made_by: str

    def __post_init__(self) -> None:
        """Refuse ids that would send a link to the wrong section."""
        ids = [section.id for section in self.sections]
        unusable = sorted({i for i in ids if ids.count(i) > 1 or i.split() != [i]})
        if unusable:
            raise ValueError(f"section ids repeat or hold white space: {unusable}")

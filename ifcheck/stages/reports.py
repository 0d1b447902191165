"""The report of a study or of one run: verdicts first, then the numbers that they rest on."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from ifcheck import provenance
from ifcheck.config import Config
from ifcheck.report import (
    Badge,
    Check,
    Finding,
    Link,
    Picture,
    Report,
    Section,
    Table,
    Tone,
    number,
    write_report,
)
from ifcheck.stages.pictures import Picture as DrawnFigure
from ifcheck.stages.report_tables import (
    AGREEMENT,
    BESIDE_PUBLISHED,
    CONTROLS,
    GLOSSARY,
    PAIR,
    Entry,
    Row,
    gaps_tables,
    pair_name,
    paths_tables,
    rows_table,
    tests_tables,
    text,
)
from ifcheck.stages.summaries import CELL_COLUMNS

if TYPE_CHECKING:  # the stage itself writes its report last
    from ifcheck.stages.fragility import Study

REPORT_FILE = "report.html"
TONES: dict[str, Tone] = {
    "trust": "good",
    "ranking only": "warn",
    "do not trust": "bad",
    "cannot tell": "unknown",
}
INTRO = (
    "Influence functions predict how the loss at a test point would change if one training row "
    "were removed. Here the predictions are held against true changes, found by removing rows and "
    "retraining, and against what chance, drift and cheap baselines would give.",
    "A click on a column's head sorts its table. What the words mean stands at the end.",
)


class Drawn(NamedTuple):
    """A picture that was drawn into a file, SVG or PNG; `cell` where it is of one cell alone."""

    title: str
    path: Path
    caption: str
    cell: str = ""


def write_study(study: Study, config: Config, drawn: Sequence[DrawnFigure]) -> None:
    """Write what a study found, with the pictures of its folder, as one page into the folder."""
    report = study_report(
        study.summaries,
        config,
        tests=study.tests,
        gaps=study.gaps,
        paths=study.paths,
        pictures=drawn_into(study.out / "figures", drawn),
    )
    write_report(study.out / REPORT_FILE, report)


def drawn_into(folder: Path, drawn: Sequence[DrawnFigure]) -> list[Drawn]:
    """Return the pictures that were drawn into a folder, as SVG, titled by their names."""
    return [
        Drawn(_picture_title(picture.name), folder / f"{picture.name}.svg", picture.caption)
        for picture in drawn
    ]


def _picture_title(name: str) -> str:
    """Return `Figure 1: agreement` for figure-1-agreement, `Heat map` for heat-map."""
    words = name.replace("-", " ").capitalize()
    return re.sub(r"^(Figure \d+) ", r"\1: ", words)


def study_report(
    summaries: Sequence[Row],
    config: Config,
    *,
    title: str = "",
    tests: Sequence[Row] = (),
    gaps: Sequence[Row] = (),
    paths: Sequence[Row] = (),
    pictures: Sequence[Drawn] = (),
    made: datetime | None = None,
) -> Report:
    """Return the report of what was found: the rows of a study, or of one run without `cell`.

    `summaries` are rows of `summary.csv`, with `verdict`, `verdict_reason` and `checks` where they
    have been judged; the others the rows of the tables of the same names. `made` is now if not
    given. Raises: OSError for a picture that cannot be read.
    """
    cells: dict[str, list[Row]] = {}
    for row in summaries:
        cells.setdefault(_cell_of(row), []).append(row)
    compared = [row for row in summaries if "estimator" in row]
    several, labels = len(cells) > 1, _labels(cells)
    cell = [_cell_entry(labels)] if several else []
    own = [
        _cell_section(
            name,
            labels[name],
            rows,
            [*gaps_tables(_of_cell(name, gaps)), *paths_tables(_of_cell(name, paths))],
            _read(pictures, name),
            with_controls=not several,
        )
        for name, rows in cells.items()
    ]
    sections = [
        _verdicts(compared, cell),
        _agreement(compared if several else (), cell),
        Section("tests", "Tests across cells", tables=tests_tables(tests)),
        *([] if several else own),
        Section("figures", "Figures", pictures=_read(pictures, "")),
        *(own if several else []),
        Section("words", "What the words mean", terms=list(GLOSSARY.items())),
        _provenance(config),
    ]
    return Report(
        title or f"Can influence functions be trusted? {config.data.dataset}, {_count(cells)}",
        INTRO,
        [section for section in sections if _has_content(section)],
        _made_by(config, made or datetime.now(UTC)),
    )


def _count(cells: Mapping[str, Any]) -> str:
    return "1 cell" if len(cells) == 1 else f"{len(cells)} cells"


def _labels(cells: Mapping[str, Sequence[Row]]) -> dict[str, str]:
    """Return what each cell is called in short: what tells it from the others."""
    first = [rows[0] for rows in cells.values()]
    columns = [name for name in CELL_COLUMNS[1:] if len({row.get(name) for row in first}) > 1]
    labels = [
        ", ".join(
            str(row[name]) if isinstance(row[name], str) else f"{name} {row[name]}"
            for name in columns
            if row.get(name) is not None
        )
        for row in first
    ]
    unique = "" not in labels and len(set(labels)) == len(cells)
    return dict(zip(cells, labels if unique else cells, strict=True))


def _cell_entry(labels: Mapping[str, str]) -> Entry:
    """Return the column that leads from a row to its cell's section."""
    return text("cell", lambda row: Link(labels[_cell_of(row)], _cell_id(_cell_of(row))))


def _cell_of(row: Row) -> str:
    return str(row.get("cell") or "this run")


def _of_cell(name: str, rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if _cell_of(row) == name]


def _cell_id(name: str) -> str:
    return "cell-" + "-".join(name.split())


def _read(pictures: Sequence[Drawn], cell: str) -> list[Picture]:
    return [Picture.read(p.path, p.title, p.caption) for p in pictures if p.cell == cell]


def _has_content(section: Section) -> bool:
    parts = (
        section.paragraphs,
        section.findings,
        section.tables,
        section.pictures,
        section.terms,
        section.folded,
    )
    return any(parts)


# --- across cells -----------------------------------------------------------------------------


def _verdicts(rows: Sequence[Row], cell: Sequence[Entry]) -> Section:
    """Return the table that the report is about: what can be trusted."""
    judged = [row for row in rows if row.get("verdict")]
    entries = [
        *cell,
        PAIR,
        text("verdict", _badge),
        text("why", lambda row: str(row.get("verdict_reason") or "")),
    ]
    tables = [rows_table("The verdict on each prediction, by cell and truth", entries, judged)]
    return Section("verdicts", "Verdicts", _tallies(judged), tables=tables if judged else ())


def _badge(row: Row) -> Badge:
    return Badge(row["verdict"], TONES.get(row["verdict"], "unknown"))


def _tallies(judged: Sequence[Row]) -> list[Badge]:
    """Return how often each verdict was given, the best first."""
    given = [row["verdict"] for row in judged]
    return [
        Badge(f"{verdict}: {given.count(verdict)}", tone)
        for verdict, tone in TONES.items()
        if verdict in given
    ]


def _agreement(rows: Sequence[Row], cell: Sequence[Entry]) -> Section:
    """Return agreement and controls of all cells; a lone one has them in its own section."""
    title = "Agreement and controls"
    if not rows:
        return Section("agreement", title)
    tables = [
        rows_table(
            "Agreement of predicted and true changes, beside published figures",
            [*cell, PAIR, *BESIDE_PUBLISHED],
            rows,
        ),
        rows_table(
            "Controls: what each agreement is to be held against", [*cell, PAIR, *CONTROLS], rows
        ),
    ]
    return Section("agreement", title, tables=tables)


# --- one cell ---------------------------------------------------------------------------------


def _cell_section(
    name: str,
    label: str,
    rows: Sequence[Row],
    tables: Sequence[Table],
    pictures: Sequence[Picture],
    with_controls: bool,
) -> Section:
    compared = [row for row in rows if "estimator" in row]
    judged = [row for row in compared if row.get("verdict")]
    failures = [str(row["reason"]) for row in rows if "estimator" not in row]
    agreement = [
        rows_table(caption, [PAIR, *entries], compared)
        for caption, entries, is_shown in (
            ("Agreement of predicted and true changes", AGREEMENT, True),
            ("Controls", CONTROLS, with_controls),
        )
        if compared and is_shown
    ]
    return Section(
        _cell_id(name),
        label,
        [Badge("failed", "bad")] if failures else _tallies(judged),
        [*([] if label == name else [f"Cell {name}"]), *failures],
        [_finding(row) for row in judged],
        [*agreement, *tables],
        pictures,
        starts_page=True,
    )


def _finding(row: Row) -> Finding:
    return Finding(
        pair_name(row),
        _badge(row),
        str(row.get("verdict_reason") or ""),
        [_check(check) for check in row.get("checks") or ()],
    )


def _check(check: Mapping[str, Any]) -> Check:
    return Check(
        check["name"],
        check["outcome"],
        number(check["value"], "nothing to measure it by"),
        check["expected"],
        check["sentence"],
    )


# --- what made it -----------------------------------------------------------------------------


def _provenance(config: Config) -> Section:
    return Section(
        "made-by",
        "What made this",
        terms=list(provenance.versions().items()),
        folded=[("configuration", yaml.safe_dump(config.to_dict(), sort_keys=False))],
    )


def _made_by(config: Config, made: datetime) -> str:
    digest = provenance.text_digest(json.dumps(config.to_dict(), sort_keys=True))
    version = provenance.versions()["ifcheck"]
    return (
        f"Made by ifcheck {version}, code {provenance.code_revision()}, on {made:%Y-%m-%d}, "
        f"from configuration {digest[:16]}."
    )

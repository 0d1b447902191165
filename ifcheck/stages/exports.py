"""Tables as files for papers and notebooks: Markdown, LaTeX and CSV, by the name's suffix."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ifcheck.artifacts import require_free, write_text
from ifcheck.errors import OutputRefused, UnusableInput
from ifcheck.stages.resume import STUDY_FILE
from ifcheck.stages.tables import write_csv

Row = Mapping[str, Any]

PAGE_ROWS = 40  # that a page of LaTeX holds below a caption; longer tables run over pages
LATIN_1 = 0x100  # the default fonts of pdflatex have the letters below, but for these
NOT_IN_FONTS = "ÐðÞþ"
LATEX_NEEDS = "% \\usepackage{booktabs,longtable}\n"
LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    # The default font has other signs in their places.
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    '"': r"''",
    # Behind the end of a row they would be arguments of it.
    "[": "{[}",
    "*": "{*}",
    "±": r"$\pm$",
    "²": r"\textsuperscript{2}",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "−": "$-$",
    "×": r"$\times$",
    "∞": r"$\infty$",
    "…": r"\ldots{}",
    "`": r"\textasciigrave{}",
}
# Signs that mean something inside a cell.
MARKDOWN = str.maketrans({sign: f"\\{sign}" for sign in "\\`*_[]<>|~&$"})
MINUS = re.compile(r"(?<![\w)])-(?=[\d.])")  # a sign, not a hyphen
DASHES = re.compile(r"-(?=-)")  # which would become one dash
SMALL = "\\scriptsize\\setlength{\\tabcolsep}{3pt}\n"  # so that a dozen columns fit a page's width


@dataclass(frozen=True)
class Table:
    """A table as it is shown, with the records behind it.

    The first column is text, the others are numbers as text. `records` are the same in full
    precision, and may have rows and columns that are not shown; tables of one file share them.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    records: tuple[Row, ...]


def export_table(path: Path, *tables: Table) -> None:
    """Write tables in the form that the suffix says, replacing what is there.

    Markdown and LaTeX hold all of them as they are shown; CSV holds the records of the first.
    Raises: UnusableInput for another suffix, OutputRefused where nothing can be written.
    """
    _form(path)(path, tables)


def check_exports(paths: Sequence[Path], studies: Sequence[Path] = ()) -> None:
    """Refuse, before anything is computed, files that could not be written afterwards.

    `studies` are the folders whose own CSV files must stay. Raises: UnusableInput, OutputRefused.
    """
    folders = {folder.resolve() for folder in studies}
    for path in paths:
        _form(path)
        folder = path.resolve().parent
        of_study = folder in folders or (folder / STUDY_FILE).is_file()
        if of_study and path.suffix.lower() == ".csv":
            raise OutputRefused(
                f"{path} lies in the folder of a study, among its own CSV files.",
                remedy="Choose another folder for --export.",
            )
        require_free(path, force=True)


def write_tables(folder: Path, tables: Mapping[str, Sequence[Table]]) -> None:
    """Write each named group of tables as Markdown and as LaTeX; the CSV files are elsewhere."""
    for name, group in tables.items():
        for suffix in (".md", ".tex"):
            export_table(folder / f"{name}{suffix}", *group)


def _form(path: Path) -> Callable[[Path, Sequence[Table]], None]:
    form = FORMS.get(path.suffix.lower())
    if form is None:
        got = f"the suffix {path.suffix!r}" if path.suffix else "no suffix"
        raise UnusableInput(
            f"--export got {path}, which has {got}; expected one of: {', '.join(FORMS)}.",
            remedy="Name a file such as table.md, table.tex or table.csv.",
        )
    return form


def _write_markdown(path: Path, tables: Sequence[Table]) -> None:
    write_text(path, "\n\n".join(map(_markdown, tables)) + "\n")


def _write_latex(path: Path, tables: Sequence[Table]) -> None:
    names = [
        path.stem if place == 0 else f"{path.stem}-{place + 1}" for place in range(len(tables))
    ]
    bodies = [_latex(table, name) for table, name in zip(tables, names, strict=True)]
    write_text(path, LATEX_NEEDS + "\n".join(bodies))


def _write_csv(path: Path, tables: Sequence[Table]) -> None:
    records = [{name: _flat(value) for name, value in row.items()} for row in tables[0].records]
    columns = dict.fromkeys(name for row in records for name in row)
    write_csv(path, records, list(columns or tables[0].columns))


def _markdown(table: Table) -> str:
    frame = _frame(table, markdown)
    alignment = ["left"] + ["right"] * (len(table.columns) - 1)
    # Without numparse: tabulate would take "1.20" for 1.2.
    text = frame.to_markdown(
        index=False, tablefmt="pipe", disable_numparse=True, colalign=alignment
    )
    return f"{markdown(table.caption)}\n\n{text}"


def _latex(table: Table, name: str) -> str:
    long = len(table.rows) > PAGE_ROWS
    text: str = _frame(table, latex).to_latex(
        index=False,
        escape=False,  # by us: pandas leaves signs such as | and ± to the font
        caption=latex(table.caption),
        label="tab:" + re.sub(r"[^A-Za-z0-9-]+", "-", name),
        column_format="l" + "r" * (len(table.columns) - 1),
        longtable=long,
    )
    if long:
        return f"{{{SMALL}{text}}}\n"
    return text.replace("\\begin{tabular}", f"{SMALL}\\begin{{tabular}}", 1)


def _frame(table: Table, escape: Callable[[str], str]) -> Any:
    """Return a data frame of escaped text."""
    import pandas as pd  # which takes half a second, and most runs export nothing

    rows = [[escape(cell) for cell in row] for row in table.rows]
    return pd.DataFrame(rows, columns=[escape(column) for column in table.columns], dtype=object)


def markdown(text: str) -> str:
    """Return text as one line of Markdown that reads the same."""
    return _one_line(text).translate(MARKDOWN)


def latex(text: str) -> str:
    """Return text as one line of LaTeX that reads the same, for pdflatex with its default fonts.

    Signs that it has no letter for are named by their number: U+1F600.
    """
    signs = MINUS.sub("−", _one_line(text))
    escaped = (LATEX.get(sign, sign if _typesets(sign) else _code(sign)) for sign in signs)
    return DASHES.sub("-{}", "".join(escaped))


def _one_line(text: str) -> str:
    shown = (" " if unicodedata.category(sign)[0] in "CZ" else sign for sign in text)
    return " ".join("".join(shown).split())


def _typesets(sign: str) -> bool:
    is_letter = sign.isalpha() and sign not in NOT_IN_FONTS
    return sign.isascii() or (is_letter and ord(sign) < LATIN_1)


def _code(sign: str) -> str:
    return f"U+{ord(sign):04X}"


def _flat(value: Any) -> Any:
    """Return a nested value as JSON, others as they are."""
    return json.dumps(value) if isinstance(value, (Mapping, list, tuple)) else value


FORMS: dict[str, Callable[[Path, Sequence[Table]], None]] = {
    ".md": _write_markdown,
    ".tex": _write_latex,
    ".csv": _write_csv,
}

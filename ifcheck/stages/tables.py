"""Records as JSON and CSV: undefined numbers stay undefined, files appear whole."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ifcheck.artifacts import write_text


def plain(value: Any) -> Any:
    """Return `value` with every number that is not finite replaced by None, for JSON."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write nested values; undefined numbers become null."""
    write_text(path, json.dumps(plain(values), indent=1) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write rows under `columns`; undefined numbers become empty cells."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({c: "" if plain(row.get(c)) is None else row[c] for c in columns})
    write_text(path, text.getvalue())


def write_csvs(folder: Path, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write `NAME.csv` for each table that has rows, under the columns of its first row."""
    for name, rows in tables.items():
        if rows:
            write_csv(folder / f"{name}.csv", rows, list(rows[0]))

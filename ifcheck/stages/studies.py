"""A study folder read back: its configuration, the rows of its results, its verdicts."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ifcheck.errors import ArtifactUnreadable
from ifcheck.stages.resume import identity_of

Row = dict[str, str]
Key = tuple[str, ...]

KEY = ("cell", "estimator", "truth", "retrain_params", "group_size", "selection")
REQUIRED = ("cell", "seed", "estimator", "truth", "status")
CELL_NAMES = ("network", "depth", "width", "variant")
REMEDY = "Run that study again, or give the folder of another."


@dataclass(frozen=True)
class StudyFolder:
    """What a study wrote; numbers stay text until they are asked for."""

    path: Path
    identity: dict[str, Any]  # configuration, code and versions
    rows: list[Row]  # one per record, in the order of the file
    columns: frozenset[str]
    failures: list[Row]  # cells and seeds that have no record
    verdicts: dict[Key, str] | None  # by key; None where the study has none
    finished: bool
    several_selections: bool  # whether rows to remove were chosen in more than one way

    @property
    def cells(self) -> list[str]:
        """Return the ids of the cells that have records."""
        return list(dict.fromkeys(row["cell"] for row in self.rows))

    @property
    def keys(self) -> list[Key]:
        """Return what the study compared, each once."""
        return list(dict.fromkeys(self.key(row) for row in self.rows))

    def key(self, row: Mapping[str, str]) -> Key:
        """Return which comparison a row is of; older studies had one kind where columns lack.

        How rows were selected is a setting, and no part of it, unless the study has several ways.
        """
        row = {name: row.get(name, "") for name in KEY}
        row["retrain_params"] = row["retrain_params"] or "head"
        row["group_size"] = row["group_size"] or "1"
        row["selection"] = row["selection"] if self.several_selections else ""
        return tuple(row[name] for name in KEY)

    def by_seed(
        self, rows: Sequence[Row], column: str, absolute: bool, only_ok: bool
    ) -> dict[int, float]:
        """Return the mean of a column over each seed's finite values; nan where there is none.

        Seeds of the rows' cell that failed are among them. Raises: ArtifactUnreadable for what is
        no number.
        """
        found: dict[int, list[float]] = {}
        for row in rows:
            values = found.setdefault(int(self._number(row, "seed")), [])
            value = self._number(row, column)
            if math.isfinite(value) and (row["status"] == "ok" or not only_ok):
                values.append(abs(value) if absolute else value)
        for row in self.failures:
            if row["seed"] and row["cell"] == rows[0]["cell"]:
                found.setdefault(int(self._number(row, "seed")), [])
        return {
            seed: math.fsum(values) / len(values) if values else math.nan
            for seed, values in found.items()
        }

    def _number(self, row: Row, column: str) -> float:
        text = row[column]
        try:
            value = float(text) if text else math.nan
            if column == "seed":
                int(value)
        except (ValueError, OverflowError) as error:
            raise ArtifactUnreadable(
                f"{self.path / 'results.csv'}: {column} of {row['cell']} is {text!r}; "
                "expected a number.",
                remedy=REMEDY,
            ) from error
        return value


def read_study(folder: Path) -> StudyFolder:
    """Return what the study in this folder found so far.

    Raises: ArtifactUnreadable where it holds no study, or one that is damaged or has no result.
    """
    identity = identity_of(folder)
    path = folder / "results.csv"
    if not path.is_file():
        raise ArtifactUnreadable(
            f"{folder} has no results.csv: none of the study's cells is finished.",
            remedy="Finish that study: the same command goes on where it stopped.",
        )
    rows, columns = _read_csv(path)
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise ArtifactUnreadable(
            f"{path} has no column {missing[0]}; it has: {', '.join(columns)}.", remedy=REMEDY
        )
    study = StudyFolder(
        path=folder,
        identity=identity,
        rows=[row for row in rows if row["estimator"]],
        columns=frozenset(columns),
        failures=[row for row in rows if not row["estimator"]],
        verdicts=None,
        finished=(folder / "tests.csv").is_file(),
        several_selections=len({row.get("selection") for row in rows if row["estimator"]}) > 1,
    )
    return _with_verdicts(study, folder / "summary.csv")


def _with_verdicts(study: StudyFolder, path: Path) -> StudyFolder:
    if not path.is_file():
        return study
    rows, columns = _read_csv(path)
    if "verdict" not in columns or "cell" not in columns:
        return study
    verdicts = {study.key(row): row["verdict"] for row in rows if row.get("estimator")}
    return replace(study, verdicts=verdicts)


def _read_csv(path: Path) -> tuple[list[Row], list[str]]:
    """Return rows and columns of a CSV file. Raises: ArtifactUnreadable if it is damaged."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = next(reader, [])
            rows = []
            for values in reader:
                if len(values) != len(columns):
                    raise ArtifactUnreadable(
                        f"{path} is damaged: line {reader.line_num} has {len(values)} values; "
                        f"expected {len(columns)}.",
                        remedy=REMEDY,
                    )
                rows.append(dict(zip(columns, values, strict=True)))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ArtifactUnreadable(f"{path} is damaged: {error}.", remedy=REMEDY) from error
    return rows, columns

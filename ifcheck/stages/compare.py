"""Stage `compare`: what changed between two studies, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ifcheck.agreement.differences import mean_difference
from ifcheck.agreement.statistics import holm
from ifcheck.config import Config, differences
from ifcheck.scores import ESTIMATORS, STEPS
from ifcheck.stages.studies import CELL_NAMES, KEY, Key, Row, StudyFolder, read_study
from ifcheck.stages.tables import write_json
from ifcheck.stages.wording import truth_name

# Means that differ by less than sums in another order do are the same.
SAME_RTOL, SAME_ATOL = 1e-9, 1e-12


@dataclass(frozen=True)
class Quantity:
    """A column of `results.csv` whose mean over seeds is compared."""

    name: str
    column: str
    of: tuple[str, ...]  # what has a value of its own, by columns of the key
    absolute: bool = False
    of_records: bool = True  # whether it takes a record that is ok
    of_baselines: bool = True


OF_CELL, OF_TRUTH = ("cell",), tuple(name for name in KEY if name != "estimator")
QUANTITIES = (
    Quantity("|Spearman|", "spearman", KEY, absolute=True),
    Quantity("slope", "slope", KEY, of_baselines=False),  # whose scores have no scale
    Quantity("|drift|", "null_drift", OF_TRUTH, absolute=True),
    Quantity("top eigenvalue", "top_eigenvalue", OF_CELL, of_records=False),
    Quantity("train accuracy", "train_accuracy", OF_CELL, of_records=False),
)


@dataclass(frozen=True)
class Comparison:
    """What is different in the second study, B, from the first, A."""

    first: Path
    second: Path
    settings: list[str]  # `train.epochs: 100, was 60000`
    rows: list[dict[str, Any]]  # one per quantity and whatever has a value of its own
    verdicts: list[dict[str, Any]]  # that are not the same
    only_first: list[dict[str, str]]  # cells, and comparisons of common cells, that B lacks
    only_second: list[dict[str, str]]
    notes: list[str]
    confidence: float  # of the intervals

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON can hold it, but for numbers that are nan."""
        return asdict(self) | {"first": str(self.first), "second": str(self.second)}


def compare(config: Config, first: Path, second: Path, out: Path | None = None) -> Comparison:
    """Compare the study in the folder `second` with that in `first`; write `out` if given.

    Means over seeds, of each seed's mean over test points, with intervals of
    `evaluate.confidence`; see `mean_difference`. P-values are adjusted for all rows by Holm's
    method, and `changed` says which are below 1 - confidence then.
    Raises: ArtifactUnreadable.
    """
    a, b = read_study(first), read_study(second)
    confidence = config.evaluate.confidence
    rows = [row for quantity in QUANTITIES for row in _rows(quantity, a, b, confidence)]
    for row, adjusted in zip(rows, holm([row["p_value"] for row in rows]).tolist(), strict=True):
        row["p_holm"] = adjusted
        row["changed"] = _changed(row, 1 - confidence)
    comparison = Comparison(
        first=first,
        second=second,
        settings=differences(b.identity, a.identity),
        rows=rows,
        verdicts=_verdicts(a, b),
        only_first=_missing(a, b),
        only_second=_missing(b, a),
        notes=_notes(a, b),
        confidence=confidence,
    )
    if out is not None:
        write_json(out, comparison.to_dict())
    return comparison


def _rows(
    quantity: Quantity, a: StudyFolder, b: StudyFolder, confidence: float
) -> list[dict[str, Any]]:
    """Return a row for everything that has this quantity in both studies, and a value in one."""
    if not (quantity.column in a.columns and quantity.column in b.columns):
        return []
    rows_a, rows_b = _grouped(quantity, a), _grouped(quantity, b)
    found = []
    for key in (key for key in rows_a if key in rows_b):
        before, after = (
            study.by_seed(rows, quantity.column, quantity.absolute, quantity.of_records)
            for study, rows in ((a, rows_a[key]), (b, rows_b[key]))
        )
        difference = mean_difference(before, after, confidence)
        if difference.n_first or difference.n_second:
            cell = {name: rows_a[key][0].get(name, "") for name in CELL_NAMES}
            labels = dict(zip(quantity.of, key, strict=True))
            found.append({"quantity": quantity.name, **cell, **labels, **asdict(difference)})
    return found


def _grouped(quantity: Quantity, study: StudyFolder) -> dict[Key, list[Row]]:
    groups: dict[Key, list[Row]] = {}
    for row in study.rows:
        if quantity.of_baselines or row["estimator"] not in _baselines():
            named = dict(zip(KEY, study.key(row), strict=True))
            groups.setdefault(tuple(named[name] for name in quantity.of), []).append(row)
    return groups


@cache
def _baselines() -> set[str]:
    return {name for name in ESTIMATORS if STEPS.create(ESTIMATORS.create(name).step).is_baseline}


def _changed(row: dict[str, Any], level: float) -> bool:
    return not is_same(row) and bool(row["p_holm"] < level)


def is_same(row: Mapping[str, Any]) -> bool:
    """Return whether both means are the same but for rounding."""
    return math.isclose(row["first"], row["second"], rel_tol=SAME_RTOL, abs_tol=SAME_ATOL)


def _verdicts(a: StudyFolder, b: StudyFolder) -> list[dict[str, Any]]:
    before, after = a.verdicts or {}, b.verdicts or {}
    cells = {row["cell"]: row for row in a.rows}
    return [
        {
            **{name: cells.get(key[0], {}).get(name, "") for name in CELL_NAMES},
            **dict(zip(KEY, key, strict=True)),
            "first": before[key],
            "second": after[key],
        }
        for key in before
        if key in after and before[key] != after[key]
    ]


def _missing(have: StudyFolder, lack: StudyFolder) -> list[dict[str, str]]:
    """Name the cells, and in cells of both the comparisons, that the other study lacks."""
    others, cells = set(lack.keys), set(lack.cells)
    missing = (dict(zip(KEY, key, strict=True)) for key in have.keys if key not in others)
    names = (
        (named["cell"], comparison_name(named) if named["cell"] in cells else "")
        for named in missing
    )
    return [{"cell": cell, "comparison": name} for cell, name in dict.fromkeys(names)]


def comparison_name(named: Mapping[str, Any]) -> str:
    """Return `estimator / truth`, with parameters, size of groups and selection where they tell.

    What all estimators have in common, as the drift, has the truth alone.
    """
    size = named["group_size"]
    parts = [
        f"{named['estimator']} /" if "estimator" in named else "",
        truth_name(named),
        "" if size == "1" else f"groups of {size}",
        named["selection"],
    ]
    return " ".join(filter(None, parts))


def _notes(a: StudyFolder, b: StudyFolder) -> list[str]:
    """Say what is not there to compare."""
    notes = [*_lacks("A", a), *_lacks("B", b)]
    without = [name for name, study in (("A", a), ("B", b)) if study.verdicts is None]
    if len(without) == 1:
        notes.append(f"{without[0]} has no verdicts: an older version wrote it.")
    return notes


def _lacks(name: str, study: StudyFolder) -> list[str]:
    notes = []
    if not study.finished:
        notes.append(
            f"{name} was interrupted, or is still running: it has no tests.csv. Compared is what "
            f"there is, from {len(study.cells)} cells."
        )
    lacking = [q.column for q in QUANTITIES if q.column not in study.columns]
    if lacking:
        notes.append(f"{name} has no column {', '.join(lacking)}: an older version wrote it.")
    if study.failures:
        first = study.failures[0]
        notes.append(
            f"{name} has cells or seeds that failed, {len(study.failures)} in all; the first is of "
            f"{first['cell']}: {first['status']}"
        )
    return notes

"""A comparison of two studies as tables and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ifcheck.agreement.differences import NO_SPREAD, PAIRED
from ifcheck.stages.columns import Columns, table_of
from ifcheck.stages.compare import OF_CELL, QUANTITIES, Comparison, comparison_name, is_same
from ifcheck.stages.exports import Table
from ifcheck.stages.wording import between, number, size_name

Row = Mapping[str, Any]

CELL: Columns = {"variant size": lambda row: cell_name(row)}
PAIR: Columns = {"of": comparison_name}
VERDICTS: Columns = {
    **CELL,
    **PAIR,
    "A": lambda row: str(row["first"]),
    "B": lambda row: str(row["second"]),
}


def comparison_tables(comparison: Comparison, only_changed: bool = False) -> list[Table]:
    """Return a table for each quantity that has rows, and one of the verdicts that changed."""
    shown = [row for row in comparison.rows if row["changed"] or not only_changed]
    tables = []
    for quantity in QUANTITIES:
        rows = [row for row in shown if row["quantity"] == quantity.name]
        who = CELL if quantity.of == OF_CELL else {**CELL, **PAIR}
        columns = {**who, **_numbers(comparison.confidence)}
        tables.append(table_of(f"{quantity.name}: means over seeds", rows, columns, shown))
    changed = table_of("verdicts that changed", comparison.verdicts, VERDICTS, shown)
    has_rows = [table for table in (*tables, changed) if table.rows]
    return has_rows or tables[:1]  # an export has headers even where nothing is left to show


def sentences(comparison: Comparison) -> list[str]:
    """Say of each change that is notable what it is, surest first; or that there is none."""
    changed = [row for row in comparison.rows if row["changed"]]
    # Without spread there is no p-value, and no doubt.
    changed.sort(key=lambda row: row["p_holm"] if row["p_holm"] == row["p_holm"] else 0.0)
    return [_sentence(row) for row in changed] or [_nothing(comparison.rows)]


def missing_lines(missing: Sequence[Mapping[str, str]]) -> list[str]:
    """Name cells that are missing, then comparisons, each with the cells that lack it."""
    cells: dict[str, list[str]] = {}
    for row in missing:
        cells.setdefault(row["comparison"], []).append(row["cell"])
    whole = cells.pop("", [])
    return [*whole, *(f"{name} of {', '.join(found)}" for name, found in cells.items())]


def cell_name(row: Row) -> str:
    """Return variant and size of a row's cell; its id where the study's columns lack them."""
    if not row["variant"]:
        return str(row["cell"])
    return f"{row['variant']} {size_name({**row, 'depth': row['depth'] or None})}"


def seeds_name(row: Row) -> str:
    """Return how many seeds a difference is of, which are in pairs where both have the same."""
    if row["method"] == PAIRED:
        return f"{row['n_first']} pairs"
    return f"{row['n_first']} and {row['n_second']}"


def _numbers(confidence: float) -> Columns:
    return {
        "A": lambda row: number(row["first"]),
        "B": lambda row: number(row["second"]),
        "B − A": lambda row: number(row["difference"], 2),
        f"{confidence:.0%} interval": lambda row: between(row["low"], row["high"]),
        "p (Holm)": lambda row: number(row["p_holm"], 2),
        "seeds": seeds_name,
    }


def _nothing(rows: Sequence[Row]) -> str:
    same = sum(is_same(row) for row in rows)
    if not rows:
        return "The studies have no number in common."
    if same == len(rows):
        return f"All {same} numbers are the same."
    return (
        f"{same} of {len(rows)} numbers unchanged; of the others no difference stands out, tested "
        "together."
    )


def _sentence(row: Row) -> str:
    of = f", {comparison_name(row)}" if "truth" in row else ""
    moved = "rose" if row["difference"] > 0 else "fell"
    sure = (
        f"{number(row['difference'], 2)}, interval {between(row['low'], row['high'])}, "
        f"p {number(row['p_holm'], 2)} by Holm"
    )
    if row["reason"] == NO_SPREAD:
        sure = (
            f"{number(row['difference'], 2)}, without any spread, "
            f"p {number(row['p_holm'], 2)} by Holm"
        )
    return (
        f"{cell_name(row)}{of}: {row['quantity']} {moved} from {number(row['first'])} to "
        f"{number(row['second'])} ({sure}; seeds: {seeds_name(row)})."
    )

"""The table of agreement by selection of the removed rows, which fits 100 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ifcheck.cli import terminal
from ifcheck.cli.terminal import UNDEFINED, number
from ifcheck.stages.wording import cell_name, interval, prediction_name, truth_name

Row = Mapping[str, Any]


def show_strata(strata: Sequence[Row]) -> None:
    """Show a line for each selection of rows that a truth removed; nothing where it is one.

    A truth that was refused has no lines: other tables say why.
    """
    defined = [row for row in strata if any(map(_is_defined, row["selections"].values()))]
    if not defined:
        return
    columns = ["truth / prediction", "rows", "|Spearman|", "chance", "slope", "R²", "largest gap"]
    terminal.show_table(
        "agreement by what the removed rows were chosen for",
        columns,
        [line for row in defined for line in _lines(row)],
    )


def _is_defined(found: Row) -> bool:
    return bool(found["abs_spearman_mean"] == found["abs_spearman_mean"])


def _lines(row: Row) -> list[list[str]]:
    """Return a line for each selection; what all have in common is beside the first two."""
    names = [_truth(row), f"  / {prediction_name(row)}"]
    beside = [_difference(row), f"{row['first']} - {row['second']}" if row["first"] else ""]
    lines = []
    for place, (selection, found) in enumerate(row["selections"].items()):
        lines.append(
            [
                names[place] if place < 2 else "",
                selection.removesuffix(".npz"),
                interval(found["abs_spearman_mean"], found["abs_spearman_ci95"]),
                number(found["chance_abs_spearman"], 2),
                *([UNDEFINED] * 2 if row["baseline"] else _scale(found)),
                beside[place] if place < 2 else "",
            ]
        )
    return lines


def _truth(row: Row) -> str:
    """Return the truth, after the cell of a study."""
    cell = f"{cell_name(row)} " if "cell" in row else ""
    return cell + truth_name(row)


def _scale(found: Row) -> list[str]:
    return [number(found[name], 2) for name in ("slope_median", "r2_median")]


def _difference(row: Row) -> str:
    if row["difference"] != row["difference"]:
        return UNDEFINED
    if row["low"] != row["low"]:
        return f"{row['difference']:.2f}"
    return f"{row['difference']:.2f} ({row['low']:.2f} to {row['high']:.2f})"

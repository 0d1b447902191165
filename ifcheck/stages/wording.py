"""How numbers and names read, on the terminal and in exported tables alike; free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UNDEFINED = "–"

Row = Mapping[str, Any]


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with some significant digits, or a dash where it is undefined."""
    if value is None or value != value:
        return UNDEFINED
    return f"{value:.{digits}g}".replace("inf", "∞")


def interval(mean: float | None, half_width: float | None) -> str:
    """Return mean ± half-width in as few characters as two digits take."""
    if mean is None or mean != mean:
        return UNDEFINED
    if half_width is None or half_width != half_width:
        return f"{mean:.2f}".replace("inf", "∞")
    return f"{mean:.2f}±{half_width:.2f}".replace("±0.", "±.")


def between(low: float | None, high: float | None, digits: int = 2) -> str:
    """Return `low to high`, or a dash where there is no interval."""
    if low is None or low != low or high is None or high != high:
        return UNDEFINED
    return f"{number(low, digits)} to {number(high, digits)}"


def share(value: float | None) -> str:
    """Return a fraction in percent, or a dash where it is undefined."""
    if value is None or value != value:
        return UNDEFINED
    return f"{round(value, 2) + 0.0:.0%}"  # without the sign of a zero


def pair_name(summary: Row) -> str:
    """Return the names of a pair's two files without what all of them have in common."""
    return f"{prediction_name(summary)} / {_bare(summary['retrain'], 'retrain-')}"


def prediction_name(summary: Row) -> str:
    """Return the name of a file of scores without what all of them have in common."""
    return _bare(summary["influence"], "influence-")


def size_name(row: Row) -> str:
    """Return the size of a cell's network: `depth x width`, or its name where it has neither."""
    return f"{row['depth']}x{row['width']}" if row["depth"] is not None else str(row["network"])


def cell_name(row: Row) -> str:
    """Return variant and size of a row's cell."""
    return f"{row['variant']} {size_name(row)}"


def truth_name(row: Row) -> str:
    """Return a truth, with the parameters that it moves where these are not the head's."""
    params = row["retrain_params"]
    return str(row["truth"]) if params == "head" else f"{row['truth']}:{params}"


def _bare(file: str, prefix: str) -> str:
    return file.removesuffix(".npz").removeprefix(prefix)

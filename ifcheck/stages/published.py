"""Figures that the paper's authors released, to be shown beside ours."""

from __future__ import annotations

import csv
from functools import cache
from importlib import resources
from typing import Any

COLUMNS = ("abs_spearman_mean", "abs_spearman_ci95", "top_eigenvalue_median")


def published_figures(columns: dict[str, Any], group_size: int = 1) -> dict[str, float | None]:
    """Return the released figures of a cell, under `published_*`; None where there are none.

    They come from influence on the last layer's weights (as the estimator `authors`),
    against retraining of the whole network, 25 rows removed. A cell at depth 1 and width 5
    belongs to both sweeps; the files hold it once.
    """
    rows = _rows() if group_size == 1 else ()  # theirs are of single rows
    match = next((row for row in rows if _is_cell(row, columns)), None)
    found = {name: None if match is None else _number(match[name]) for name in COLUMNS}
    return {
        "published_abs_spearman": found["abs_spearman_mean"],
        "published_abs_spearman_ci95": found["abs_spearman_ci95"],
        "published_top_eigenvalue": found["top_eigenvalue_median"],
    }


@cache
def _rows() -> tuple[dict[str, str], ...]:
    text = resources.files("ifcheck").joinpath("published.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


def _is_cell(row: dict[str, str], columns: dict[str, Any]) -> bool:
    if any(row[name] != columns[name] for name in ("dataset", "network", "variant")):
        return False
    swept, fixed, study_value = {
        "depth": ("depth", "width", 5),
        "width": ("width", "depth", 1),
    }.get(row["study"], ("", "", 0))
    if not swept:  # a network of one size, which fixes its activation too
        return row["size"] == ""
    size = columns[swept] == int(row["size"]) and columns[fixed] == study_value
    return bool(size and columns["activation"] == row["activation"])


def _number(text: str) -> float | None:
    return float(text) if text else None

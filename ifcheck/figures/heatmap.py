"""Agreement of all cells at one look: variants by sizes, coloured, with the verdict of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ifcheck.agreement.verdict import MARKS
from ifcheck.errors import UnusableInput
from ifcheck.figures import canvas
from ifcheck.figures.canvas import Floats
from ifcheck.figures.points import Row, named_pair, number

COLOURS = "cividis"  # perceptually uniform, the same to colour-blind readers, rising in greyscale
ROW_HEIGHT = 0.36  # inches: a number and a mark of 8 point text above each other
TITLE_HEIGHT = 0.95  # inches of a panel beside its rows: title, ticks, name of the axis
WIDE = 5  # sizes, beyond which a number does not fit into a cell of a shared row of panels
DARK = 0.179  # relative luminance below which white text has the greater contrast (WCAG 2)


@dataclass(frozen=True)
class HeatCell:
    """One coloured cell."""

    panel: str
    row: str  # variant
    column: str  # size
    value: float  # nan: undefined
    verdict: str  # "" where there is none


def heat_map(path: Path, rows: Sequence[Row]) -> str:
    """Write a picture of |Spearman| of all variants and sizes to `path`, as `canvas.save`.

    Each row is a mapping with variant, estimator, truth, abs_spearman_mean and, where they exist,
    dataset, network, depth, width, retrain_params, verdict.
    Raises: UnusableInput where no row has a value; OutputRefused, RunFailed as `canvas.save`.
    """
    return canvas.save(draw_heat_map(rows), path)


def draw_heat_map(rows: Sequence[Row]) -> Figure:
    """Return the figure; arguments and errors as in `heat_map`."""
    cells = _read(rows)
    if not any(math.isfinite(cell.value) for cell in cells):
        raise UnusableInput(
            f"none of the {len(cells)} cells has a value of 'abs_spearman_mean'.",
            remedy="Check why each is undefined or failed; there is nothing to draw.",
        )
    panels, variants, sizes = (
        list(dict.fromkeys(getattr(cell, name) for cell in cells))
        for name in ("panel", "row", "column")
    )
    height = TITLE_HEIGHT + ROW_HEIGHT * len(variants)
    most = 3 if len(sizes) <= WIDE else 1
    figure, drawn = canvas.panels(canvas.wrapped_places(len(panels), most), height)
    for axes, panel in zip(drawn, panels, strict=True):
        _draw_panel(axes, [cell for cell in cells if cell.panel == panel], variants, sizes)
        canvas.label(axes, panel, "depth × width" if any("×" in s for s in sizes) else "", "")
    bar = figure.colorbar(drawn[0].images[0], ax=drawn, fraction=0.03, pad=0.01)
    bar.set_label("mean |Spearman|", fontsize=canvas.TEXT)
    bar.ax.tick_params(labelsize=canvas.SMALL_TEXT)
    canvas.caption(figure, _caption(cells))
    return figure


def _draw_panel(
    axes: Axes, cells: Sequence[HeatCell], variants: Sequence[str], sizes: Sequence[str]
) -> None:
    values: Floats = np.full((len(variants), len(sizes)), np.nan)
    for cell in cells:
        values[variants.index(cell.row), sizes.index(cell.column)] = cell.value
    axes.grid(visible=False)
    axes.set_facecolor("0.93")
    axes.imshow(values, cmap=matplotlib.colormaps[COLOURS], vmin=0, vmax=1, aspect="auto")
    for cell in cells:
        known = math.isfinite(cell.value)
        mark = MARKS.get(cell.verdict, cell.verdict)
        axes.text(
            sizes.index(cell.column),
            variants.index(cell.row),
            " ".join(filter(None, [f"{cell.value:.2f}" if known else "–", mark])),
            ha="center",
            va="center",
            fontsize=canvas.SMALL_TEXT,
            color="white" if known and _luminance(cell.value) < DARK else "black",
        )
    axes.set_xticks(range(len(sizes)), sizes)
    axes.set_yticks(range(len(variants)), variants)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _luminance(value: float) -> float:
    """Return the relative luminance of a value's colour, as WCAG 2 defines it."""
    shares = np.array(matplotlib.colormaps[COLOURS](value)[:3])
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def _caption(cells: Sequence[HeatCell]) -> str:
    undefined = sum(math.isnan(cell.value) for cell in cells)
    given = {cell.verdict for cell in cells}
    marks = ", ".join(f"{mark} = {name}" for name, mark in MARKS.items() if name in given)
    return (
        "How to read: the brighter a cell, the better predicted changes of the test loss order the "
        "true ones for that variant (rows) and size (columns); the number is the mean |Spearman|"
        + (f", the letter the verdict ({marks})" if marks else "")
        + (f"; {undefined} of {len(cells)} cells have no value (–)" if undefined else "")
        + "."
    )


def _read(rows: Sequence[Row]) -> list[HeatCell]:
    several = {name for name in ("dataset", "network") if len({row.get(name) for row in rows}) > 1}
    cells = []
    for row in rows:
        estimator, truth = named_pair(row)
        if "variant" not in row:
            raise UnusableInput(
                "a row does not name its variant; expected the cell it is of.",
                remedy="Give the rows of a study's summary.",
            )
        sizes = [str(row[name]) for name in ("depth", "width") if row.get(name) not in (None, "")]
        names = [
            str(row[name])
            for name in ("dataset", "network", "variant")
            if name in several or name == "variant"
        ]
        cells.append(
            HeatCell(
                panel=f"estimator {estimator}, truth {truth}",
                row=" ".join(names),
                column=" × ".join(sizes),
                value=number(row, "abs_spearman_mean"),
                verdict=str(row.get("verdict") or ""),
            )
        )
    return cells

"""What all pictures share: panels in a grid, a legend, a caption, a PNG that appears whole."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.typing import LineStyleType

from ifcheck.artifacts.files import atomic_write

DPI = 150
WIDTH = 10.0  # inches
MARGIN = 1.3  # inches of height for the legend and the caption
PADDING = 0.07  # inches around each panel and along the edge
TEXT, SMALL_TEXT = 9, 8  # points
CAPTION_COLUMNS = 138  # characters of 9 point text that fit into 10 inches
TITLE_COLUMNS = 104  # the same in bold, shared by the panels of a row, which axes make narrower

# Colours of Okabe & Ito (2008), Color Universal Design: told apart by colour-blind readers.
BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK = "#CC79A7", "#56B4E9", "#000000"
GREY = "#8C8C8C"  # published values, reference lines


@dataclass(frozen=True)
class Look:
    """How a variant is drawn: each property tells it apart without the others."""

    color: str
    marker: str
    line: LineStyleType


LOOKS: dict[str, Look] = {
    "none": Look(BLUE, "o", "-"),
    "swa": Look(ORANGE, "s", "--"),
    "l2": Look(GREEN, "^", "-."),
    "l2-swa": Look(VERMILLION, "D", ":"),
    "bnn": Look(PURPLE, "v", (0, (6, 1.5, 1, 1.5, 1, 1.5))),
}
SPARE_COLORS = (BLACK, SKY)  # 2 and 5 share no divisor: ten spare looks before one comes back
SPARE_MARKERS = ("P", "X", "*", "h", "<")
SPARE_LINES: tuple[LineStyleType, ...] = (
    (0, (3, 1, 1, 1)),
    (0, (8, 2)),
    (0, (1, 3)),
    (0, (5, 1)),
    (0, (4, 1, 4, 3)),
)


def looks(variants: Iterable[str]) -> dict[str, Look]:
    """Return the look of each variant: the paper's in its order, then others by name."""
    names = set(variants)
    spare = map(Look, cycle(SPARE_COLORS), cycle(SPARE_MARKERS), cycle(SPARE_LINES))
    known = {name: look for name, look in LOOKS.items() if name in names}
    return known | dict(zip(sorted(names - known.keys()), spare, strict=False))


def panels(places: Sequence[tuple[int, int]], height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels `height` inches high at these (row, column) places."""
    rows, columns = (1 + max(place[axis] for place in places) for axis in (0, 1))
    layout = ConstrainedLayoutEngine(w_pad=PADDING, h_pad=PADDING)
    figure = Figure(figsize=(WIDTH, MARGIN + rows * height), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    spec = figure.add_gridspec(rows, columns)
    drawn = [figure.add_subplot(spec[row, column]) for row, column in places]
    for axes in drawn:
        axes.tick_params(which="both", labelsize=SMALL_TEXT)
        axes.yaxis.get_offset_text().set_fontsize(SMALL_TEXT)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, drawn


def wrapped_places(count: int, most: int = 3) -> list[tuple[int, int]]:
    """Return (row, column) places of `count` panels, row by row, in at most `most` columns."""
    rows = math.ceil(count / most)
    return [divmod(index, math.ceil(count / rows)) for index in range(count)]


def label(axes: Axes, title: str, x: str, y: str) -> None:
    """Write the title of a panel, wrapped to its width, and the names of its axes."""
    spec = axes.get_subplotspec()
    columns = 1 if spec is None else spec.get_gridspec().ncols
    lines = [textwrap.fill(line, TITLE_COLUMNS // columns) for line in title.splitlines()]
    axes.set_title("\n".join(lines), fontsize=TEXT, fontweight="bold")
    axes.set_xlabel(x, fontsize=TEXT)
    axes.set_ylabel(y, fontsize=TEXT)


def legend(figure: Figure, handles: Sequence[Artist], title: str = "") -> None:
    """Put one legend for all panels above them."""
    figure.legend(
        handles=list(handles),
        loc="outside upper center",
        ncols=min(len(handles), 7),
        title=title or None,
        fontsize=TEXT,
        title_fontsize=TEXT,
        frameon=False,
        handlelength=3.2,
    )


def caption(figure: Figure, sentence: str) -> None:
    """Write below the panels how to read them."""
    figure.supxlabel(textwrap.fill(sentence, CAPTION_COLUMNS), fontsize=TEXT)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG file to `path`, all or nothing; missing folders are made.

    Raises: OutputRefused where the folder cannot be written, RunFailed where the disk is full.
    """
    atomic_write(path, lambda temporary: figure.savefig(temporary, format="png", dpi=DPI))

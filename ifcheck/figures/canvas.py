"""What all pictures share: panels in a grid, a legend, a caption, files that appear whole."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.typing import LineStyleType
from numpy.typing import NDArray

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
CHANCE: dict[str, Any] = {"color": "0.3", "linestyle": "--", "linewidth": 1.0}
BAND = "#C9C9C9"  # around published values; lighter than any line, darker than the grid
BAND_OPACITY = 0.55  # bands of several variants stay apart where they cross

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Look:
    """How a variant or an estimator is drawn: each property tells it apart without the others."""

    color: str
    marker: str
    line: LineStyleType
    hatch: str = ""  # of bars


LOOKS: dict[str, Look] = {
    "none": Look(BLUE, "o", "-"),
    "swa": Look(ORANGE, "s", "--", "//"),
    "l2": Look(GREEN, "^", "-.", ".."),
    "l2-swa": Look(VERMILLION, "D", ":", "xx"),
    "bnn": Look(PURPLE, "v", (0, (6, 1.5, 1, 1.5, 1, 1.5)), "--"),
}
ESTIMATORS: dict[str, Look] = {
    "objective": Look(BLUE, "o", "-"),
    "paper": Look(ORANGE, "s", "--", "//"),
    "authors": Look(GREEN, "^", "-.", ".."),
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
SPARE_HATCHES = ("++", "oo", "||", "**", "OO")


def looks(names: Iterable[str], known: Mapping[str, Look] = LOOKS) -> dict[str, Look]:
    """Return the look of each name: the known ones in their order, then others by name."""
    wanted = set(names)
    spare = map(
        Look, cycle(SPARE_COLORS), cycle(SPARE_MARKERS), cycle(SPARE_LINES), cycle(SPARE_HATCHES)
    )
    found = {name: look for name, look in known.items() if name in wanted}
    return found | dict(zip(sorted(wanted - found.keys()), spare, strict=False))


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


def caption(figure: Figure, sentence: str, remark: str = "") -> None:
    """Write below the panels how to read them, and a remark on what they show."""
    text = " ".join(filter(None, [sentence, remark]))
    figure.supxlabel(textwrap.fill(text, CAPTION_COLUMNS), fontsize=TEXT)


def published_band(
    axes: Axes,
    places: Floats,
    values: Floats,
    half_widths: Floats,
    width: float,
    *,
    line: LineStyleType = "-",
    joined: bool = True,
    color: str = GREY,
    above: float = 1,
) -> None:
    """Draw published values as a grey line, in a grey band where they have an interval.

    Both are flat over `width` about each place, and joined from place to place or not. `above` is
    the height in the pile of what is drawn. Shapes: (places,).
    """
    edges = [places - width / 2, places + width / 2]
    ends = np.column_stack([*edges, *([] if joined else [np.full(len(places), np.nan)])])
    x = ends.ravel()
    middle, around = (np.repeat(each, ends.shape[1]) for each in (values, half_widths))
    low, high = middle - around, middle + around
    shade: dict[str, Any] = {"color": BAND, "alpha": BAND_OPACITY, "linewidth": 0}
    axes.fill_between(x, low, high, zorder=above, **shade)
    axes.plot(x, middle, color=color, linestyle=line, linewidth=1.3, zorder=above)


def published_handle(with_interval: bool, color: str = GREY) -> Artist:
    """Return what the legend shows of `published_band`."""
    if with_interval:
        return Patch(facecolor=BAND, edgecolor=color, linewidth=1.0, label="published")
    return Line2D([], [], color=color, linewidth=1.3, label="published")


def save(figure: Figure, path: Path) -> str:
    """Write a PNG file to `path`, an SVG file beside it, each all or nothing; return the caption.

    Missing folders are made.
    Raises: OutputRefused where the folder cannot be written, RunFailed where the disk is full.
    """
    atomic_write(path, lambda temporary: figure.savefig(temporary, format="png", dpi=DPI))
    # Text stays text, to be read aloud and searched; the same figure gives the same bytes.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "ifcheck"}):
        atomic_write(path.with_suffix(".svg"), lambda temporary: _save_svg(figure, temporary))
    return figure.get_supxlabel().replace("\n", " ")


def _save_svg(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="svg", metadata={"Date": None})

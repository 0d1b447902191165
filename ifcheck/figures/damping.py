"""Agreement along a path of dampings, with 0 apart on the left of a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ifcheck.errors import UnusableInput
from ifcheck.figures import canvas
from ifcheck.figures.canvas import Floats, Look
from ifcheck.figures.points import Row, named_pair, number

PANEL_HEIGHT = 2.4  # inches
ROOM = 1.06  # upper end of the axis: a ring around 1 stays clear of the title
MOST_COLUMNS = 4  # truths side by side; beyond them panels wrap
GAP = 1.0  # decades between 0 and the smallest positive damping
SPREAD = 0.36  # decades that the lines of a panel share, so that their intervals stay apart
MOST_TICKS = 4  # at powers of ten
LINE: dict[str, Any] = {"linewidth": 1.2, "elinewidth": 0.8, "capsize": 1.5, "markersize": 3.5}
OWN: dict[str, Any] = {
    "color": "0.1",
    "marker": "o",
    "linestyle": "none",
    "markersize": 9,
    "markerfacecolor": "none",
    "zorder": 5,
}
BREAK: dict[str, Any] = {"color": "0.75", "linestyle": ":", "linewidth": 0.9, "zorder": 0}


@dataclass(frozen=True)
class Along:
    """How one estimator agrees with one truth at one damping; undefined numbers are `nan`."""

    panel: str
    estimator: str
    truth: str
    damping: float
    value: float
    half_width: float  # of the 95% interval
    own_damping: float
    own_value: float
    chance: float


def damping_path(path: Path, rows: Sequence[Row], remark: str = "") -> str:
    """Write a picture of |Spearman| along dampings to `path`, as `canvas.save`.

    `remark` is a sentence to end the caption with.

    Each row is a mapping with estimator, truth, damping, abs_spearman_mean and, where they exist,
    panel (what else the title says), retrain_params, abs_spearman_ci95 (half-width), own_damping
    and own_abs_spearman (of the estimator as named), chance_abs_spearman. Each panel and truth has
    a panel, each estimator a line in it.
    Raises: UnusableInput where no row has a value; OutputRefused, RunFailed as `canvas.save`.
    """
    return canvas.save(draw_damping_path(rows, remark), path)


def draw_damping_path(rows: Sequence[Row], remark: str = "") -> Figure:
    """Return the figure; arguments and errors as in `damping_path`."""
    found = [_read(row) for row in rows]
    defined = [each for each in found if math.isfinite(each.value)]
    if not defined:
        raise UnusableInput(
            f"none of the {len(found)} dampings has an agreement to draw.",
            remedy="Score along a path: --set influence.damping=path",
        )
    places = _places(found)
    looks = canvas.looks((each.estimator for each in defined), canvas.ESTIMATORS)
    scale = Scale.of(defined)
    figure, drawn = canvas.panels(list(places.values()), PANEL_HEIGHT)
    for axes, name in zip(drawn, places, strict=True):
        own = [each for each in defined if (each.panel, each.truth) == name]
        _draw_panel(axes, own, looks, scale)
        row, column = places[name]
        first = column == min(place[1] for place in places.values() if place[0] == row)
        title = "\n".join(filter(None, name))
        canvas.label(axes, title, "damping", "|Spearman|" if first else "")
    canvas.legend(figure, _handles(looks, defined))
    canvas.caption(figure, _caption(found, defined), remark)
    return figure


@dataclass(frozen=True)
class Scale:
    """Where a damping stands: its power of ten, and 0 apart, to the left of all powers."""

    low: float  # powers of ten
    high: float

    @classmethod
    def of(cls, along: Iterable[Along]) -> Scale:
        """Return the scale that holds all dampings."""
        dampings = [damping for each in along for damping in (each.damping, each.own_damping)]
        positive = [damping for damping in dampings if damping > 0] or [1.0]
        return cls(math.log10(min(positive)), math.log10(max(positive)))

    def place(self, damping: float) -> float:
        """Return the place of a damping on the axis."""
        return math.log10(damping) if damping > 0 else self.low - GAP

    def apply(self, axes: Axes) -> None:
        """Write dampings along the axis, and mark where it is broken."""
        step = max(1, math.ceil((self.high - self.low) / MOST_TICKS))
        every = range(math.ceil(self.low), math.floor(self.high) + 1)
        # The next to 0 has no room for its label.
        powers = [power for power in every if power % step == 0 and power > self.low + GAP / 2]
        ticks = [self.place(0.0), *(float(power) for power in powers)]
        axes.set_xticks(ticks, ["0", *(f"{10.0**power:g}" for power in powers)])
        axes.set_xlim(self.low - 1.5 * GAP, self.high + 0.5 * GAP)
        axes.axvline(self.low - GAP / 2, **BREAK)


def _places(found: Sequence[Along]) -> dict[tuple[str, str], tuple[int, int]]:
    """Give each panel a row and each truth a column; wrap where there are many truths.

    A truth that is undefined in some panels has its column all the same.
    """
    names = dict.fromkeys((each.panel, each.truth) for each in found)
    defined = {(each.panel, each.truth) for each in found if math.isfinite(each.value)}
    shown = [name for name in names if name in defined]
    rows = list(dict.fromkeys(panel for panel, _ in shown))
    drawn = {truth for _, truth in shown}
    columns = list(dict.fromkeys(truth for _, truth in names if truth in drawn))
    if len(rows) == 1 or len(columns) > MOST_COLUMNS:
        return dict(zip(shown, canvas.wrapped_places(len(shown)), strict=True))
    return {(panel, truth): (rows.index(panel), columns.index(truth)) for panel, truth in shown}


def _draw_panel(axes: Axes, along: Sequence[Along], looks: dict[str, Look], scale: Scale) -> None:
    for place, (estimator, look) in enumerate(looks.items()):
        shift = SPREAD / len(looks) * (place - (len(looks) - 1) / 2)
        own = [each for each in along if each.estimator == estimator]
        _draw_line(axes, own, look, scale, shift)
    for level in _levels(along):
        axes.axhline(level, **canvas.CHANCE)
    scale.apply(axes)
    axes.set_ylim(0, ROOM)


def _draw_line(axes: Axes, along: Sequence[Along], look: Look, scale: Scale, shift: float) -> None:
    """Draw an estimator's agreement, not joined from 0 to the smallest power, and ring its own."""
    if not along:
        return
    ordered = sorted(along, key=lambda each: each.damping)
    for apart in (True, False):
        part = [each for each in ordered if (each.damping == 0) == apart]
        x = np.array([scale.place(each.damping) for each in part]) + shift
        values: Floats = np.array([each.value for each in part])
        bars: Floats = np.array([each.half_width for each in part])
        drawn = axes.errorbar(
            x, values, bars, color=look.color, marker=look.marker, linestyle=look.line, **LINE
        )
        drawn.lines[0].set_clip_on(False)  # whole markers at 0 and 1
    own = ordered[0]
    if math.isfinite(own.own_damping + own.own_value):
        axes.plot([scale.place(own.own_damping) + shift], [own.own_value], **OWN, clip_on=False)


def _levels(along: Iterable[Along]) -> list[float]:
    return sorted({round(each.chance, 3) for each in along if math.isfinite(each.chance)})


def _handles(looks: dict[str, Look], along: Sequence[Along]) -> list[Artist]:
    handles: list[Artist] = [
        Line2D([], [], color=look.color, marker=look.marker, linestyle=look.line, label=name)
        for name, look in looks.items()
    ]
    if any(math.isfinite(each.own_damping + each.own_value) for each in along):
        handles.append(Line2D([], [], label="the estimator's own damping", **OWN))
    if _levels(along):
        handles.append(Line2D([], [], label="expected by chance", **canvas.CHANCE))
    return handles


def _caption(found: Sequence[Along], defined: Sequence[Along]) -> str:
    undefined = len(found) - len(defined)
    intervals = any(math.isfinite(each.half_width) for each in defined)
    return (
        "How to read: each line is the mean |Spearman| of one estimator with the truth as more "
        "damping is added to its Hessian (logarithmic axis, no damping apart on the left); a flat "
        "line means that the choice hardly matters, a peak that the agreement depends on it"
        + "; bars are 95% intervals" * intervals
        + (f"; {undefined} of {len(found)} dampings have no value" if undefined else "")
        + "."
    )


def _read(row: Row) -> Along:
    estimator, truth = named_pair(row)
    return Along(
        panel=str(row.get("panel", "")),
        estimator=estimator,
        truth=f"truth {truth}",
        damping=number(row, "damping"),
        value=number(row, "abs_spearman_mean"),
        half_width=number(row, "abs_spearman_ci95"),
        own_damping=number(row, "own_damping"),
        own_value=number(row, "own_abs_spearman"),
        chance=number(row, "chance_abs_spearman"),
    )

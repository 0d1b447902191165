"""Figures 1 and 3: agreement and the top eigenvalue against the size of the network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import SymmetricalLogLocator

from ifcheck.figures import canvas, points
from ifcheck.figures.canvas import Look
from ifcheck.figures.points import AGREEMENT, EIGENVALUE, Point, Row, Source, Sweep

SPREAD = 0.72  # share of the distance between two sizes that the variants fill
AGREEMENT_HEIGHT, EIGENVALUE_HEIGHT = 2.4, 3.4  # inches of a panel
SYMLOG_DECADES = 8  # a symlog axis is linear below its largest value by this many decades
SYMLOG_TICKS = 10  # at most about this many on an axis
ROOM = 2.0  # factor by which a log axis goes beyond the values on it
OURS: dict[str, Any] = {"linewidth": 1.1, "elinewidth": 1.1, "capsize": 1.5, "zorder": 3}
MARKER_SIZE = 4.5  # points
RELEASED = "in their variant's line, joined over sizes that were not released"


@dataclass(frozen=True)
class Panel:
    """One sweep over sizes, and all points of the panel's name."""

    name: str
    sweep: Sweep
    points: tuple[Point, ...]
    place: tuple[int, int]  # row, column

    @property
    def shown(self) -> list[Point]:
        """The points on this sweep."""
        return [point for point in self.points if point.size in self.sweep.sizes]


@dataclass(frozen=True)
class Drawing:
    """A figure with the panels on its axes and the points they were drawn from."""

    figure: Figure
    panels: list[Panel]
    points: list[Point]

    def __iter__(self) -> Iterator[tuple[Axes, Panel]]:
        return zip(self.figure.axes, self.panels, strict=True)

    @property
    def has_published(self) -> bool:
        """Whether a released value is shown."""
        return any(math.isfinite(p.published) for panel in self.panels for p in panel.shown)

    @property
    def has_published_interval(self) -> bool:
        """Whether a released value is shown with its interval."""
        shown = [point for panel in self.panels for point in panel.shown]
        return any(math.isfinite(p.published + p.published_half_width) for p in shown)

    def add_legend(self, rows: Sequence[Row], more: Sequence[Artist]) -> None:
        """Name the variants, the published values, `more`, and what all rows have in common."""
        looks = canvas.looks(point.variant for point in self.points)
        handles: list[Artist] = [_handle(name, look) for name, look in looks.items()]
        if self.has_published:
            handles.append(canvas.published_handle(self.has_published_interval))
        networks = {(row.get("dataset"), row.get("network")) for row in rows}
        shared = networks.pop() if len(networks) == 1 else ()
        title = ", ".join(str(name) for name in shared if name)
        canvas.legend(self.figure, [*handles, *more], title)

    def remarks(self, published: str = "") -> str:
        """Say what the bars are and which points are missing, to go on with a sentence."""
        parts = [_interval_remark(self.points)]
        if published and self.has_published:
            parts.append(f"published values are {published}")
        total = len(self.points)
        undefined = sum(math.isnan(point.value) for point in self.points)
        if undefined:
            parts.append(f"{undefined} of {total} cells have no value and are left out")
        shown = len({id(point) for panel in self.panels for point in panel.shown})
        if shown < total:
            parts.append(f"{total - shown} of {total} cells are of other sizes and not shown")
        return "".join(f"; {part}" for part in parts) + "."


def figure_1(path: Path, rows: Sequence[Row]) -> str:
    """Write a picture of |Spearman| against size to `path`, as `canvas.save`.

    Each row is a mapping with depth, width, variant, estimator, truth, abs_spearman_mean and,
    where they exist, abs_spearman_ci95, published_abs_spearman, published_abs_spearman_ci95
    (half-widths), chance_abs_spearman, seeds, dataset, network, retrain_params. Each pair of
    estimator and truth has a panel, or two side by side where depth and width both vary.
    Undefined values (None or nan) are left out, and the caption counts them.

    Raises: UnusableInput as `points.read_points`; OutputRefused, RunFailed as `canvas.save`.
    Reference: Epifano et al., figure 1.
    """
    return canvas.save(draw_agreement(rows), path)


def figure_3(path: Path, rows: Sequence[Row]) -> str:
    """Write a picture of the Hessian's top eigenvalue against size to `path`, as `canvas.save`.

    Each row is a mapping with depth, width, variant, top_eigenvalue_mean and, where they
    exist, top_eigenvalue_ci95 (half-width), published_top_eigenvalue, seeds, dataset, network.
    Rows of the same cell repeat its value. The y axis is logarithmic where all values of a
    panel are positive, symmetrically logarithmic otherwise.

    Raises: UnusableInput as `points.read_points`; OutputRefused, RunFailed as `canvas.save`.
    Reference: Epifano et al., figure 3.
    """
    return canvas.save(draw_eigenvalues(rows), path)


def draw_agreement(rows: Sequence[Row]) -> Figure:
    """Return figure 1; arguments and errors as there."""
    drawing = _draw(rows, AGREEMENT, "|Spearman|", AGREEMENT_HEIGHT)
    levels = [level for axes, panel in drawing for level in _draw_chance(axes, panel)]
    chance = [Line2D([], [], label="expected by chance", **canvas.CHANCE)] if levels else []
    drawing.add_legend(rows, chance)
    canvas.caption(
        drawing.figure,
        "How to read: the higher a marker, the better the predicted changes of the test loss "
        "order the true ones (mean |Spearman|; 1: the same order, or exactly the reverse)"
        + ", while at the dashed line they agree no better than by chance" * bool(levels)
        + drawing.remarks(published=f"means with 95% intervals, {RELEASED}"),
    )
    return drawing.figure


def draw_eigenvalues(rows: Sequence[Row]) -> Figure:
    """Return figure 3; arguments and errors as there."""
    drawing = _draw(rows, EIGENVALUE, "top eigenvalue", EIGENVALUE_HEIGHT)
    for axes, panel in drawing:
        _scale_eigenvalues(axes, panel.points)
    drawing.add_legend(rows, [])
    canvas.caption(
        drawing.figure,
        "How to read: the higher a marker, the more sharply the loss bends in its steepest "
        "direction (mean largest eigenvalue of the Hessian, on a logarithmic axis)"
        + drawing.remarks(published=f"medians, {RELEASED}"),
    )
    return drawing.figure


def _draw(rows: Sequence[Row], source: Source, y_label: str, height: float) -> Drawing:
    found = points.read_points(rows, source)
    panels = _arrange(found)
    figure, drawn = canvas.panels([panel.place for panel in panels], height)
    looks = canvas.looks(point.variant for point in found)
    step = SPREAD / len(looks)
    for axes, panel in zip(drawn, panels, strict=True):
        title = ": ".join(filter(None, [panel.name, panel.sweep.constant]))
        canvas.label(axes, title, panel.sweep.axis, "" if panel.place[1] else y_label)
        axes.set_xticks(range(len(panel.sweep.sizes)), panel.sweep.ticks)
        axes.set_xlim(-0.6, len(panel.sweep.sizes) - 0.4)
        for index, (variant, look) in enumerate(looks.items()):
            shift = (index - (len(looks) - 1) / 2) * step
            _draw_variant(axes, panel, variant, look, shift, step)
    return Drawing(figure, panels, found)


def _arrange(found: Sequence[Point]) -> list[Panel]:
    """Give each panel name a row of its two sweeps; with one sweep each, fill a grid."""
    groups: dict[str, list[Point]] = {}
    for point in found:
        groups.setdefault(point.panel, []).append(point)
    swept = {name: points.sweeps(group) for name, group in groups.items()}
    pairs = [(name, sweep) for name, sweeps in swept.items() for sweep in sweeps]
    if len(pairs) > len(swept):
        places = [(row, i) for row, sweeps in enumerate(swept.values()) for i in range(len(sweeps))]
    else:
        longest = max(len(sweep.sizes) for _, sweep in pairs)
        places = canvas.wrapped_places(len(pairs), 3 if longest == 1 else 2)
    return [
        Panel(name, sweep, tuple(groups[name]), place)
        for (name, sweep), place in zip(pairs, places, strict=True)
    ]


def _draw_variant(
    axes: Axes, panel: Panel, variant: str, look: Look, shift: float, step: float
) -> None:
    """Draw a variant's published band behind and our values in front, moved by `shift` along x."""
    by_size = {point.size: point for point in panel.shown if point.variant == variant}
    on_x = {i: by_size[size] for i, size in enumerate(panel.sweep.sizes) if size in by_size}
    x = np.full(len(panel.sweep.sizes), np.nan)
    values, bars, published, published_bars = (x.copy() for _ in range(4))
    for i, point in on_x.items():
        x[i], values[i], bars[i] = i + shift, point.value, point.half_width
        published[i], published_bars[i] = point.published, point.published_half_width
    marker: dict[str, Any] = {"marker": look.marker, "markersize": MARKER_SIZE}
    released = np.isfinite(published)
    if released.any():
        known = (x[released], published[released], published_bars[released])
        canvas.published_band(axes, *known, step, line=look.line)
    line = axes.errorbar(
        x, values, bars, label=variant, color=look.color, linestyle=look.line, **marker, **OURS
    )
    line.lines[0].set_clip_on(False)  # whole markers at 0 and 1


def _draw_chance(axes: Axes, panel: Panel) -> list[float]:
    """Fix the y axis and draw a line at each level of chance; return these levels."""
    axes.set_ylim(0, 1)
    levels = {round(point.chance, 3) for point in panel.shown if math.isfinite(point.chance)}
    for level in sorted(levels):
        axes.axhline(level, **canvas.CHANCE)
    return sorted(levels)


def _scale_eigenvalues(axes: Axes, on_panel: Iterable[Point]) -> None:
    """Make the y axis logarithmic, symmetrically so where a value is not positive.

    All points of a name count, so that its two panels share their limits.
    """
    pairs = [(p.value, p.half_width) for p in on_panel] + [(p.published, 0.0) for p in on_panel]
    values, bars = np.nan_to_num([pair for pair in pairs if math.isfinite(pair[0])] or [(1, 0)]).T
    low, high = values.min(), (values + bars).max()
    if low > 0:
        axes.set_yscale("log")
        axes.set_ylim(low / ROOM, high * ROOM)
        return
    sizes = np.abs(values[values != 0]) if values.any() else np.ones(1)
    smallest = max(sizes.min(), sizes.max() / 10**SYMLOG_DECADES)
    linear = 10.0 ** math.floor(math.log10(smallest))
    axes.set_yscale("symlog", linthresh=linear)
    locator = SymmetricalLogLocator(base=10, linthresh=linear)
    locator.set_params(numticks=SYMLOG_TICKS)
    axes.yaxis.set_major_locator(locator)
    axes.set_ylim(min((values - bars).min(), -linear) * ROOM, max(high, linear) * ROOM)
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=1)


def _handle(name: str, look: Look) -> Line2D:
    return Line2D(
        [],
        [],
        color=look.color,
        marker=look.marker,
        linestyle=look.line,
        markersize=MARKER_SIZE + 1,
        linewidth=1.2,
        label=name,
    )


def _interval_remark(found: Iterable[Point]) -> str:
    """Say what the bars are, with the number of seeds where the rows give it."""
    if not any(math.isfinite(point.half_width) for point in found):
        return "no value has an interval"
    seeds = sorted({point.seeds for point in found if point.seeds is not None})
    numbers = " to ".join(str(n) for n in dict.fromkeys([seeds[0], seeds[-1]])) if seeds else ""
    return " ".join(filter(None, ["bars are 95% intervals over", numbers, "seeds"]))

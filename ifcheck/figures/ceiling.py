"""Agreement beside the most that noisy truths allow, as bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from ifcheck.figures.bars import BAR, FILLED, SOLID, bar_handle
from ifcheck.figures.canvas import Floats, Look
from ifcheck.figures.points import Row, named_pair, number

PANEL_HEIGHT = 2.4  # inches
ROOM = 1.06  # factor by which the axis goes beyond the values on it
CEILING: dict[str, Any] = {"color": "0.1", "linewidth": 2.2, "zorder": 4}
CORRECTED: dict[str, Any] = {
    "color": "0.1",
    "marker": "D",
    "linestyle": "none",
    "markersize": 5,
    "markerfacecolor": "white",
    "zorder": 5,
}
INTERVAL: dict[str, Any] = {"color": "0.15", "linestyle": "none", "capsize": 2, "zorder": 3}


@dataclass(frozen=True)
class CeilingBar:
    """One bar; undefined numbers are `nan`."""

    panel: str
    estimator: str
    truth: str
    value: float
    low: float  # 95% interval
    high: float
    ceiling: float
    corrected: float
    chance: float


def noise_ceiling(path: Path, rows: Sequence[Row], remark: str = "") -> str:
    """Write a picture of |Spearman| beside its noise ceiling to `path`, as `canvas.save`.

    `remark` is a sentence to end the caption with.

    Each row is a mapping with estimator, truth, abs_spearman_mean and, where they exist, panel (its
    title), retrain_params, abs_spearman_low, abs_spearman_high, noise_ceiling_median,
    abs_spearman_corrected_mean, chance_abs_spearman.
    Raises: UnusableInput where no row has a value; OutputRefused, RunFailed as `canvas.save`.
    """
    return canvas.save(draw_ceilings(rows, remark), path)


def draw_ceilings(rows: Sequence[Row], remark: str = "") -> Figure:
    """Return the figure; arguments and errors as in `noise_ceiling`."""
    found = [_read(row) for row in rows]
    bars = [bar for bar in found if math.isfinite(bar.value)]
    if not bars:
        raise UnusableInput(
            f"none of the {len(found)} bars has a value of 'abs_spearman_mean'.",
            remedy="Check why each is undefined or failed; there is nothing to draw.",
        )
    panels = list(dict.fromkeys(bar.panel for bar in bars))
    looks = canvas.looks((bar.estimator for bar in bars), canvas.ESTIMATORS)
    figure, drawn = canvas.panels(canvas.wrapped_places(len(panels), 2), PANEL_HEIGHT)
    for axes, panel in zip(drawn, panels, strict=True):
        _draw_panel(axes, [bar for bar in bars if bar.panel == panel], looks)
        spec = axes.get_subplotspec()
        y = "|Spearman|" if spec is None or spec.is_first_col() else ""
        canvas.label(axes, panel, "truth", y)
        # What is corrected can exceed 1; a ceiling of 1 is seen whole.
        axes.set_ylim(0, ROOM * max([1.0, *(b.corrected for b in bars if b.corrected > 1)]))
    canvas.legend(figure, _handles(looks, bars))
    canvas.caption(figure, _caption(found, bars), remark)
    return figure


def _draw_panel(axes: Axes, bars: Sequence[CeilingBar], looks: dict[str, Look]) -> None:
    truths = list(dict.fromkeys(bar.truth for bar in bars))
    width = FILLED / len(looks)
    for place, (estimator, look) in enumerate(looks.items()):
        own = [bar for bar in bars if bar.estimator == estimator]
        shift = (place - (len(looks) - 1) / 2) * width
        x: Floats = np.array([truths.index(bar.truth) + shift for bar in own])
        values: Floats = np.array([bar.value for bar in own])
        ends: Floats = np.array([(bar.low, bar.high) for bar in own]).reshape(-1, 2)
        axes.bar(x, values, SOLID * width, color=look.color, hatch=look.hatch, **BAR)
        # A mean may lie outside an interval of resampled means by a rounding.
        lengths = np.abs(ends.T - values) if len(own) else np.zeros((2, 0))
        axes.errorbar(x, values, lengths, **INTERVAL)
        ceilings = [bar.ceiling for bar in own]
        axes.hlines(ceilings, x - width / 2, x + width / 2, **CEILING)
        axes.plot(x, [bar.corrected for bar in own], **CORRECTED)
    for level in sorted({round(bar.chance, 3) for bar in bars if math.isfinite(bar.chance)}):
        axes.axhline(level, **canvas.CHANCE)
    axes.set_xticks(range(len(truths)), truths)
    axes.set_xlim(-0.6, len(truths) - 0.4)


def _handles(looks: dict[str, Look], bars: Sequence[CeilingBar]) -> list[Artist]:
    handles: list[Artist] = [bar_handle(name, look) for name, look in looks.items()]
    if any(math.isfinite(bar.ceiling) for bar in bars):
        handles.append(Line2D([], [], label="noise ceiling", **CEILING))
    if any(math.isfinite(bar.corrected) for bar in bars):
        handles.append(Line2D([], [], label="corrected for noise", **CORRECTED))
    if any(math.isfinite(bar.chance) for bar in bars):
        handles.append(Line2D([], [], label="expected by chance", **canvas.CHANCE))
    return handles


def _caption(found: Sequence[CeilingBar], bars: Sequence[CeilingBar]) -> str:
    missing = len(found) - len(bars)
    ceilings = sum(math.isfinite(bar.ceiling) for bar in bars)
    noise = (
        "; no prediction can be expected above a thick line, where noise of retraining alone "
        "limits agreement, and a diamond is what the agreement would be without that noise"
    )
    without = (
        "; no truth was found under several seeds, so none of them has a noise ceiling"
        if not ceilings
        else ""
    )
    return (
        "How to read: a bar is the mean |Spearman| of one estimator with one truth, with its 95% "
        "interval; below the dashed line it is no better than chance"
        + (noise if ceilings else without)
        + (f"; {missing} of {len(found)} bars have no value and are left out" if missing else "")
        + "."
    )


def _read(row: Row) -> CeilingBar:
    estimator, truth = named_pair(row)
    return CeilingBar(
        panel=str(row.get("panel", "")),
        estimator=estimator,
        truth=truth,
        value=number(row, "abs_spearman_mean"),
        low=number(row, "abs_spearman_low"),
        high=number(row, "abs_spearman_high"),
        ceiling=number(row, "noise_ceiling_median"),
        corrected=number(row, "abs_spearman_corrected_mean"),
        chance=number(row, "chance_abs_spearman"),
    )

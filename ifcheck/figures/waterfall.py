"""From the prediction to the last truth: the share of each step in the whole gap, piled up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ifcheck.errors import UnusableInput
from ifcheck.figures import canvas
from ifcheck.figures.points import Row, named, number

PANEL_HEIGHT = 2.7  # inches
MOST_COLUMNS = 2  # in which the names of four steps have room
WIDTH = 0.62  # of a bar, beside the distance between two
ROOM = 0.3  # of the height of all bars, above and below them, for their labels
LABEL_SHIFT = 3  # points between a bar and its label
# What the truths differ by, and so what a step to each of them takes back.
STEPS = {
    "pbrf": "the loss is not its quadratic model",
    "newton": "outputs may leave the trained ones",
    "warm": "retraining stops early",
    "scratch": "training again ends in another basin",
}
UP: dict[str, Any] = {"color": canvas.BLUE}
DOWN: dict[str, Any] = {"facecolor": canvas.ORANGE, "hatch": "//", "edgecolor": "white"}
TOTAL: dict[str, Any] = {"color": "0.65"}
JOIN: dict[str, Any] = {"color": "0.3", "linewidth": 0.8}


@dataclass(frozen=True)
class Step:
    """One step from a prediction to its truths; undefined numbers are `nan`."""

    panel: str
    before: str
    after: str
    share: float  # of the whole gap; all of a panel add to 1
    spearman: float  # of what is before with what is after
    gap: float  # root mean square of the whole, in nats


def gap_waterfall(path: Path, rows: Sequence[Row], remark: str = "") -> str:
    """Write a picture of the steps from prediction to truth to `path`, as `canvas.save`.

    `remark` is a sentence to end the caption with.

    Each row is a mapping with before, after, share and, where they exist, panel (its title),
    spearman_median, gap_median. Rows of one panel stand in the order of its chain.
    Raises: UnusableInput where no panel has all its shares; OutputRefused, RunFailed as
    `canvas.save`.
    """
    return canvas.save(draw_waterfall(rows, remark), path)


def draw_waterfall(rows: Sequence[Row], remark: str = "") -> Figure:
    """Return the figure; arguments and errors as in `gap_waterfall`."""
    panels: dict[str, list[Step]] = {}
    for row in rows:
        step = _read(row)
        panels.setdefault(step.panel, []).append(step)
    shown = {
        name: steps
        for name, steps in panels.items()
        if all(math.isfinite(step.share) for step in steps)
    }
    if not shown:
        raise UnusableInput(
            f"none of the {len(panels)} predictions has a gap to draw step by step.",
            remedy="Remove the same rows under two truths or more: --truth newton,warm",
        )
    figure, drawn = canvas.panels(canvas.wrapped_places(len(shown), MOST_COLUMNS), PANEL_HEIGHT)
    for axes, (name, steps) in zip(drawn, shown.items(), strict=True):
        _draw_panel(axes, name, steps)
    canvas.legend(figure, _handles(shown))
    canvas.caption(figure, _caption(panels, shown), remark)
    return figure


def _draw_panel(axes: Axes, name: str, steps: Sequence[Step]) -> None:
    level, levels = 0.0, [0.0]
    for place, step in enumerate(steps):
        axes.bar(place, step.share, WIDTH, level, zorder=2, **(UP if step.share >= 0 else DOWN))
        level += step.share
        levels.append(level)
        axes.plot([place - WIDTH / 2, place + 1 + WIDTH / 2], [level, level], zorder=3, **JOIN)
        _label_bar(axes, place, levels[-2:], step)
    axes.bar(len(steps), level, WIDTH, zorder=2, **TOTAL)
    low, high = min(levels), max(levels)
    room = ROOM * (high - low)
    axes.set_ylim(low - (room if low < 0 else 0), high + room)
    axes.axhline(0, color="0.3", linewidth=0.8)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    ticks = [f"{step.before}\nto {step.after}" for step in steps]
    axes.set_xticks(range(len(steps) + 1), [*ticks, "whole\ngap"])
    gap = f"\nwhole gap {steps[-1].gap:.2g} nats" if math.isfinite(steps[-1].gap) else ""
    spec = axes.get_subplotspec()
    y = "share of the gap" if spec is None or spec.is_first_col() else ""
    canvas.label(axes, f"{name}{gap}", "", y)


def _label_bar(axes: Axes, place: int, ends: Sequence[float], step: Step) -> None:
    """Write a bar's share over it, below it under zero, and how well what it joins agrees."""
    below = max(ends) <= 0 and min(ends) < 0
    rho = f"{step.spearman:.2f}" if math.isfinite(step.spearman) else "undefined"
    axes.annotate(
        f"{100 * step.share:.0f}%\nrho {rho}",
        (place, min(ends) if below else max(ends)),
        xytext=(0, -LABEL_SHIFT if below else LABEL_SHIFT),
        textcoords="offset points",
        ha="center",
        va="top" if below else "bottom",
        fontsize=canvas.SMALL_TEXT,
    )


def _handles(shown: dict[str, list[Step]]) -> list[Patch]:
    handles = [Patch(label="adds to the gap", **UP)]
    if any(step.share < 0 for steps in shown.values() for step in steps):
        handles.append(Patch(label="takes back from it", **DOWN))
    return [*handles, Patch(label="whole gap", **TOTAL)]


def _caption(panels: dict[str, list[Step]], shown: dict[str, list[Step]]) -> str:
    reached = {step.after for steps in shown.values() for step in steps}
    reasons = ", ".join(f"{name}: {why}" for name, why in STEPS.items() if name in reached)
    missing = len(panels) - len(shown)
    return (
        "How to read: from the left, each bar is the share of the gap between predicted and true "
        "changes that arises on the way to the next truth, so the tallest bar says where the "
        "prediction is lost; rho is the median Spearman of the two ends of a step (near 1: only "
        "the scale differs), and nats are root mean squares"
        + (f"; what a truth adds to those before it, {reasons}" if reasons else "")
        + (f"; {missing} of {len(panels)} have no shares and are left out" if missing else "")
        + "."
    )


def _read(row: Row) -> Step:
    before, after = named(row, "step", ("before", "after"), "gaps")
    return Step(
        panel=str(row.get("panel", "")),
        before=before,
        after=after,
        share=number(row, "share"),
        spearman=number(row, "spearman_median"),
        gap=number(row, "gap_median"),
    )

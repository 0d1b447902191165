"""Predicted against true changes of single removals, with the identity and the fitted line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ifcheck.errors import UnusableInput
from ifcheck.figures import canvas
from ifcheck.figures.removals import Floats, RankPanel

PANEL_HEIGHT = 2.6  # inches
ROOM = 0.06  # of the range of the points, around them
PLAIN_POWERS = (-2, 3)  # tick labels take a common power of ten beyond these
MOST_TICKS = 4  # of changes such as -0.0025, side by side
REMOVAL: dict[str, Any] = {
    "color": canvas.BLUE,
    "marker": "o",
    "linestyle": "none",
    "markersize": 4,
    "markerfacecolor": "none",
    "label": "one removal",
}
IDENTITY: dict[str, Any] = {
    "color": "0.3",
    "linestyle": "--",
    "linewidth": 1.0,
    "zorder": 1,
    "label": "identity: predicted = true",
}
FITTED: dict[str, Any] = {
    "color": canvas.VERMILLION,
    "linewidth": 1.4,
    "zorder": 3,
    "label": "least-squares line",
}


@dataclass(frozen=True)
class ScatterPanel(RankPanel):
    """One panel: changes of a test loss by single removals, with the line fitted to them."""

    slope: float  # of true on predicted changes; nan: undefined
    intercept: float  # nats


def scatter(path: Path, panels: Sequence[ScatterPanel], remark: str = "") -> str:
    """Write a picture of predicted against true changes to `path`, as `canvas.save`.

    `remark` is a sentence to end the caption with.

    Panels without a removal that has both changes are left out, and the caption counts them.
    Raises: UnusableInput where that is every panel; OutputRefused, RunFailed as `canvas.save`.
    """
    return canvas.save(draw_scatter(panels, remark), path)


def draw_scatter(panels: Sequence[ScatterPanel], remark: str = "") -> Figure:
    """Return the figure; arguments and errors as in `scatter`."""
    shown = [panel for panel in panels if panel.defined.any()]
    if not shown:
        raise UnusableInput(
            f"none of the {len(panels)} panels has anything to draw; expected a removal with both "
            "changes.",
            remedy="Give the removals of at least one cell that did not fail.",
        )
    figure, drawn = canvas.panels(canvas.wrapped_places(len(shown)), PANEL_HEIGHT)
    for axes, panel in zip(drawn, shown, strict=True):
        _draw_panel(axes, panel)
    canvas.legend(figure, [Line2D([], [], **look) for look in (REMOVAL, IDENTITY, FITTED)])
    canvas.caption(
        figure,
        "How to read: a circle is one removal, its predicted change of the test loss against "
        "its true, drift-corrected one (nats; positive: removal hurts); on the dashed line the "
        "prediction is exact, and circles along the solid line alone are ordered rightly (Spearman "
        "near 1) but scaled wrongly (slope far from 1)" + _left_out(panels, shown),
        remark,
    )
    return figure


def _draw_panel(axes: Axes, panel: ScatterPanel) -> None:
    predicted, true = panel.predicted[panel.defined], panel.true[panel.defined]
    axes.plot(predicted, true, **REMOVAL)
    axes.set_xlim(_limits(predicted))
    axes.set_ylim(_limits(true))
    axes.axline((0.0, 0.0), slope=1.0, **IDENTITY)
    if math.isfinite(panel.slope + panel.intercept):
        ends = np.array([predicted.min(), predicted.max()])
        axes.plot(ends, panel.intercept + panel.slope * ends, **FITTED)
    axes.ticklabel_format(style="sci", scilimits=PLAIN_POWERS, useOffset=False, useMathText=True)
    axes.locator_params(nbins=MOST_TICKS)
    axes.xaxis.get_offset_text().set_fontsize(canvas.SMALL_TEXT)
    place = axes.get_subplotspec()
    first = place is None or place.is_first_col()
    numbers = f"Spearman {_shown(panel.spearman, '.2f')}, slope {_shown(panel.slope, '.3g')}"
    y = "true change (nats)" if first else ""
    canvas.label(axes, f"{panel.title}\n{numbers}", "predicted change (nats)", y)


def _limits(values: Floats) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    room = ROOM * (high - low) or abs(high) or 1.0
    return low - room, high + room


def _shown(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "undefined"


def _left_out(panels: Sequence[ScatterPanel], shown: Sequence[ScatterPanel]) -> str:
    """Count what is not shown, as the end of a sentence."""
    flags = np.concatenate([panel.defined for panel in shown])
    parts = []
    if not flags.all():
        parts.append(f"{int((~flags).sum())} of {len(flags)} removals lack a change")
    if len(shown) < len(panels):
        parts.append(f"{len(panels) - len(shown)} of {len(panels)} pairs have no true change")
    return "".join(f"; {part}" for part in parts) + "."

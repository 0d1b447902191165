"""The density of the Hessian's eigenvalues, with the largest ones marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ifcheck.errors import UnusableInput
from ifcheck.figures import canvas
from ifcheck.figures.canvas import Floats

PANEL_HEIGHT = 2.4  # inches
DECADES = 6  # below the peak, where the smoothing's tail says nothing of eigenvalues any more
MOST_OTHERS = 9  # networks behind the first; more are a grey mass, and a large file
ROOM = 3.0  # factor above the peak, for the marks
FIRST: dict[str, Any] = {
    "color": canvas.BLUE,
    "linewidth": 1.3,
    "zorder": 3,
    "label": "first seed",
}
BETWEEN: dict[str, Any] = {
    "color": canvas.SKY,
    "alpha": 0.45,
    "linewidth": 0,
    "zorder": 2,
    "label": "± one standard error",
}
OTHERS: dict[str, Any] = {
    "color": "0.6",
    "linewidth": 0.7,
    "linestyle": "-.",
    "zorder": 1,
    "label": "other seeds",
}
ZERO: dict[str, Any] = {
    "color": "0.3",
    "linestyle": "--",
    "linewidth": 1.0,
    "zorder": 1,
    "label": "zero",
}
TOP: dict[str, Any] = {
    "color": canvas.VERMILLION,
    "marker": "v",
    "linestyle": "none",
    "markersize": 7,
    "label": "largest eigenvalues (first seed)",
    "zorder": 4,
}


@dataclass(frozen=True)
class SpectrumPanel:
    """One panel: the spectra of the networks of a cell, the first of which stands out.

    Raises: UnusableInput for arrays that do not fit together.
    """

    title: str
    grid: Floats  # (points,) eigenvalues
    density: Floats  # (networks, points), of integral 1
    error: Floats  # (networks, points), standard error over probes; nan for a single probe
    values: Floats  # (top,) eigenvalues of the first network that are marked

    def __post_init__(self) -> None:
        grid, density = np.shape(self.grid), np.shape(self.density)
        if len(density) != 2 or density[1:] != grid or np.shape(self.error) != density:
            raise UnusableInput(
                f"{self.title!r}: grid has shape {grid}, density {density}, its error "
                f"{np.shape(self.error)}; expected (points,) and twice (networks, points).",
                remedy="Give the arrays of `ifcheck eigen --set eigen.density=true`.",
            )


def spectral_density(path: Path, panels: Sequence[SpectrumPanel], remark: str = "") -> str:
    """Write a picture of densities of eigenvalues to `path`, as `canvas.save`.

    `remark` is a sentence to end the caption with.

    Raises: UnusableInput where no panel has a density; OutputRefused, RunFailed as `canvas.save`.
    """
    return canvas.save(draw_spectra(panels, remark), path)


def draw_spectra(panels: Sequence[SpectrumPanel], remark: str = "") -> Figure:
    """Return the figure; arguments and errors as in `spectral_density`."""
    shown = [panel for panel in panels if np.nanmax(panel.density, initial=0.0) > 0]
    if not shown:
        raise UnusableInput(
            f"none of the {len(panels)} panels has a density of eigenvalues to draw.",
            remedy="Measure it: --set eigen.density=true",
        )
    figure, drawn = canvas.panels(canvas.wrapped_places(len(shown)), PANEL_HEIGHT)
    for axes, panel in zip(drawn, shown, strict=True):
        _draw_panel(axes, panel)
    missing = len(panels) - len(shown)
    most = max(len(panel.density) for panel in shown)
    several = most > 1
    uncertain = any(np.isfinite(panel.error[0]).any() for panel in shown)
    canvas.legend(figure, _handles(several, uncertain))
    canvas.caption(
        figure,
        "How to read: where the line is high the Hessian has many eigenvalues; a peak at the "
        "dashed line means directions along which the loss is flat, one to the left of it negative "
        "curvature, and triangles mark the eigenvalues of largest size (all is smoothed to about a "
        "hundredth of the range: no peak is narrower)"
        + "; the band is one standard error over random probes" * uncertain
        + "; the others are networks of other seeds" * several
        + (f", the first {MOST_OTHERS} of them" if most > 1 + MOST_OTHERS else "")
        + (f"; {missing} of {len(panels)} cells have no density" if missing else "")
        + ".",
        remark,
    )
    return figure


def _draw_panel(axes: Axes, panel: SpectrumPanel) -> None:
    peak = float(np.nanmax(panel.density))
    axes.set_yscale("log")
    axes.plot(panel.grid, panel.density[1 : 1 + MOST_OTHERS].T, **OTHERS)
    density, error = panel.density[0], panel.error[0]
    # A band that reaches zero goes on to the foot of the panel.
    foot = peak / 10 ** (2 * DECADES)
    axes.fill_between(panel.grid, np.maximum(density - error, foot), density + error, **BETWEEN)
    axes.plot(panel.grid, density, **FIRST)
    axes.axvline(0, **ZERO)
    marked = panel.values[np.isfinite(panel.values)]
    axes.plot(marked, np.full(len(marked), peak * ROOM / 2), **TOP)
    axes.set_ylim(peak / 10**DECADES, peak * ROOM)
    axes.set_xlim(float(panel.grid[0]), float(panel.grid[-1]))
    spec = axes.get_subplotspec()
    y = "density" if spec is None or spec.is_first_col() else ""
    canvas.label(axes, panel.title, "eigenvalue of the Hessian", y)


def _handles(several: bool, uncertain: bool) -> list[Artist]:
    handles: list[Artist] = [Line2D([], [], **FIRST)]
    if uncertain:
        handles.append(Patch(**BETWEEN))
    if several:
        handles.append(Line2D([], [], **OTHERS))
    return [*handles, Line2D([], [], **TOP), Line2D([], [], **ZERO)]

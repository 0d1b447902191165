"""Figures 4 and 5: single removals, as predicted and true changes and as retrainings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ifcheck.errors import UnusableInput
from ifcheck.figures import canvas

Floats = NDArray[np.floating[Any]]

PANEL_HEIGHT = 3.0  # inches
TRUE: dict[str, Any] = {
    "color": canvas.BLUE,
    "marker": "o",
    "linestyle": "none",
    "markersize": 3.5,
    "label": "true (drift-corrected)",
}
PREDICTED: dict[str, Any] = {
    "color": canvas.VERMILLION,
    "marker": "^",
    "linestyle": "none",
    "markersize": 7,
    "markerfacecolor": "none",
    "label": "predicted",
}
RETRAINING: dict[str, Any] = {
    "color": canvas.BLUE,
    "linewidth": 0.8,
    "label": "retraining without one row",
}
ZERO: dict[str, Any] = {"color": "0.3", "linestyle": "--", "linewidth": 1.0, "zorder": 1}
OPACITY = 0.35  # 40 lines, the removals of a study, stay apart where they cross
PLAIN_POWERS = (-2, 4)  # tick labels take a common power of ten beyond these


@dataclass(frozen=True)
class RankPanel:
    """One panel of figure 4: how single removals change a test loss.

    Both changes are in nats and positive where removal hurts.
    Raises: UnusableInput for arrays of other or unequal shapes.
    """

    title: str
    predicted: Floats  # (removals,)
    true: Floats  # (removals,), drift-corrected
    spearman: float  # nan: undefined

    def __post_init__(self) -> None:
        shapes = np.shape(self.predicted), np.shape(self.true)
        if shapes[0] != shapes[1] or len(shapes[0]) != 1:
            raise UnusableInput(
                f"{self.title!r}: predicted has shape {shapes[0]}, true {shapes[1]}; expected "
                "one shape (removals,).",
                remedy="Give both changes of the same removals.",
            )

    @property
    def defined(self) -> NDArray[np.bool_]:
        """Which removals have both changes. Shape: (removals,)."""
        return np.isfinite(self.predicted) & np.isfinite(self.true)


@dataclass(frozen=True)
class TrajectoryPanel:
    """One panel of figure 5: a test loss while the network is retrained without one row.

    Raises: UnusableInput for arrays that do not fit together.
    """

    title: str
    epochs: Floats  # (epochs,), since retraining began
    losses: Floats  # (removals, epochs), nats
    before: float  # nats, before the removal

    def __post_init__(self) -> None:
        epochs, losses = np.shape(self.epochs), np.shape(self.losses)
        if len(epochs) != 1 or len(losses) != 2 or losses[1:] != epochs:
            raise UnusableInput(
                f"{self.title!r}: epochs has shape {epochs}, losses {losses}; expected (E,) "
                "and (removals, E).",
                remedy="Give the loss of every removal at every epoch.",
            )

    @property
    def changes(self) -> Floats:
        """Losses minus `before`, nats; nan where not finite. Shape: (removals, epochs)."""
        with np.errstate(invalid="ignore"):
            change = self.losses - self.before
        return np.where(np.isfinite(change), change, np.nan)

    @property
    def defined(self) -> NDArray[np.bool_]:
        """Which removals have a finite change at every epoch. Shape: (removals,)."""
        return np.asarray(np.isfinite(self.changes).all(axis=1))


def figure_4(path: Path, panels: Sequence[RankPanel]) -> str:
    """Write a picture of predicted and true changes by rank to `path`, as `canvas.save`.

    Removals stand in the order of falling |predicted|, from 1; both changes share one axis.
    Removals without both changes are left out, and the caption counts them.

    Raises: UnusableInput where no panel has a removal to draw; OutputRefused, RunFailed as
    `canvas.save`. Reference: Epifano et al., figure 4.
    """
    return canvas.save(draw_ranks(panels), path)


def figure_5(path: Path, panels: Sequence[TrajectoryPanel]) -> str:
    """Write a picture of the test loss along retraining to `path`, as `canvas.save`.

    A line is one removed row: the test loss minus `before`, in nats. Lines have gaps where the
    loss is not finite, and the caption counts them.

    Raises: UnusableInput where no panel has a line to draw; OutputRefused, RunFailed as
    `canvas.save`. Reference: Epifano et al., figure 5.
    """
    return canvas.save(draw_trajectories(panels), path)


def draw_ranks(panels: Sequence[RankPanel]) -> Figure:
    """Return figure 4; arguments and errors as there."""
    _require_something(any(panel.defined.any() for panel in panels), "a removal with both changes")
    figure, drawn = canvas.panels(canvas.wrapped_places(len(panels)), PANEL_HEIGHT)
    for axes, panel in zip(drawn, panels, strict=True):
        predicted, true = panel.predicted[panel.defined], panel.true[panel.defined]
        order = np.argsort(-np.abs(predicted), kind="stable")
        ranks = np.arange(1, len(order) + 1)
        axes.plot(ranks, predicted[order], **PREDICTED)
        axes.plot(ranks, true[order], **TRUE)
        rho = "undefined" if math.isnan(panel.spearman) else f"{panel.spearman:.2f}"
        _label(axes, f"{panel.title}\nSpearman {rho}", "rank by |predicted change|")
    canvas.legend(figure, [Line2D([], [], **PREDICTED), Line2D([], [], **TRUE)])
    canvas.caption(
        figure,
        "How to read: removed rows stand from the most to the least influential as predicted; "
        "where the prediction holds each circle lies in its triangle, and where only the order is "
        "right they shrink towards zero together but differ in size (positive: removal hurts)"
        + _remark((panel.defined for panel in panels), "removals without both changes left out"),
    )
    return figure


def draw_trajectories(panels: Sequence[TrajectoryPanel]) -> Figure:
    """Return figure 5; arguments and errors as there."""
    finite = any(np.isfinite(panel.changes).any() for panel in panels)
    _require_something(finite, "a finite change of the loss")
    figure, drawn = canvas.panels(canvas.wrapped_places(len(panels)), PANEL_HEIGHT)
    for axes, panel in zip(drawn, panels, strict=True):
        axes.plot(panel.epochs, panel.changes.T, alpha=OPACITY, **RETRAINING)
        axes.set_xscale("function", functions=(_signed_root, _signed_square))
        last = max(float(np.max(panel.epochs, initial=0)), 1.0)
        axes.set_xlim(0, last)
        axes.set_xticks(_root_ticks(last))
        _label(axes, panel.title, "epoch of retraining (square-root scale)")
    zero = Line2D([], [], label="before the removal", **ZERO)
    canvas.legend(figure, [Line2D([], [], **RETRAINING), zero])
    canvas.caption(
        figure,
        "How to read: each line is the change of the test loss while the network is retrained "
        "without one row; lines that settle smoothly stay in their minimum, sudden jumps mean "
        "that retraining has left it, and then the premise of influence functions is gone"
        + _remark((panel.defined for panel in panels), "lines are not finite throughout"),
    )
    return figure


def _label(axes: Axes, title: str, x: str) -> None:
    axes.axhline(0, **ZERO)
    axes.ticklabel_format(
        axis="y", style="sci", scilimits=PLAIN_POWERS, useOffset=False, useMathText=True
    )
    first = axes.get_subplotspec()
    y = "change of test loss (nats)" if first is None or first.is_first_col() else ""
    canvas.label(axes, title, x, y)


def _signed_root(x: Floats) -> Floats:
    return np.asarray(np.sign(x) * np.sqrt(np.abs(x)))


def _signed_square(x: Floats) -> Floats:
    return np.asarray(np.sign(x) * np.square(x))


def _root_ticks(last: float) -> list[float]:
    """Return round numbers from 0 to `last`, about evenly spaced on a square-root scale."""
    ticks = [0.0]
    for share in (0.25, 0.5, 0.75, 1):
        value = share**2 * last
        digit = 10.0 ** max(math.floor(math.log10(value)), 0)
        steps = math.floor(value / digit) if share == 1 else round(value / digit)
        ticks.append(steps * digit)
    return sorted(set(ticks))


def _require_something(there: bool, what: str) -> None:
    if not there:
        raise UnusableInput(
            f"no panel has anything to draw; expected {what} in at least one.",
            remedy="Give the removals of at least one cell that did not fail.",
        )


def _remark(defined: Iterable[NDArray[np.bool_]], what: str) -> str:
    """Count the removals that are not defined, as the end of a sentence."""
    flags = np.concatenate(list(defined))
    return "." if flags.all() else f"; {int((~flags).sum())} of {len(flags)} {what}."

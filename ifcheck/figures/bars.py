"""Figure 2: agreement of few networks, as bars."""

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
from matplotlib.patches import Patch

from ifcheck.errors import UnusableInput
from ifcheck.figures import canvas
from ifcheck.figures.canvas import Look
from ifcheck.figures.points import PUBLISHED_WITH, Row, number

FILLED = 0.8  # share of the distance between two networks that the bars fill
SOLID = 0.92  # share of its room that a bar fills
HEIGHT = 2.4  # inches of a panel
BAR: dict[str, Any] = {"edgecolor": "white", "linewidth": 0, "zorder": 2}  # hatched in white

# Dark enough to be seen on a bar of any colour.
PUBLISHED: dict[str, Any] = {"joined": False, "color": "0.2", "above": 2.5}


@dataclass(frozen=True)
class Bar:
    """One bar; undefined numbers are `nan`."""

    panel: str
    network: str  # with its size on a line of its own
    variant: str
    value: float
    half_width: float  # of the 95% interval
    published: float
    published_half_width: float
    chance: float


def figure_2(path: Path, rows: Sequence[Row]) -> str:
    """Write a picture of |Spearman| of each network and variant to `path`, as `canvas.save`.

    Each row is a mapping with network, variant, estimator, truth, abs_spearman_mean and, where
    they exist, depth, width, abs_spearman_ci95, published_abs_spearman,
    published_abs_spearman_ci95 (half-widths), chance_abs_spearman. Each pair of estimator and
    truth has a panel. Raises: UnusableInput where no row has a value; OutputRefused, RunFailed as
    `canvas.save`. Reference: Epifano et al., figure 2.
    """
    return canvas.save(draw_bars(rows), path)


def draw_bars(rows: Sequence[Row]) -> Figure:
    """Return figure 2; arguments and errors as there."""
    if not rows:
        raise UnusableInput(
            "there are no rows to draw; expected one per cell.", remedy="Run a study first."
        )
    bars = [_read_bar(row) for row in rows]
    if not any(math.isfinite(bar.value) for bar in bars):
        raise UnusableInput(
            f"none of the {len(bars)} bars has a value of 'abs_spearman_mean'.",
            remedy="Check why each is undefined or failed; there is nothing to draw.",
        )
    panels = list(dict.fromkeys(bar.panel for bar in bars))
    networks = list(dict.fromkeys(bar.network for bar in bars))
    looks = canvas.looks(bar.variant for bar in bars)
    figure, drawn = canvas.panels(canvas.wrapped_places(len(panels)), HEIGHT)
    for axes, panel in zip(drawn, panels, strict=True):
        first_of_row = axes.get_subplotspec().is_first_col()  # type: ignore[union-attr]
        canvas.label(axes, panel, "", "|Spearman|" if first_of_row else "")
        axes.set_xticks(range(len(networks)), networks)
        axes.set_xlim(-0.6, len(networks) - 0.4)
        axes.set_ylim(0, 1)
        for index, (variant, look) in enumerate(looks.items()):
            shift = (index - (len(looks) - 1) / 2) * FILLED / len(looks)
            own = [bar for bar in bars if (bar.panel, bar.variant) == (panel, variant)]
            _draw_variant(axes, own, networks, shift, FILLED / len(looks), look)
        for level in sorted({round(b.chance, 3) for b in bars if math.isfinite(b.chance)}):
            axes.axhline(level, **canvas.CHANCE)
    handles: list[Artist] = [bar_handle(name, look) for name, look in looks.items()]
    handles.append(Line2D([], [], label="expected by chance", **canvas.CHANCE))
    published = any(math.isfinite(bar.published) for bar in bars)
    if published:
        handles.append(canvas.published_handle(with_interval=True, color=PUBLISHED["color"]))
    canvas.legend(figure, handles)
    missing = sum(math.isnan(bar.value) for bar in bars)
    canvas.caption(
        figure,
        "How to read: the higher a bar, the better the predicted changes of the test loss order "
        "the true ones (mean |Spearman|, with its 95% interval over seeds)"
        + "; a grey band is the published mean with its 95% interval" * published
        + (f"; {missing} of {len(bars)} have no value and are left out." if missing else "."),
    )
    return figure


def _draw_variant(
    axes: Axes, bars: Sequence[Bar], networks: Sequence[str], shift: float, width: float, look: Look
) -> None:
    x = np.array([networks.index(bar.network) + shift for bar in bars])
    values = np.array([bar.value for bar in bars])
    axes.bar(x, values, SOLID * width, color=look.color, hatch=look.hatch, **BAR)
    half_widths = np.array([bar.half_width for bar in bars])
    axes.errorbar(x, values, half_widths, color="0.15", linestyle="none", capsize=2, zorder=3)
    published = np.array([bar.published for bar in bars])
    if np.isfinite(published).any():
        around = np.array([bar.published_half_width for bar in bars])
        canvas.published_band(axes, x, published, around, width, **PUBLISHED)


def bar_handle(name: str, look: Look) -> Patch:
    """Return what the legend shows of bars."""
    return Patch(facecolor=look.color, hatch=look.hatch, edgecolor="white", label=name)


def _read_bar(row: Row) -> Bar:
    try:
        panel = f"estimator {row['estimator']}, truth {row['truth']}"
        network, variant = str(row["network"]), str(row["variant"])
    except KeyError as error:
        raise UnusableInput(
            f"a row does not name its bar ({error!r}); expected network, variant, estimator and "
            "truth.",
            remedy="Give the rows of a study's summary.",
        ) from error
    params = row.get("retrain_params")
    panel += f" ({params})" if params not in (None, "", "head") else ""
    sizes = [str(row[name]) for name in ("depth", "width") if row.get(name) not in (None, "")]
    comparable = row["estimator"] == PUBLISHED_WITH
    return Bar(
        panel=panel,
        network="\n".join([network, " × ".join(sizes)]).strip(),
        variant=variant,
        value=number(row, "abs_spearman_mean"),
        half_width=number(row, "abs_spearman_ci95"),
        published=number(row, "published_abs_spearman") if comparable else math.nan,
        published_half_width=number(row, "published_abs_spearman_ci95"),
        chance=number(row, "chance_abs_spearman"),
    )

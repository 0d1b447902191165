"""From rows of a study's summary to what figures 1 and 3 plot: points, and sweeps over sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ifcheck.errors import UnusableInput

Row = Mapping[str, Any]
Size = tuple[int, int]  # depth, width

SAME_RTOL = 1e-9  # a value that rows repeat may have been rounded to text in between
PUBLISHED_WITH = "authors"  # the estimator that the published agreement was measured with


@dataclass(frozen=True)
class Source:
    """The columns that a figure reads, and those that split its points into panels."""

    value: str
    half_width: str
    published: str
    published_half_width: str = ""
    chance: str = ""
    panels: tuple[str, ...] = ()  # named in every title
    panels_if_several: tuple[str, ...] = ("dataset", "network")  # named where they differ


AGREEMENT = Source(
    value="abs_spearman_mean",
    half_width="abs_spearman_ci95",
    published="published_abs_spearman",
    published_half_width="published_abs_spearman_ci95",
    chance="chance_abs_spearman",
    panels=("estimator", "truth"),
    panels_if_several=("dataset", "network", "retrain_params"),
)
EIGENVALUE = Source(
    value="top_eigenvalue_mean",
    half_width="top_eigenvalue_ci95",
    published="published_top_eigenvalue",
)


@dataclass(frozen=True)
class Point:
    """One plotted value; undefined numbers are `nan`."""

    panel: str  # what the title says apart from the size that is held constant
    size: Size
    variant: str
    value: float
    half_width: float  # of the 95% interval
    published: float
    published_half_width: float
    chance: float
    seeds: int | None


@dataclass(frozen=True)
class Sweep:
    """Sizes along the x axis of a panel."""

    constant: str  # for the title, such as "width 5 constant"; "" where nothing is
    axis: str  # what the ticks count; "" where they say it themselves
    sizes: tuple[Size, ...]
    ticks: tuple[str, ...]


def read_points(rows: Sequence[Row], source: Source) -> list[Point]:
    """Return the points in the rows, each once, in the order of first appearance.

    Raises: UnusableInput where there are no rows, where a row lacks its cell, where two rows
    give one point different values, and where no point has a value.
    """
    if not rows:
        raise UnusableInput(
            "there are no rows to draw; expected one per cell.", remedy="Run a study first."
        )
    columns = [*source.panels_if_several, *source.panels]
    named = [c for c in columns if c in source.panels or len({row.get(c) for row in rows}) > 1]
    points: dict[tuple[str, Size, str], Point] = {}
    for row in rows:
        point = _read_point(row, source, named)
        key = (point.panel, point.size, point.variant)
        points[key] = _merged(points.get(key, point), point, source)
    if not any(math.isfinite(point.value) for point in points.values()):
        raise UnusableInput(
            f"none of the {len(points)} cells has a value of {source.value!r}.",
            remedy="Check why each is undefined or failed; there is nothing to draw.",
        )
    return list(points.values())


def sweeps(points: Iterable[Point]) -> list[Sweep]:
    """Return over which sizes points vary: depth at a constant width, then width at a depth.

    The constant is the one with most sizes, the smallest of equals. Without two sizes that
    share a width or a depth there is one sweep, over every size.
    """
    sizes = sorted({point.size for point in points})
    found = [
        _sweep(sizes, "depth", "width", lambda size: size),
        _sweep(sizes, "width", "depth", lambda size: (size[1], size[0])),
    ]
    varied = [sweep for sweep in found if len(sweep.sizes) > 1]
    return varied or [_every_size(sizes)]


def _every_size(sizes: Sequence[Size]) -> Sweep:
    """Return a sweep over sizes that share neither depth nor width; often a single one."""
    if len(sizes) == 1:
        return Sweep("", "", tuple(sizes), (f"depth {sizes[0][0]}, width {sizes[0][1]}",))
    ticks = tuple(f"{depth} × {width}" for depth, width in sizes)
    return Sweep("", "depth × width", tuple(sizes), ticks)


def _sweep(
    sizes: Sequence[Size], varied: str, constant: str, split: Callable[[Size], Size]
) -> Sweep:
    """Return the longest sweep; `split` gives what varies and what is constant of a size."""
    lines: dict[int, list[Size]] = {}
    for size in sizes:
        lines.setdefault(split(size)[1], []).append(size)
    held = min(lines, key=lambda value: (-len(lines[value]), value))
    line = tuple(lines[held])
    return Sweep(
        f"{constant} {held} constant", varied, line, tuple(str(split(size)[0]) for size in line)
    )


def _read_point(row: Row, source: Source, named: Sequence[str]) -> Point:
    try:
        panel = ", ".join(f"{column.replace('_', ' ')} {row[column]}" for column in named)
        size, variant = (int(row["depth"]), int(row["width"])), str(row["variant"])
    except (KeyError, TypeError, ValueError) as error:
        raise UnusableInput(
            f"a row does not name its cell ({error!r}); expected depth and width as whole "
            f"numbers, {', '.join(['variant', *named])}.",
            remedy="Give the rows of a study's summary.",
        ) from error
    comparable = "estimator" not in source.panels or row["estimator"] == PUBLISHED_WITH
    seeds = number(row, "seeds")
    return Point(
        panel=panel,
        size=size,
        variant=variant,
        value=number(row, source.value),
        half_width=number(row, source.half_width),
        published=number(row, source.published) if comparable else math.nan,
        published_half_width=number(row, source.published_half_width),
        chance=number(row, source.chance),
        seeds=int(seeds) if math.isfinite(seeds) else None,
    )


def number(row: Row, column: str) -> float:
    """Return the number in a column; `nan` where it is missing, empty or not finite.

    Raises: UnusableInput for what is no number.
    """
    value = row.get(column)
    if value is None or value == "":
        return math.nan
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise UnusableInput(
            f"{column!r} is {value!r}; expected a number or nothing.",
            remedy="Give the rows of a study's summary.",
        ) from error
    return number if math.isfinite(number) else math.nan


def named(row: Row, what: str, columns: tuple[str, str], rows: str) -> tuple[str, str]:
    """Return what a row of an evaluation's `rows` is about. Raises: UnusableInput without it."""
    first, second = columns
    try:
        return str(row[first]), str(row[second])
    except KeyError as error:
        raise UnusableInput(
            f"a row does not name its {what} ({error!r}); expected {first} and {second}.",
            remedy=f"Give the rows of an evaluation's {rows}.",
        ) from error


def named_pair(row: Row) -> tuple[str, str]:
    """Return the estimator and the truth of a row; of parameters other than the head's, with them.

    Raises: UnusableInput where the row names neither.
    """
    estimator, truth = named(row, "pair", ("estimator", "truth"), "summaries")
    params = row.get("retrain_params")
    return estimator, truth + (f" ({params})" if params not in (None, "", "head") else "")


def _merged(first: Point, second: Point, source: Source) -> Point:
    """Return the defined one of two points of the same cell; refuse contradicting ones."""
    same = math.isclose(first.value, second.value, rel_tol=SAME_RTOL)
    if same or math.isnan(second.value):
        return first
    if math.isnan(first.value):
        return second
    depth, width = first.size
    where = ", ".join(filter(None, [first.panel, f"depth {depth}, width {width}, {first.variant}"]))
    raise UnusableInput(
        f"{source.value!r} is {first.value:g} and {second.value:g} in two rows of one cell "
        f"({where}).",
        remedy="Give one row per cell, estimator and truth; draw other settings apart.",
    )

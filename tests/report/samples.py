"""A made-up report with every part that a document can have, and text meant to break out of it."""

import math

from ifcheck.report import (
    Badge,
    Check,
    Column,
    Finding,
    Link,
    Picture,
    Report,
    Section,
    Table,
    interval,
    number,
)

HOSTILE = "<script>alert(1)</script> \"quoted\" 'single' & <b>bold</b> {{ 7 * 7 }} ]]> -->"
SVG = b"""<?xml version="1.0"?>
<svg xmlns="http://www.w3.org/2000/svg" width="720" height="300" viewBox="0 0 720 300">
 <style>#line { stroke: #0072B2; }</style>
 <path id="line" d="M 0 0
  L 720 300"/>
 <text x="10" y="20">50% &amp; more</text>
</svg>
"""
VALUES = (10.0, None, -2.0, 1e-7, 9.5, math.inf, None, -30.0)
NAMES = ("width 10", "width 9", "depth 2", "depth 10", "all", "none", "l2", "bnn")
BADGES = (
    Badge("trust", "good"),
    Badge("ranking only", "warn"),
    Badge("do not trust", "bad"),
    Badge("cannot tell", "unknown"),
)


def wide_table(caption: str = "Numbers") -> Table:
    """Names, verdicts and many numbers, of which some are undefined."""
    columns = [
        Column("name", "what it is called"),
        Column("verdict"),
        *(Column(f"number {i}", is_numeric=True) for i in range(7)),
        Column("interval", is_numeric=True),
        Column("in words"),
    ]
    rows = [
        [
            name,
            BADGES[place % 4],
            *(number(_value(place + i), "nothing was measured") for i in range(7)),
            interval(_value(place), 0.1, "too few seeds"),
            f"sentence {place} of some length, so that it has to be broken into lines",
        ]
        for place, name in enumerate(NAMES)
    ]
    return Table(caption, columns, rows)


def _value(place: int) -> float | None:
    return VALUES[place % len(VALUES)]


def checks() -> list[Check]:
    return [
        Check("above chance", "pass", number(0.002), "below 0.05", "It ranks better than chance."),
        Check("drift", "warn", number(1.4), "above 3", "Drift is nearly as large."),
        Check("baselines", "fail", number(-0.1), "above 0", "The row's own loss ranks better."),
        Check("noise", "unknown", number(None, "no replicates"), "above 0.5", "Not known."),
    ]


def report() -> Report:
    """Every kind of part; enough rows for several printed pages."""
    links = Table(
        "Where to go",
        [Column("section"), Column("rows", is_numeric=True)],
        [[Link("the second", "second"), number(8)], [Link("the first", "first"), number(20)]],
    )
    long = wide_table("Many rows")
    first = Section(
        "first",
        "First section",
        BADGES,
        ["A paragraph."],
        tables=[links, Table(long.caption, long.columns, [*long.rows] * 6)],
    )
    second = Section(
        "second",
        "Second section",
        findings=[
            Finding("objective / warm", BADGES[2], "Baselines rank better.", checks()),
            Finding("paper / warm", BADGES[3], "Nothing was checked."),
        ],
        tables=[wide_table()],
        pictures=[Picture("A line", "It goes down.", SVG, "image/svg+xml")],
        terms=[("slope", "True nats for each predicted nat.")],
        folded=[("configuration", "seeds: 3\n" + "x" * 300)],
        starts_page=True,
    )
    return Report("A made-up report", ["What this is."], [first, second], "Made by a test.")


def hostile_report() -> Report:
    """Every text field holds markup."""
    table = Table(
        HOSTILE,
        [Column(HOSTILE, HOSTILE), Column(HOSTILE, is_numeric=True), Column("c"), Column("d")],
        [[HOSTILE, number(None, HOSTILE), Badge(HOSTILE, "bad"), Link(HOSTILE, HOSTILE_ID)]],
    )
    check = Check(HOSTILE, "fail", number(None, HOSTILE), HOSTILE, HOSTILE)
    section = Section(
        HOSTILE_ID,
        HOSTILE,
        [Badge(HOSTILE, "good")],
        [HOSTILE],
        [Finding(HOSTILE, Badge(HOSTILE, "warn"), HOSTILE, [check])],
        [table],
        [Picture(HOSTILE, HOSTILE, SVG, "image/svg+xml")],
        [(HOSTILE, HOSTILE)],
        [(HOSTILE, HOSTILE)],
    )
    return Report(HOSTILE, [HOSTILE], [section], HOSTILE)


HOSTILE_ID = "".join(HOSTILE.split())

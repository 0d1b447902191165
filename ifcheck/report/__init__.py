"""A report as one HTML file that needs nothing else: for a browser, a mail or a printer."""

from ifcheck.report.document import (
    Badge,
    Cell,
    Check,
    Column,
    Finding,
    Link,
    Outcome,
    Picture,
    Report,
    Section,
    Table,
    Tone,
)
from ifcheck.report.html import render, write_report
from ifcheck.report.numbers import Number, between, interval, number, share

__all__ = [
    "Badge",
    "Cell",
    "Check",
    "Column",
    "Finding",
    "Link",
    "Number",
    "Outcome",
    "Picture",
    "Report",
    "Section",
    "Table",
    "Tone",
    "between",
    "interval",
    "number",
    "render",
    "share",
    "write_report",
]

"""A report as one HTML file: style, script and pictures are inside, and nothing is fetched."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ifcheck.artifacts import write_text
from ifcheck.report.document import MEDIA_TYPES, Badge, Cell, Picture, Report
from ifcheck.report.numbers import Number
from ifcheck.report.svg import slim

TEMPLATE, STYLE, SCRIPT = "report.html.j2", "report.css", "report.js"

# What needs no escape in a data: URI between double quotes; `#` would end it, `%` start an escape.
PLAIN_IN_SVG = " !$'()*+,-./:;<=>?@[]^_`{|}~"

# Shown with words, so that no meaning rests on colour.
OUTCOME_TONES = {"pass": "good", "warn": "warn", "fail": "bad", "unknown": "unknown"}
SIGNS = {"good": "✓", "warn": "!", "bad": "✗", "unknown": "?"}
RANKS = {tone: rank for rank, tone in enumerate(SIGNS)}  # in which order verdicts are sorted


def write_report(path: Path, report: Report) -> None:
    """Write the report as one self-contained HTML file, all or nothing.

    Equal reports give equal bytes. Raises: OutputRefused, RunFailed.
    """
    write_text(path, render(report))


def render(report: Report) -> str:
    """Return the report as HTML; all of its text is escaped.

    The page forbids itself every request, and every script and style but its own, whose digests it
    names: text that slipped through would still do nothing.
    """
    style, script = _packaged(STYLE), _packaged(SCRIPT)
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    template = _environment().get_template(TEMPLATE)
    return template.render(report=report, style=style, script=script, policy=policy)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ifcheck", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"data_uri": _data_uri, "sort_key": _sort_key}
    environment.globals |= {"SIGNS": SIGNS, "OUTCOME_TONES": OUTCOME_TONES}
    return environment


@cache
def _packaged(name: str) -> str:
    return resources.files("ifcheck.report").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _data_uri(picture: Picture) -> Markup:
    """Return a picture as a data: URI, escaped for an attribute between double quotes.

    SVG is kept as text, which is a quarter smaller than base64.
    """
    if picture.media_type == MEDIA_TYPES[".svg"]:
        content = quote(slim(picture.content), safe=PLAIN_IN_SVG)
        return Markup(f"data:{picture.media_type};charset=utf-8,{content}")
    return Markup(f"data:{picture.media_type};base64,{base64.b64encode(picture.content).decode()}")


def _sort_key(cell: Cell) -> str | None:
    """Return what the page's script sorts an entry by: nothing for undefined, None for its text."""
    if isinstance(cell, Number):
        return "" if cell.value is None else json.dumps(cell.value)  # Infinity as in JavaScript
    return str(RANKS[cell.tone]) if isinstance(cell, Badge) else None

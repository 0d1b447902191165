"""Smaller SVG that looks the same: for pictures that travel inside a page."""

from __future__ import annotations

import re
from collections import Counter
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
COORDINATES = ("d", "x", "y")
LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
DIGITS = 2  # a hundredth of a point, which no screen or printer shows
REFERENCE = re.compile(r"#([\w.-]+)")


def slim(content: bytes) -> str:
    """Return an SVG picture without what does not show: half the size of what Matplotlib writes.

    Coordinates are rounded, ids that nothing refers to and notes on the origin left out, and style
    attributes that repeat become classes. A picture's own style sheet must not set the same
    properties by id, which would win over classes. Raises: ParseError for what is no XML.
    """
    root = ElementTree.fromstring(content)
    for parent in list(root.iter()):
        for child in parent.findall(f"{{{SVG}}}metadata"):
            parent.remove(child)
    named = set(REFERENCE.findall(ElementTree.tostring(root, encoding="unicode")))
    for element in root.iter():
        _shorten(element, named)
    _share_styles(root)
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return ElementTree.tostring(root, encoding="unicode")


def _shorten(element: Element, named: set[str]) -> None:
    if element.get("id") not in named:
        element.attrib.pop("id", None)
    for name in COORDINATES:
        if name in element.attrib:
            text = LONG_NUMBER.sub(_rounded, element.attrib[name])
            element.set(name, " ".join(text.split()))
    if not (element.text or "").strip():
        element.text = None
    if not (element.tail or "").strip() and element.tag != f"{{{SVG}}}tspan":
        element.tail = None


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.{DIGITS}f}"


def _share_styles(root: Element) -> None:
    """Write each style that several elements have once."""
    styled = [e for e in root.iter() if "style" in e.attrib and "class" not in e.attrib]
    counts = Counter(element.attrib["style"] for element in styled)
    names = {style: f"s{i}" for i, (style, count) in enumerate(counts.items()) if count > 1}
    for element in styled:
        if element.attrib["style"] in names:
            element.set("class", names[element.attrib.pop("style")])
    sheet = Element(f"{{{SVG}}}style")
    sheet.text = "".join(f".{name}{{{style}}}" for style, name in names.items())
    root.append(sheet)

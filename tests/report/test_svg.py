"""SVG made smaller: what may go, what must stay, and that a browser shows the same."""

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

from ifcheck.report.svg import slim
from tests.browser import chromium

NAMESPACE = "{http://www.w3.org/2000/svg}"
DRAWN = b"""<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="9pt">
 <metadata><rdf>made by</rdf></metadata>
 <!-- a note -->
 <defs><clipPath id="clip"><path id="mark" d="M 0 0"/></clipPath></defs>
 <g id="axes_1" transform="scale(0.015625)">
  <path id="line_1" d="M 1.234567 -2.999999
 L 3.5 1e3" clip-path="url(#clip)" style="fill: none"/>
  <use xlink:href="#mark" x="10.123456" y="7" style="fill: none"/>
  <text x="1" y="2" style="fill: #123456">one  &amp; <tspan>two</tspan> three</text>
  <rect class="own" style="fill: none" width="1.234567"/>
 </g>
</svg>
"""
# The mean difference of two pictures in levels of 255, and the part of pixels that differ clearly.
DIFFERENCE = """
const [first, second, done] = arguments;
const pixels = (svg) => new Promise((resolve, reject) => {
  const image = new Image();
  image.onload = () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext("2d");
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0);
    resolve(context.getImageData(0, 0, canvas.width, canvas.height).data);
  };
  image.onerror = reject;
  image.src = `data:image/svg+xml;base64,${svg}`;
});
Promise.all([pixels(first), pixels(second)]).then(([ours, theirs]) => {
  let sum = 0;
  let clear = 0;
  for (let i = 0; i < ours.length; i++) {
    const difference = Math.abs(ours[i] - theirs[i]);
    sum += difference;
    clear += difference > 128;
  }
  done([ours.length, theirs.length, sum / ours.length, clear / ours.length]);
});
"""


@pytest.fixture(scope="module")
def slimmed():
    return ElementTree.fromstring(slim(DRAWN))


def one(root, tag):
    (found,) = root.iter(f"{NAMESPACE}{tag}")
    return found


def test_what_does_not_show_is_gone(slimmed):
    text = slim(DRAWN)
    assert not re.search(r"metadata|made by|a note|DOCTYPE|<\?xml|axes_1|line_1", text)
    assert ElementTree.tostring(slimmed) == ElementTree.tostring(ElementTree.fromstring(text))


def test_what_is_referred_to_stays(slimmed):
    assert {e.get("id") for e in slimmed.iter() if e.get("id")} == {"clip", "mark"}
    assert one(slimmed, "use").get("{http://www.w3.org/1999/xlink}href") == "#mark"


def test_coordinates_are_rounded_and_scales_are_not(slimmed):
    assert [e.get("d") for e in slimmed.iter(f"{NAMESPACE}path")] == [
        "M 0 0",
        "M 1.23 -3.00 L 3.5 1e3",
    ]
    use = one(slimmed, "use")
    assert (use.get("x"), use.get("y")) == ("10.12", "7")
    assert one(slimmed, "g").get("transform") == "scale(0.015625)"
    assert slimmed.get("width") == "9pt"


def test_text_stays_as_it_is(slimmed):
    assert "".join(one(slimmed, "text").itertext()) == "one  & two three"


def test_a_style_that_repeats_is_written_once(slimmed):
    shared = [e for e in slimmed.iter() if e.get("class", "own") != "own"]
    assert [e.tag.removeprefix(NAMESPACE) for e in shared] == ["path", "use"]
    (name,) = {e.get("class") for e in shared}
    assert one(slimmed, "style").text == f".{name}{{fill: none}}"
    assert one(slimmed, "text").get("style") == "fill: #123456"
    assert (one(slimmed, "rect").get("class"), one(slimmed, "rect").get("style")) == (
        "own",
        "fill: none",
    )


def test_no_xml_is_refused():
    with pytest.raises(ElementTree.ParseError):
        slim(b"\x89PNG")


# --- in a browser -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def figure():
    """Bars with hatches, error bars, clipped lines, markers that shine through, text."""
    random = np.random.default_rng(0)
    drawn = Figure(figsize=(8, 4))
    left, right = drawn.subplots(1, 2)
    left.bar(range(4), random.random(4), yerr=0.1, hatch="//", color="#009E73", capsize=3)
    left.plot(random.normal(size=200).cumsum(), linestyle="--")
    left.set(xlim=(-1, 5), title="bars & lines", ylabel="|Spearman|")
    right.scatter(random.random(80), random.random(80), alpha=0.5, marker="^", c="#D55E00")
    right.set_xscale("log")
    out = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "test"}):
        drawn.savefig(out, format="svg")
    return out.getvalue()


@pytest.fixture(scope="module")
def difference(figure):
    with chromium() as browser:
        browser.driver.get("about:blank")

        def compare(other: str) -> list[float]:
            both = (base64.b64encode(content).decode() for content in (figure, other.encode()))
            return browser.driver.execute_async_script(DIFFERENCE, *both)

        yield compare


def test_a_smaller_picture_looks_the_same(figure, difference):
    smaller = slim(figure)
    assert len(smaller) < 0.7 * len(figure)
    ours, theirs, mean, clear = difference(smaller)
    assert ours == theirs == 4 * 768 * 384  # 8 by 4 inches in CSS pixels
    assert mean < 0.2
    assert clear == 0


def test_a_picture_without_its_shared_styles_would_be_told(figure, difference):
    _, _, mean, clear = difference(re.sub(r"\.s\d+\{[^}]*\}", "", slim(figure)))
    assert mean > 2
    assert clear > 0.001

"""The page as text: well formed, self-contained, escaped, the same each time."""

import base64
import dataclasses
import hashlib
import re
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

from ifcheck.errors import OutputRefused
from ifcheck.report import Picture, Report, Section, render, write_report
from tests.report import samples
from tests.report.pages import parse

# What the template writes; anything else came in as text.
TAGS = {
    *("html", "head", "meta", "title", "link", "style", "script", "body", "header", "main"),
    *("section", "footer", "nav", "h1", "h2", "h3", "p", "ul", "ol", "li", "dl", "dt", "dd"),
    *("a", "span", "small", "sup", "b", "div", "button", "details", "summary", "pre"),
    *("table", "caption", "thead", "tr", "th", "tbody", "td", "figure", "img", "figcaption"),
}


@pytest.fixture(scope="module")
def page():
    return parse(render(samples.report()))


@pytest.fixture(scope="module")
def hostile():
    return parse(render(samples.hostile_report()))


# --- well formed ------------------------------------------------------------------------------


@pytest.mark.parametrize("html", ["<p><b>x</p></b>", "<p>", "</p>"])
def test_bad_nesting_would_be_found(html):
    with pytest.raises(AssertionError):
        parse(html)


def test_the_page_says_what_it_is(page):
    assert render(samples.report()).startswith('<!DOCTYPE html>\n<html lang="en">')
    assert [e.text for e in page.all("title")] == ["A made-up report"]
    assert [e.text for e in page.all("h1")] == ["A made-up report"]
    assert {e.tag for e in page.elements()} == TAGS


def test_ids_are_unique_and_links_lead_to_them(page):
    ids = [e.attributes["id"] for e in page.elements() if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    targets = [e.attributes["href"] for e in page.all("a")]
    assert targets == ["#first", "#second", "#second", "#first"]
    assert {target[1:] for target in targets} <= set(ids)


def test_tables_have_captions_and_scopes(page):
    tables = page.all("table")
    assert len(tables) == 3
    for table in tables:
        assert len(table.all("caption")) == 1
        heads, *rows = table.all("tr")
        assert {e.attributes.get("scope") for e in heads.all("th")} == {"col"}
        for row in rows:
            assert [e.attributes["scope"] for e in row.all("th")] == ["row"]


def test_every_cell_is_shown(page):
    table = samples.wide_table()
    shown = page.all("table")[-1]
    _, *rows = shown.all("tr")
    for row, expected in zip(rows, table.rows, strict=True):
        texts = [e.text for e in row.elements() if e.tag in ("th", "td")]
        for text, cell in zip(texts, expected, strict=True):
            wanted = cell if isinstance(cell, str) else cell.text
            assert wanted in text


# --- undefined numbers ------------------------------------------------------------------------


def test_an_undefined_number_is_a_dash_with_its_reason_in_words(page):
    shown = page.all("table")[-1]
    undefined = [e for e in shown.all("td") if e.attributes.get("data-number") == ""]
    assert len(undefined) == 2 * 8  # two of eight values in each of the eight columns of numbers
    for cell in undefined:
        # In which order a table has them decides which note it is.
        note = {"nothing was measured": 1, "too few seeds": 2}[cell.attributes["title"]]
        assert cell.text == f"–undefined, note {note}"
    notes = [e for e in page.all("ol") if e.attributes["class"] == "note"][-1]
    assert [e.text for e in notes.all("li")] == ["nothing was measured", "too few seeds"]


def test_a_defined_number_has_no_note(page):
    links = page.all("table")[0]
    assert [e.text for e in links.all("td")] == ["8", "20"]
    assert [e.attributes["data-number"] for e in links.all("td")] == ["8.0", "20.0"]


def test_an_undefined_check_tells_its_reason(page):
    items = [e.text for e in page.all("ul")[-1].all("li")]
    assert items[3] == ("? unknown noise: Not known. Found – (no replicates); expected above 0.5.")
    assert items[0].startswith("✓ pass above chance")


# --- verdicts ---------------------------------------------------------------------------------


def test_tones_are_told_by_sign_and_word_besides_colour(page):
    badges = [e for e in page.all("span") if e.attributes.get("class", "").startswith("badge")]
    assert {e.text for e in badges} == {
        "✓ trust",
        "! ranking only",
        "✗ do not trust",
        "? cannot tell",
        "✓ pass",
        "! warn",
        "✗ fail",
        "? unknown",
    }


# --- self-contained ---------------------------------------------------------------------------


def test_nothing_outside_the_file_is_named(page):
    named = [
        value
        for element in page.elements()
        for name, value in element.attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "poster", "style")
    ]
    assert named
    assert all(value.startswith(("#", "data:")) for value in named)
    style, script = page.all("style")[0].text, page.all("script")[0].text
    assert not re.search(r"url\(|@import|@font-face", style)
    assert not re.search(r"fetch|XMLHttp|import\(|WebSocket|\.src\b", script)
    html = render(dataclasses.replace(samples.report(), sections=[Section("a", "b")]))
    assert "http:" not in html
    assert "https:" not in html


def test_the_page_allows_itself_nothing_but_its_own_style_and_script(page):
    (policy,) = (
        e.attributes["content"]
        for e in page.all("meta")
        if e.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag in ("style", "script"):
        (element,) = page.all(tag)
        digest = hashlib.sha256("".join(element.content).encode()).digest()
        assert rules[f"{tag}-src"] == f"'sha256-{base64.b64encode(digest).decode()}'"


def test_an_svg_picture_arrives(page):
    (image,) = page.all("img")
    assert image.attributes["alt"] == "A line. It goes down."
    head, _, content = image.attributes["src"].partition(",")
    assert head == "data:image/svg+xml;charset=utf-8"
    assert "#" not in content
    arrived = ElementTree.fromstring(unquote(content))
    texts = {e.tag.rpartition("}")[2]: "".join(e.itertext()).split() for e in arrived}
    assert texts["text"] == ["50%", "&", "more"]
    (path,) = (e for e in arrived if e.tag.endswith("path"))
    assert path.attrib == {"id": "line", "d": "M 0 0 L 720 300"}


def test_quotes_in_a_picture_do_not_end_its_attribute():
    text = b"""<svg xmlns="http://www.w3.org/2000/svg"><text>"&gt;&lt;b&gt; ' &amp;</text></svg>"""
    picture = Picture("p", "c", text, "image/svg+xml")
    page = parse(render(Report("t", [], [Section("a", "b", pictures=[picture])], "")))
    (image,) = page.all("img")
    assert set(image.attributes) == {"src", "alt"}
    arrived = ElementTree.fromstring(unquote(image.attributes["src"].partition(",")[2]))
    assert "".join(arrived.itertext()) == "\"><b> ' &"


def test_a_png_picture_arrives_byte_for_byte():
    content = bytes(range(256))
    picture = Picture("p", "c", content, "image/png")
    page = parse(render(Report("t", [], [Section("a", "b", pictures=[picture])], "")))
    head, _, encoded = page.all("img")[0].attributes["src"].partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(encoded) == content


# --- hostile text -----------------------------------------------------------------------------


def test_hostile_text_opens_no_element(hostile):
    assert {e.tag for e in hostile.elements()} <= TAGS
    assert len(hostile.all("script")) == 1
    assert len(hostile.all("b")) == 1  # of the check, as the template has it
    names = {name for e in hostile.elements() for name in e.attributes}
    assert not {name for name in names if name.startswith("on")}


def test_hostile_text_arrives_as_it_is(hostile):
    wanted = " ".join(samples.HOSTILE.split())
    for tag in ("title", "h1", "h3", "dt", "dd", "pre", "footer", "caption"):
        assert [e.text for e in hostile.all(tag)] == [wanted], tag
    assert hostile.all("h2")[0].text.startswith(wanted)
    assert [e.attributes["title"] for e in hostile.all("td")[:1]] == [samples.HOSTILE]
    assert hostile.all("section")[0].attributes["id"] == samples.HOSTILE_ID
    target = hostile.all("td")[-1].all("a")[0].attributes["href"]
    assert unquote(target) == f"#{samples.HOSTILE_ID}"


# --- writing ----------------------------------------------------------------------------------


def test_equal_reports_give_equal_bytes(tmp_path):
    first, second = tmp_path / "a.html", tmp_path / "b.html"
    for path in (first, second):
        write_report(path, samples.report())
    assert first.read_bytes() == second.read_bytes()
    write_report(second, dataclasses.replace(samples.report(), title="another"))
    assert first.read_bytes() != second.read_bytes()


def test_a_report_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputRefused, match="cannot write"):
        write_report(tmp_path / "file" / "report.html", samples.report())

"""The page in a browser: sorting, themes, narrow screens, paper, no requests, no complaints."""

import functools
import re
import shutil
import subprocess

import pytest

from ifcheck.report import Badge, Number, write_report
from tests.browser import chromium
from tests.report import samples

ASCENDING, DESCENDING = "ascending", "descending"
TONES = ["good", "warn", "bad", "unknown"]
ENTER, SPACE = "\ue007", " "  # as WebDriver calls them
SMALLEST_CONTRAST = 4.5  # WCAG 2.2, AA, for text of normal size
PAPER = 680  # CSS pixels between the margins of A4, which is narrower than Letter

# Contrast of every piece of visible text with what is behind it, as WCAG 2.2 defines it.
CONTRASTS = """
const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const parts = (color) => color.match(/[\\d.]+/g).map(Number);
const light = (color) => {
  const [r, g, b] = parts(color).map(channel);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const color = getComputedStyle(e).backgroundColor;
    if ((parts(color)[3] ?? 1) === 1) return color;
  }
  return "rgb(255, 255, 255)";
};
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.textContent.trim() || !element.checkVisibility()) continue;
  const pair = [light(getComputedStyle(element).color), light(behind(element))];
  const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  found.push([ratio, walker.currentNode.textContent.trim()]);
}
return found;
"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(path, samples.report())
    return path


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory):
    path = tmp_path_factory.mktemp("hostile") / "report.html"
    write_report(path, samples.hostile_report())
    return path


def background(browser):
    return browser.script("return getComputedStyle(document.body).backgroundColor")


WHITE, DARK = "rgb(255, 255, 255)", "rgb(20, 23, 27)"


# --- quiet ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["page", "hostile_page"])
def test_the_console_stays_empty_and_nothing_is_fetched(browser, name, request):
    path = request.getfixturevalue(name)
    browser.console(), browser.requests()
    browser.open(path)
    for button in browser.driver.find_elements("css selector", "button"):
        button.click()
    browser.pdf()
    assert browser.console() == []
    asked = browser.requests()
    assert path.as_uri() in asked
    assert all(address == path.as_uri() or address.startswith("data:") for address in asked)


def test_errors_and_requests_would_be_seen_and_are_forbidden(browser, page):
    browser.open(page)
    browser.console()
    browser.script(
        "const image = new Image(); image.src = 'http://127.0.0.1:9/x.png';"
        "const script = document.createElement('script'); script.text = 'window.ran = true';"
        "document.body.append(image, script)"
    )
    assert browser.script("return window.ran") is None
    told = " ".join(browser.console())
    assert "127.0.0.1:9/x.png" in told
    assert "script-src" in told


# --- sorting ----------------------------------------------------------------------------------


def shown(browser, table):
    """The rows of a table as the browser has them now: the text of every cell."""
    return browser.script(
        "return [...document.querySelectorAll('table')[arguments[0]].tBodies[0].rows]"
        ".map((row) => [...row.cells].map((cell) => cell.textContent.trim()))",
        table,
    )


def in_words(first, second):
    """Compare texts by their parts, numbers among them as numbers."""
    parts = [
        [(0, int(p)) if p.isdigit() else (1, p) for p in re.findall(r"\d+|\D+", t)]
        for t in (first.lower(), second.lower())
    ]
    return (parts[0] > parts[1]) - (parts[0] < parts[1])


def is_undefined(cell):
    return isinstance(cell, Number) and cell.value is None


def in_order(rows, place, descending):
    """The rows as they should be: equal ones stay in order, undefined ones come last."""
    defined = [row for row in rows if not is_undefined(row[place])]
    sample = defined[0][place]
    if isinstance(sample, Number):
        key = lambda row: row[place].value  # noqa: E731
    elif isinstance(sample, Badge):
        key = lambda row: TONES.index(row[place].tone)  # noqa: E731
    else:
        by_words = functools.cmp_to_key(in_words)
        key = lambda row: by_words(getattr(row[place], "text", row[place]))  # noqa: E731
    ordered = sorted(defined, key=key, reverse=descending)
    return ordered, [row for row in rows if is_undefined(row[place])]


def text_of(cell):
    return cell if isinstance(cell, str) else cell.text


@pytest.mark.parametrize("place", range(11))
def test_a_column_sorts_either_way_with_undefined_last(browser, page, place):
    browser.open(page)
    number, rows = 2, samples.wide_table().rows
    table = browser.driver.find_elements("css selector", "table")[number]
    heads = table.find_elements("css selector", "thead th")
    assert heads[place].get_attribute("aria-sort") == "none"
    for order in (ASCENDING, DESCENDING, ASCENDING):
        heads[place].find_element("css selector", "button").click()
        ordered, undefined = in_order(rows, place, order == DESCENDING)
        found = [row[0] for row in shown(browser, number)]
        assert found[: len(ordered)] == [text_of(row[0]) for row in ordered]
        assert set(found[len(ordered) :]) == {text_of(row[0]) for row in undefined}
        sorts = [head.get_attribute("aria-sort") for head in heads]
        assert sorts == [order if i == place else "none" for i in range(len(heads))]


@pytest.mark.parametrize("key", [ENTER, SPACE], ids=["enter", "space"])
def test_the_keyboard_sorts_as_the_mouse_does(browser, page, key):
    browser.open(page)
    button = browser.driver.find_element("css selector", "thead button")
    button.click()
    clicked = shown(browser, 0)
    button.send_keys(key)
    assert shown(browser, 0) == clicked[::-1]


def test_every_table_sorts_by_every_column(browser, page):
    browser.open(page)
    tables = browser.driver.find_elements("css selector", "table")
    assert len(tables) == 3
    for number, table in enumerate(tables):
        before = shown(browser, number)
        for button in table.find_elements("css selector", "thead button"):
            button.click()
            once = shown(browser, number)
            button.click()
            twice = shown(browser, number)
            assert once != twice
            assert sorted(once) == sorted(twice) == sorted(before)


def test_links_sort_by_their_text(browser, page):
    browser.open(page)
    browser.driver.find_element("css selector", "thead button").click()
    assert [row[0] for row in shown(browser, 0)] == ["the first", "the second"]


# --- themes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_follows_the_system_until_told_otherwise(browser, page, dark):
    browser.open(page, dark=dark)
    follows, other = (DARK, WHITE) if dark else (WHITE, DARK)
    assert background(browser) == follows
    browser.emulate(dark=not dark)
    assert background(browser) == other
    browser.emulate(dark=dark)
    toggle = browser.driver.find_element("id", "theme")
    browser.wait(lambda: toggle.text == ("Light theme" if dark else "Dark theme"))
    toggle.click()
    assert background(browser) == other
    assert toggle.text == ("Dark theme" if dark else "Light theme")
    browser.driver.get(page.as_uri())
    assert background(browser) == other, "the choice is forgotten"
    browser.driver.find_element("id", "theme").click()
    assert background(browser) == follows


def test_the_chosen_theme_is_there_before_anything_is_painted(browser, page):
    """The script that sets it stands in the head, and waits for nothing."""
    browser.open(page)
    browser.driver.find_element("id", "theme").click()
    watch = (
        "window.seen = []; new MutationObserver(() => { if (document.body) "
        "window.seen.push(document.documentElement.dataset.theme); })"
        ".observe(document, {childList: true, subtree: true});"
    )
    added = browser.driver.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument", {"source": watch}
    )
    browser.driver.get(page.as_uri())
    seen = browser.script("return window.seen")
    browser.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
    assert seen
    assert set(seen) == {"dark"}


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_what_is_behind_it(browser, page, dark):
    browser.open(page, dark=dark)
    browser.script("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    found = browser.script(CONTRASTS)
    assert len(found) > 500
    assert {text: ratio for ratio, text in found if ratio < SMALLEST_CONTRAST} == {}


def test_low_contrast_would_be_found(browser, page):
    browser.open(page)
    browser.script("document.querySelector('h1').style.color = '#999'")
    low = [text for ratio, text in browser.script(CONTRASTS) if ratio < SMALLEST_CONTRAST]
    assert low == ["A made-up report"]


def test_pictures_lie_on_white_in_the_dark(browser, page):
    browser.open(page, dark=True)
    color, width = browser.script(
        "const image = document.querySelector('img');"
        "return [getComputedStyle(image).backgroundColor, image.naturalWidth]"
    )
    assert color == WHITE
    assert width == 720


def test_focus_is_visible(browser, page):
    browser.open(page)
    for selector in ("#theme", "nav a", "thead button", ".scroll", "summary", "pre"):
        style = browser.script(
            "const e = document.querySelector(arguments[0]);"
            "e.closest('details')?.setAttribute('open', '');"
            "e.focus({focusVisible: true});"
            "return [document.activeElement === e, getComputedStyle(e).outlineStyle]",
            selector,
        )
        assert style == [True, "solid"], selector


# --- narrow screens ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["page", "hostile_page"])
def test_a_phone_scrolls_tables_and_never_the_page(browser, name, request):
    browser.open(request.getfixturevalue(name), width=360)
    browser.script("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    assert browser.script("return [innerWidth, document.documentElement.scrollWidth]") == [360, 360]
    boxes = browser.script(
        "return [...document.querySelectorAll('.scroll')]"
        ".map((box) => [box.scrollWidth > box.clientWidth, getComputedStyle(box).overflowX])"
    )
    assert boxes[-1] == [True, "auto"]


def test_words_of_verdicts_stay_whole_on_a_phone(browser, page):
    browser.open(page, width=360)
    browser.script("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    lines = browser.script(
        "return [...document.querySelectorAll('.badge')]"
        ".map((badge) => badge.clientHeight / parseFloat(getComputedStyle(badge).lineHeight))"
        ".map(Math.round)"
    )
    assert len(lines) > 60
    assert set(lines) == {1}


def test_pictures_keep_a_legible_size_on_a_phone(browser, page):
    browser.open(page, width=360)
    assert browser.script("return document.querySelector('img').clientWidth") > 500


def test_a_caption_stays_in_sight_while_its_table_scrolls(browser, page):
    browser.open(page, width=360)
    left, right = browser.script(
        "const box = [...document.querySelectorAll('.scroll:has(table)')].at(-1);"
        "box.scrollLeft = 200;"
        "const caption = box.querySelector('caption span').getBoundingClientRect();"
        "return [caption.left, caption.right]"
    )
    assert 0 <= left < right <= 360


# --- paper ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def printed(browser, page):
    """The page printed from the dark theme."""
    browser.open(page, dark=True)
    return browser.pdf()


def test_it_prints_on_several_pages(printed):
    assert printed.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) > 2


def test_paper_is_light_without_buttons_and_tables_fit(browser, page):
    browser.open(page, dark=True)
    browser.driver.find_element("id", "theme").click()
    browser.driver.find_element("id", "theme").click()
    browser.emulate(PAPER, dark=True, media="print")
    ink, buttons = browser.script(
        "return [getComputedStyle(document.body).color,"
        "[...document.querySelectorAll('button')].filter((b) => b.offsetWidth > 0).length]"
    )
    assert ink == "rgb(27, 31, 36)"
    assert buttons == 0
    widths = browser.script(
        "return [...document.querySelectorAll('table, pre, img')].map((e) => e.offsetWidth)"
    )
    assert max(widths) <= PAPER
    assert browser.script("return document.documentElement.scrollWidth") <= PAPER


def test_what_is_folded_is_printed_and_folded_again(browser, page):
    browser.open(page)
    browser.script(
        "window.opened = []; addEventListener('beforeprint', () => "
        "window.opened.push(document.querySelectorAll('details[open]').length))"
    )
    browser.pdf()
    assert browser.script("return window.opened") == [2]
    assert browser.script("return document.querySelectorAll('details[open]').length") == 0


def test_heads_are_repeated_on_every_page_of_a_table(printed, tmp_path):
    reader = shutil.which("pdftotext")
    if reader is None:
        pytest.skip("no pdftotext to read a PDF with")
    (tmp_path / "report.pdf").write_bytes(printed)
    command = [reader, "-layout", str(tmp_path / "report.pdf"), "-"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    pages = [page for page in text.split("\f") if "depth 10" in page]
    assert len(pages) > 2
    assert all("verdict" in page and "in words" in page for page in pages)

"""What a document refuses, and what it tells of its parts."""

import pytest

from ifcheck.report import Badge, Column, Finding, Picture, Report, Section, Table, number
from tests.report import samples


def test_rows_of_another_length_than_the_columns_are_refused():
    with pytest.raises(ValueError, match=r"cells: rows of \[1\] cells under 2 columns"):
        Table("cells", [Column("a"), Column("b")], [["x", "y"], ["z"]])


@pytest.mark.parametrize("ids", [("a", "a"), ("a b",), ("",)])
def test_ids_that_links_cannot_tell_apart_are_refused(ids):
    with pytest.raises(ValueError, match="section ids"):
        Report("t", [], [Section(name, "s") for name in ids], "")


def test_a_table_tells_each_reason_once():
    rows = [["x", number(None, "b")], ["y", number(None, "a")], ["z", number(None, "b")]]
    table = Table("t", [Column("name"), Column("n", is_numeric=True)], [*rows, ["w", number(1)]])
    assert table.reasons == ["b", "a"]


def test_a_finding_tells_how_its_checks_came_out():
    twice = [*samples.checks(), samples.checks()[2]]
    finding = Finding("f", Badge("trust", "good"), "", twice)
    assert finding.tally == "1 pass, 1 warn, 2 fail, 1 unknown"
    assert Finding("f", Badge("trust", "good"), "", twice[:1]).tally == "1 pass"


@pytest.mark.parametrize(("name", "kind"), [("a.svg", "image/svg+xml"), ("a.png", "image/png")])
def test_a_picture_is_read_with_its_kind(name, kind, tmp_path):
    (tmp_path / name).write_bytes(b"content")
    picture = Picture.read(tmp_path / name, "title", "caption")
    assert picture == Picture("title", "caption", b"content", kind)

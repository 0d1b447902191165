"""How a comparison reads: tables by quantity, sentences on what changed, names of what lacks."""

import pytest

from ifcheck.config import Config
from ifcheck.stages.compare import compare
from ifcheck.stages.compare_tables import comparison_tables, missing_lines, sentences
from ifcheck.stages.exports import export_table
from tests.study_files import CELL, PAIR, record, write_study


@pytest.fixture
def comparison(tmp_path):
    """Agreement rose clearly, curvature fell by the same on every seed, the slope wavers."""
    rises, slopes = (0.20, 0.21, 0.19, 0.2) * 3, (0.3, -0.2, 0.1, -0.1) * 3
    before = [record(seed, spearman=0.5 + 0.01 * seed) for seed in range(12)]
    after = [
        {**row, "spearman": row["spearman"] + rise, "slope": 1.1 + slope, "top_eigenvalue": 1.5}
        for row, rise, slope in zip(before, rises, slopes, strict=True)
    ]
    verdict = {**CELL, **PAIR, "verdict": "do not trust"}
    a = write_study(tmp_path / "a", before, verdicts=[verdict])
    b = write_study(tmp_path / "b", after, verdicts=[{**verdict, "verdict": "trust"}])
    return compare(Config(), a, b)


def test_there_is_a_table_for_each_quantity_and_one_of_verdicts(comparison):
    tables = {table.caption: table for table in comparison_tables(comparison)}
    assert list(tables) == [
        *(f"{name}: means over seeds" for name in ("|Spearman|", "slope", "|drift|")),
        *("top eigenvalue: means over seeds", "train accuracy: means over seeds"),
        "verdicts that changed",
    ]
    (row,) = tables["|Spearman|: means over seeds"].rows
    assert row[:5] == ("l2 1x5", "objective / warm", "0.555", "0.755", "0.2")
    assert row[5] == "0.2 to 0.2"
    assert row[-1] == "12 pairs"
    (row,) = tables["top eigenvalue: means over seeds"].rows
    assert row == ("l2 1x5", "2", "1.5", "-0.5", "-0.5 to -0.5", "0.00098", "12 pairs")
    (row,) = tables["verdicts that changed"].rows
    assert row == ("l2 1x5", "objective / warm", "do not trust", "trust")


def test_only_what_changed_is_shown_on_request(comparison):
    captions = [table.caption for table in comparison_tables(comparison, only_changed=True)]
    assert captions == [
        "|Spearman|: means over seeds",
        "top eigenvalue: means over seeds",
        "verdicts that changed",
    ]


def test_every_change_has_a_sentence_the_surest_first(comparison):
    first, second = sentences(comparison)
    assert first.startswith(
        "l2 1x5, objective / warm: |Spearman| rose from 0.555 to 0.755 "
        "(0.2, interval 0.2 to 0.2, p "
    )
    assert first.endswith("by Holm; seeds: 12 pairs).")
    assert second == (
        "l2 1x5: top eigenvalue fell from 2 to 1.5 (-0.5, without any spread, p 0.00098 by Holm; "
        "seeds: 12 pairs)."
    )


def test_no_change_is_said_too(tmp_path):
    a = write_study(tmp_path / "a", [record(s, spearman=0.9 + 0.01 * s) for s in range(2)])
    b = write_study(tmp_path / "b", [record(s, spearman=0.91 - 0.02 * s) for s in range(2)])
    other = write_study(tmp_path / "c", [record(0, cell="another")])
    assert sentences(compare(Config(), a, a)) == ["All 5 numbers are the same."]
    (wavers,) = sentences(compare(Config(), a, b))
    assert wavers.startswith("4 of 5 numbers unchanged; of the others no difference stands out")
    nothing = compare(Config(), a, other)
    assert sentences(nothing) == ["The studies have no number in common."]
    (table,) = comparison_tables(nothing)
    assert table.rows == ()


def test_seeds_that_are_not_the_same_are_counted_apart(tmp_path):
    a = write_study(tmp_path / "a", [record(s, spearman=0.9 + 0.01 * s) for s in range(3)])
    b = write_study(tmp_path / "b", [record(s, spearman=0.1 + 0.01 * s) for s in range(2)])
    comparison = compare(Config(), a, b)
    assert comparison_tables(comparison)[0].rows[0][-1] == "3 and 2"
    assert sentences(comparison)[0].endswith("seeds: 3 and 2).")


def test_a_network_without_sizes_and_an_unknown_cell_have_names(tmp_path):
    lenet = {"cell": "mnist-lenet-l2", "network": "lenet", "depth": "", "width": ""}
    bare = {k: v for k, v in record(0, cell="bare").items() if k not in ("variant", "depth")}
    for name, row in (("a", record(0, **lenet)), ("b", bare)):
        write_study(tmp_path / name, [row])
        comparison = compare(Config(), tmp_path / name, tmp_path / name)
        shown = comparison_tables(comparison)[0].rows[0][0]
        assert shown == {"a": "l2 lenet", "b": "bare"}[name]


def test_what_lacks_is_named_once_with_its_cells():
    missing = [
        {"cell": "one", "comparison": ""},
        {"cell": "two", "comparison": "paper / warm"},
        {"cell": "three", "comparison": "paper / warm"},
    ]
    assert missing_lines(missing) == ["one", "paper / warm of two, three"]
    assert missing_lines([]) == []


def test_a_comparison_exports_in_every_form(comparison, tmp_path):
    texts = {}
    for suffix in (".md", ".tex", ".csv"):
        export_table(tmp_path / f"t{suffix}", *comparison_tables(comparison))
        texts[suffix] = (tmp_path / f"t{suffix}").read_text(encoding="utf-8")
    assert texts[".md"].count("| l2 1x5") == 6
    assert texts[".tex"].count("l2 1x5 &") == 6
    _, *rows = texts[".csv"].splitlines()
    assert [row.partition(",")[0] for row in rows] == [r["quantity"] for r in comparison.rows]
    assert repr(comparison.rows[0]["difference"]) in rows[0]

"""`ifcheck compare`: settings first, tables of 100 columns, sentences, files, refusals."""

import csv
import json

import pytest

from tests.study_files import CELL, PAIR, record, write_study


def test_settings_tables_and_sentences_come_in_this_order(succeed, two_studies):
    before, after = two_studies
    lines = succeed("compare", before, after).stdout.splitlines()
    assert lines[:4] == [
        f"A: {before}",
        f"B: {after}",
        "Settings of B that differ:",
        "  train.epochs: 200, was 100 in A",
    ]
    (row,) = [line for line in lines if line.startswith(" l2 1x5") and "0.515" in line]
    assert row.split()[:7] == ["l2", "1x5", "objective", "/", "warm", "0.515", "0.718"]
    assert lines[-1].startswith("l2 1x5, objective / warm: |Spearman| rose from 0.515 to 0.718")


def test_a_study_beside_itself_says_so(succeed, two_studies):
    shown = succeed("compare", two_studies[0], two_studies[0]).stdout
    assert "The settings are the same." in shown
    assert shown.splitlines()[-1] == "All 5 numbers are the same."


def test_only_what_changed_is_shown_on_request(succeed, two_studies):
    shown = succeed("compare", *two_studies, "--only-changed").stdout
    assert "|Spearman|: means over seeds" in shown
    assert "slope: means" not in shown


@pytest.fixture
def wide(tmp_path):
    """Two studies whose names and numbers are as long as they get, of other seeds each."""
    cell = {"variant": "l2-swa", "depth": 8, "width": 50}
    pair = {"estimator": "gradient-cosine", "truth": "newton", "retrain_params": "all"}
    folders = []
    for name, seeds, scale in (("a", range(10), -1.234e-05), ("b", range(50), -5.678e-05)):
        rows = [
            record(
                seed, **cell, **{**PAIR, **pair, "estimator": estimator}, slope=scale * (1 + seed)
            )
            for seed in seeds
            for estimator in ("gradient-cosine", "second-order")
        ]
        folders.append(write_study(tmp_path / name, rows))
    return folders


def test_the_widest_tables_fit_100_columns_and_fold_no_number(succeed, wide):
    lines = [line for line in succeed("compare", *wide).stdout.splitlines() if line[:1] == " "]
    assert max(map(len, lines)) <= 100
    (row,) = [line for line in lines if "second-order" in line and "e-05" in line]
    numbers = row.partition("/")[2].split()
    assert numbers[:3] == ["-6.79e-05", "-0.00145", "-0.0014"]
    assert numbers[-3:] == ["10", "and", "50"]


def test_more_changes_than_a_screen_are_counted(succeed, tmp_path):
    for name, agreement in (("a", 0.5), ("b", 0.75)):
        rows = [
            record(seed, cell=f"cell-{n}", spearman=agreement + 0.001 * seed * (1 + n))
            for seed in range(12)
            for n in range(13)
        ]
        write_study(tmp_path / name, rows)
    shown = succeed("compare", tmp_path / "a", tmp_path / "b").stdout
    assert shown.count(" rose from ") == 10
    assert "And 3 more changed: --only-changed shows them." in shown


def test_what_lacks_and_what_is_unfinished_is_said(succeed, tmp_path):
    write_study(tmp_path / "a", [record(0), record(0, cell="other")], finished=False)
    write_study(tmp_path / "b", [record(0), record(0, estimator="paper")])
    result = succeed("compare", tmp_path / "a", tmp_path / "b")
    assert "note: A was interrupted, or is still running" in result.stderr
    assert result.stdout.splitlines()[-2:] == [
        "Only in A: other",
        f"Only in B: paper / warm of {CELL['cell']}",
    ]


def test_names_are_shown_as_they_are(succeed, tmp_path):
    """Brackets are no markup of the terminal's."""
    name = "[red]cell[/red] :smile: \\"
    write_study(tmp_path / "a", [record(0, cell=name)])
    write_study(tmp_path / "b", [record(0)])
    assert f"Only in A: {name}" in succeed("compare", tmp_path / "a", tmp_path / "b").stdout


def test_json_has_null_beside_a_reason(succeed, two_studies):
    found = json.loads(succeed("compare", *two_studies, "--json").stdout)
    assert found["settings"] == ["train.epochs: 200, was 100"]
    by_name = {row["quantity"]: row for row in found["rows"]}
    assert by_name["|Spearman|"]["changed"] is True
    assert by_name["slope"]["p_value"] is None
    assert "no spread" in by_name["slope"]["reason"]


def test_exports_and_the_file_hold_the_same(succeed, two_studies, tmp_path):
    paths = [tmp_path / f"t{suffix}" for suffix in (".md", ".tex", ".csv")]
    exports = [part for path in paths for part in ("--export", path)]
    succeed("compare", *two_studies, *exports, "--out", tmp_path / "c.json")
    rows = json.loads((tmp_path / "c.json").read_text())["rows"]
    with paths[2].open(newline="") as file:
        exported = list(csv.DictReader(file))
    assert [float(row["difference"]) for row in exported] == [row["difference"] for row in rows]
    for path in paths[:2]:
        assert "0.515" in path.read_text(encoding="utf-8")


def test_the_confidence_can_be_set(succeed, two_studies):
    shown = succeed("compare", *two_studies, "--set", "evaluate.confidence=0.9").stdout
    assert "90% interval" in shown


def test_a_dry_run_writes_nothing(succeed, two_studies, tmp_path):
    files = ("--export", tmp_path / "t.md", "--out", tmp_path / "c.json")
    shown = succeed("compare", *two_studies, *files, "--dry-run").stdout
    assert "would run" in shown
    assert list(tmp_path.iterdir()) == []


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1])
def test_what_is_no_study_is_refused(place, refuse, two_studies, tmp_path):
    folders = list(two_studies)
    folders[place] = tmp_path
    message = refuse("compare", *folders, "--out", tmp_path / "c.json")
    assert f"{tmp_path} is not the folder of a study" in message
    assert "ifcheck fragility --out" in message
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_refused(refuse, two_studies, tmp_path):
    folder = write_study(tmp_path / "s", [record(0)])
    with (folder / "results.csv").open("a") as file:
        file.write("iris,1\n")
    message = refuse("compare", two_studies[0], folder)
    assert "line 3 has 2 values; expected" in message


def test_a_number_that_is_none_is_refused(refuse, two_studies, tmp_path):
    folder = write_study(tmp_path / "s", [record(0, slope="steep")])
    assert "slope of iris-mlp-depth1-width5-selu-l2 is 'steep'" in refuse(
        "compare", folder, two_studies[0]
    )


def test_a_file_that_is_there_is_kept_without_force(refuse, succeed, two_studies, tmp_path):
    out = tmp_path / "c.json"
    out.write_text("mine")
    assert "--force" in refuse("compare", *two_studies, "--out", out)
    assert out.read_text() == "mine"
    succeed("compare", *two_studies, "--out", out, "--force")
    assert json.loads(out.read_text())["rows"]


def test_an_unknown_form_and_the_studies_own_files_are_refused(refuse, two_studies):
    assert "expected one of: .md, .tex, .csv" in refuse(
        "compare", *two_studies, "--export", "t.html"
    )
    own = two_studies[1] / "results.csv"
    before = own.read_bytes()
    assert "in the folder of a study" in refuse("compare", *two_studies, "--export", own)
    assert own.read_bytes() == before

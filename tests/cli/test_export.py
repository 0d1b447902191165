"""`--export` of evaluate and fragility, the tables that a study writes, and both read back."""

import csv
import json

import pytest

from tests.cli.conftest import STUDY

FORMS = (".md", ".tex", ".csv")
SMALL = (*STUDY, "--variant", "l2", "--width", "5", "--truth", "newton,warm")


@pytest.fixture(scope="module")
def study(succeed, tmp_path_factory):
    """A finished study of one cell, and what it exported. Read only."""
    folder = tmp_path_factory.mktemp("export")
    exports = [part for form in FORMS for part in ("--export", folder / f"t{form}")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ifcheck.stages.pictures.draw", lambda *_: [])
        succeed(*SMALL, "--out", folder / "study", *exports)
    return folder


def evaluated(run_folder):
    return (
        *("evaluate", "--influence", run_folder / "influence-paper.npz"),
        *("--retrain", run_folder / "retrain-warm.npz"),
    )


def test_an_evaluation_is_exported_as_it_is_shown(run_folder, succeed, tmp_path):
    exports = [part for form in FORMS for part in ("--export", tmp_path / f"t{form}")]
    result = succeed(*evaluated(run_folder), *exports)
    (row,) = [line for line in result.stdout.splitlines() if "paper / warm" in line][:1]
    cells = row.split()
    markdown = (tmp_path / "t.md").read_text(encoding="utf-8")
    (exported,) = [line for line in markdown.splitlines() if "paper / warm" in line][:1]
    assert exported.replace("|", " ").split() == [*cells, "cannot", "tell"]  # of four removals
    assert (tmp_path / "t.tex").read_text(encoding="utf-8").count("paper / warm &") == 2


def test_its_csv_has_every_digit_of_the_json(run_folder, succeed, tmp_path):
    result = succeed(*evaluated(run_folder), "--json", "--export", tmp_path / "t.csv")
    (summary,) = json.loads(result.stdout)["summaries"]
    with (tmp_path / "t.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["slope_median"]) == summary["slope_median"]
    assert float(row["abs_spearman_mean"]) == summary["abs_spearman_mean"]


def test_a_study_exports_its_cells_with_published_figures_beside(study):
    markdown = (study / "t.md").read_text(encoding="utf-8")
    rows = [line for line in markdown.splitlines() if line.startswith("| l2 1x5")]
    assert len(rows) == 2 * 3 * 2  # agreement and controls of three estimators and two truths
    assert "publ." in markdown
    assert "0.70±.07" in rows[0]


def test_a_study_writes_its_tables_always(study):
    names = {path.name for path in (study / "study" / "tables").iterdir()}
    assert {"agreement.md", "agreement.tex"} <= names
    written = (study / "study" / "tables" / "agreement.md").read_text(encoding="utf-8")
    assert written == (study / "t.md").read_text(encoding="utf-8")


def test_a_real_study_is_the_same_as_itself(study, succeed):
    found = succeed("compare", study / "study", study / "study")
    assert "The settings are the same." in found.stdout
    assert found.stdout.splitlines()[-1].startswith("All ")
    assert "note:" not in found.stderr


@pytest.mark.parametrize("command", ["evaluate", "fragility"])
def test_another_form_is_refused_before_anything_is_computed(
    command, commands, refuse, failing_stage, elsewhere
):
    message = refuse(*commands[command], "--export", "table.xlsx")
    assert "--export got table.xlsx, which has the suffix '.xlsx'" in message
    assert list(elsewhere.iterdir()) == []


@pytest.fixture
def failing_stage(monkeypatch):
    """Let any stage that is begun fail the test."""
    for name in ("evaluate", "fragility"):
        monkeypatch.setattr(f"ifcheck.stages.{name}.{name}", pytest.fail)


def test_a_studys_own_files_are_not_exported_over(refuse, failing_stage, tmp_path):
    out = tmp_path / "study"
    message = refuse(*SMALL, "--out", out, "--export", out / "summary.csv")
    assert "among its own CSV files" in message
    assert not out.exists()


def test_a_dry_run_exports_nothing(run_folder, succeed, tmp_path):
    succeed(*evaluated(run_folder), "--dry-run", "--export", tmp_path / "t.md")
    assert list(tmp_path.iterdir()) == []

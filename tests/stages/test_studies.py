"""Study folders read back: old ones, damaged ones, failed cells and seeds."""

import math

import pytest

from ifcheck.errors import ArtifactUnreadable
from ifcheck.stages.studies import read_study
from tests.study_files import CELL, PAIR, record, write_rows, write_study


def by_seed(study, column="spearman", absolute=True, only_ok=True):
    return study.by_seed(study.rows, column, absolute, only_ok)


def test_values_are_means_over_test_points_by_seed(tmp_path):
    rows = [
        record(0, spearman=-0.5),
        record(0, spearman=0.7, test_id=84),
        record(3, spearman=0.25),
        record(3, spearman="", test_id=84),
        record(4, spearman=""),
    ]
    study = read_study(write_study(tmp_path / "s", rows))
    found = by_seed(study)
    assert found[0] == pytest.approx(0.6)
    assert found[3] == 0.25
    assert math.isnan(found[4])
    assert by_seed(study, absolute=False)[0] == pytest.approx(0.1)


def test_records_that_are_not_ok_have_no_agreement_but_a_curvature(tmp_path):
    rows = [record(0), record(1, status="failed: a retraining turned non-finite")]
    study = read_study(write_study(tmp_path / "s", rows))
    assert math.isnan(by_seed(study)[1])
    assert by_seed(study, "top_eigenvalue", only_ok=False)[1] == 2.0


def test_failed_seeds_are_seeds_of_their_cell(tmp_path):
    failed = {**CELL, "seed": 7, "status": "failed: training turned non-finite"}
    elsewhere = {**failed, "cell": "another", "seed": 8}
    cell = {"cell": "third", "status": "failed: diverged"}
    study = read_study(write_study(tmp_path / "s", [record(0), failed, elsewhere, cell]))
    assert math.isnan(by_seed(study)[7])
    assert by_seed(study).keys() == {0, 7}
    assert [row["cell"] for row in study.failures] == [CELL["cell"], "another", "third"]
    assert study.cells == [CELL["cell"]]


def test_an_older_study_removed_single_rows_from_heads(tmp_path):
    old = {k: v for k, v in record(0).items() if k not in ("group_size", "retrain_params")}
    before = read_study(write_study(tmp_path / "old", [old]))
    now = read_study(write_study(tmp_path / "now", [record(0)]))
    assert before.keys == now.keys == [(CELL["cell"], "objective", "warm", "head", "1", "")]


def test_selections_are_told_apart_where_there_are_several(tmp_path):
    one = read_study(write_study(tmp_path / "one", [record(0, selection="random")]))
    rows = [record(0, selection="random"), record(0, selection="top-loss")]
    two = read_study(write_study(tmp_path / "two", rows))
    assert [key[-1] for key in one.keys] == [""]
    assert [key[-1] for key in two.keys] == ["random", "top-loss"]


def test_an_interrupted_study_is_read_as_far_as_it_is(tmp_path):
    assert not read_study(write_study(tmp_path / "s", [record(0)], finished=False)).finished
    assert read_study(write_study(tmp_path / "t", [record(0)])).finished


def test_verdicts_are_read_where_there_are_any(tmp_path):
    row = {**CELL, **PAIR, "verdict": "trust"}
    failed = {"cell": "other", "reason": "failed: diverged"}
    study = read_study(write_study(tmp_path / "s", [record(0)], verdicts=[row, failed]))
    assert study.verdicts == {study.keys[0]: "trust"}
    without = {**CELL, **PAIR}
    assert read_study(write_study(tmp_path / "t", [record(0)], verdicts=[without])).verdicts is None
    assert read_study(write_study(tmp_path / "u", [record(0)])).verdicts is None


# --- unusable folders ----------------------------------------------------------------------------


def refusal(folder):
    with pytest.raises(ArtifactUnreadable) as error:
        read_study(folder)
    assert error.value.remedy
    return error.value.message


def test_a_folder_that_is_no_study(tmp_path):
    assert "no study.json" in refusal(tmp_path)
    assert "no study.json" in refusal(tmp_path / "nowhere")


def test_a_damaged_configuration(tmp_path):
    folder = write_study(tmp_path / "s", [record(0)])
    (folder / "study.json").write_text("{")
    assert "study.json is damaged" in refusal(folder)


def test_a_study_without_a_finished_cell(tmp_path):
    folder = write_study(tmp_path / "s", [record(0)])
    (folder / "results.csv").unlink()
    assert "none of the study's cells is finished" in refusal(folder)


@pytest.mark.parametrize("name", ["cell", "seed", "estimator", "truth", "status"])
def test_a_column_that_it_takes_is_missing(name, tmp_path):
    rows = [{k: v for k, v in record(0).items() if k != name}]
    message = refusal(write_study(tmp_path / "s", rows))
    assert f"has no column {name}; it has:" in message


def test_an_empty_file(tmp_path):
    folder = write_study(tmp_path / "s", [record(0)])
    (folder / "results.csv").write_text("")
    assert "has no column cell" in refusal(folder)


@pytest.mark.parametrize("cut", [1, 40])
def test_a_truncated_file(cut, tmp_path):
    folder = write_study(tmp_path / "s", [record(0), record(1)])
    path = folder / "results.csv"
    path.write_text(path.read_text().rstrip()[:-cut].rpartition(",")[0])
    assert "line 3 has" in refusal(folder)


@pytest.mark.parametrize(
    "content",
    [b'cell,"seed\n', b"\xff\xfe\x00", b"cell\x00,seed\n1,2\n"],
    ids=["quote", "utf", "nul"],
)
def test_a_file_that_is_no_csv(content, tmp_path):
    folder = write_study(tmp_path / "s", [record(0)])
    (folder / "results.csv").write_bytes(content)
    assert "results.csv" in refusal(folder)


def test_a_damaged_summary(tmp_path):
    folder = write_study(tmp_path / "s", [record(0)], verdicts=[{**CELL, **PAIR, "verdict": "a"}])
    path = folder / "summary.csv"
    path.write_text(path.read_text() + "1,2,3\n")
    assert "line 3 has 3 values" in refusal(folder)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"spearman": "high"}, "spearman of iris-mlp-depth1-width5-selu-l2 is 'high'"),
        ({"seed": "zero"}, "seed of iris-mlp-depth1-width5-selu-l2 is 'zero'"),
        ({"seed": ""}, "seed of iris-mlp-depth1-width5-selu-l2 is ''"),
        ({"seed": "inf"}, "seed of iris-mlp-depth1-width5-selu-l2 is 'inf'"),
    ],
)
def test_what_is_no_number_is_named(parts, message, tmp_path):
    study = read_study(write_study(tmp_path / "s", [{**record(0), **parts}]))
    with pytest.raises(ArtifactUnreadable, match="expected a number") as error:
        by_seed(study)
    assert message in error.value.message


def test_rows_of_any_text_are_read(tmp_path):
    rows = [record(0, cell='a,"b"\nc'), record(1, cell="–")]
    study = read_study(write_study(tmp_path / "s", rows))
    assert study.cells == ['a,"b"\nc', "–"]
    write_rows(tmp_path / "again.csv", study.rows)
    assert (tmp_path / "again.csv").read_text() == (study.path / "results.csv").read_text()

"""`ifcheck evaluate`: the table, the JSON, the threshold, and files that cannot be used."""

import json
import shutil

import numpy as np
import pytest

ESTIMATORS = ("objective", "paper", "authors")
TRUTHS = ("warm", "newton")


@pytest.fixture
def everything(run_folder):
    """Options that name all files of the run."""
    influence = [("--influence", run_folder / f"influence-{name}.npz") for name in ESTIMATORS]
    retrain = [("--retrain", run_folder / f"retrain-{name}.npz") for name in TRUTHS]
    options = [part for pair in influence + retrain for part in pair]
    return [*options, "--eigen", run_folder / "eigen.npz"]


@pytest.fixture
def pair(run_folder):
    influence = ("--influence", run_folder / "influence-objective.npz")
    return (*influence, "--retrain", run_folder / "retrain-warm.npz")


def test_the_table_has_a_row_for_every_pair(everything, succeed):
    shown = succeed("evaluate", *everything).stdout
    for estimator in ESTIMATORS:
        for truth in TRUTHS:
            assert f"{estimator} / {truth}" in shown


def test_json_is_what_the_file_holds(everything, succeed, tmp_path):
    out = tmp_path / "evaluation.json"
    shown = succeed("evaluate", *everything, "--json", "--out", out).stdout
    found = json.loads(shown)
    assert found == json.loads(out.read_text())
    assert len(found["records"]) == 3 * 2 * 2
    assert len(found["summaries"]) == 3 * 2


def test_the_table_shows_the_numbers_of_the_json(pair, succeed):
    (summary,) = json.loads(succeed("evaluate", *pair, "--json").stdout)["summaries"]
    row, controls, *_ = [
        line
        for line in succeed("evaluate", *pair).stdout.splitlines()
        if line.strip().startswith("objective / warm")
    ]
    assert f"{summary['abs_spearman_mean']:.2f}" in row
    assert f"{summary['slope_median']:.3g}" in row
    assert f"{summary['r2_median']:.3g}" in row
    assert f"{summary['chance_p']:.2g}" in controls
    assert f"{summary['power']:.2g}" in controls


def test_the_number_of_top_rows_reaches_the_comparison(pair, succeed):
    found = json.loads(succeed("evaluate", *pair, "--top-k", 2, "--json").stdout)
    assert {record["top_k_chance"] for record in found["records"]} == {2 / 4}
    assert found["meta"]["config"]["top_k"] == 2


def test_different_normalisations_are_noted(run_folder, succeed):
    influence = ("--influence", run_folder / "influence-paper.npz")
    result = succeed("evaluate", *influence, "--retrain", run_folder / "retrain-warm.npz")
    assert "note: paper / warm: prediction n, truth n-1" in result.stderr


# --- the threshold ------------------------------------------------------------------------------


def test_a_threshold_that_is_missed_exits_with_1_and_shows_the_result(pair, invoke, succeed):
    plain = succeed("evaluate", *pair)
    (summary,) = json.loads(succeed("evaluate", *pair, "--json").stdout)["summaries"]
    mean = summary["abs_spearman_mean"]
    missed = invoke("evaluate", *pair, "--min-spearman", mean + 1e-6)
    assert missed.exit_code == 1
    assert missed.stdout == plain.stdout
    assert missed.stderr == plain.stderr
    assert invoke("evaluate", *pair, "--min-spearman", mean - 1e-6).exit_code == 0


def test_one_pair_below_the_threshold_is_enough(everything, invoke, succeed):
    found = json.loads(succeed("evaluate", *everything, "--json").stdout)
    means = sorted(s["abs_spearman_mean"] for s in found["summaries"])
    assert means[0] < means[-1]
    between = (means[0] + means[-1]) / 2
    assert invoke("evaluate", *everything, "--min-spearman", between).exit_code == 1
    assert invoke("evaluate", *everything, "--min-spearman", means[0]).exit_code == 0


def test_the_file_is_written_also_where_the_threshold_is_missed(pair, invoke, tmp_path):
    out = tmp_path / "evaluation.json"
    result = invoke("evaluate", *pair, "--min-spearman", 1.0, "--json", "--out", out)
    assert result.exit_code == 1
    assert json.loads(out.read_text()) == json.loads(result.stdout)


def test_an_undefined_agreement_misses_every_threshold(other_run, succeed, invoke, tmp_path):
    succeed("influence", other_run, "--out", tmp_path / "influence.npz")
    arguments = ("--truth", "newton", "--removals", "top-loss:4")
    succeed("retrain", other_run, *arguments, "--out", tmp_path / "retrain.npz")
    pair = ("--influence", tmp_path / "influence.npz", "--retrain", tmp_path / "retrain.npz")
    result = invoke("evaluate", *pair, "--min-spearman", "0.0", "--json")
    assert result.exit_code == 1
    assert "NaN" not in result.stdout
    (summary,) = json.loads(result.stdout)["summaries"]
    assert summary["abs_spearman_mean"] is None
    assert summary["reason"].startswith("refused: without weight decay")
    plain = succeed("evaluate", *pair)
    assert "–" in plain.stdout
    assert "refused: without weight decay" in plain.stderr


@pytest.mark.parametrize("value", ["1.5", "-2"])
def test_a_threshold_beyond_correlations_is_refused(value, pair, refuse):
    assert "evaluate.min_spearman is" in refuse("evaluate", *pair, "--min-spearman", value)


# --- files --------------------------------------------------------------------------------------


def test_files_of_another_run_are_refused_by_name(pair, other_run, succeed, refuse, tmp_path):
    succeed("influence", other_run, "--out", tmp_path / "influence-other.npz")
    message = refuse("evaluate", *pair, "--influence", tmp_path / "influence-other.npz")
    assert "influence-other.npz was made from checkpoint seed-000.safetensors" in message
    assert "influence-objective.npz from" in message
    assert "same checkpoints" in message


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: len(data) // 2], "is not a readable .npz file"),
        (lambda data: data[:-1], "is not a readable .npz file"),
        (lambda data: b"", "is not a readable .npz file"),
        (lambda data: b"plain text", "is not a readable .npz file"),
    ],
    ids=["truncated", "the last byte lost", "empty", "text"],
)
def test_a_damaged_file_is_refused_by_name(damage, message, run_folder, refuse, tmp_path):
    bad = tmp_path / "bad.npz"
    bad.write_bytes(damage((run_folder / "influence-paper.npz").read_bytes()))
    retrain = ("--retrain", run_folder / "retrain-warm.npz")
    text = refuse("evaluate", "--influence", bad, *retrain)
    assert "bad.npz" in text
    assert message in text


def test_a_single_array_under_the_name_of_an_artifact_is_refused(run_folder, refuse, tmp_path):
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    retrain = ("--retrain", run_folder / "retrain-warm.npz")
    assert "array.npz" in refuse("evaluate", "--influence", tmp_path / "array.npz", *retrain)


def test_pickled_arrays_are_never_loaded(run_folder, refuse, tmp_path):
    np.savez(tmp_path / "pickle.npz", meta=np.array([{"kind": "influence"}], dtype=object))
    retrain = ("--retrain", run_folder / "retrain-warm.npz")
    message = refuse("evaluate", "--influence", tmp_path / "pickle.npz", *retrain)
    assert "pickle.npz" in message


def test_arrays_of_someone_else_are_refused(run_folder, refuse, tmp_path):
    np.savez(tmp_path / "foreign.npz", scores=np.zeros((2, 1, 149)))
    retrain = ("--retrain", run_folder / "retrain-warm.npz")
    message = refuse("evaluate", "--influence", tmp_path / "foreign.npz", *retrain)
    assert "foreign.npz was not written by ifcheck" in message


def test_a_missing_file_is_refused(pair, refuse, tmp_path):
    message = refuse("evaluate", *pair, "--retrain", tmp_path / "none.npz")
    assert "none.npz does not exist" in message


def test_files_in_each_others_place_are_refused(run_folder, refuse):
    message = refuse(
        *("evaluate", "--influence", run_folder / "retrain-warm.npz"),
        *("--retrain", run_folder / "influence-paper.npz"),
    )
    assert "retrain-warm.npz holds 'retrain'; expected 'influence'" in message


def test_an_existing_output_is_refused_without_force(pair, refuse, succeed, tmp_path):
    out = tmp_path / "evaluation.json"
    out.write_text("mine")
    assert "exists already" in refuse("evaluate", *pair, "--out", out)
    assert out.read_text() == "mine"
    succeed("evaluate", *pair, "--out", out, "--force")
    assert json.loads(out.read_text())["records"]


def test_an_output_below_a_regular_file_is_refused(pair, refuse, tmp_path):
    (tmp_path / "file").touch()
    assert "cannot write" in refuse("evaluate", *pair, "--out", tmp_path / "file" / "e.json")


def test_without_an_output_nothing_is_written(pair, succeed, snapshot, run_folder, elsewhere):
    before = snapshot(run_folder)
    succeed("evaluate", *pair)
    assert snapshot(run_folder) == before
    assert list(elsewhere.iterdir()) == []


def test_renamed_files_are_still_known_by_their_contents(pair, succeed, run_folder, tmp_path):
    shutil.copy(run_folder / "influence-objective.npz", tmp_path / "x.npz")
    arguments = ("--influence", tmp_path / "x.npz", "--retrain", run_folder / "retrain-warm.npz")
    (summary,) = json.loads(succeed("evaluate", *arguments, "--json").stdout)["summaries"]
    assert summary["influence"] == "x.npz"
    assert summary["estimator"] == "objective"

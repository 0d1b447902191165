"""`ifcheck retrain`: its options reach the stage; removals that cannot be are refused."""

import json

import numpy as np
import pytest

QUICK = ("--removals", "top-loss:3", "--epochs", "5")


def test_it_writes_the_losses_and_says_what_was_done(run_folder, succeed, tmp_path):
    out = tmp_path / "truth.npz"
    shown = succeed("retrain", run_folder, *QUICK, "--out", out).stdout
    assert "3 rows removed in turn, 2 networks, truth warm" in shown
    assert "null drift" in shown
    with np.load(out) as file:
        assert file["loss_after"].shape == (2, 1, 3)


def test_the_default_file_is_named_after_the_truth(run_folder, refuse):
    message = refuse("retrain", run_folder, "--truth", "newton", *QUICK[:2])
    assert "retrain-newton.npz exists already" in message


def test_every_option_reaches_the_configuration(run_folder, succeed, tmp_path):
    options = {
        "truth": "warm",
        "params": "all",
        "removals": "random:2",
        "epochs": 4,
        "normalisation": "n",
        "swa-restart": "live",
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    out = tmp_path / "truth.npz"
    result = succeed("retrain", run_folder, *flags, "--trajectory", "--json", "--out", out)
    record = json.loads(result.stdout)
    found = record["meta"]["config"]["retrain"]
    for name, value in {**options, "trajectory": True}.items():
        assert found[name.replace("-", "_")] == value
    assert np.shape(record["arrays"]["trajectory"]) == (2, 1, 2, 2)


def test_replicates_of_scratch_are_a_last_axis_and_told_of(run_folder, succeed, tmp_path):
    out = tmp_path / "truth.npz"
    flags = ("--truth", "scratch", "--removals", "top-loss:4", "--replicates", 3)
    shown = succeed("retrain", run_folder, *flags, "--out", out).stdout
    assert "truth scratch" in shown
    assert "mean of 3 replicates" in shown
    with np.load(out) as file:
        assert file["loss_after"].shape == (2, 1, 4, 3)
        assert file["null_loss_after"].shape == (2, 1, 3)
    assert "2x1x4x3" in succeed("inspect", out).stdout
    scores = run_folder / "influence-objective.npz"
    result = succeed("evaluate", "--influence", scores, "--retrain", out)
    assert "mean of 3 replicates, reliability" in result.stderr
    planned = succeed("retrain", run_folder, *flags, "--dry-run", "--out", tmp_path / "no.npz")
    assert "retrain" in planned.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--truth", "warm", "--replicates", 2), "would repeat one result"),
        (("--truth", "newton", "--replicates", 2), "would repeat one result"),
        (("--truth", "scratch", "--params", "head"), "retrain.params is all, not head"),
        (("--truth", "scratch", "--epochs", 5), "repeats the training"),
    ],
)
def test_what_has_no_meaning_for_a_truth_is_refused(
    arguments, message, run_folder, refuse, tmp_path
):
    assert message in refuse("retrain", run_folder, *arguments, "--out", tmp_path / "truth.npz")


def test_a_refused_truth_is_a_note_and_null(other_run, succeed, tmp_path):
    out = tmp_path / "truth.npz"
    result = succeed("retrain", other_run, "--truth", "newton", *QUICK[:2], "--out", out)
    assert "note: refused: without weight decay the head problem" in result.stderr
    assert "converged      0%" in result.stdout
    arguments = ("--truth", "newton", *QUICK[:2], "--out", out, "--force", "--json")
    result = succeed("retrain", other_run, *arguments)
    assert "NaN" not in result.stdout
    record = json.loads(result.stdout)
    assert record["arrays"]["loss_after"] == [[[None] * 3]] * 2
    assert record["meta"]["reasons"][0].startswith("without weight decay")


def test_rows_of_another_file_are_removed_again(run_folder, succeed, tmp_path):
    like = f"like:{run_folder / 'retrain-warm.npz'}"
    out = tmp_path / "truth.npz"
    succeed("retrain", run_folder, "--removals", like, "--epochs", 2, "--out", out)
    with np.load(out) as ours, np.load(run_folder / "retrain-warm.npz") as theirs:
        assert np.array_equal(ours["removed_ids"], theirs["removed_ids"])


def test_rows_of_largest_score_are_removed(run_folder, succeed, tmp_path):
    scores = run_folder / "influence-paper.npz"
    arguments = ("--removals", "top-score:4", "--influence", scores, "--epochs", 2)
    succeed("retrain", run_folder, *arguments, "--out", tmp_path / "truth.npz")
    with np.load(tmp_path / "truth.npz") as truth, np.load(scores) as file:
        order = np.argsort(-np.abs(file["scores"][:, 0]), axis=1)[:, :4]
        assert np.array_equal(truth["removed_ids"], file["train_ids"][order])


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--removals", "top-loss:1000", "1000 rows"),
        ("--removals", "top-loss:149", "149 rows"),
        ("--removals", "top-loss:0", "expected a count of at least 1"),
        ("--removals", "nonsense", "expected top-loss:K, top-score:K, random:K, ids:1,2,3"),
        ("--removals", "ids:83", "names row 83"),
        ("--removals", "top-score:3", "--influence"),
        ("--removals", "like:nowhere.npz", "nowhere.npz does not exist"),
        ("--truth", "warn", "Did you mean 'warm'?"),
        ("--params", "layer:head", "expected head or all"),
        ("--epochs", "0", "retrain.epochs is 0"),
        ("--swa-restart", "dead", "retrain.swa_restart is 'dead'"),
        ("--normalisation", "m", "retrain.normalisation is 'm'"),
    ],
)
def test_unusable_values_are_refused(option, value, message, run_folder, refuse, tmp_path):
    out = tmp_path / "truth.npz"
    assert message in refuse("retrain", run_folder, *QUICK, option, value, "--out", out)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["like", "top-score"])
def test_files_of_another_run_are_refused_by_name(form, run_folder, other_run, refuse, tmp_path):
    file = run_folder / {"like": "retrain-warm.npz", "top-score": "influence-paper.npz"}[form]
    arguments = {
        "like": ("--removals", f"like:{file}"),
        "top-score": ("--removals", "top-score:3", "--influence", file),
    }[form]
    message = refuse("retrain", other_run, *arguments, "--out", tmp_path / "truth.npz")
    assert f"{file.name} was made from checkpoint seed-000.safetensors" in message
    assert "Make that file again from these checkpoints" in message


def test_an_existing_file_is_refused_without_force(run_folder, refuse, tmp_path):
    (tmp_path / "truth.npz").write_text("mine")
    message = refuse("retrain", run_folder, *QUICK, "--out", tmp_path / "truth.npz")
    assert "exists already" in message
    assert (tmp_path / "truth.npz").read_text() == "mine"


@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["run", "dry run"])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--truth", "pbrf", "--normalisation", "n-1"), "no use for retrain.normalisation"),
        (("--truth", "newton", "--set", "retrain.damping=0.1"), "no use for retrain.damping"),
        (("--truth", "scratch", "--epochs", "7"), "retrain.epochs is"),
    ],
)
def test_what_would_have_no_effect_is_refused(flags, message, dry, run_folder, refuse, tmp_path):
    out = ("--out", tmp_path / "truth.npz")
    assert message in refuse("retrain", run_folder, *flags, *QUICK[:2], *out, *dry)
    assert not (tmp_path / "truth.npz").exists()


def test_a_file_that_describes_another_truth_is_let_through(run_folder, succeed, tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text("retrain:\n  epochs: 5\n  removals: top-loss:3\n", encoding="utf-8")
    out = ("--out", tmp_path / "truth.npz")
    succeed("retrain", run_folder, "--truth", "newton", "--config", file, *out)

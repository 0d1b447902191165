"""Replicates: whose seed each has, what is refused, and what evaluation makes of them."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy import stats

from ifcheck.artifacts import read_artifact, write_artifact
from ifcheck.errors import UnusableInput
from ifcheck.stages.changes import changes_of
from ifcheck.stages.damping import held_out_removals
from ifcheck.stages.evaluate import evaluate
from ifcheck.stages.fragility import fragility
from ifcheck.stages.influence import influence
from ifcheck.stages.reporting import Silent
from ifcheck.stages.retrain import retrain
from ifcheck.stages.run import load_run
from ifcheck.stages.train import train
from tests.benchmarks import sequential_loop as loop
from tests.stages.test_scratch import named

REPLICATED = ("loss_after", "null_loss_after", "converged", "grad_norm", "null_grad_norm")
REMOVED = {"retrain.removals": "top-loss:6"}
TRAININGS = {
    "scratch": {"variant.name": "l2"},
    "warm": {"variant.name": "l2", "train.batch_size": 50, "train.epochs": 20},
}


@pytest.fixture(scope="module", params=TRAININGS)
def removed(request, tiny, tmp_path_factory):
    """Return a maker of files of a truth that has replicates."""
    folder = tmp_path_factory.mktemp(request.param)
    flags = {**TRAININGS[request.param], **REMOVED, "retrain.truth": request.param}
    train(tiny(flags), folder / "run")

    def make(replicates, seeds=(0, 1, 2, 3), name=None):
        config = tiny({**flags, "retrain.replicates": replicates})
        sources = [folder / "run" / "checkpoints" / f"seed-00{s}.safetensors" for s in seeds]
        path = folder / f"{name or replicates}-{len(seeds)}.npz"
        return read_artifact(path) if path.exists() else retrain(config, sources, path)

    return make


def test_the_first_replicate_is_the_base_runs_own(removed):
    one, three = removed(1), removed(3)
    for name in REPLICATED:
        assert three[name].shape == (*one[name].shape, 3)
        assert np.array_equal(three[name][..., 0], one[name]), name
    for name in set(one.arrays) - set(REPLICATED):
        assert np.array_equal(three[name], one[name]), name


def test_replicates_differ_and_do_not_depend_on_their_number(removed):
    two, three = removed(2), removed(3)
    for name in REPLICATED:
        assert np.array_equal(three[name][..., :2], two[name]), name
    after = three["loss_after"]
    for a, b in combinations(range(3), 2):
        assert (after[..., a] != after[..., b]).all()


def test_replicates_are_reproducible_and_do_not_depend_on_company(removed):
    expected, again = removed(3), removed(3, name="again")
    some = removed(3, seeds=(3, 1))
    for name in REPLICATED:
        assert np.array_equal(again[name], expected[name]), name
        assert np.array_equal(some[name], expected[name][[3, 1]]), name


def test_a_replicate_of_scratch_is_torchs_own_loop_from_the_named_seed(
    tiny, precise, tmp_path, iris_rows, train_ids
):
    flags = {"retrain.truth": "scratch", "retrain.replicates": 2}
    found = retrain(tiny(flags), [precise("l2")], tmp_path / "truth.npz")
    seed = named(2, "replicate", 1)
    for removed in (None, found["removed_ids"][2, 0]):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(named(seed, "init"))
            model = loop.make_mlp(4, 5, 1, 3, "selu").double()
        kept = train_ids != removed
        rows = (torch.tensor(values[kept]) for values in iris_rows["train"])
        loop.train(model, *rows, epochs=60, weight_decay=0.005)
        losses = loop.row_losses(model, *map(torch.tensor, iris_rows["test"]))
        after = found["null_loss_after"] if removed is None else found["loss_after"][:, :, 0]
        assert_allclose(after[2, :, 1], losses, rtol=0, atol=1e-10)


# --- where there are none -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("truth", "reason"),
    [("warm", "draws nothing at random"), ("newton", "the same whatever the seed")],
)
def test_a_truth_without_randomness_is_refused_with_the_reason(truth, reason, tiny, runs, tmp_path):
    config = tiny({"retrain.truth": truth, "retrain.replicates": 2})
    with pytest.raises(UnusableInput, match=f"--replicates 2 .*{reason}") as caught:
        retrain(config, [runs("l2")], tmp_path / "truth.npz")
    assert caught.value.remedy
    assert not (tmp_path / "truth.npz").exists()


@pytest.mark.parametrize("size", [148, 400])
def test_one_batch_of_all_rows_is_refused_with_their_number(size, tiny, tmp_path):
    """The order of rows within it changes nothing but the last digits."""
    flags = {"train.batch_size": size, "train.epochs": 3, "train.seeds": 1}
    train(tiny(flags), tmp_path / "run")
    config = tiny({**flags, "retrain.truth": "warm", "retrain.replicates": 2})
    reason = f"one batch of {size} holds all 148 rows"
    with pytest.raises(UnusableInput, match=reason):
        retrain(config, [tmp_path / "run"], tmp_path / "truth.npz")


STUDY = {
    "study.sizes": [{"depth": 1, "width": "4"}],
    "study.variants": "l2",
    "study.estimators": "objective",
    "study.truths": ["warm", "newton", "scratch"],
    "train.seeds": 2,
    "retrain.removals": "top-loss:5",
    "retrain.replicates": 3,
}


def test_a_study_finds_other_truths_once_and_says_so(tiny, tmp_path, recording_reporter):
    study = fragility(tiny(STUDY), tmp_path / "study", recording_reporter)
    notes = [note for note in recording_reporter.notes if "has no replicates" in note]
    assert [note.partition(" ")[0] for note in notes] == ["warm", "newton"]
    assert "draws nothing at random" in notes[0]
    assert [row["replicates"] for row in study.summaries] == [1, 1, 3]
    assert {row["status"] for row in study.results} == {"ok"}
    assert all(math.isnan(row["reliability"]) for row in study.results if row["replicates"] == 1)
    (cell,) = (study.out / "cells").iterdir()
    assert read_artifact(cell / "retrain-scratch.npz")["loss_after"].shape == (2, 2, 5, 3)
    assert read_artifact(cell / "retrain-warm.npz")["loss_after"].shape == (2, 2, 5)
    times = {path: path.stat().st_mtime_ns for path in cell.glob("*.npz")}
    fragility(tiny(STUDY), tmp_path / "study")
    assert times == {path: path.stat().st_mtime_ns for path in cell.glob("*.npz")}


def test_a_study_of_nothing_random_is_refused(tiny, tmp_path):
    with pytest.raises(UnusableInput, match="would repeat equal results: warm has no replicates"):
        fragility(tiny({**STUDY, "study.truths": ["warm", "newton"]}), tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_figure_5_shows_one_replicate(tiny, tmp_path):
    fragility(tiny({**STUDY, "study.truths": ["scratch"]}), tmp_path / "study")
    assert (tmp_path / "study" / "figures" / "figure-5-retraining.png").is_file()
    (cell,) = (tmp_path / "study" / "cells").iterdir()
    trajectory = read_artifact(cell / "trajectory.npz")
    assert trajectory["loss_after"].shape == (1, 2, 5)


# --- what evaluation makes of them --------------------------------------------------------------


@pytest.fixture(scope="module")
def scores(tiny, removed, tmp_path_factory):
    """Scores of the same checkpoints, and their removals under three replicates."""
    truth = removed(3)
    path = tmp_path_factory.mktemp("scores") / "influence.npz"
    run = truth.path.parent / "run"
    influence(tiny(), [run], path)
    return path, truth


def by_hand(truth, s, t):
    """True and drift-corrected changes of a network's test point, of each replicate. (K, R)"""
    before, after = truth["loss_before"][s, t], truth["loss_after"][s, t]
    null = truth["null_loss_after"][s, t]
    again = truth.meta["config"]["retrain"]["truth"] == "scratch"
    return after - (null if again else before), after - null


def test_changes_are_means_over_replicates(scores, tiny):
    path, truth = scores
    predicted = read_artifact(path)
    for record in evaluate(tiny({"evaluate.top_k": 2}), [path], [truth.path]).records:
        s, t = record["seed"], (83, 106).index(record["test_id"])
        places = np.searchsorted(predicted["train_ids"], truth["removed_ids"][s])
        x = predicted["scores"][s, t, places]
        true, corrected = (values.mean(axis=1) for values in by_hand(truth, s, t))
        assert record["spearman"] == pytest.approx(stats.spearmanr(x, true)[0], rel=1e-12)
        assert record["intercept"] == pytest.approx(stats.linregress(x, true)[1], abs=1e-12)
        errors, spread = ((corrected - x) ** 2).sum(), corrected.var() * len(x)
        assert record["r2"] == pytest.approx(1 - errors / spread, rel=1e-9)
        assert record["true_change_median"] == pytest.approx(np.median(np.abs(corrected)))
        assert record["test_loss"] == truth["loss_before"][s, t]
        assert record["replicates"] == 3
        assert record["status"] == "ok"


def test_the_drift_of_another_network_is_not_counted(scores, tiny):
    path, truth = scores
    null, before = truth["null_loss_after"], truth["loss_before"]
    if truth.meta["config"]["retrain"]["truth"] == "scratch":
        expected = null[..., 0] - before
        assert np.abs(expected).max() < 1e-14
        assert np.abs(null[..., 1] - before).min() > 1e-4
    else:
        expected = null.mean(axis=-1) - before
    records = evaluate(tiny(), [path], [truth.path]).records
    assert_allclose([r["null_drift"] for r in records], expected.flatten(), rtol=1e-12)


def test_reliability_is_that_of_drift_corrected_ranks(scores, tiny):
    path, truth = scores
    evaluation = evaluate(tiny(), [path], [truth.path])
    for record in evaluation.records:
        s, t = record["seed"], (83, 106).index(record["test_id"])
        _, each = by_hand(truth, s, t)
        pairs = [stats.spearmanr(each[:, a], each[:, b])[0] for a, b in combinations(range(3), 2)]
        r = np.mean(pairs)
        if r > 0:
            assert record["reliability"] == pytest.approx(3 * r / (1 + 2 * r), rel=1e-12)
            assert record["noise_ceiling"] == pytest.approx(math.sqrt(3 * r / (1 + 2 * r)))
            assert record["reliability_reason"] == ""
        else:
            assert math.isnan(record["reliability"])
            assert "replicates do not agree" in record["reliability_reason"]
    (summary,) = evaluation.summaries
    found = [r["reliability"] for r in evaluation.records if not math.isnan(r["reliability"])]
    assert found
    assert summary["reliability_median"] == pytest.approx(np.median(found))
    assert summary["replicates"] == 3


def test_without_replicates_reliability_is_undefined_and_nothing_else_changes(
    scores, removed, tiny
):
    path, _ = scores
    one = removed(1)
    for record in evaluate(tiny(), [path], [one.path]).records:
        s, t = record["seed"], (83, 106).index(record["test_id"])
        assert record["replicates"] == 1
        assert math.isnan(record["reliability"])
        assert math.isnan(record["noise_ceiling"])
        assert record["reliability_reason"] == "one replicate says nothing about reliability"
        drift = one["null_loss_after"][s, t] - one["loss_before"][s, t]
        assert record["null_drift"] == drift
    changes = changes_of(one)
    assert np.array_equal(changes.true, one["loss_after"] - one["loss_before"][..., None])


def test_a_replicate_that_failed_fails_the_comparison(scores, tiny, tmp_path):
    path, truth = scores
    after = truth["loss_after"].copy()
    after[0, 0, 1, 2] = np.nan
    arrays = {**truth.arrays, "loss_after": after}
    write_artifact(tmp_path / "failed.npz", "retrain", arrays, truth.meta)
    found = evaluate(tiny(), [path], [tmp_path / "failed.npz"])
    statuses = [record["status"] for record in found.records]
    assert statuses[0] == "failed: a retraining turned non-finite"
    assert set(statuses[1:]) == {"ok"}
    assert found.records[0]["reliability_reason"] == "a replicate is not finite"


def test_a_damping_is_chosen_on_the_mean(scores, tiny):
    _, truth = scores
    run = load_run([truth.path.parent / "run"], tiny(), {}, Silent())
    found = held_out_removals(run, truth).true
    for s in range(4):
        for t in range(2):
            assert_allclose(found[s, t], by_hand(truth, s, t)[0].mean(axis=1), rtol=0, atol=1e-14)

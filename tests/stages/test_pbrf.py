"""The proximal Bregman response through the stages: beside influence, newton, and in a study."""

import csv

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from ifcheck.config import load_config
from ifcheck.errors import UnusableInput
from ifcheck.stages.evaluate import evaluate
from ifcheck.stages.fragility import fragility
from ifcheck.stages.influence import influence
from ifcheck.stages.retrain import retrain

SIZES = [1, 3]


@pytest.fixture
def removed(tiny, runs, tmp_path):
    """Return a helper: the artifact of a truth on a variant's run, 20 random removals."""

    def make(truth, variant="l2", **flags):
        given = {"retrain.truth": truth, "retrain.removals": "random:20"}
        given |= {name.replace("__", "."): value for name, value in flags.items()}
        return retrain(tiny(given), [runs(variant)], tmp_path / f"retrain-{truth}.npz")

    return make


@pytest.mark.parametrize("size", SIZES)
def test_influence_predicts_it_where_training_has_not_converged(
    size, removed, tiny, runs, tmp_path
):
    """Trained for 60 epochs: what `newton` finds is a long way off, and another slope."""
    truths = {name: removed(name, retrain__group_size=size) for name in ("pbrf", "newton")}
    flags = {"influence.normalisation": "n", "retrain.group_size": size}
    like = f"like:{truths['pbrf'].path}"
    config = tiny(flags | ({"retrain.removals": like} if size > 1 else {}))
    scores = influence(config, [runs("l2")], tmp_path / "influence.npz")
    found = evaluate(config, [scores.path], [truth.path for truth in truths.values()])
    errors = {
        name: np.array([abs(r["slope"] - 1) for r in found.records if name in r["retrain"]])
        for name in truths
    }
    assert errors["pbrf"].max() < 0.15
    assert errors["newton"].mean() > 0.25
    summary = found.summaries[0]
    assert summary["normalisation"] == "both n"
    assert summary["spearman_mean"] > 0.99


def test_the_slope_of_the_first_order_is_one_by_scipy_too(removed, tiny, runs, tmp_path):
    truth = removed("pbrf")
    config = tiny({"influence.normalisation": "n"})
    scores = influence(config, [runs("l2")], tmp_path / "influence.npz")
    at = np.searchsorted(scores["train_ids"], truth["removed_ids"][0])
    predicted = scores["scores"][0, 1, at]
    true = truth["loss_after"][0, 1] - truth["loss_before"][0, 1]
    assert stats.linregress(predicted, true).slope == pytest.approx(1, abs=0.1)
    assert stats.linregress(predicted, true).rvalue > 0.999


def test_the_file_says_n_whatever_was_asked(removed):
    truth = removed("pbrf", retrain__normalisation="n-1")
    assert truth.meta["config"]["retrain"]["normalisation"] == "n"
    assert removed("newton").meta["config"]["retrain"]["normalisation"] == "n-1"


def test_removing_nothing_changes_nothing(removed):
    truth = removed("pbrf")
    assert np.array_equal(truth["null_loss_after"], truth["loss_before"])
    assert not truth["null_grad_norm"].any()
    assert truth["converged"].all()
    assert truth["positive_definite"].all()


def test_damping_is_told_and_holds_the_head(removed):
    weak, strong = (removed("pbrf", retrain__damping=damping) for damping in (0.0, 1.0))
    assert strong.meta["config"]["retrain"]["damping"] == 1.0
    moved = [np.abs(t["loss_after"] - t["loss_before"][..., None]) for t in (weak, strong)]
    assert np.median(moved[1]) < 0.3 * np.median(moved[0])


def test_without_weight_decay_damping_makes_it_a_truth(removed):
    (reason,) = removed("pbrf", "none").meta["reasons"]
    assert "retrain.damping=0.01" in reason
    damped = removed("pbrf", "none", retrain__damping=0.01)
    assert damped.meta["reasons"] == []
    assert damped["converged"].all()


def test_a_prediction_of_all_parameters_is_led_over_the_response_of_all(
    removed, tiny, runs, tmp_path
):
    """Of networks trained in float32, which respond in float64."""
    flags = {"retrain__params": "all", "retrain__damping": 0.05}
    response = removed("pbrf", **flags)
    assert response.meta["config"]["retrain"]["params"] == "all"
    assert response.meta["dtype"] == "float64"
    assert np.array_equal(response["null_loss_after"], response["loss_before"])
    warm = removed("warm", **flags)
    config = tiny(
        {
            "influence.params": "all",
            "influence.curvature": "ggn",
            "influence.damping": 0.05,
            "influence.normalisation": "n",
        }
    )
    scores = influence(config, [runs("l2")], tmp_path / "influence.npz")
    found = evaluate(config, [scores.path], [response.path, warm.path])
    ranked = [r["spearman"] for r in found.records if "pbrf" in r["retrain"]]
    assert np.mean(ranked) > 0.97
    steps = [(row["before"], row["after"]) for row in found.gaps]
    assert steps == [("predicted", "pbrf"), ("pbrf", "warm")]


def test_damping_changes_no_other_truth(removed):
    weak, strong = (removed("newton", retrain__damping=damping) for damping in (0.0, 1.0))
    assert np.array_equal(weak["loss_after"], strong["loss_after"])


@pytest.mark.parametrize(
    ("variant", "flags", "reason"),
    [
        ("bnn", {"retrain__params": "all"}, "no Bregman divergence"),
        ("l2-swa", {"retrain__swa_restart": "live"}, "--swa-restart live"),
        ("bnn", {}, "no Bregman divergence"),
    ],
)
def test_what_has_no_response_has_its_reason_in_the_file(variant, flags, reason, removed):
    truth = removed("pbrf", variant, **flags)
    (told,) = truth.meta["reasons"]
    assert reason in told
    assert np.isnan(truth["loss_after"]).all()
    assert np.isfinite(truth["loss_before"]).all()


def test_a_negative_damping_is_refused():
    with pytest.raises(UnusableInput, match=r"retrain\.damping"):
        load_config(None, {"retrain.damping": -0.1})


def test_a_study_has_it_beside_the_others(tiny, tmp_path):
    config = tiny(
        {
            "study.variants": "none,l2,bnn",
            "study.truths": "newton,pbrf",
            "study.estimators": "objective",
            "train.seeds": 2,
            "train.epochs": 5,
            "retrain.epochs": 2,
        }
    )
    study = fragility(config, tmp_path / "study")
    with (tmp_path / "study" / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["truth"] == "pbrf"]
    ranked = [float(row["spearman"]) for row in rows if row["variant"] == "l2"]
    assert_allclose(ranked, 1, atol=0.25)
    assert {row["status"].split(":")[0] for row in rows if row["variant"] != "l2"} == {"refused"}
    assert "retrain pbrf" in study.costs

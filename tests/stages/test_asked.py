"""Settings that would have no effect are refused by name; what random scores depend on."""

import numpy as np
import pytest

from ifcheck.config import RetrainConfig
from ifcheck.errors import UnusableInput
from ifcheck.removal import TRUTHS
from ifcheck.stages.asked import check_influence_settings, check_retrain_settings
from ifcheck.stages.influence import influence


def retrain_asked(tiny, truth, **asked):
    asked = {f"retrain.{name}": value for name, value in asked.items()}
    check_retrain_settings(tiny({"retrain.truth": truth, **asked}), asked)


@pytest.mark.parametrize(
    ("truth", "name", "value"),
    [
        ("pbrf", "normalisation", "n-1"),
        ("pbrf", "epochs", 30),
        ("pbrf", "trajectory", True),
        ("pbrf", "swa_restart", "live"),
        ("newton", "damping", 0.01),
        ("newton", "epochs", 30),
        ("warm", "damping", 0.01),
        ("scratch", "swa_restart", "live"),
        ("scratch", "damping", 0.01),
    ],
)
def test_what_a_truth_has_no_use_for_is_refused(truth, name, value, tiny):
    with pytest.raises(UnusableInput, match=f"--truth {truth} has no use for retrain.{name}") as e:
        retrain_asked(tiny, truth, **{name: value})
    assert repr(value) in e.value.message
    assert "Leave it out" in e.value.remedy
    assert e.value.exit_code == 2
    named = e.value.remedy.partition("--truth ")[2].rstrip(".").split(" or ")
    able = {other for other in TRUTHS if name in TRUTHS.create(other).settings}
    assert set(named) == able
    assert truth not in able or name == "normalisation"


@pytest.mark.parametrize(
    ("truth", "asked"),
    [
        ("pbrf", {"damping": 0.01, "params": "all", "normalisation": "n", "group_size": 2}),
        ("newton", {"normalisation": "n", "params": "head", "removals": "random:3"}),
        ("warm", {"epochs": 3, "trajectory": True, "swa_restart": "live", "replicates": 2}),
        ("scratch", {"epochs": 60, "trajectory": True, "normalisation": "n"}),
    ],
)
def test_what_a_truth_uses_passes(truth, asked, tiny):
    retrain_asked(tiny, truth, **asked)


def test_several_are_named_together_without_a_truth_that_uses_them_all(tiny):
    with pytest.raises(UnusableInput, match=r"retrain\.damping \(0\.1\), retrain\.epochs") as e:
        retrain_asked(tiny, "newton", epochs=3, damping=0.1)
    assert e.value.remedy == "Leave them out."


def test_what_stands_in_a_file_for_other_truths_passes(tiny):
    check_retrain_settings(tiny({"retrain.truth": "newton", "retrain.epochs": 9}), {})


@pytest.mark.parametrize("truth", list(TRUTHS))
def test_settings_that_truths_name_exist(truth):
    assert TRUTHS.create(truth).settings <= set(RetrainConfig.__dataclass_fields__)
    assert TRUTHS.options(truth).keys() <= TRUTHS.create(truth).settings


@pytest.mark.parametrize("estimator", ["gradient-dot", "random"])
@pytest.mark.parametrize(
    ("name", "value"), [("damping", 0.1), ("solver", "cg"), ("curvature", "ggn")]
)
def test_what_a_baseline_has_no_use_for_is_refused(estimator, name, value, tiny):
    asked = {"influence.estimator": estimator, f"influence.{name}": value}
    with pytest.raises(UnusableInput, match=f"{estimator} is a baseline.*influence.{name}") as e:
        check_influence_settings(tiny(asked), asked)
    assert e.value.exit_code == 2


def test_parameters_are_of_use_to_baselines_of_gradients_alone(tiny):
    asked = {"influence.estimator": "gradient-dot", "influence.params": "all"}
    check_influence_settings(tiny(asked), asked)
    asked["influence.estimator"] = "train-loss"
    with pytest.raises(UnusableInput, match=r"influence\.params"):
        check_influence_settings(tiny(asked), asked)
    asked["influence.estimator"] = "objective"
    check_influence_settings(tiny(asked), asked)


def test_random_scores_of_a_seed_and_test_point_do_not_depend_on_company(
    tiny, runs, checkpoints_of, tmp_path
):
    config = tiny({"influence.estimator": "random"})
    every = influence(config, [runs("l2")], tmp_path / "every.npz")["scores"]
    again = influence(config, [runs("l2")], tmp_path / "again.npz")["scores"]
    assert np.array_equal(every, again)
    one = checkpoints_of(runs("l2"))[2]
    alone = influence(config, [one], tmp_path / "alone.npz")["scores"]
    assert np.array_equal(alone[0], every[2])
    assert len(np.unique(every)) == every.size  # by network, test point and row

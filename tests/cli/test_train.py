"""`ifcheck train`: its options reach the stage, and outputs that must not be touched are not."""

import json

import numpy as np
import pytest
import torch

from ifcheck.models import initialise
from ifcheck.stages import train as stage

TINY = ("--seeds", "2", "--epochs", "5", "--test-points", "ids:83")


def test_it_writes_checkpoints_and_arrays_and_says_where(run_folder, succeed, tmp_path):
    shown = succeed("train", *TINY, "--out", tmp_path / "run").stdout
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["checkpoints", "train.npz"]
    assert "trained 2 networks on 149 rows" in shown
    assert "row 83" in shown
    assert str(tmp_path / "run" / "train.npz") in shown.replace("\n", "").replace(" ", "")


def test_the_default_folder_is_run(succeed, elsewhere):
    succeed("train", *TINY)
    assert (elsewhere / "run" / "train.npz").is_file()


def test_every_option_reaches_the_configuration(succeed, tmp_path):
    options = {
        "--dataset": ("iris", "data", "dataset"),
        "--network": ("mlp", "network", "name"),
        "--depth": (2, "network", "depth"),
        "--width": (3, "network", "width"),
        "--activation": ("tanh", "network", "activation"),
        "--variant": ("l2-swa", "variant", "name"),
        "--seeds": ("4,9", "train", "seeds"),
        "--epochs": (8, "train", "epochs"),
        "--polish": ("head", "train", "polish"),
        "--dtype": ("float64", "train", "dtype"),
        "--test-points": ("ids:3,5", "data", "test_points"),
        "--limit-train": (30, "data", "limit_train"),
    }
    flags = [part for option, (value, *_) in options.items() for part in (option, value)]
    result = succeed("train", *flags, "--json", "--out", tmp_path / "run")
    record = json.loads(result.stdout)
    for value, section, name in options.values():
        found = record["meta"]["config"][section][name]
        assert found == ([4, 9] if name == "seeds" else value), name
    arrays = record["arrays"]
    assert arrays["seeds"] == [4, 9]
    assert arrays["test_ids"] == [[3, 5]] * 2
    assert np.shape(arrays["train_loss"]) == (2, 30)
    assert arrays["polished"] == [True, True]


def test_json_holds_the_arrays_of_the_file(succeed, tmp_path):
    record = json.loads(succeed("train", *TINY, "--json", "--out", tmp_path / "run").stdout)
    assert record["path"] == str(tmp_path / "run" / "train.npz")
    with np.load(tmp_path / "run" / "train.npz") as file:
        assert set(record["arrays"]) == set(file.files) - {"meta"}
        for name, values in record["arrays"].items():
            assert np.array_equal(values, file[name]), name
        assert record["meta"] == json.loads(str(file["meta"]))


def test_a_diverged_seed_is_null_in_json(succeed, tmp_path, monkeypatch):
    def build(spec, shape, classes, seed, dtype):
        network = initialise(spec, shape, classes, seed, dtype)
        if seed == 1:
            torch.nn.init.constant_(network.head.bias, torch.nan)
        return network

    monkeypatch.setattr(stage, "initialise", build)
    result = succeed("train", *TINY, "--json", "--out", tmp_path / "run")
    assert "NaN" not in result.stdout
    arrays = json.loads(result.stdout)["arrays"]
    assert arrays["train_accuracy"][1] is None
    assert arrays["train_accuracy"][0] is not None


def test_training_that_diverges_altogether_exits_with_3(refuse, tmp_path):
    arguments = ("--epochs", 30, "--set", "train.learning_rate=1.0e+38", "--out", tmp_path / "run")
    message = refuse("train", *TINY, *arguments, code=3)
    assert "all 2 seeds turned non-finite in training" in message
    assert "learning_rate" in message


def test_a_refused_polish_is_a_note_and_no_failure(succeed, tmp_path):
    arguments = ("--variant", "none", "--polish", "head", "--out", tmp_path / "run")
    result = succeed("train", *TINY, *arguments)
    assert "note: not polished: without weight decay" in result.stderr
    assert (tmp_path / "run" / "train.npz").is_file()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--seeds", "0", "train.seeds is '0': '0' names no seed"),
        ("--seeds", "-3", "names no seed"),
        ("--seeds", "1,1", "must name different seeds"),
        ("--seeds", "-1,2", "none of them negative"),
        ("--seeds", "few", "not a list of integers"),
        ("--depth", "-1", "depth is -1; expected an integer of at least 1"),
        ("--depth", "0", "depth is 0"),
        ("--width", "0", "width is 0; expected an integer of at least 1"),
        ("--epochs", "0", "train.epochs is 0: input should be greater than or equal to 1"),
        ("--activation", "gelu", "expected one of selu, tanh, relu"),
        ("--polish", "all", "train.polish is 'all'"),
        ("--dtype", "float16", "train.dtype is 'float16'"),
        ("--threads", "0", "run.threads is 0"),
        ("--test-points", "ids:999", "names row 999"),
        ("--test-points", "nonsense", "expected max-loss[:K], random:K or ids:1,2,3"),
        ("--limit-train", "0", "data.limit_train is 0"),
        ("--limit-train", "1000", "asks for 1000 training rows"),
        ("--limit-test", "5", "--limit-test"),
    ],
)
def test_unusable_values_are_refused(option, value, message, refuse, tmp_path):
    assert message in refuse("train", *TINY, option, value, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- outputs ------------------------------------------------------------------------------------


def test_an_occupied_folder_is_refused_and_left_alone(run_folder, refuse, snapshot):
    before = snapshot(run_folder)
    message = refuse("train", *TINY, "--out", run_folder)
    assert "exists already" in message
    assert "--force" in message
    assert snapshot(run_folder) == before


def test_an_empty_folder_is_used(succeed, tmp_path):
    succeed("train", *TINY, "--out", tmp_path)
    assert (tmp_path / "train.npz").is_file()


def test_force_replaces_what_is_there(succeed, tmp_path):
    """All of it: a checkpoint of the old run among the new would make the run unusable."""
    succeed("train", "--seeds", 3, *TINY[2:], "--out", tmp_path / "run")
    succeed("train", "--seeds", 2, *TINY[2:], "--out", tmp_path / "run", "--force")
    names = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["seed-000.safetensors", "seed-001.safetensors"]
    shown = succeed("influence", tmp_path / "run", "--json").stdout
    assert json.loads(shown)["arrays"]["seeds"] == [0, 1]


def test_an_output_below_a_regular_file_is_refused(refuse, tmp_path):
    (tmp_path / "file").write_text("in the way")
    message = refuse("train", *TINY, "--out", tmp_path / "file" / "run")
    assert "cannot write" in message
    assert "another --out" in message
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_regular_file_in_place_of_the_folder_is_refused(force, refuse, tmp_path):
    (tmp_path / "run").write_text("in the way")
    refuse("train", *TINY, "--out", tmp_path / "run", *force)
    assert (tmp_path / "run").read_text() == "in the way"


def test_a_refused_command_leaves_no_folder_behind(refuse, tmp_path):
    refuse("train", "--variant", "nonsense", "--out", tmp_path / "a" / "b" / "run")
    assert list(tmp_path.iterdir()) == []

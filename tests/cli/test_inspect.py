"""`ifcheck inspect`: what is in a file and what made it."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

FILES = {
    "train.npz": "train",
    "influence-paper.npz": "influence",
    "retrain-warm.npz": "retrain",
    "eigen.npz": "eigen",
    "checkpoints/seed-000.safetensors": "checkpoint",
}


@pytest.mark.parametrize(("name", "kind"), FILES.items())
def test_json_names_kind_origin_and_arrays(name, kind, run_folder, succeed):
    (record,) = json.loads(succeed("inspect", run_folder / name, "--json").stdout)
    assert record["kind"] == kind
    assert record["path"] == str(run_folder / name)
    assert record["network.width"] == "5"
    assert record["variant.weight_decay"] == "0.005"
    path = run_folder / name
    if kind == "checkpoint":
        expected = {k: tuple(v.shape) for k, v in load_file(path).items()}
        assert record["seed"] == 0
    else:
        with np.load(path) as file:
            expected = {k: file[k].shape for k in file.files if k != "meta"}
        assert "seed-000.safetensors" in record["made from"]
        assert record["seconds"] > 0
    found = {array["name"]: array["shape"] for array in record["arrays"]}
    assert found == {k: "x".join(map(str, shape)) for k, shape in expected.items()}


@pytest.mark.parametrize("name", FILES)
def test_the_table_names_every_array(name, run_folder, succeed):
    shown = succeed("inspect", run_folder / name).stdout
    (record,) = json.loads(succeed("inspect", run_folder / name, "--json").stdout)
    for array in record["arrays"]:
        assert array["name"] in shown
        assert array["shape"] in shown


def test_the_range_of_an_array_is_shown(run_folder, succeed):
    (record,) = json.loads(succeed("inspect", run_folder / "train.npz", "--json").stdout)
    ranges = {array["name"]: array["range"] for array in record["arrays"]}
    assert ranges["train_ids"] == "0 to 149"
    assert ranges["seeds"] == "0 to 1"
    eigen = json.loads(succeed("inspect", run_folder / "eigen.npz", "--json").stdout)[0]
    assert {a["name"]: a["range"] for a in eigen["arrays"]}["min_value"] == "–"


def test_several_files_are_shown_in_turn(run_folder, succeed):
    files = [run_folder / name for name in FILES]
    records = json.loads(succeed("inspect", *files, "--json").stdout)
    assert [record["kind"] for record in records] == list(FILES.values())


def test_a_refusal_is_shown(other_run, succeed, tmp_path):
    out = tmp_path / "truth.npz"
    arguments = ("--truth", "newton", "--removals", "top-loss:3", "--out", out)
    succeed("retrain", other_run, *arguments)
    (record,) = json.loads(succeed("inspect", out, "--json").stdout)
    assert record["refused"].startswith("without weight decay")


def test_a_users_own_file_is_shown_without_origin(run_folder, succeed, tmp_path):
    state = load_file(run_folder / "checkpoints" / "seed-000.safetensors")
    torch.save(state, tmp_path / "model.pt")
    (record,) = json.loads(succeed("inspect", tmp_path / "model.pt", "--json").stdout)
    assert record["kind"] == "checkpoint"
    assert {array["name"] for array in record["arrays"]} == set(state)
    assert len(record["sha256"]) == 64


@pytest.mark.parametrize("name", ["none.npz", "none.safetensors", "none.pt"])
def test_a_missing_file_is_refused(name, refuse, tmp_path):
    assert f"{name} does not exist" in refuse("inspect", tmp_path / name)


@pytest.mark.parametrize("name", ["note.npz", "note.safetensors", "note.pt", "note.json"])
def test_a_file_of_something_else_is_refused(name, refuse, tmp_path):
    (tmp_path / name).write_text('{"a": "note"}')
    assert name in refuse("inspect", tmp_path / name)


def test_a_good_file_beside_a_bad_one_shows_nothing_half(run_folder, refuse, tmp_path):
    refuse("inspect", run_folder / "train.npz", tmp_path / "none.npz")

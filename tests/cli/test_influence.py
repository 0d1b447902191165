"""`ifcheck influence`: its options reach the stage; checkpoints that do not fit are refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file


@pytest.fixture
def own_model(run_folder, tmp_path):
    """A user's own `.pt` with the weights of the run's first network."""
    path = tmp_path / "model.pt"
    torch.save(load_file(run_folder / "checkpoints" / "seed-000.safetensors"), path)
    return path


def test_it_writes_scores_and_says_what_they_are(run_folder, succeed, tmp_path):
    out = tmp_path / "scores.npz"
    shown = succeed("influence", run_folder, "--estimator", "paper", "--out", out).stdout
    assert "scores of 149 rows, 2 networks, estimator paper" in shown
    assert "hessian of the data, damping 0.01, normalisation n" in shown
    assert "positive: removal hurts" in shown
    with np.load(out) as file:
        assert file["scores"].shape == (2, 1, 149)


@pytest.mark.parametrize("source", ["", "checkpoints", "checkpoints/seed-000.safetensors"])
def test_the_default_file_lies_in_the_runs_folder(source, run_folder, succeed, tmp_path):
    shutil.copytree(run_folder / "checkpoints", tmp_path / "run" / "checkpoints")
    succeed("influence", tmp_path / "run" / source, "--estimator", "paper")
    assert (tmp_path / "run" / "influence-paper.npz").is_file()


def test_every_option_reaches_the_configuration(run_folder, succeed, tmp_path):
    options = {
        "estimator": "paper",
        "params": "layer:head.weight",
        "hessian": "objective",
        "damping": 0.25,
        "solver": "exact",
        "normalisation": "n-1",
        "step": "newton",
        "curvature": "ggn",
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    result = succeed("influence", run_folder, *flags, "--json", "--out", tmp_path / "new.npz")
    found = json.loads(result.stdout)["meta"]["config"]["influence"]
    assert found == {**options, "solver_options": {}, "damping_path": None}


def test_a_solver_that_does_not_look_for_eigenvalues_shows_none(run_folder, succeed, tmp_path):
    flags = ("--solver", "cg", "--damping", 1, "--out", tmp_path / "new.npz")
    shown = succeed("influence", run_folder, *flags).stdout
    assert "not all looked for by --solver cg" in shown
    assert "nan" not in shown
    assert "null space" not in shown


def test_what_did_not_converge_is_shown_with_its_reason(run_folder, succeed, tmp_path):
    flags = ("--solver", "minres", "--set", "influence.solver_options.iterations=2")
    shown = succeed("influence", run_folder, *flags, "--out", tmp_path / "new.npz").stdout
    assert "0% converged, 2 iterations at most" in shown
    assert "after 2 iterations; 1e-06 was asked for" in shown


def test_an_option_of_a_solver_can_be_set(run_folder, succeed, tmp_path):
    flags = ("--solver", "cg", "--damping", 1, "--set", "influence.solver_options.tolerance=1e-8")
    result = succeed("influence", run_folder, *flags, "--json", "--out", tmp_path / "new.npz")
    settings = json.loads(result.stdout)["meta"]["config"]["influence"]
    assert settings["solver_options"]["tolerance"] == 1e-8


def test_an_own_model_is_described_by_flags(run_folder, own_model, succeed, tmp_path):
    flags = ("--dataset", "iris", "--depth", 1, "--width", 5, "--variant", "l2")
    out = tmp_path / "scores.npz"
    succeed("influence", own_model, *flags, "--test-points", "ids:83", "--out", out)
    with np.load(out) as own, np.load(run_folder / "influence-objective.npz") as run:
        assert np.array_equal(own["scores"], run["scores"][:1])


def test_an_own_model_that_does_not_fit_is_refused(own_model, refuse, tmp_path):
    flags = ("--width", 8, "--test-points", "ids:83", "--out", tmp_path / "scores.npz")
    message = refuse("influence", own_model, *flags)
    assert "model.pt does not fit mlp" in message
    assert "expected (8" in message or "expected (3, 8)" in message
    assert "--width" in message


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--width", 8, "network.width is 8, but the checkpoints were made with 5"),
        ("--depth", 2, "network.depth is 2, but the checkpoints were made with 1"),
        ("--variant", "none", "variant.name is 'none', but the checkpoints were made with 'l2'"),
        ("--dtype", "float64", "train.dtype is 'float64', but"),
        ("--test-points", "ids:5", "data.test_points is 'ids:5', but"),
    ],
)
def test_a_flag_that_contradicts_the_checkpoints_is_refused(
    option, value, message, run_folder, refuse, tmp_path
):
    assert message in refuse("influence", run_folder, option, value, "--out", tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--estimator", "papre", "unknown estimator 'papre'"),
        ("--solver", "exatc", "unknown solver 'exatc'"),
        ("--params", "layer:haed", "unknown layer 'haed'"),
        ("--params", "some", "expected head, head-mean, all or layer:NAME"),
        ("--hessian", "full", "influence.hessian is 'full'"),
        ("--damping", "-1", "influence.damping is -1"),
        ("--normalisation", "n-2", "influence.normalisation is 'n-2'"),
    ],
)
def test_unusable_values_are_refused(option, value, message, run_folder, refuse, tmp_path):
    assert message in refuse("influence", run_folder, option, value, "--out", tmp_path / "x.npz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--estimator", "--solver"])
def test_a_near_name_is_suggested(option, run_folder, refuse, tmp_path):
    value, near = {"--estimator": ("author", "authors"), "--solver": ("exat", "exact")}[option]
    message = refuse("influence", run_folder, option, value, "--out", tmp_path / "x.npz")
    assert f"Did you mean '{near}'?" in message


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"PK\x03\x04 something else",
        lambda data: b'{"a": 1}' * 10,
    ],
    ids=["truncated", "empty", "zip", "text"],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_damaged_or_foreign_checkpoint_is_refused(
    suffix, damage, run_folder, own_model, refuse, tmp_path
):
    good = own_model if suffix == ".pt" else run_folder / "checkpoints" / "seed-000.safetensors"
    bad = tmp_path / f"bad{suffix}"
    bad.write_bytes(damage(good.read_bytes()))
    message = refuse("influence", bad, "--out", tmp_path / "scores.npz")
    assert f"bad{suffix}" in message
    assert not (tmp_path / "scores.npz").exists()


def test_a_pickled_network_is_not_unpickled(refuse, tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "network.pt")
    message = refuse("influence", tmp_path / "network.pt", "--out", tmp_path / "scores.npz")
    assert "network.pt is not a state dict that loads with weights_only=True" in message
    assert "model.state_dict()" in message


def test_a_list_of_tensors_is_no_state_dict(refuse, tmp_path):
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    message = refuse("influence", tmp_path / "list.pt", "--out", tmp_path / "scores.npz")
    assert "list.pt holds a list; expected a state dict of tensors" in message


def test_weights_that_are_not_finite_are_refused(own_model, refuse, tmp_path):
    state = torch.load(own_model)
    state["head.bias"][1] = torch.nan
    torch.save(state, tmp_path / "nan.pt")
    message = refuse("influence", tmp_path / "nan.pt", "--out", tmp_path / "scores.npz")
    assert "head.bias holds values that are not finite" in message


def test_a_missing_run_is_refused(refuse, tmp_path):
    message = refuse("influence", tmp_path / "nowhere", "--out", tmp_path / "scores.npz")
    assert "nowhere does not exist" in message
    assert "ifcheck train" in message


def test_a_folder_without_checkpoints_is_refused(refuse, tmp_path):
    (tmp_path / "empty").mkdir()
    message = refuse("influence", tmp_path / "empty", "--out", tmp_path / "scores.npz")
    assert "no checkpoints in" in message


def test_an_existing_file_is_refused_without_force(run_folder, refuse, succeed, tmp_path):
    out = tmp_path / "scores.npz"
    out.write_text("mine")
    assert "exists already" in refuse("influence", run_folder, "--out", out)
    assert out.read_text() == "mine"
    succeed("influence", run_folder, "--out", out, "--force")
    with np.load(out) as file:
        assert "scores" in file.files


def test_an_existing_default_file_is_refused_as_well(run_folder, refuse):
    assert "exists already" in refuse("influence", run_folder, "--estimator", "paper")


def test_an_output_below_a_regular_file_is_refused(run_folder, refuse, tmp_path):
    (tmp_path / "file").touch()
    message = refuse("influence", run_folder, "--out", tmp_path / "file" / "scores.npz")
    assert "cannot write" in message


def test_a_baseline_has_no_use_for_a_damping(run_folder, refuse, tmp_path):
    flags = ("--estimator", "random", "--damping", "0.1", "--out", tmp_path / "scores.npz")
    assert "which has no use for influence.damping" in refuse("influence", run_folder, *flags)

"""`ifcheck eigen`: its options reach the stage; what cannot be is refused."""

import json

import numpy as np
import pytest


def test_it_writes_the_values_and_says_what_they_are(run_folder, succeed, tmp_path):
    out = tmp_path / "eigen.npz"
    shown = succeed("eigen", run_folder, "--method", "dense", "--out", out).stdout
    assert "Hessian of the data loss, all parameters, 2 networks, method dense" in shown
    with np.load(out) as file:
        assert f"{np.median(file['values']):.3g} (median)" in shown
        assert f"{np.median(file['min_value']):.3g} (median)" in shown


def test_what_power_iteration_cannot_know_is_a_dash(run_folder, succeed, tmp_path):
    shown = succeed("eigen", run_folder, "--out", tmp_path / "eigen.npz").stdout
    assert "smallest of all  – (median)" in shown


def test_every_option_reaches_the_configuration(run_folder, succeed, tmp_path):
    sets = ("--set", "eigen.hessian=objective", "--set", "eigen.dtype=float32")
    sets += ("--set", "eigen.density_probes=3", "--set", "eigen.density_steps=5")
    flags = ("--method", "dense", "--top", 3, "--density", *sets)
    result = succeed("eigen", run_folder, *flags, "--json", "--out", tmp_path / "eigen.npz")
    record = json.loads(result.stdout)
    found = record["meta"]["config"]["eigen"]
    assert found == {
        "method": "dense",
        "top": 3,
        "hessian": "objective",
        "dtype": "float32",
        "density": True,
        "density_probes": 3,
        "density_steps": 5,
    }
    assert np.shape(record["arrays"]["values"]) == (2, 3)


def test_undefined_extremes_are_null_in_json(run_folder, succeed, tmp_path):
    result = succeed("eigen", run_folder, "--json", "--out", tmp_path / "eigen.npz")
    assert json.loads(result.stdout)["arrays"]["min_value"] == [None, None]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--method", "powr", "Did you mean 'power'?"),
        ("--top", "0", "eigen.top is 0"),
        ("--top", "1000", "43 parameters"),
        ("--width", "8", "network.width is 8, but the checkpoints were made with 5"),
    ],
)
def test_unusable_values_are_refused(option, value, message, run_folder, refuse, tmp_path):
    arguments = ("--method", "dense") if option == "--top" else ()
    out = tmp_path / "eigen.npz"
    assert message in refuse("eigen", run_folder, *arguments, option, value, "--out", out)
    assert list(tmp_path.iterdir()) == []


def test_the_default_file_lies_in_the_runs_folder_and_is_not_replaced(run_folder, refuse):
    message = refuse("eigen", run_folder)
    assert f"{run_folder / 'eigen.npz'} exists already" in message


def test_density_shows_sum_and_negative_share_with_their_errors(run_folder, succeed, tmp_path):
    out = tmp_path / "eigen.npz"
    shown = succeed("eigen", run_folder, "--method", "lanczos", "--density", "--out", out).stdout
    assert "sum of all" in shown
    assert "negative ones, as a share" in shown
    assert "±" in shown
    with np.load(out) as file:
        assert file["density"].shape[1] == len(file["density_grid"])

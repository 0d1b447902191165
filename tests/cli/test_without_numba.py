"""Numba is an extra: without it the whole study runs on torch, and says so."""

import json
import subprocess
import sys

import numpy as np

HIDDEN = "import sys; sys.modules['numba'] = None; from ifcheck.__main__ import main; main()"


def test_a_study_runs_on_torch_where_numba_is_missing(tmp_path):
    command = [sys.executable, "-c", HIDDEN, "fragility", "--dataset", "iris", "--width", "5"]
    command += ["--seeds", "2", "--epochs", "20", "--retrain-epochs", "10", "--variant", "l2"]
    command += ["--test-points", "ids:83", "--removals", "top-loss:3", "--out", "study"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (cell,) = (tmp_path / "study" / "cells").iterdir()
    for name in ("train", "retrain-warm"):
        with np.load(cell / f"{name}.npz", allow_pickle=False) as file:
            assert json.loads(str(file["meta"]))["engine"] == "torch"


def test_asking_for_numba_where_it_is_missing_is_refused(tmp_path):
    command = [sys.executable, "-c", HIDDEN, "train", "--engine", "numba", "--seeds", "1"]
    found = subprocess.run(
        [*command, "--test-points", "ids:83"], cwd=tmp_path, capture_output=True, text=True
    )
    assert found.returncode == 2
    assert "ifcheck[fast]" in found.stderr
    assert "--engine auto" in found.stderr

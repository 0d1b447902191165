"""Figures 4 and 5 with another study beside: its cells first, each told from the others."""

import json

import numpy as np
import pytest

from ifcheck.artifacts import read_artifact
from ifcheck.errors import ArtifactUnreadable
from ifcheck.stages import fragility as stage
from ifcheck.stages.beside import finished_cells
from ifcheck.stages.fragility import fragility

SMALL = {
    "train.epochs": 20,
    "train.seeds": 1,
    "retrain.epochs": 30,
    "retrain.removals": "top-loss:3",
    "evaluate.bootstrap_samples": 0,
    "study.estimators": ["objective"],
    "study.truths": ["warm", "newton"],
}


@pytest.fixture(scope="module")
def other(tiny, tmp_path_factory):
    """A finished study of two sizes and two variants. Read only."""
    out = tmp_path_factory.mktemp("other") / "study"
    sizes = {"study.sizes": [{"width": "5,6"}], "study.variants": ["none", "l2"]}
    fragility(tiny({**SMALL, **sizes}), out)
    return out


def test_the_finished_cells_of_the_first_size_are_found_as_they_were_drawn(other):
    found = finished_cells(other)
    assert [cell.label for cell in found] == ["iris mlp none", "iris mlp l2"]
    for cell, variant in zip(found, ("none", "l2"), strict=True):
        folder = other / "cells" / f"iris-mlp-depth1-width5-selu-{variant}"
        assert cell.cell == folder.name
        scores = read_artifact(folder / "influence-objective.npz", "influence")["scores"]
        assert np.array_equal(cell.influence["scores"], scores)
        truths = [retrain.meta["config"]["retrain"]["truth"] for retrain in cell.retrains]
        assert truths == ["warm", "newton"]
        assert cell.trajectory is not None
        assert cell.trajectory["trajectory"].shape[2] == 3


def test_a_truth_with_losses_along_the_way_is_not_run_again_for_the_figure(tiny, tmp_path):
    out = tmp_path / "study"
    watched = {**SMALL, "train.seeds": 2, "retrain.trajectory": True, "study.variants": ["l2"]}
    fragility(tiny(watched), out)
    assert not list(out.rglob("trajectory.npz"))
    (cell,) = finished_cells(out)
    assert cell.trajectory is cell.retrains[0]
    (folder,) = (out / "cells").iterdir()
    warm = read_artifact(folder / "retrain-warm.npz", "retrain")
    assert np.array_equal(cell.trajectory["trajectory"], warm["trajectory"])
    assert (out / "figures" / "figure-5-retraining.png").is_file()


def test_a_study_shows_the_other_one_first(other, tiny, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(stage.pictures, "draw", lambda *given: drawn.append(given[2]) or [])
    config = tiny({**SMALL, "data.dataset": "digits", "study.variants": ["l2"], "network": "mlp"})
    fragility(config, tmp_path / "study", beside=other)
    fragility(config, tmp_path / "study")
    labels = [[cell.label for cell in cells] for cells in drawn]
    assert labels == [["iris mlp none", "iris mlp l2", "digits mlp l2"], ["l2"]]


def test_what_is_no_study_is_refused_before_anything_is_computed(tiny, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactUnreadable, match=r"empty is not the folder of a study") as caught:
        fragility(tiny(SMALL), tmp_path / "study", beside=tmp_path / "empty")
    assert "--out" in caught.value.remedy
    assert not (tmp_path / "study").exists()


def test_a_study_without_a_finished_cell_is_refused(other, tmp_path):
    identity = json.loads((other / "study.json").read_text())
    (tmp_path / "study.json").write_text(json.dumps(identity))
    with pytest.raises(ArtifactUnreadable, match="has no finished cell"):
        finished_cells(tmp_path)

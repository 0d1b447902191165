"""Continuing a study: its folder is claimed once, and only what is whole and fits is used again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ifcheck import provenance
from ifcheck.config import Config, load_config
from ifcheck.errors import OutputRefused
from ifcheck.stages.influence import influence
from ifcheck.stages.resume import claim_study, identity_of, reusable, reusable_training
from ifcheck.stages.setup import make_setup


def study_with(**flags) -> Config:
    return load_config(flags={key.replace("__", "."): value for key, value in flags.items()})


# --- claiming a folder ---------------------------------------------------------------------


@pytest.mark.parametrize("exists", [False, True], ids=["new", "empty"])
def test_free_folder_is_claimed(tmp_path, exists):
    out = tmp_path / "study"
    if exists:
        out.mkdir()
    claim_study(Config(), out)
    assert [path.name for path in out.iterdir()] == ["study.json"]


def test_claim_says_what_the_numbers_depend_on(tmp_path):
    claim_study(study_with(train__epochs=7, network__width=8), tmp_path)
    claimed = json.loads((tmp_path / "study.json").read_text())
    assert claimed["train"]["epochs"] == 7
    assert claimed["network"] == {"name": "mlp", "width": 8}
    assert claimed["code"] == provenance.code_revision()
    assert {"data", "variant", "influence", "retrain", "eigen", "evaluate", "study"} <= set(claimed)


def test_same_configuration_goes_on(tmp_path):
    claim_study(study_with(train__epochs=7), tmp_path)
    (tmp_path / "cells").mkdir()
    before = (tmp_path / "study.json").read_bytes()
    claim_study(study_with(train__epochs=7), tmp_path)
    assert (tmp_path / "study.json").read_bytes() == before


def test_other_thresholds_make_no_other_study_and_are_told(tmp_path):
    claim_study(Config(), tmp_path)
    claim_study(load_config(flags={"verdict.min_rank": 0.9}), tmp_path)
    assert identity_of(tmp_path)["verdict"]["min_rank"] == 0.9


@pytest.mark.parametrize(
    ("key", "value"),
    [("run.threads", 3), ("data.data_dir", "/mnt/data"), ("verdict.require", "trust")],
    ids=str,
)
def test_what_decides_no_number_may_change(tmp_path, key, value):
    claim_study(Config(), tmp_path)
    claim_study(load_config(flags={key: value}), tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("train.epochs", 7, "train.epochs: 7, was 60000"),
        ("train.seeds", 2, "train.seeds: [0, 1], was [0, 1, 2, "),
        ("network.width", 8, "network.width: 8, was None"),
        ("variant.weight_decay", 0.1, "variant.weight_decay: 0.1, was None"),
        ("data.test_points", "ids:83", "data.test_points: 'ids:83', was 'max-loss'"),
        ("study.variants", "l2,none", "study.variants: ['l2', 'none'], was None"),
        ("study.sizes", [{"depth": 2}], "study.sizes: [{'depth': 2}], was []"),
        ("retrain.removals", "random:3", "retrain.removals: 'random:3', was 'top-loss:40'"),
        ("evaluate.top_k", 5, "evaluate.top_k: 5, was 10"),
        ("run.engine", "vmap", "run.engine: 'vmap', was 'auto'"),
    ],
)
def test_other_configuration_is_refused_with_what_differs(tmp_path, key, value, line):
    claim_study(Config(), tmp_path)
    before = (tmp_path / "study.json").read_bytes()
    with pytest.raises(OutputRefused) as caught:
        claim_study(load_config(flags={key: value}), tmp_path)
    assert line in caught.value.message
    assert str(tmp_path) in caught.value.message
    assert caught.value.exit_code == 2
    assert "another --out" in caught.value.remedy
    assert (tmp_path / "study.json").read_bytes() == before


def test_other_version_of_ifcheck_is_refused(tmp_path, monkeypatch):
    claim_study(Config(), tmp_path)
    ours = provenance.code_revision()
    monkeypatch.setattr(provenance, "code_revision", lambda: "0123456789abcdef")
    with pytest.raises(OutputRefused, match=f"code: '0123456789abcdef', was '{ours}'"):
        claim_study(Config(), tmp_path)


def test_many_differences_are_counted(tmp_path):
    claim_study(Config(), tmp_path)
    flags = {
        "train.epochs": 1,
        "train.patience": 2,
        "train.factor": 0.5,
        "retrain.epochs": 3,
        "eigen.top": 4,
        "evaluate.top_k": 5,
        "network.width": 6,
    }
    with pytest.raises(OutputRefused) as caught:
        claim_study(load_config(flags=flags), tmp_path)
    assert caught.value.message.count(", was ") == 5
    assert caught.value.message.endswith("; and 2 more.")


def test_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("chapter one")
    with pytest.raises(OutputRefused, match="is not the folder of a study"):
        claim_study(Config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "study").write_text("notes")
    with pytest.raises(OutputRefused, match="is not the folder of a study"):
        claim_study(Config(), tmp_path / "study")
    assert (tmp_path / "study").read_text() == "notes"


def test_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(OutputRefused, match="cannot write"):
        claim_study(Config(), tmp_path / "notes.txt" / "study")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"hello", b'{"train": {', b"\xff\xfe", b"[1]", b"null", b"3", b'"text"'],
    ids=repr,
)
def test_damaged_claim_is_refused_by_name(tmp_path, content):
    (tmp_path / "study.json").write_bytes(content)
    with pytest.raises(OutputRefused, match=r"study\.json is damaged") as caught:
        claim_study(Config(), tmp_path)
    assert "remove the folder" in caught.value.remedy
    assert (tmp_path / "study.json").read_bytes() == content


# --- finished trainings --------------------------------------------------------------------


@pytest.fixture
def trained(runs, tiny, tmp_path) -> tuple[Path, dict]:
    """A copy of a finished run, and the description that made it."""
    folder = tmp_path / "cell"
    shutil.copytree(runs("l2"), folder)
    return folder, make_setup(tiny({"variant.name": "l2"})).describe("train")


def test_finished_training_is_used_again(trained):
    folder, description = trained
    artifact = reusable_training(folder, description)
    assert artifact.path == folder / "train.npz"
    assert artifact["seeds"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("key", "value"),
    [("train.epochs", 61), ("train.seeds", 3), ("network.width", 8), ("variant.name", "none")],
    ids=str,
)
def test_training_of_another_configuration_is_not(trained, tiny, key, value):
    folder, _ = trained
    other = make_setup(tiny({"variant.name": "l2", key: value})).describe("train")
    assert reusable_training(folder, other) is None


def remove_record(folder: Path) -> None:
    (folder / "train.npz").unlink()


def truncate_record(folder: Path) -> None:
    content = (folder / "train.npz").read_bytes()
    (folder / "train.npz").write_bytes(content[: len(content) // 2])


def empty_record(folder: Path) -> None:
    (folder / "train.npz").write_bytes(b"")


def remove_checkpoint(folder: Path) -> None:
    (folder / "checkpoints" / "seed-002.safetensors").unlink()


def truncate_checkpoint(folder: Path) -> None:
    path = folder / "checkpoints" / "seed-002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def swap_checkpoints(folder: Path) -> None:
    first, second = (folder / "checkpoints" / f"seed-00{seed}.safetensors" for seed in (0, 1))
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)


def put_another_kind(folder: Path) -> None:
    np.savez(folder / "train.npz", meta=np.array('{"schema": 1, "kind": "eigen"}'))


@pytest.mark.parametrize(
    "damage",
    [
        remove_record,
        truncate_record,
        empty_record,
        put_another_kind,
        remove_checkpoint,
        truncate_checkpoint,
        swap_checkpoints,
    ],
    ids=lambda damage: damage.__name__,
)
def test_training_that_is_not_as_it_was_left_is_not_used_again(trained, damage):
    folder, description = trained
    damage(folder)
    assert reusable_training(folder, description) is None


def test_more_checkpoints_beside_those_of_the_training_do_not_matter(trained):
    folder, description = trained
    (folder / "checkpoints" / ".seed-009.safetensors.00ff.part").write_bytes(b"half")
    assert reusable_training(folder, description) is not None


# --- finished artifacts --------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(runs, tiny, tmp_path_factory) -> tuple[Path, dict, dict]:
    """An influence file, its description and its parents."""
    path = tmp_path_factory.mktemp("finished") / "influence.npz"
    config = tiny({"variant.name": "l2"})
    artifact = influence(config, [runs("l2")], path)
    return path, make_setup(config).describe("influence"), artifact.parents


def test_finished_artifact_is_used_again(finished):
    path, description, parents = finished
    found = reusable(path, "influence", description, parents)
    assert found.path == path
    assert found["scores"].shape == (4, 2, 148)


def test_artifact_of_another_configuration_is_not(finished, tiny):
    path, _, parents = finished
    other = make_setup(tiny({"influence.damping": 0.5})).describe("influence")
    assert reusable(path, "influence", other, parents) is None


def test_artifact_of_another_kind_is_not(finished):
    path, description, parents = finished
    assert reusable(path, "retrain", description, parents) is None


def test_artifact_that_is_not_there_is_not(finished, tmp_path):
    _, description, parents = finished
    assert reusable(tmp_path / "influence.npz", "influence", description, parents) is None


@pytest.mark.parametrize("change", ["digest", "missing", "more"])
def test_artifact_of_other_checkpoints_is_not(finished, change):
    path, description, parents = finished
    first = next(iter(parents))
    others = {
        "digest": {**parents, first: "0" * 64},
        "missing": {name: digest for name, digest in parents.items() if name != first},
        "more": {**parents, "seed-009.safetensors": "0" * 64},
    }[change]
    assert reusable(path, "influence", description, others) is None


def test_truncated_artifact_is_not(finished, tmp_path):
    path, description, parents = finished
    cut = tmp_path / "influence.npz"
    cut.write_bytes(path.read_bytes()[:-30])
    assert reusable(cut, "influence", description, parents) is None

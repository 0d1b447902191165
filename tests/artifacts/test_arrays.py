"""Typed `.npz` files: round trips, checked shapes, and readable refusals of everything else."""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ifcheck.artifacts import read_artifact, write_artifact
from ifcheck.errors import ArtifactUnreadable

# The arrays that scripts rely on and their axes: S seeds, T test points, N training rows,
# K removals, E epochs, L eigenvalues. Written out here, so that a change shows.
ARRAYS = {
    "train": {
        "seeds": "S",
        "train_ids": "N",
        "test_ids": "ST",
        "train_loss": "SN",
        "test_loss": "ST",
        "test_negative_log_probability": "ST",
        "train_accuracy": "S",
        "test_accuracy": "S",
        "grad_norm": "S",
        "polished": "S",
        "history_epoch": "E",
        "history_loss": "SE",
    },
    "influence": {
        "seeds": "S",
        "train_ids": "N",
        "test_ids": "ST",
        "scores": "STN",
        "rel_residual": "ST",
        "converged": "ST",
        "hessian_min": "S",
        "hessian_max": "S",
        "null_space": "S",
        "negative": "S",
    },
    "retrain": {
        "seeds": "S",
        "test_ids": "ST",
        "removed_ids": "SK",
        "loss_before": "ST",
        "loss_after": "STK",
        "null_loss_after": "ST",
        "converged": "SK",
        "grad_norm": "SK",
        "null_grad_norm": "S",
        "trajectory_epoch": "E",
        "trajectory": "STKE",
    },
    "eigen": {
        "seeds": "S",
        "values": "SL",
        "rel_residual": "SL",
        "min_value": "S",
        "max_value": "S",
    },
}
LENGTHS = {"S": 2, "T": 3, "N": 7, "K": 4, "E": 5, "L": 1}
OPTIONAL = {"trajectory_epoch", "trajectory"}
ALL_ARRAYS = [(kind, name) for kind, axes in ARRAYS.items() for name in axes]
ALL_AXES = [
    (kind, name, axis)
    for kind, axes in ARRAYS.items()
    for name in axes
    for axis in range(len(axes[name]))
]
KINDS = list(ARRAYS)
META = {"config": {"train": {"epochs": 5}}, "parents": {"seed-000.safetensors": "0" * 64}}


def arrays_of(kind: str) -> dict[str, np.ndarray]:
    """Arrays of a kind that fit together; every value differs."""
    made = {}
    for offset, (name, axes) in enumerate(ARRAYS[kind].items()):
        shape = [LENGTHS[axis] for axis in axes]
        made[name] = 1000.0 * offset + np.arange(float(np.prod(shape))).reshape(shape)
    made["seeds"] = np.array([3, 11])
    return made


def meta_text(**values) -> np.ndarray:
    return np.array(json.dumps({"schema": 1, "kind": "eigen", **META, **values}))


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "file.npz"


@pytest.fixture
def saved(path) -> Path:
    """An eigen file of ifcheck's."""
    write_artifact(path, "eigen", arrays_of("eigen"), META)
    return path


# --- round trips ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_and_meta_come_back(path, kind):
    arrays = arrays_of(kind)
    write_artifact(path, kind, arrays, {**META, "seconds": 0.5, "reasons": ["none"]})
    read = read_artifact(path, kind)
    assert (read.path, read.kind) == (path, kind)
    assert read.arrays.keys() == arrays.keys()
    for name, values in arrays.items():
        assert read[name].dtype == values.dtype
        np.testing.assert_array_equal(read[name], values)
    assert read.parents == META["parents"]
    assert read.meta["config"] == META["config"]
    assert read.meta["seconds"] == 0.5
    assert read.meta["reasons"] == ["none"]


def test_kind_need_not_be_named(saved):
    assert read_artifact(saved).kind == "eigen"


def test_what_is_returned_on_writing_is_what_is_read(path):
    written = write_artifact(path, "eigen", arrays_of("eigen"), META)
    read = read_artifact(path)
    assert (written.path, written.kind, written.meta) == (read.path, read.kind, read.meta)
    for name in read.arrays:
        np.testing.assert_array_equal(written[name], read[name])


@pytest.mark.parametrize(
    "values",
    [
        np.array([[np.nan], [-0.0]]),
        np.array([[np.inf], [-np.inf]]),
        np.array([[5e-324], [1e308]]),
        np.array([[1], [2**62]]),
        np.array([[True], [False]]),
        np.array([[0.1], [0.2]], dtype=np.float32),
    ],
    ids=["nan", "inf", "extremes", "int64", "bool", "float32"],
)
def test_types_and_bits_are_kept(path, values):
    write_artifact(path, "eigen", {**arrays_of("eigen"), "values": values}, META)
    read = read_artifact(path)["values"]
    assert read.dtype == values.dtype
    assert read.tobytes() == values.tobytes()


def test_file_opens_without_ifcheck_and_says_what_made_it(saved):
    with np.load(saved, allow_pickle=False) as file:
        meta = json.loads(str(file["meta"]))
        assert set(file.files) == {*ARRAYS["eigen"], "meta"}
    assert (meta["schema"], meta["kind"]) == (1, "eigen")
    assert meta["config"] == META["config"]
    assert meta["parents"] == META["parents"]
    assert meta["versions"]["numpy"] == np.__version__
    assert len(meta["code"]) == 16


def test_lists_are_saved_as_arrays(path):
    lists = {name: values.tolist() for name, values in arrays_of("eigen").items()}
    write_artifact(path, "eigen", lists, META)
    assert read_artifact(path)["seeds"].tolist() == [3, 11]


def test_arrays_beyond_the_schema_are_kept(path):
    density = np.linspace(0, 1, 17)
    write_artifact(path, "eigen", {**arrays_of("eigen"), "density_grid": density}, META)
    np.testing.assert_array_equal(read_artifact(path)["density_grid"], density)


def test_no_removals_and_no_seeds_are_arrays_too(path):
    empty = {
        name: np.zeros([0 if axis in "SK" else 2 for axis in axes])
        for name, axes in ARRAYS["retrain"].items()
    }
    write_artifact(path, "retrain", empty, META)
    assert read_artifact(path)["loss_after"].shape == (0, 2, 0)


# --- the schema ----------------------------------------------------------------------------


def damaged(path: Path, kind: str, arrays: dict[str, np.ndarray]) -> list[str]:
    """The complaints about arrays, on writing and on reading what another program wrote."""
    messages = []
    with pytest.raises(ArtifactUnreadable) as caught:
        write_artifact(path, kind, arrays, META)
    messages.append(caught.value.message)
    assert not path.exists()
    np.savez(path, meta=meta_text(kind=kind), **arrays)
    with pytest.raises(ArtifactUnreadable) as caught:
        read_artifact(path, kind)
    assert caught.value.exit_code == 2
    assert caught.value.remedy
    messages.append(caught.value.message)
    return messages


@pytest.mark.parametrize(("kind", "name"), [pair for pair in ALL_ARRAYS if pair[1] not in OPTIONAL])
def test_missing_array_is_named(path, kind, name):
    arrays = arrays_of(kind)
    del arrays[name]
    for message in damaged(path, kind, arrays):
        assert f"({kind}) lacks the array {name!r}" in message


def test_trajectory_may_be_absent(path):
    arrays = {name: v for name, v in arrays_of("retrain").items() if name not in OPTIONAL}
    write_artifact(path, "retrain", arrays, META)
    assert "trajectory" not in read_artifact(path, "retrain").arrays


@pytest.mark.parametrize(("kind", "name"), ALL_ARRAYS)
def test_array_with_another_number_of_axes_is_named(path, kind, name):
    arrays = arrays_of(kind)
    arrays[name] = arrays[name][..., None]
    for message in damaged(path, kind, arrays):
        assert f"{name!r} has shape {arrays[name].shape}" in message


@pytest.mark.parametrize(("kind", "name", "axis"), ALL_AXES)
def test_lengths_that_contradict_each_other_are_refused(path, kind, name, axis):
    arrays = arrays_of(kind)
    arrays[name] = np.concatenate([arrays[name], arrays[name]], axis=axis)
    for message in damaged(path, kind, arrays):
        assert "has shape" in message
        assert "expected (" in message


def test_contradiction_says_what_was_expected(path):
    arrays = arrays_of("influence")
    arrays["scores"] = np.zeros((2, 3, 8))
    for message in damaged(path, "influence", arrays):
        assert message.endswith("'scores' has shape (2, 3, 8); expected (S=2, T=3, N=7).")


# --- files that are no artifacts -----------------------------------------------------------


def as_bytes(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def as_npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(3))
    return buffer.getvalue()


def as_zip(member: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(member, content)
    return buffer.getvalue()


def damaged_deflate() -> bytes:
    """An artifact that another program compressed, damaged inside the compressed bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, meta=meta_text(), **arrays_of("eigen"))
    content = bytearray(buffer.getvalue())
    start = content.index(b"meta.npy") + len("meta.npy") + 20  # the extra field, then data
    content[start : start + 40] = b"\xff" * 40
    return bytes(content)


FOREIGN = {
    "empty": b"",
    "one byte": b"P",
    "text": b"seeds,values\n1,2\n",
    "binary": bytes(range(256)) * 8,
    "pickle": pickle.dumps({"seeds": [1, 2]}),
    "one array": as_npy(),
    "zip of text": as_zip("readme.txt", b"hello"),
    "zip, meta no array": as_zip("meta", b"{}"),
    "zip, array of text": as_zip("meta.npy", b"hello"),
    "damaged compressed": damaged_deflate(),
    "arrays without meta": as_bytes(**arrays_of("eigen")),
    "meta no JSON": as_bytes(meta=np.array("hello"), **arrays_of("eigen")),
    "meta empty": as_bytes(meta=np.array(""), **arrays_of("eigen")),
    "meta a number": as_bytes(meta=np.array(3.0), **arrays_of("eigen")),
    "meta a list": as_bytes(meta=np.array("[1]"), **arrays_of("eigen")),
    "meta without kind": as_bytes(meta=np.array('{"schema": 1}'), **arrays_of("eigen")),
    "meta without schema": as_bytes(meta=np.array('{"kind": "eigen"}'), **arrays_of("eigen")),
    "kind a list": as_bytes(meta=meta_text(kind=["eigen"]), **arrays_of("eigen")),
}


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("kind", ["eigen", None])
def test_foreign_file_is_refused_by_name(path, what, kind):
    path.write_bytes(FOREIGN[what])
    with pytest.raises(ArtifactUnreadable, match=r"file\.npz ") as caught:
        read_artifact(path, kind)
    assert caught.value.exit_code == 2
    assert caught.value.remedy


def test_missing_file_is_named(path):
    with pytest.raises(ArtifactUnreadable, match=r"file\.npz does not exist"):
        read_artifact(path, "eigen")


def test_folder_is_no_artifact(tmp_path):
    with pytest.raises(ArtifactUnreadable, match="does not exist"):
        read_artifact(tmp_path, "eigen")


@pytest.mark.parametrize("share", [k / 20 for k in range(20)])
def test_truncated_file_is_refused(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ArtifactUnreadable, match=r"is not a readable \.npz file") as caught:
        read_artifact(saved, "eigen")
    assert "make it again" in caught.value.remedy


def test_single_wrong_bit_anywhere_is_refused_or_harmless(saved):
    content, expected = saved.read_bytes(), arrays_of("eigen")
    refused = 0
    for position in range(0, len(content), 3):
        damaged_content = bytearray(content)
        damaged_content[position] ^= 1
        saved.write_bytes(damaged_content)
        try:
            read = read_artifact(saved, "eigen")
        except ArtifactUnreadable:
            refused += 1
            continue
        for name, values in expected.items():
            np.testing.assert_array_equal(read[name], values)
    assert refused > len(content) / 3 / 2


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_other_schema_is_refused_with_both_numbers(path, schema):
    np.savez(path, meta=meta_text(schema=schema), **arrays_of("eigen"))
    with pytest.raises(ArtifactUnreadable) as caught:
        read_artifact(path, "eigen")
    assert f"has schema {schema!r}; this ifcheck reads schema 1" in caught.value.message
    assert "again with this version" in caught.value.remedy


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "eigen"])
def test_other_kind_is_refused_with_both_names(saved, kind):
    with pytest.raises(ArtifactUnreadable) as caught:
        read_artifact(saved, kind)
    assert caught.value.message.endswith(f"file.npz holds 'eigen'; expected {kind!r}.")
    assert f"ifcheck {kind}" in caught.value.remedy


@pytest.mark.parametrize("expected", ["eigen", None])
def test_unknown_kind_is_refused(path, expected):
    np.savez(path, meta=meta_text(kind="bootstrap"), **arrays_of("eigen"))
    with pytest.raises(ArtifactUnreadable, match="holds 'bootstrap'; expected"):
        read_artifact(path, expected)


# --- nothing is ever unpickled -------------------------------------------------------------


class Trap:
    """Leaves a folder behind when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self):
        return os.mkdir, (str(self.sprung),)


@pytest.mark.parametrize("place", ["values", "meta", "seeds", "beyond_the_schema"])
def test_arrays_of_objects_are_refused_without_unpickling(path, tmp_path, place):
    sprung = tmp_path / "sprung"
    trapped = np.empty((2, 1), dtype=object)
    trapped[0, 0] = Trap(sprung)
    np.savez(path, **{"meta": meta_text(), **arrays_of("eigen"), place: trapped})
    with pytest.raises(ArtifactUnreadable, match="Object arrays cannot be loaded"):
        read_artifact(path, "eigen")
    assert not sprung.exists()
    with np.load(path, allow_pickle=True) as file:
        file[place]
    assert sprung.exists()  # the trap works


def test_pickle_in_place_of_the_file_is_refused_without_unpickling(path, tmp_path):
    path.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(ArtifactUnreadable):
        read_artifact(path)
    assert not (tmp_path / "sprung").exists()


def test_arrays_of_objects_are_never_written(path, tmp_path):
    objects = np.array([[{}], [None]], dtype=object)
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        write_artifact(path, "eigen", {**arrays_of("eigen"), "values": objects}, META)
    assert list(tmp_path.iterdir()) == []


# --- all or nothing ------------------------------------------------------------------------


def test_save_that_fails_half_way_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()

    def fail(file, **_):
        file.write(b"half of it")
        raise ValueError("in the middle")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(ValueError, match="in the middle"):
        write_artifact(saved, "eigen", arrays_of("eigen"), META)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_arrays_that_do_not_fit_leave_the_old_file(saved):
    before = saved.read_bytes()
    with pytest.raises(ArtifactUnreadable):
        write_artifact(saved, "eigen", {"seeds": np.arange(2)}, META)
    assert saved.read_bytes() == before


def test_file_gets_exactly_the_name_given(tmp_path):
    path = tmp_path / "scores.of.seed"
    write_artifact(path, "eigen", arrays_of("eigen"), META)
    assert list(tmp_path.iterdir()) == [path]


# --- replicates ----------------------------------------------------------------------------

REPLICATED = ("loss_after", "null_loss_after", "converged", "grad_norm", "null_grad_norm")


def replicated(count: int, names=REPLICATED) -> dict[str, np.ndarray]:
    """Arrays of a retraining, of which some have a last axis of so many replicates."""
    return {
        name: np.stack([values] * count, axis=-1) if name in names else values
        for name, values in arrays_of("retrain").items()
    }


def test_replicates_are_a_last_axis(path):
    arrays = replicated(3)
    write_artifact(path, "retrain", arrays, META)
    assert read_artifact(path, "retrain")["loss_after"].shape == (2, 3, 4, 3)


@pytest.mark.parametrize("name", REPLICATED)
def test_all_arrays_have_replicates_or_none_has(name, path):
    with pytest.raises(ArtifactUnreadable, match="has shape"):
        write_artifact(path, "retrain", replicated(2, [name]), META)
    others = [other for other in REPLICATED if other != name]
    with pytest.raises(ArtifactUnreadable, match="has shape"):
        write_artifact(path, "retrain", replicated(2, others), META)


def test_all_arrays_have_equally_many_replicates(path):
    arrays = {**replicated(3), "converged": replicated(2)["converged"]}
    with pytest.raises(ArtifactUnreadable, match=r"'converged' has shape .*\(S=2, K=4, R=3\)"):
        write_artifact(path, "retrain", arrays, META)


def test_one_replicate_has_no_axis(path):
    with pytest.raises(ArtifactUnreadable, match=r"'loss_after' has shape \(2, 3, 4, 1\)"):
        write_artifact(path, "retrain", replicated(1), META)


def test_what_has_no_replicates_takes_no_axis(path):
    arrays = replicated(2, [*REPLICATED, "loss_before"])
    with pytest.raises(ArtifactUnreadable, match="'loss_before' has shape"):
        write_artifact(path, "retrain", arrays, META)

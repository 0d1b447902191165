"""Checkpoints: safetensors round trips, users' own state dicts, and never a pickle of code."""

import hashlib
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from ifcheck.artifacts import read_checkpoint, write_checkpoint
from ifcheck.errors import ArtifactUnreadable

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")

META = {
    "config": {"train": {"epochs": 5}, "network": {"name": "mlp"}},
    "seed": 7,
    "data": "0" * 64,
}


def state() -> dict[str, torch.Tensor]:
    return {
        "body.0.weight": torch.arange(20.0).reshape(5, 4) / 7,
        "head.weight": torch.tensor([[1e-45, -0.0, 3.4e38]]),
        "head.bias": torch.zeros(3, dtype=torch.float64),
    }


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Equal type, shape and bytes (torch.equal takes -0.0 for 0.0)."""
    return left.dtype == right.dtype and (
        left.contiguous().numpy().tobytes() == right.contiguous().numpy().tobytes()
        and left.shape == right.shape
    )


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / "seed-007.safetensors"
    write_checkpoint(path, state(), META)
    return path


# --- ifcheck's own -------------------------------------------------------------------------


def test_tensors_come_back_bit_for_bit(saved):
    read = read_checkpoint(saved)
    assert read.path == saved
    assert read.state.keys() == state().keys()
    assert all(same_bits(read.state[name], tensor) for name, tensor in state().items())


def test_meta_comes_back_with_versions_and_revision(saved):
    meta = read_checkpoint(saved).meta
    assert meta["config"] == META["config"]
    assert (meta["seed"], meta["data"]) == (7, "0" * 64)
    assert meta["schema"] == 1
    assert meta["versions"]["torch"] == torch.__version__
    assert len(meta["code"]) == 16


def test_digest_is_that_of_the_file(saved):
    assert read_checkpoint(saved).digest == hashlib.sha256(saved.read_bytes()).hexdigest()


def test_header_is_one_json_string_that_others_can_read(saved):
    with safe_open(saved, framework="np") as file:
        header = file.metadata()
        names = set(file.keys())
    assert set(header) == {"ifcheck"}
    assert json.loads(header["ifcheck"])["seed"] == 7
    assert names == state().keys()


def test_same_network_gives_the_same_file(saved, tmp_path):
    again = tmp_path / "again.safetensors"
    write_checkpoint(again, dict(reversed(state().items())), dict(reversed(META.items())))
    assert again.read_bytes() == saved.read_bytes()


def test_parameters_and_transposed_views_can_be_written(tmp_path):
    path = tmp_path / "views.safetensors"
    table = torch.arange(6.0).reshape(2, 3)
    write_checkpoint(path, {"weight": nn.Parameter(table.T), "rows": table[:, ::2]}, META)
    read = read_checkpoint(path).state
    np.testing.assert_array_equal(read["weight"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(read["rows"], [[0, 2], [3, 5]])
    assert not read["weight"].requires_grad


def test_save_that_fails_half_way_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()

    def fail(tensors, path, **_):
        path.write_bytes(b"half of it")
        raise ValueError("in the middle")

    monkeypatch.setattr("ifcheck.artifacts.checkpoint.save_file", fail)
    with pytest.raises(ValueError, match="in the middle"):
        write_checkpoint(saved, state(), META)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


# --- safetensors of other makers -----------------------------------------------------------


def test_safetensors_without_a_word_of_ifcheck_is_a_users_own(tmp_path):
    path = tmp_path / "own.safetensors"
    save_file(state(), path, metadata={"format": "pt"})
    read = read_checkpoint(path)
    assert read.meta is None
    assert read.state.keys() == state().keys()


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_other_schema_is_refused_with_both_numbers(tmp_path, schema):
    path = tmp_path / "old.safetensors"
    save_file(state(), path, metadata={"ifcheck": json.dumps({**META, "schema": schema})})
    with pytest.raises(ArtifactUnreadable) as caught:
        read_checkpoint(path)
    assert f"has schema {schema!r}; this ifcheck reads 1" in caught.value.message
    assert "again with this version" in caught.value.remedy


@pytest.mark.parametrize("header", ["hello", "", "{", "[1]", "3", "null", "{}", '"text"'])
def test_header_that_ifcheck_did_not_write_is_refused(tmp_path, header):
    path = tmp_path / "odd.safetensors"
    save_file(state(), path, metadata={"ifcheck": header})
    with pytest.raises(ArtifactUnreadable, match=r"odd\.safetensors") as caught:
        read_checkpoint(path)
    assert caught.value.exit_code == 2


# --- users' own state dicts ----------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "format before torch 1.6"])
@pytest.mark.parametrize("suffix", ["pt", "pth", "bin"])
def test_state_dict_of_a_user_is_read(tmp_path, suffix, zipped):
    path = tmp_path / f"model.{suffix}"
    network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(path)
    assert read.meta is None
    assert read.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read.state.keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert same_bits(read.state[name], tensor)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"state_dict": {"weight": torch.ones(2)}}, "dict"),
        ({"weight": torch.ones(2), "epoch": 3}, "dict"),
        ([torch.ones(2)], "list"),
        (torch.ones(2), "Tensor"),
        (3, "int"),
        (None, "NoneType"),
    ],
    ids=["nested", "with a number", "list", "tensor", "number", "nothing"],
)
def test_file_that_holds_no_state_dict_is_refused(tmp_path, content, kind):
    path = tmp_path / "model.pt"
    torch.save(content, path)
    with pytest.raises(
        ArtifactUnreadable, match=f"holds a {kind}; expected a state dict"
    ) as caught:
        read_checkpoint(path)
    assert "state_dict()" in caught.value.remedy


class Trap:
    """Leaves a folder behind when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self):
        return os.mkdir, (str(self.sprung),)


@pytest.mark.parametrize("form", ["zip", "before torch 1.6", "plain pickle"])
@pytest.mark.parametrize("suffix", ["pt", "pth", "npz", "safetensors"])
def test_pickle_with_code_is_refused_and_not_run(tmp_path, form, suffix):
    path, sprung = tmp_path / f"evil.{suffix}", tmp_path / "sprung"
    content = {"weight": torch.ones(2), "trap": Trap(sprung)}
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(content["trap"]))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ArtifactUnreadable, match="evil") as caught:
        read_checkpoint(path)
    assert caught.value.exit_code == 2
    assert not sprung.exists()
    if form == "plain pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path.rename(tmp_path / "evil"), weights_only=False)
    assert sprung.exists()  # the trap works


def test_whole_module_is_refused(tmp_path):
    path = tmp_path / "module.pt"
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(ArtifactUnreadable, match="weights_only=True") as caught:
        read_checkpoint(path)
    assert "model.state_dict()" in caught.value.remedy


def test_message_about_an_unreadable_file_is_one_line(tmp_path):
    path = tmp_path / "module.pt"
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(ArtifactUnreadable) as caught:
        read_checkpoint(path)
    assert "\n" not in caught.value.message


# --- damaged and foreign files -------------------------------------------------------------

FOREIGN = {
    "empty": b"",
    "one byte": b"\x80",
    "text": b"hello world\n",
    "numbers": b"3.5,1.2\n",
    "JSON": b'{"weight": [1, 2]}',
    "zeros": bytes(100),
    "binary": bytes(range(256)) * 8,
    "pickle of numbers": pickle.dumps({"weight": [1.0, 2.0]}),
    "zip": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("suffix", ["safetensors", "pt", "csv"])
def test_foreign_file_is_refused_by_name(tmp_path, what, suffix):
    path = tmp_path / f"foreign.{suffix}"
    path.write_bytes(FOREIGN[what])
    with pytest.raises(ArtifactUnreadable, match=rf"foreign\.{suffix} ") as caught:
        read_checkpoint(path)
    assert caught.value.exit_code == 2
    assert caught.value.remedy


def test_artifact_in_place_of_a_checkpoint_is_refused(tmp_path):
    np.savez(tmp_path / "train.npz", seeds=np.arange(3))
    with pytest.raises(ArtifactUnreadable, match=r"train\.npz is not a state dict"):
        read_checkpoint(tmp_path / "train.npz")


@pytest.mark.parametrize("share", [k / 10 for k in range(10)])
def test_truncated_safetensors_is_refused(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ArtifactUnreadable, match="is not a readable safetensors file") as caught:
        read_checkpoint(saved)
    assert "truncated" in caught.value.remedy


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_truncated_state_dict_is_refused_wherever_it_ends(tmp_path, zipped):
    path = tmp_path / "model.pt"
    torch.save(state(), path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    for end in range(0, len(content), 11):
        path.write_bytes(content[:end])
        with pytest.raises(ArtifactUnreadable, match=r"model\.pt"):
            read_checkpoint(path)


def test_safetensors_with_a_wrong_bit_in_its_header_is_refused_or_reads(saved):
    content = saved.read_bytes()
    header = int.from_bytes(content[:8], "little")
    refused = 0
    for position in range(8 + header):
        damaged = bytearray(content)
        damaged[position] ^= 1
        saved.write_bytes(damaged)
        try:
            read_checkpoint(saved)
        except ArtifactUnreadable:
            refused += 1
    assert refused > header / 4


@pytest.mark.parametrize("name", ["absent.safetensors", "absent.pt"])
def test_missing_file_is_named(tmp_path, name):
    with pytest.raises(ArtifactUnreadable, match=f"{name} does not exist"):
        read_checkpoint(tmp_path / name)


# --- values that are not finite ------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("form", ["ifcheck", "safetensors", "state dict"])
def test_network_that_has_diverged_is_refused_by_tensor(tmp_path, form, value):
    tensors = state()
    tensors["body.0.weight"][3, 2] = value
    path = tmp_path / ("model.pt" if form == "state dict" else "model.safetensors")
    if form == "ifcheck":
        write_checkpoint(path, tensors, META)
    elif form == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    with pytest.raises(
        ArtifactUnreadable, match=r"body\.0\.weight holds values that are not finite"
    ):
        read_checkpoint(path)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float16, torch.bfloat16])
def test_other_types_of_tensors_are_read(tmp_path, dtype):
    path = tmp_path / "model.pt"
    torch.save({"counter": torch.ones(2).to(dtype)}, path)
    assert read_checkpoint(path).state["counter"].dtype == dtype

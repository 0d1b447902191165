"""Writing all or nothing, refusing to overwrite, finding checkpoints."""

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from ifcheck.artifacts import (
    atomic_write,
    find_checkpoints,
    require_free,
    write_artifact,
    write_checkpoint,
    write_text,
)
from ifcheck.errors import ArtifactUnreadable, OutputRefused, RunFailed

OLD, NEW = "old content", "new content, longer than the old"


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def failing(error: BaseException) -> Callable[[Path], None]:
    """A writer that gives up half-way."""

    def write(temporary: Path) -> None:
        temporary.write_text(NEW[:5], encoding="utf-8")
        raise error

    return write


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the system refuse to write files beyond `size` bytes, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- all or nothing ------------------------------------------------------------------------


def test_text_is_written_as_utf_8_into_folders_made_on_the_way(tmp_path):
    path = tmp_path / "study" / "cells" / "report.txt"
    write_text(path, "Prüfung: √λ\n")
    assert path.read_bytes() == "Prüfung: √λ\n".encode()
    assert names_in(tmp_path) == ["study", "study/cells", "study/cells/report.txt"]


def test_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "file"
    write_text(path, OLD)
    write_text(path, NEW)
    assert path.read_text() == NEW
    assert names_in(tmp_path) == ["file"]


def test_old_file_stands_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "file"
    path.write_text(OLD)
    seen = []

    def write(temporary: Path) -> None:
        temporary.write_text(NEW)
        seen.append((path.read_text(), temporary.parent))

    atomic_write(path, write)
    assert seen == [(OLD, tmp_path)]  # in the same folder, where moving is atomic
    assert path.read_text() == NEW


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        PermissionError(errno.EACCES, "Permission denied"),
        RuntimeError("the tensors share memory"),
        ValueError("object arrays cannot be saved"),
        MemoryError(),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("before", [OLD, None], ids=["replacing", "new"])
def test_failing_half_way_leaves_the_old_file_and_no_temporary(tmp_path, error, before):
    path = tmp_path / "file"
    if before is not None:
        path.write_text(before)
    with pytest.raises((type(error), OutputRefused, RunFailed)):
        atomic_write(path, failing(error))
    assert names_in(tmp_path) == ([] if before is None else ["file"])
    if before is not None:
        assert path.read_text() == before


@pytest.mark.parametrize("error", [RuntimeError("why"), KeyboardInterrupt("why")], ids=repr)
def test_what_is_no_fault_of_the_disk_is_passed_on(tmp_path, error):
    with pytest.raises(type(error), match="why"):
        atomic_write(tmp_path / "file", failing(error))


def test_temporary_that_a_kill_left_behind_is_not_taken_for_a_checkpoint(tmp_path):
    path = tmp_path / "checkpoints" / "seed-000.safetensors"
    temporaries = []

    def write(temporary: Path) -> None:
        temporaries.append(temporary)
        temporary.write_text(NEW)

    atomic_write(path, write)
    temporaries[0].write_text(NEW[:5])
    assert len(names_in(path.parent)) == 2
    assert find_checkpoints([tmp_path]) == [path]


def test_two_writers_of_one_file_do_not_share_a_temporary(tmp_path):
    path = tmp_path / "file"

    def outer(temporary: Path) -> None:
        temporary.write_text("outer")
        write_text(path, "inner")
        assert temporary.read_text() == "outer"
        assert path.read_text() == "inner"

    atomic_write(path, outer)
    assert path.read_text() == "outer"
    assert names_in(tmp_path) == ["file"]


# --- what cannot be written ----------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_full_disk_is_a_failure_while_running(tmp_path, code):
    path = tmp_path / "file"
    with pytest.raises(RunFailed) as caught:
        atomic_write(path, failing(OSError(code, os.strerror(code))))
    assert caught.value.exit_code == 3
    assert caught.value.message == f"writing {path} failed: {os.strerror(code)}."
    assert "disk space" in caught.value.remedy


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_folder_that_cannot_be_written_is_unusable(tmp_path, code):
    path = tmp_path / "file"
    with pytest.raises(OutputRefused) as caught:
        atomic_write(path, failing(OSError(code, os.strerror(code))))
    assert caught.value.exit_code == 2
    assert caught.value.message == f"cannot write {path}: {os.strerror(code)}."
    assert "--out" in caught.value.remedy


@pytest.mark.parametrize("below", ["out", "out/deeper", "../notes.txt/a/b/c"])
def test_path_below_a_regular_file_is_unusable(tmp_path, below):
    (tmp_path / "notes.txt").write_text(OLD)
    path = tmp_path / "notes.txt" / below / "train.npz"
    with pytest.raises(OutputRefused, match=r"cannot write .*train\.npz: ") as caught:
        write_text(path, NEW)
    assert caught.value.exit_code == 2
    assert names_in(tmp_path) == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == OLD


@pytest.mark.parametrize("inside", [[], ["kept"]], ids=["empty", "filled"])
def test_folder_in_place_of_the_file_is_unusable_and_kept(tmp_path, inside):
    path = tmp_path / "train.npz"
    path.mkdir()
    for name in inside:
        (path / name).touch()
    with pytest.raises(OutputRefused, match=r"cannot write .*train\.npz"):
        write_text(path, NEW)
    assert names_in(path) == inside
    assert names_in(tmp_path) == ["train.npz", *(f"train.npz/{name}" for name in inside)]


BIG = np.arange(20_000)
WRITERS = {
    "text": lambda path: write_text(path, "x" * 100_000),
    "artifact": lambda path: write_artifact(
        path,
        "eigen",
        {
            "seeds": BIG,
            "values": BIG[:, None],
            "rel_residual": BIG[:, None],
            "min_value": BIG,
            "max_value": BIG,
        },
        {"parents": {}},
    ),
    "checkpoint": lambda path: write_checkpoint(path, {"weight": torch.ones(20_000)}, {}),
}


@pytest.mark.parametrize("what", WRITERS)
def test_system_that_takes_no_more_bytes_is_a_failure_while_running(tmp_path, what):
    path = tmp_path / "file.safetensors"
    path.write_text(OLD)
    with files_of_at_most(4096), pytest.raises(RunFailed) as caught:
        WRITERS[what](path)
    assert caught.value.exit_code == 3
    assert caught.value.message.startswith(f"writing {path} failed: ")
    assert "disk space" in caught.value.remedy
    assert path.read_text() == OLD
    assert names_in(tmp_path) == ["file.safetensors"]


@pytest.mark.parametrize("what", WRITERS)
def test_every_kind_of_file_is_written_where_there_is_room(tmp_path, what):
    WRITERS[what](tmp_path / "file.safetensors")
    assert (tmp_path / "file.safetensors").stat().st_size > 4096


# --- outputs that are taken ----------------------------------------------------------------


@pytest.fixture
def outputs(tmp_path) -> Path:
    """A folder with a filled folder, an empty one and a file."""
    (tmp_path / "filled").mkdir()
    (tmp_path / "filled" / "train.npz").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.npz").write_text(OLD)
    return tmp_path


@pytest.mark.parametrize("name", ["new", "new/deeper/run", "empty", "empty/run.npz"])
@pytest.mark.parametrize("force", [False, True])
def test_free_output_is_let_through_and_nothing_is_made(outputs, name, force):
    before = names_in(outputs)
    require_free(outputs / name, force)
    assert names_in(outputs) == before


@pytest.mark.parametrize("name", ["filled", "file.npz"])
def test_taken_output_is_refused_without_force(outputs, name):
    with pytest.raises(OutputRefused, match=f"{name} exists already") as caught:
        require_free(outputs / name, force=False)
    assert "--force" in caught.value.remedy
    assert "--out" in caught.value.remedy


@pytest.mark.parametrize("name", ["filled", "file.npz"])
def test_taken_output_is_let_through_with_force_and_kept_so_far(outputs, name):
    before = names_in(outputs)
    require_free(outputs / name, force=True)
    assert names_in(outputs) == before
    assert (outputs / "file.npz").read_text() == OLD


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("below", ["run", "run/influence.npz"])
def test_output_below_a_regular_file_is_refused_even_with_force(outputs, below, force):
    with pytest.raises(OutputRefused, match=r"file\.npz is not a folder") as caught:
        require_free(outputs / "file.npz" / below, force)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["new/run", "empty"])
def test_output_without_permission_is_refused_beforehand(outputs, name, monkeypatch):
    asked = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append((path, mode)) or False)
    with pytest.raises(OutputRefused, match="no permission"):
        require_free(outputs / name, force=False)
    existing = outputs if name == "new/run" else outputs / "empty"
    assert asked == [(existing, os.W_OK)]


def test_relative_output_is_looked_for_in_the_current_folder(outputs, monkeypatch):
    monkeypatch.chdir(outputs)
    require_free(Path("new/run"), force=False)
    with pytest.raises(OutputRefused, match="filled exists already"):
        require_free(Path("filled"), force=False)


# --- finding checkpoints -------------------------------------------------------------------


@pytest.fixture
def run_folder(tmp_path) -> Path:
    """A run with three checkpoints, made in another order, among other files."""
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    for name in ("seed-002.safetensors", "seed-000.safetensors", "seed-001.safetensors"):
        (checkpoints / name).touch()
    for name in ("notes.txt", "train.npz", ".seed-003.safetensors.0a1b.part", "README"):
        (checkpoints / name).touch()
    (tmp_path / "run" / "train.npz").touch()
    (tmp_path / "run" / "model.pt").touch()
    return tmp_path / "run"


SEEDS = ["seed-000.safetensors", "seed-001.safetensors", "seed-002.safetensors"]


@pytest.mark.parametrize("source", [".", "checkpoints"])
def test_checkpoints_of_a_folder_come_by_name(run_folder, source):
    found = find_checkpoints([run_folder / source])
    assert [file.name for file in found] == SEEDS
    assert {file.parent for file in found} == {run_folder / "checkpoints"}


def test_files_come_in_the_order_given(run_folder):
    files = [run_folder / "checkpoints" / name for name in (SEEDS[2], SEEDS[0])]
    assert find_checkpoints(files) == files


def test_folders_and_files_are_joined(run_folder, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    for name in ("b.pth", "a.pt", "c.safetensors", "d.npz"):
        (own / name).touch()
    found = find_checkpoints([own, run_folder, run_folder / "model.pt"])
    assert [file.name for file in found] == ["a.pt", "b.pth", "c.safetensors", *SEEDS, "model.pt"]


def test_any_file_can_be_named(tmp_path):
    (tmp_path / "weights.bin").touch()
    assert find_checkpoints([tmp_path / "weights.bin"]) == [tmp_path / "weights.bin"]


def test_source_that_does_not_exist_is_named(run_folder):
    with pytest.raises(ArtifactUnreadable, match="rnu does not exist") as caught:
        find_checkpoints([run_folder, run_folder.parent / "rnu"])
    assert "ifcheck train" in caught.value.remedy


def test_folders_without_checkpoints_are_named(tmp_path):
    for name in ("first", "second/checkpoints"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "first" / "train.npz").touch()
    with pytest.raises(ArtifactUnreadable, match=r"no checkpoints in .*first, .*second"):
        find_checkpoints([tmp_path / "first", tmp_path / "second"])


def test_nothing_named_is_nothing_found():
    with pytest.raises(ArtifactUnreadable, match="no checkpoints"):
        find_checkpoints([])

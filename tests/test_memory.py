"""Tensors in files: the same numbers, no file left behind, an error where there is no room."""

import errno
import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from ifcheck import memory
from ifcheck.errors import RunFailed

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's list of mappings")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(memory, "LARGEST_IN_MEMORY", 1_000)
    return tmp_path


def mapped_in(folder: Path) -> list[str]:
    """Lines of Linux's list of this process's mappings that are of files in a folder."""
    return [
        line for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line
    ]


def test_a_tensor_up_to_the_budget_stands_in_memory(folder):
    tensor = memory.empty((25, 10), torch.float32, CPU)
    assert tensor.shape == (25, 10)
    assert not mapped_in(folder)


def test_a_larger_one_stands_in_a_file_that_goes_with_it(folder):
    tensor = memory.empty((251, 3, 2), torch.float64, CPU)
    assert tensor.shape == (251, 3, 2)
    assert tensor.dtype == torch.float64
    assert tensor.is_contiguous()
    assert len(mapped_in(folder)) == 1
    assert not list(folder.iterdir())  # its name is gone already
    values = torch.arange(1506.0, dtype=torch.float64).view(251, 3, 2)
    assert torch.equal(tensor.copy_(values), values)
    del tensor
    gc.collect()
    assert not mapped_in(folder)


def test_copies_take_another_type_and_order(folder):
    values = torch.arange(600.0, dtype=torch.float32).view(20, 30).T
    copied = memory.copy(values, torch.float64)
    assert copied.is_contiguous()
    assert copied.dtype == torch.float64
    assert mapped_in(folder)
    assert copied.tolist() == values.tolist()


def test_a_full_disk_is_told_before_anything_is_written(folder, monkeypatch):
    def full(_file: int, _start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, f"no room for {size} bytes")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RunFailed, match=r"8\.0 GB .* no room for 8000000000 bytes") as raised:
        memory.empty((1_000_000_000,), torch.float64, CPU)
    assert "TMPDIR" in raised.value.remedy
    assert str(folder) in str(raised.value)
    assert not mapped_in(folder)


def test_room_is_taken_at_once_and_not_when_it_is_written_to(folder):
    free = os.statvfs(folder).f_bfree
    tensor = memory.empty((50_000_000,), torch.float64, CPU)
    block = os.statvfs(folder).f_frsize
    assert (free - os.statvfs(folder).f_bfree) * block > 0.5 * tensor.nbytes


def test_a_process_that_a_large_one_started_counts_its_own_memory():
    """As Linux starts one, `ru_maxrss` takes over what its parent holds."""
    large = torch.ones(125_000_000, dtype=torch.float64)
    code = "from ifcheck.memory import peak_memory_bytes; print(peak_memory_bytes())"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert memory.peak_memory_bytes() >= large.nbytes
    assert 50e6 < int(found.stdout) < 0.7 * large.nbytes

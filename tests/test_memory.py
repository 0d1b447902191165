"""Tensors in files: the same numbers, no file left behind, an error where there is no room."""

import gc
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ifcheck import memory
from ifcheck.errors import RunFailed

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(memory, "MAPPED_BYTES", 1_000)
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
    copied = memory.contiguous(values, torch.float64)
    assert copied.is_contiguous()
    assert copied.dtype == torch.float64
    assert mapped_in(folder)
    assert copied.tolist() == values.tolist()


def test_a_full_disk_is_told_before_anything_is_written(folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4_000_000))
    with pytest.raises(RunFailed, match=r"8\.0 GB") as raised:
        memory.empty((1_000_000_000,), torch.float64, CPU)
    assert "TMPDIR" in raised.value.remedy
    assert str(folder) in str(raised.value)
    assert not mapped_in(folder)


def test_no_rows_need_no_file(folder):
    assert memory.empty((0, 5), torch.float32, CPU).shape == (0, 5)

"""How much memory this process took, and files for tensors that are too large for it."""

from __future__ import annotations

import math
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from ifcheck.errors import RunFailed

KIBIBYTE = 1 << 10  # in which Linux counts
# Bytes of a tensor of rows; a larger one stands in a file. A few are alive together, and a laptop
# has 8 GB.
LARGEST_IN_MEMORY = 1 << 30


def peak_memory_bytes() -> int:
    """Return the largest resident memory of this process so far.

    Pages of mapped files count as long as the system keeps them in memory.
    """
    with suppress(OSError, StopIteration):  # not on every system
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        line = next(line for line in lines if line.startswith("VmHWM:"))
        return int(line.split()[1]) * KIBIBYTE
    # Where a large process started this one, that counts its memory in.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * KIBIBYTE


def peak_device_bytes(device: torch.device) -> int:
    """Return the largest memory of torch's tensors on a GPU so far; 0 for the CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return an uninitialised tensor, on the CPU mapped from a file where it is large.

    The file is a temporary one without a name, in `TMPDIR`; it goes when the tensor goes. The
    system keeps in memory what there is room for. Raises: RunFailed where the disk has no room.
    """
    size = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or size <= LARGEST_IN_MEMORY:
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    folder = tempfile.gettempdir()
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix="ifcheck-") as file:
            _reserve(file.fileno(), size)
            mapped = torch.from_file(file.name, shared=True, size=math.prod(shape), dtype=dtype)
    except (OSError, RuntimeError) as error:
        raise RunFailed(
            f"a tensor of {size / 1e9:.1f} GB is kept in a file in {folder}, where "
            f"{shutil.disk_usage(folder).free / 1e9:.1f} GB are free: {error}",
            remedy="Set TMPDIR to a folder on a larger disk, or use fewer rows: --limit-train.",
        ) from error
    return mapped.view(tuple(shape))


def copy(values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return a copy in row-major order, of another type if one is given, where `empty` puts it."""
    copied = empty(values.shape, dtype or values.dtype, values.device)
    if values.dim() < 3:
        return copied.copy_(values)
    for target, source in zip(copied, values, strict=True):  # torch turns matrices fastest
        target.copy_(source)
    return copied


def _reserve(file: int, size: int) -> None:
    """Take room on the disk: a write into a page that it has no room for would kill the process."""
    if sys.platform == "darwin":
        os.truncate(file, size)
    else:
        os.posix_fallocate(file, 0, size)

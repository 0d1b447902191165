"""How much memory this process took, and room for tensors that are larger than that should be."""

from __future__ import annotations

import math
import resource
import shutil
import sys
import tempfile
from collections.abc import Sequence

import torch
from torch import Tensor

from ifcheck.errors import RunFailed

KIBIBYTE = 1 << 10  # in which Linux counts
MAPPED_BYTES = 1 << 30  # of a tensor made here; a larger one stands in a file


def peak_memory_bytes() -> int:
    """Return the largest resident memory of this process so far."""
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
    if device.type != "cpu" or size <= MAPPED_BYTES:
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if size > free:  # writing to pages that the disk has no room for would kill the process
        raise RunFailed(
            f"a tensor of {size / 1e9:.1f} GB is kept in a file in {folder}, "
            f"where {free / 1e9:.1f} GB are free.",
            remedy="Set TMPDIR to a folder on a larger disk, or use fewer rows: --limit-train.",
        )
    with tempfile.NamedTemporaryFile(dir=folder, prefix="ifcheck-") as file:
        mapped = torch.from_file(file.name, shared=True, size=math.prod(shape), dtype=dtype)
    return mapped.view(tuple(shape))


def contiguous(values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return a copy without strides, of another type if one is given, where `empty` puts it."""
    return empty(values.shape, dtype or values.dtype, values.device).copy_(values)

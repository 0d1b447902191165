"""How much memory this process took."""

from __future__ import annotations

import resource
import sys

import torch

KIBIBYTE = 1 << 10  # in which Linux counts


def peak_memory_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * KIBIBYTE


def peak_device_bytes(device: torch.device) -> int:
    """Return the largest memory of torch's tensors on a GPU so far; 0 for the CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0

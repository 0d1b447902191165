"""The machine's limit: how fast it multiplies matrices and takes exponentials.

Both rates are of torch on as many threads as the engines use, on memory that stays in cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch

from ifcheck.engines.pool import run_all

MATRIX = 1_024  # rows and columns: large enough for the full rate
IN_CACHE = 2_048  # values whose exponentials are taken again and again
SECONDS = 0.5  # of each measurement


@dataclass(frozen=True)
class Roofline:
    """What the machine does in a second, with one type on some threads."""

    flops: float  # of a product of two matrices
    exponentials: float

    def seconds(self, flops: float, exponentials: float) -> float:
        """Return the least time that so much work takes if it is done one after the other."""
        return flops / self.flops + exponentials / self.exponentials


def measure(dtype: torch.dtype) -> Roofline:
    """Return the rates of this machine, now."""
    one, other = (torch.rand(MATRIX, MATRIX, dtype=dtype) for _ in range(2))
    out = torch.empty_like(one)
    products = _rate(lambda: torch.mm(one, other, out=out))
    threads = torch.get_num_threads()
    values = [torch.rand(IN_CACHE, dtype=dtype) for _ in range(threads)]
    results = [torch.empty_like(v) for v in values]

    def exponentials(index: int) -> None:
        for _ in range(1_000):
            torch.exp(values[index], out=results[index])

    batches = _rate(lambda: run_all(exponentials, range(threads), threads))
    return Roofline(2.0 * MATRIX**3 * products, 1_000.0 * threads * IN_CACHE * batches)


def work_of_an_epoch(sizes: tuple[int, ...], rows: int) -> tuple[float, float]:
    """Return (flops, exponentials) of one model's forward and backward pass.

    `sizes` are the widths of all layers, input and output included. Each weight is multiplied
    once forwards, once for its gradient, and above the first layer once for the layer below.
    """
    weights = [a * b for a, b in pairwise(sizes)]
    products = 2 * sum(weights) + sum(weights[1:])
    return 2.0 * rows * products, float(rows * sum(sizes[1:]))


def _rate(work: Callable[[], object]) -> float:
    """Return how often a second the work can be done."""
    work()
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        work()
        done += 1
    return done / (time.perf_counter() - started)

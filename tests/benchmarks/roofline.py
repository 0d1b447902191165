"""The machine's limit: how fast it multiplies matrices and takes exponentials.

Products of matrices by torch; exponentials by the faster of torch and, where it is installed, a
compiled loop, on memory that stays in cache; both on as many threads as the engines use.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise

import torch

from ifcheck.engines.pool import run_all

MATRIX = 1_024  # rows and columns: large enough for the full rate
IN_CACHE = 1_024  # values whose exponentials are taken again and again
REPEATS = 10_000
SECONDS = 0.25  # of each measurement
WINDOWS = 8  # of which the fastest counts: other work on the machine comes and goes


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
    return Roofline(
        flops=2.0 * MATRIX**3 * products,
        exponentials=max(_exponentials(loop, dtype) for loop in _loops()),
    )


def _loops() -> list[Callable[[torch.Tensor, torch.Tensor], object]]:
    """Return what sets the second tensor to the exponentials of the first, many times over."""

    def by_torch(values: torch.Tensor, out: torch.Tensor) -> None:
        for _ in range(REPEATS):
            torch.exp(values, out=out)

    if find_spec("numba") is None:
        return [by_torch]
    from numba import njit

    from ifcheck.engines.compiled.functions import exponential

    @njit(nogil=True, error_model="numpy")
    def compiled(values, out):  # type: ignore[no-untyped-def]
        for _ in range(REPEATS):
            for j in range(values.size):
                out[j] = exponential(values[j])

    return [by_torch, lambda values, out: compiled(values.numpy(), out.numpy())]


def _exponentials(
    loop: Callable[[torch.Tensor, torch.Tensor], object], dtype: torch.dtype
) -> float:
    """Return how many a second all threads take together."""
    threads = torch.get_num_threads()
    pairs = [
        (torch.rand(IN_CACHE, dtype=dtype), torch.empty(IN_CACHE, dtype=dtype))
        for _ in range(threads)
    ]
    rate = _rate(lambda: run_all(lambda pair: loop(*pair), pairs, threads))
    return float(REPEATS * threads * IN_CACHE * rate)


def work_of_an_epoch(sizes: tuple[int, ...], rows: int) -> tuple[float, float]:
    """Return (flops, exponentials) of one model's forward and backward pass.

    `sizes` are the widths of all layers, input and output included. Each weight is multiplied
    once forwards, once for its gradient, and above the first layer once for the layer below.
    """
    weights = [a * b for a, b in pairwise(sizes)]
    products = 2 * sum(weights) + sum(weights[1:])
    return 2.0 * rows * products, float(rows * sum(sizes[1:]))


def _rate(work: Callable[[], object]) -> float:
    """Return how often a second the work can be done, at best: a limit is no average."""
    work()
    return max(_rate_once(work) for _ in range(WINDOWS))


def _rate_once(work: Callable[[], object]) -> float:
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        work()
        done += 1
    return done / (time.perf_counter() - started)

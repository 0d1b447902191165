"""How many threads torch uses within one operation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Elements of the largest tensor from which threads within an operation gain time: below it they
# spend longer waiting for each other than computing (measured on two cores, 10 times slower
# when something else runs beside).
WORTH_THREADS = 1 << 22


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads within an operation, and then as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""Work on several threads, each of which uses one thread within torch's operations."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from ifcheck.engines.base import Progress, silent
from ifcheck.engines.threads import WORTH_THREADS, torch_threads

Item = TypeVar("Item")
Result = TypeVar("Result")


def nothing() -> None:
    """What is done about a failure where nothing needs to be."""


def run_all(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    threads: int,
    on_failure: Callable[[], None] = nothing,
) -> list[Result]:
    """Return the function's results in order, on up to so many threads.

    If one fails, or the user interrupts, `on_failure` is called, items that have not started
    are dropped, and the error is raised when those that have are done.
    """
    threads = min(threads, len(items))
    workers: list[threading.Thread] = []
    with torch_threads(1):
        if threads <= 1:
            return [function(item) for item in items]
        with ThreadPoolExecutor(
            threads, initializer=lambda: workers.append(threading.current_thread())
        ) as pool:
            try:
                futures = [pool.submit(function, item) for item in items]
                wait(futures, return_when=FIRST_EXCEPTION)
                return [future.result() for future in _failed_first(futures)]
            except BaseException:
                on_failure()
                pool.shutdown(wait=True, cancel_futures=True)
                for worker in workers:  # the pool forgets one whose start was interrupted
                    worker.join()
                raise


def run_each(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    elements: int,
    device: torch.device,
    progress: Progress = silent,
    side_by_side: bool = True,
) -> list[Result]:
    """Return the function's results in order, where each call's tensors have so many elements.

    Small tensors: calls side by side unless that is forbidden, each on one thread. Large ones,
    and those of a GPU: one call after the other. `progress` is called with 1 after each.
    """
    lock = threading.Lock()

    def run(item: Item) -> Result:
        result = function(item)
        with lock:
            progress(1)
        return result

    if elements > WORTH_THREADS:
        return [run(item) for item in items]
    alone = device.type == "cuda" or not side_by_side
    return run_all(run, items, 1 if alone else torch.get_num_threads())


def _failed_first(futures: list[Future[Result]]) -> list[Future[Result]]:
    """Return the futures in order, or only one that failed, so that its error shows at once."""
    return [f for f in futures if f.done() and f.exception() is not None][:1] or futures

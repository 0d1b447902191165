"""Work on several threads: order, progress, failure, and who may use how many threads."""

import threading
import time

import pytest
import torch

from ifcheck.engines.pool import run_all, run_each
from ifcheck.engines.threads import WORTH_THREADS
from tests.engines.conftest import check_no_worker_is_left
from tests.engines.test_batched import torch_threads

CPU = torch.device("cpu")


@pytest.mark.parametrize("threads", [1, 2, 9])
def test_results_come_in_order(threads):
    def slow_first(item: int) -> int:
        time.sleep(0.02 / (item + 1))
        return item * item

    assert run_all(slow_first, range(5), threads) == [0, 1, 4, 9, 16]


def test_nothing_to_do_gives_nothing():
    assert run_all(abs, [], 2) == []


@pytest.mark.parametrize("threads", [1, 2])
def test_a_failure_is_raised_and_drops_what_has_not_started(threads):
    started, told = [], []

    def fail(item: int) -> None:
        started.append(item)
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match=r"item [01]"):
        run_all(fail, range(50), threads, on_failure=lambda: told.append(True))
    assert len(started) < 50
    assert told == ([True] if threads == 2 else [])


def test_ctrl_c_while_a_worker_starts_waits_for_its_work_too(monkeypatch):
    """The executor forgets a thread whose start was interrupted."""
    began, ended = threading.Event(), threading.Event()

    def work(item: int) -> None:
        began.set()
        time.sleep(0.2)
        ended.set()

    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        began.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_all(work, range(2), 2)
    assert ended.is_set()
    check_no_worker_is_left()


@pytest.mark.parametrize(
    ("elements", "side_by_side", "within"),
    [(1, True, {1}), (1, False, {1}), (WORTH_THREADS + 1, True, {2})],
    ids=["small", "small, one at a time", "large"],
)
def test_small_work_runs_side_by_side_and_large_work_uses_all_threads(
    elements, side_by_side, within
):
    seen, workers, done = set(), set(), []

    def look(item: int) -> int:
        seen.add(torch.get_num_threads())
        workers.add(threading.get_ident())
        time.sleep(0.01)
        return item

    with torch_threads(2):
        found = run_each(look, range(6), elements, CPU, done.append, side_by_side)
    assert found == list(range(6))
    assert done == [1] * 6
    assert seen == within
    assert len(workers) == (2 if elements == 1 and side_by_side else 1)

"""The numba engine: no model feels its company; progress, interrupts, and what it leaves alone."""

import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ifcheck.engines import Fit, NumbaEngine, Recipe, Task
from ifcheck.engines.batched import TorchEngine
from ifcheck.variants import averaged
from tests.engines.conftest import CLASSES, check_no_worker_is_left, head_task, mlp_task
from tests.engines.test_batched import torch_threads

pytest.importorskip("numba")
from ifcheck.engines import compiled, kernels
from ifcheck.engines.compiled import run as compiled_run
from ifcheck.engines.compiled.layers import ACTIVATIONS

ENGINE = NumbaEngine()
TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
RECIPE = averaged(Recipe(40, learning_rate=0.01, patience=3, record_every=10))
FIELDS = ("parameters", "live", "learning_rate", "losses", "probe_losses")


def check_bits(fit: Fit, other: Fit, models: slice | list[int]) -> None:
    """`fit` holds exactly what `other` has for some of its models."""
    for field in FIELDS:
        assert torch.equal(getattr(fit, field), getattr(other, field)[models]), field


def pick(task: Task, models: list[int]) -> Task:
    """The same task for some of its models, which need not be whole groups."""
    groups = [model // task.models_per_group for model in models]
    return replace(
        task,
        parameters=task.parameters[models],
        inputs=task.inputs[groups],
        weights=task.weights[models],
        probe_inputs=task.probe_inputs[groups],
    )


COMPANY = [(threads, parts, block) for threads in (1, 2) for parts in (1, 5) for block in (1, 7)]


@pytest.mark.parametrize(("rows", "width"), [(149, 5), (37, 14), (149, 50)])
@pytest.mark.parametrize("depth", [1, 8])
@TYPES
def test_a_network_is_trained_to_the_same_bits_in_any_company(
    monkeypatch, dtype, depth, rows, width
):
    """Beside any others, in any parts, on any number of threads, in blocks of any length."""
    task = mlp_task(7, rows=rows, depth=depth, width=width, dtype=dtype)
    together = ENGINE.fit(task, RECIPE)
    for model in (0, 3, 6):
        check_bits(ENGINE.fit(task.part(model, model + 1), RECIPE), together, [model])
    for threads, parts, block in COMPANY:
        with monkeypatch.context() as patch, torch_threads(threads):
            patch.setattr(compiled_run, "PARTS_PER_THREAD", parts)
            patch.setattr(compiled_run, "FIRST_BLOCK", block)
            patch.setattr(compiled_run, "BLOCK_SECONDS", 0.0)
            check_bits(ENGINE.fit(task, RECIPE), together, slice(None))


@TYPES
def test_a_head_is_tuned_to_the_same_bits_beside_any_seeds_and_any_removals(dtype):
    task = head_task(4, 6, dtype=dtype)
    together = ENGINE.fit(task, RECIPE)
    for models in ([0], [23], [2, 3], [1, 8, 15], list(range(24))[::-1]):
        check_bits(ENGINE.fit(pick(task, models), RECIPE), together, models)


@pytest.mark.parametrize("start", [torch.inf, -torch.inf, torch.nan, 1e30])
@pytest.mark.parametrize("make_task", [lambda: mlp_task(4), lambda: head_task(2, 2)])
def test_a_start_that_is_not_usable_disturbs_no_other_model(make_task, start):
    task = make_task()
    spoiled = task.parameters.clone()
    spoiled[1] = start
    sound, fit = ENGINE.fit(task, RECIPE), ENGINE.fit(replace(task, parameters=spoiled), RECIPE)
    assert not fit.live[1].isfinite().all() or start == 1e30
    for field in FIELDS:
        one, other = getattr(fit, field), getattr(sound, field)
        assert torch.equal(one[[0, 2, 3]], other[[0, 2, 3]]), field


@pytest.mark.parametrize("averaging", [False, True], ids=["plain", "swa"])
@pytest.mark.parametrize(
    "make_task", [lambda: mlp_task(3), lambda: head_task(2, 2)], ids=["network", "head"]
)
def test_it_records_what_structured_torch_does(make_task, averaging):
    """Epochs, losses, probes, rates and weights, to rounding, through every kind of schedule."""
    plain = Recipe(60, learning_rate=0.05, patience=1, factor=0.5, record_every=7)
    recipe = averaged(plain) if averaging else plain
    fit, expected = ENGINE.fit(make_task(), recipe), TorchEngine().fit(make_task(), recipe)
    assert torch.equal(fit.recorded_epochs, expected.recorded_epochs)
    for field in (*FIELDS,):
        one, other = getattr(fit, field), getattr(expected, field)
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)
    for field in ("mean", "square"):
        one, other = getattr(fit.state, field), getattr(expected.state, field)
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


# --- progress, interrupts, threads -----------------------------------------------------------


@pytest.mark.parametrize("epochs", [0, 1, 31, 32, 33, 600])
@pytest.mark.parametrize("threads", [1, 2])
def test_progress_adds_up_to_all_epochs_of_all_models(threads, epochs):
    reports: list[int] = []
    with torch_threads(threads):
        ENGINE.fit(mlp_task(3, rows=8), Recipe(epochs), reports.append)
        assert torch.get_num_threads() == threads
    assert sum(reports) == 3 * epochs
    assert all(report > 0 for report in reports)


@pytest.mark.skipif(sys.platform == "win32", reason="signals cannot be sent to a thread")
@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_stops_between_two_blocks(request, threads):
    """Training would take hours.

    Python loses an interrupt that arrives in a callback of a weak reference, or while LLVM
    compiles: it is sent again until it is heard, as a user would.
    """
    ENGINE.fit(mlp_task(4), Recipe(1))
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, former))
    heard = threading.Event()

    def interrupt() -> None:
        while not heard.wait(1.0):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    def train() -> None:
        try:
            ENGINE.fit(mlp_task(4), Recipe(10**9))
        finally:
            heard.set()

    with torch_threads(threads):
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            train()
        assert torch.get_num_threads() == threads
    check_no_worker_is_left()


def test_blocks_take_a_fraction_of_a_second(monkeypatch):
    """However long training is; a first block finds out how fast it goes."""
    monkeypatch.setattr(compiled_run, "BLOCK_SECONDS", 1e-3)
    reports: list[int] = []
    ENGINE.fit(mlp_task(4), Recipe(20_000), reports.append)
    assert len(reports) > 10


def test_what_is_compiled_is_cached_where_the_user_s_caches_are(monkeypatch, tmp_path):
    monkeypatch.setattr(compiled, "cache_folder", lambda: tmp_path)
    folder = Path(compiled._cache_folder())
    assert folder.parent == tmp_path / "numba"
    assert folder.is_dir()


def test_a_cache_folder_that_is_closed_is_done_without(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder can be made below a file")
    monkeypatch.setattr(compiled, "cache_folder", lambda: tmp_path / "file")
    assert Path(compiled._cache_folder()).is_dir()


def test_every_activation_that_is_written_out_is_compiled():
    assert ACTIVATIONS.keys() == kernels.ACTIVATIONS.keys()


def test_a_class_that_no_network_has_is_an_error():
    task = mlp_task(2, rows=8)
    with pytest.raises(RuntimeError):
        ENGINE.fit(replace(task, targets=task.targets + CLASSES), Recipe(5))

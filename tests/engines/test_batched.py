"""Batched engines: models do not touch each other, and progress, interrupts, chunks, selection."""

import copy
import signal
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ifcheck.engines
from ifcheck.engines import ENGINES, Fit, Recipe, Task, assess, batched, fast, select_engine
from ifcheck.engines.batched import TorchEngine, VmapEngine
from ifcheck.engines.generic_kernel import GenericKernel
from ifcheck.engines.kernels import HeadKernel, MLPKernel
from ifcheck.errors import UnknownName, UnusableInput
from ifcheck.objective import Objective
from ifcheck.variants import averaged
from tests import oracles
from tests.benchmarks import sequential_loop as loop
from tests.engines.conftest import (
    CLASSES,
    as_loop_model,
    bilinear_task,
    check_no_worker_is_left,
    head_task,
    mlp_task,
    networks,
    with_kernel,
)
from tests.engines.conftest import ENGINES as EVERY_ENGINE

TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
STRUCTURED = TorchEngine()
RECIPE = Recipe(24, learning_rate=0.01, patience=3, record_every=10)
WHOLE = 1 << 40  # bytes of a chunk that holds every task of these tests
TRAINED = ("parameters", "live", "learning_rate", "losses")


@contextmanager
def torch_threads(count: int):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_bits(fit: Fit, other: Fit, models: slice, fields=TRAINED) -> None:
    """`fit` holds exactly what `other` has for some of its models."""
    for field in fields:
        one, two = getattr(fit, field), getattr(other, field)[models]
        different = f"{field} differ by up to {(one - two).abs().max()}"
        assert (one == two).all(), different


# --- no model touches another ----------------------------------------------------------------


COMPANY = [(threads, chunk) for threads in (1, 2) for chunk in (1, 20_000, WHOLE)]


def fits_in_company(monkeypatch, task: Task) -> list[Fit]:
    """Fits of all models, in chunks of one group, of a few and of all, on one and two threads."""
    fits = []
    for threads, chunk in COMPANY:
        with monkeypatch.context() as patch, torch_threads(threads):
            patch.setattr(batched, "CHUNK_BYTES", chunk)
            fits.append(STRUCTURED.fit(task, RECIPE))
    return fits


@pytest.mark.parametrize("rows", [149, 37])
@pytest.mark.parametrize("width", [5, 14])
@pytest.mark.parametrize("depth", [1, 8])
@TYPES
def test_a_network_is_trained_to_the_same_bits_in_any_company(
    monkeypatch, dtype, depth, width, rows
):
    task = mlp_task(5, rows=rows, depth=depth, width=width, dtype=dtype)
    together = fits_in_company(monkeypatch, task)
    for model in range(task.models):
        alone = STRUCTURED.fit(task.part(model, model + 1), RECIPE)
        for fit in together:
            check_bits(alone, fit, slice(model, model + 1))


@pytest.mark.parametrize("rows", [149, 37])
@pytest.mark.parametrize("width", [5, 14])
@pytest.mark.parametrize("heads", [1, 3, 4])
@TYPES
def test_a_seed_s_heads_are_tuned_to_the_same_bits_beside_any_seeds(
    monkeypatch, dtype, heads, width, rows
):
    task = head_task(4, heads, rows=rows, width=width, dtype=dtype)
    together = fits_in_company(monkeypatch, task)
    for first in range(0, task.models, heads):
        alone = STRUCTURED.fit(task.part(first, first + heads), RECIPE)
        for fit in together:
            check_bits(alone, fit, slice(first, first + heads))


@TYPES
def test_a_head_beside_other_heads_of_its_seed_differs_by_rounding_alone(dtype):
    """They share one matrix product, whose blocking depends on how many they are."""
    task = head_task(1, 12, dtype=dtype)
    together = STRUCTURED.fit(task, RECIPE).parameters
    for count in (1, 2, 5, 11):
        alone = STRUCTURED.fit(task.part(0, count), RECIPE).parameters
        bound = 8 * torch.finfo(dtype).eps * together.abs().max()
        assert (alone - together[:count]).abs().max() <= bound


@TYPES
def test_the_heads_of_a_lone_seed_do_not_feel_the_chunk_size(monkeypatch, dtype):
    """As a second seed must not change the first: with two, chunks are whole seeds."""
    task = head_task(1, 12, dtype=dtype)
    whole = STRUCTURED.fit(task, RECIPE)
    monkeypatch.setattr(batched, "CHUNK_BYTES", 1)
    check_bits(STRUCTURED.fit(task, RECIPE), whole, slice(None))


@pytest.mark.parametrize("head", [False, True], ids=["mlp", "head"])
@pytest.mark.parametrize("probes", [1, 7, 32])
@TYPES
def test_probe_losses_are_the_same_bits_in_any_company(dtype, probes, head):
    options = {"rows": 32, "dtype": dtype, "probes": probes}
    task = head_task(7, 1, **options) if head else mlp_task(7, **options)
    recipe = replace(RECIPE, record_every=1)
    together = STRUCTURED.fit(task, recipe)
    for model in range(task.models):
        alone = STRUCTURED.fit(task.part(model, model + 1), recipe)
        check_bits(alone, together, slice(model, model + 1), fields=["probe_losses"])


@pytest.mark.parametrize(
    ("dtype", "depth", "width"), [(torch.float32, 1, 5), (torch.float64, 8, 14)]
)
def test_a_model_larger_than_the_budget_has_the_same_bits_on_two_threads(
    monkeypatch, dtype, depth, width
):
    """Threads within its operations would round at their seams, which company does not have."""
    task = mlp_task(1, depth=depth, width=width, dtype=dtype)
    monkeypatch.setattr(batched, "CHUNK_BYTES", 1)
    recipe = replace(RECIPE, epochs=5)
    on_one = STRUCTURED.fit(task, recipe)
    with torch_threads(2):
        on_two = STRUCTURED.fit(task, recipe)
    check_bits(on_two, on_one, slice(None))


def test_the_generic_engine_differs_only_by_rounding_in_company():
    task = mlp_task(4, depth=2)
    together = VmapEngine().fit(task, RECIPE)
    for model in range(4):
        alone = VmapEngine().fit(task.part(model, model + 1), RECIPE)
        for field in (*TRAINED, "probe_losses"):
            one, other = getattr(alone, field), getattr(together, field)[model : model + 1]
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_the_generic_engine_s_chunks_do_not_share_a_network_between_threads(monkeypatch):
    """`functional_call` puts each chunk's parameters into the module that it is given."""
    task, recipe = mlp_task(8, depth=2), replace(RECIPE, epochs=150)
    alone = VmapEngine().fit(task, recipe)
    monkeypatch.setattr(batched, "CHUNK_BYTES", 1)
    with torch_threads(4):
        beside = VmapEngine().fit(task, recipe)
    torch.testing.assert_close(beside.parameters, alone.parameters, rtol=0, atol=1e-11)


def test_shared_rows_train_as_the_same_rows_for_each_group():
    shared = mlp_task(4)
    copied = replace(
        shared,
        inputs=shared.inputs.repeat(4, 1, 1),
        probe_inputs=shared.probe_inputs.repeat(4, 1, 1),
    )
    check_bits(STRUCTURED.fit(copied, RECIPE), STRUCTURED.fit(shared, RECIPE), slice(None))


def test_shared_features_tune_as_the_same_features_for_each_group():
    """One matrix product for four heads, or four: equal up to rounding."""
    shared = head_task(1, 4)
    copied = replace(
        shared,
        inputs=shared.inputs.repeat(4, 1, 1),
        probe_inputs=shared.probe_inputs.repeat(4, 1, 1),
    )
    one, other = STRUCTURED.fit(shared, RECIPE), STRUCTURED.fit(copied, RECIPE)
    for field in (*TRAINED, "probe_losses"):
        torch.testing.assert_close(getattr(one, field), getattr(other, field), rtol=0, atol=1e-13)


# --- a model that diverges -------------------------------------------------------------------

KERNELS = [
    pytest.param(MLPKernel, lambda: mlp_task(4), id="mlp"),
    pytest.param(HeadKernel, lambda: head_task(2, 2), id="head"),
    pytest.param(GenericKernel, lambda: mlp_task(4), id="generic"),
]


@pytest.mark.parametrize("start", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize(("kernel", "make_task"), KERNELS)
def test_a_start_that_is_not_usable_disturbs_no_other_model(kernel, make_task, start):
    task = make_task()
    spoiled = task.parameters.clone()
    spoiled[1] = start
    engine = VmapEngine() if kernel is GenericKernel else STRUCTURED
    sound, fit = engine.fit(task, RECIPE), engine.fit(replace(task, parameters=spoiled), RECIPE)
    assert not fit.losses[1].isfinite().any()
    for field in (*TRAINED, "probe_losses"):
        one, other = getattr(fit, field), getattr(sound, field)
        assert torch.equal(one[[0, 2, 3]], other[[0, 2, 3]]), field
        assert one[[0, 2, 3]].isfinite().all(), field


@pytest.mark.parametrize(("kernel", "make_task"), KERNELS)
def test_a_huge_learning_rate_disturbs_no_other_model(kernel, make_task):
    task = make_task()
    rates = torch.full((4, RECIPE.epochs), 1e-3, dtype=torch.float64)
    sound = with_kernel(kernel)(task, RECIPE, rates.tolist())
    rates[1] = 1e200
    fit = with_kernel(kernel)(task, RECIPE, rates.tolist())
    assert not fit.live[1].isfinite().all()
    for field in ("parameters", "live", "losses", "probe_losses"):
        one, other = getattr(fit, field), getattr(sound, field)
        assert torch.equal(one[[0, 2, 3]], other[[0, 2, 3]]), field


# --- progress, interrupts, threads -----------------------------------------------------------


@pytest.mark.parametrize("epochs", [0, 1, 249, 250, 251, 600])
@pytest.mark.parametrize("chunk", [1, WHOLE])
@pytest.mark.parametrize("threads", [1, 2])
def test_progress_adds_up_to_all_epochs_of_all_models(monkeypatch, threads, chunk, epochs):
    monkeypatch.setattr(batched, "CHUNK_BYTES", chunk)
    reports: list[int] = []
    with torch_threads(threads):
        STRUCTURED.fit(mlp_task(3, rows=8), Recipe(epochs), reports.append)
    assert sum(reports) == 3 * epochs
    assert all(report > 0 for report in reports)
    chunks = 3 if chunk == 1 else 1
    assert len(reports) == chunks * -(-epochs // 250)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("disk full")])
def test_an_exception_in_progress_propagates_and_restores_the_threads(monkeypatch, threads, error):
    monkeypatch.setattr(batched, "CHUNK_BYTES", 1)
    calls = []

    def progress(done: int) -> None:
        calls.append(done)
        raise error

    kind = error if isinstance(error, type) else type(error)
    with torch_threads(threads):
        with pytest.raises(kind):
            STRUCTURED.fit(mlp_task(6, rows=8), Recipe(1_000), progress)
        assert torch.get_num_threads() == threads
    assert len(calls) == 1 or (threads == 2 and len(calls) < 12)  # of 24 if nothing stopped


def test_an_exception_in_one_worker_stops_the_others(monkeypatch):
    """It is the second chunk's that fails, while the first still has epochs to go."""
    monkeypatch.setattr(batched, "CHUNK_BYTES", 1)
    later: list[int] = []
    failed = threading.Event()

    def progress(done: int) -> None:
        if failed.is_set():
            later.append(done)
        elif threading.current_thread().name.endswith("_1"):  # the pool's second thread
            failed.set()
            raise KeyboardInterrupt

    with torch_threads(2), pytest.raises(KeyboardInterrupt):
        STRUCTURED.fit(mlp_task(12, rows=8), Recipe(1_000), progress)
    assert len(later) <= 1  # the other worker may have been waiting to report


@pytest.mark.skipif(sys.platform == "win32", reason="signals cannot be sent to a thread")
@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_stops_all_workers(monkeypatch, request, threads):
    """A signal reaches the main thread, wherever it waits, and training would take hours."""
    monkeypatch.setattr(batched, "CHUNK_BYTES", 1)
    # A shell starts background jobs with the signal ignored, and Python then leaves it so.
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, former))
    reports: list[int] = []

    def progress(done: int) -> None:
        reports.append(done)
        if len(reports) == 3:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with torch_threads(threads):
        with pytest.raises(KeyboardInterrupt):
            STRUCTURED.fit(mlp_task(4, rows=8), Recipe(10**8), progress)
        assert torch.get_num_threads() == threads
    check_no_worker_is_left()


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_in_a_chunk_propagates_and_restores_the_threads(monkeypatch, threads):
    monkeypatch.setattr(batched, "CHUNK_BYTES", 1)
    task = mlp_task(4, rows=8)
    task = replace(task, targets=task.targets + CLASSES)  # no such classes
    with torch_threads(threads):
        with pytest.raises(RuntimeError):
            STRUCTURED.fit(task, Recipe(5))
        assert torch.get_num_threads() == threads


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("chunk", [1, WHOLE])
def test_the_thread_count_is_restored_after_training(monkeypatch, threads, chunk):
    monkeypatch.setattr(batched, "CHUNK_BYTES", chunk)
    seen = set()
    with torch_threads(threads):
        STRUCTURED.fit(mlp_task(4, rows=8), Recipe(5), lambda _: seen.add(torch.get_num_threads()))
        assert torch.get_num_threads() == threads
    assert seen == {1}


def test_chunks_hold_whole_seeds(monkeypatch):
    """However small the budget: a seed's heads share one matrix product."""
    monkeypatch.setattr(batched, "CHUNK_BYTES", 1)
    reports: list[int] = []
    STRUCTURED.fit(head_task(3, 4, rows=8), Recipe(7), reports.append)
    assert reports == [4 * 7] * 3


@EVERY_ENGINE
@pytest.mark.parametrize("rows", [20, 32], ids=["padded", "not padded"])
@pytest.mark.parametrize("recipe", [RECIPE, averaged(RECIPE)], ids=["plain", "swa"])
def test_the_task_is_left_as_it_was(engine, rows, recipe):
    task = mlp_task(3, rows=rows)
    tensors = ("parameters", "inputs", "targets", "weights", "probe_inputs", "probe_targets")
    before = {name: getattr(task, name).clone() for name in tensors}
    engine.fit(task, recipe)
    assert all(torch.equal(getattr(task, name), before[name]) for name in tensors)


@EVERY_ENGINE
def test_no_epochs_leave_the_start(engine):
    task = mlp_task(3, rows=20)
    fit = engine.fit(task, Recipe(0))
    assert torch.equal(fit.parameters, task.parameters)
    assert torch.equal(fit.live, task.parameters)
    assert fit.learning_rate.tolist() == [1e-3] * 3


# --- tasks -----------------------------------------------------------------------------------


def test_a_part_of_a_task_is_whole_groups():
    task = head_task(3, 2)
    part = task.part(2, 6)
    assert torch.equal(part.parameters, task.parameters[2:6])
    assert torch.equal(part.weights, task.weights[2:6])
    assert torch.equal(part.inputs, task.inputs[1:3])
    assert torch.equal(part.probe_inputs, task.probe_inputs[1:3])
    assert (part.models, part.models_per_group) == (4, 2)


def test_a_part_of_a_task_with_shared_rows_keeps_them():
    task = mlp_task(5)
    part = task.part(1, 3)
    assert torch.equal(part.parameters, task.parameters[1:3])
    assert torch.equal(part.inputs, task.inputs)
    assert torch.equal(part.probe_inputs, task.probe_inputs)


# --- any network -----------------------------------------------------------------------------


def adam_by_hand(task: Task, model: int, epochs: int) -> Tensor:
    """Flat parameters after epochs of torch's Adam on the network itself."""
    network = copy.deepcopy(task.network).double()
    nn.utils.vector_to_parameters(task.parameters[model], network.parameters())
    decay = task.objective.weight_decay
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01, weight_decay=decay)
    for _ in range(epochs):
        optimiser.zero_grad()
        loop.data_term(network(task.inputs[0]), task.targets, task.weights[model]).backward()
        optimiser.step()
    return nn.utils.parameters_to_vector(network.parameters()).detach()


class Direction(nn.Linear):
    """A linear network of the direction of its inputs, which has none where they are zero."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs / inputs.norm(dim=1, keepdim=True))


def direction_task(models: int) -> Task:
    return replace(head_task(1, models, width=4, rows=20), network=Direction(4, CLASSES))


@pytest.mark.parametrize("make_task", [bilinear_task, direction_task])
def test_the_generic_engine_trains_any_network(make_task):
    """Also one without a parameter called weight, and one that no row of zeros may enter."""
    task = make_task(2)
    fit = VmapEngine().fit(task, Recipe(30, learning_rate=0.01))
    expected = torch.stack([adam_by_hand(task, model, 30) for model in range(2)])
    torch.testing.assert_close(fit.live, expected, rtol=0, atol=1e-12)


# --- assessment ------------------------------------------------------------------------------


@TYPES
def test_assessment_of_networks(dtype):
    """Losses in float64 by the loop's own network; the gradient by differences of them."""
    task = mlp_task(2, rows=20, dtype=dtype)
    assessed = assess(task, task.parameters)
    assert assessed.probe_losses.dtype == torch.float64
    for model, network in enumerate(networks(2, 1, 5, dtype)):
        plain = as_loop_model(network).double()
        probes = (task.probe_inputs[0].double(), task.probe_targets)
        expected = loop.row_losses(plain, *probes)
        torch.testing.assert_close(assessed.probe_losses[model], expected, rtol=0, atol=1e-14)
        weights = task.weights[model].double()

        def objective(flat, plain=plain, weights=weights):
            theta = torch.tensor(flat)
            nn.utils.vector_to_parameters(theta, plain.parameters())
            data = loop.data_term(plain(task.inputs[0].double()), task.targets, weights)
            return (data + 0.005 / 2 * theta.square().sum()).item()

        start = task.parameters[model].double().numpy()
        gradient = oracles.finite_difference_gradient(objective, start)
        assert assessed.gradient_norm[model].item() == pytest.approx(
            np.linalg.norm(gradient), abs=1e-9
        )


@pytest.mark.parametrize("chunk", [1, WHOLE])
def test_assessment_of_heads(monkeypatch, chunk):
    """Against closed forms in numpy, at other parameters than the task starts from."""
    monkeypatch.setattr(batched, "CHUNK_BYTES", chunk)
    task = head_task(2, 3)
    parameters = task.parameters.flip(0)
    assessed = assess(task, parameters)
    for model, theta in enumerate(parameters.numpy()):
        group = model // 3
        probes = (task.probe_inputs[group].numpy(), task.probe_targets.numpy())
        expected = oracles.softmax_loss(theta, *probes, CLASSES)
        np.testing.assert_allclose(assessed.probe_losses[model], expected, rtol=0, atol=1e-14)
        rows = (task.inputs[group].numpy(), task.targets.numpy(), task.weights[model].numpy())
        gradient = oracles.head_gradient(theta, *rows, 0.005)
        norm = assessed.gradient_norm[model].item()
        assert norm == pytest.approx(np.linalg.norm(gradient), abs=1e-14)


def test_assessment_of_any_network_trained_in_single_precision():
    """Rows stay in the type of training; they are judged in double with the parameters."""
    task = bilinear_task(2)
    single = replace(
        task,
        parameters=task.parameters.float(),
        inputs=task.inputs.float(),
        probe_inputs=task.inputs.float(),
        probe_targets=task.targets,
        weights=task.weights.float(),
    )
    double = replace(
        single,
        inputs=single.inputs.double(),
        probe_inputs=single.probe_inputs.double(),
        weights=single.weights.double(),
    )
    found, expected = (assess(given, single.parameters) for given in (single, double))
    assert torch.equal(found.probe_losses, expected.probe_losses)
    assert torch.equal(found.gradient_norm, expected.gradient_norm)
    assert found.probe_losses.dtype == torch.float64


# --- choosing an engine ----------------------------------------------------------------------


class Subclass(nn.Linear):
    """A linear layer that may compute something else."""


class OtherObjective(Objective):
    """An objective that may have another loss."""


CHOICES = {
    "mlp": (networks(1, 1, 5, torch.float32)[0], Objective(), True),
    "head": (nn.Linear(5, 3), Objective(0.005), True),
    "subclass of a head": (Subclass(5, 3), Objective(), False),
    "other network": (nn.Sequential(nn.Linear(5, 3)), Objective(), False),
    "other objective": (nn.Linear(5, 3), OtherObjective(), False),
    "head without bias": (nn.Linear(5, 3, bias=False), Objective(), False),
}


@pytest.mark.parametrize("installed", [True, False], ids=["numba", "no numba"])
@pytest.mark.parametrize(("network", "objective", "known"), CHOICES.values(), ids=CHOICES)
def test_auto_takes_the_fastest_engine_that_fits(monkeypatch, network, objective, known, installed):
    monkeypatch.setattr(fast, "find_spec", lambda name: object() if installed else None)
    expected = "vmap" if not known else "numba" if installed else "torch"
    name, engine = select_engine("auto", network, objective, Recipe(1))
    assert name == expected
    assert engine == ENGINES.create(expected)


def test_numba_leaves_other_devices_to_torch(monkeypatch):
    monkeypatch.setattr(fast, "find_spec", lambda name: object())
    elsewhere = nn.Linear(5, 3, device="meta")
    assert select_engine("auto", elsewhere, Objective(), Recipe(1))[0] == "torch"


def test_a_named_engine_is_taken_though_a_faster_one_fits():
    assert select_engine("vmap", nn.Linear(5, 3), Objective(), Recipe(1)) == ("vmap", VmapEngine())


def test_a_named_engine_that_does_not_fit_is_refused():
    with pytest.raises(
        UnusableInput, match="'torch' cannot train Sequential here: Structured"
    ) as error:
        select_engine("torch", nn.Sequential(nn.Linear(5, 3)), Objective(), Recipe(1))
    assert "--engine auto" in error.value.remedy


def test_numba_that_cannot_be_imported_is_left_out(monkeypatch):
    """It refuses, for example, a numpy that is newer than it knows."""
    monkeypatch.delattr(ifcheck.engines, "compiled", raising=False)
    monkeypatch.setitem(sys.modules, "ifcheck.engines.compiled", None)
    assert select_engine("auto", nn.Linear(5, 3), Objective(), Recipe(1))[0] == "torch"


def test_numba_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setattr(fast, "find_spec", lambda name: None)
    with pytest.raises(UnusableInput, match=r"ifcheck\[fast\]") as error:
        select_engine("numba", nn.Linear(5, 3), Objective(), Recipe(1))
    assert "--engine auto" in error.value.remedy


def test_an_unknown_engine_suggests_a_near_name():
    with pytest.raises(UnknownName, match="unknown engine 'troch'") as error:
        select_engine("troch", nn.Linear(5, 3), Objective(), Recipe(1))
    assert "'torch'" in error.value.remedy

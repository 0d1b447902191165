"""Tasks that the tests of the engines share, and one torch thread unless a test asks for more."""

import threading
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ifcheck.engines import Fit, NumbaEngine, Recipe, State, Task, silent
from ifcheck.engines.batched import STRUCTURED, TorchEngine, VmapEngine
from ifcheck.engines.descent import descend
from ifcheck.engines.kernels import Kernel
from ifcheck.models import MLP, initialise
from ifcheck.models.mlp import MLPSpec
from ifcheck.objective import Objective
from ifcheck.params import stack_modules
from tests.benchmarks import sequential_loop as loop

CLASSES = 3
HELD_OUT = 83  # the paper's test row of Iris


@pytest.fixture(autouse=True)
def quiet_threads():
    """One torch thread: for models this small more are slower, and much so on a busy machine."""
    with loop.one_thread():
        yield


@pytest.fixture(scope="session")
def iris() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs (149, 4) and targets of training, input (1, 4) and target of the test point."""
    return loop.load_iris_without(HELD_OUT, torch.float64)


class Replay:
    """A schedule that gives recorded rates back, (models, epochs), and ignores the losses."""

    def __init__(self, rates: Sequence[Sequence[float]]) -> None:
        self._recorded = torch.tensor(rates, dtype=torch.float64)
        self.rates = self.best = self.bad_epochs = self.stale_epochs = self._recorded[:, 0]

    def moving(self, epoch: int) -> Tensor | None:
        return None

    def listening(self, epoch: int) -> bool:
        return False

    def step(self, epoch: int, losses: Tensor | None) -> None:
        if epoch + 1 < self._recorded.shape[1]:
            self.rates = self._recorded[:, epoch + 1]


Descent = Callable[[Task, Recipe, Sequence[Sequence[float]]], Fit]


def structured(task: Task, recipe: Recipe, rates: Sequence[Sequence[float]]) -> Fit:
    """Descend by hand-written torch under recorded rates (models, epochs)."""
    return with_kernel(STRUCTURED[type(task.network)])(task, recipe, rates)


def compiled(task: Task, recipe: Recipe, rates: Sequence[Sequence[float]]) -> Fit:
    """The same, compiled by numba."""
    pytest.importorskip("numba")
    from ifcheck.engines.compiled import Descent as Compiled

    return Compiled(task, recipe, rates=np.array(rates, dtype=np.float64)).run(silent)


def with_kernel(kernel: Callable[[Task], Kernel]) -> Descent:
    """The same with one of torch's kernels."""

    def follow(task: Task, recipe: Recipe, rates: Sequence[Sequence[float]]) -> Fit:
        start = State.initial(task.parameters, recipe)
        return descend(kernel(task), recipe, start, Replay(rates))

    return follow


DESCENTS = pytest.mark.parametrize("descent", [structured, compiled], ids=["torch", "numba"])
ENGINES = pytest.mark.parametrize(
    "engine",
    [
        TorchEngine(),
        VmapEngine(),
        pytest.param(
            NumbaEngine(),
            marks=pytest.mark.skipif(find_spec("numba") is None, reason="numba is an extra"),
        ),
    ],
    ids=["torch", "vmap", "numba"],
)


def networks(
    models: int, depth: int, width: int, dtype: torch.dtype, activation: str = "selu"
) -> list[MLP]:
    """Differently initialised networks for the four features of Iris."""
    spec = MLPSpec(depth, width, activation)
    return [initialise(spec, (4,), CLASSES, seed, dtype) for seed in range(models)]


def as_loop_model(network: MLP) -> loop.MLP:
    """The same network in the sequential loop's own class."""
    _, width, *_ = network.layer_sizes
    depth = len(network.layer_sizes) - 2
    inputs, classes = network.layer_sizes[0], network.layer_sizes[-1]
    model = loop.make_mlp(inputs, width, depth, classes, network.activation)
    model.to(network.head.weight.dtype).load_state_dict(network.state_dict())
    return model


def random_rows(
    groups: int, rows: int, features: int, seed: int = 0
) -> tuple[torch.Generator, Tensor, Tensor]:
    """A generator for more, float64 inputs (groups, rows, features), and targets (rows,)."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(groups, rows, features, generator=generator, dtype=torch.float64)
    return generator, inputs, torch.randint(CLASSES, (rows,), generator=generator)


def random_weights(models: int, rows: int, generator: torch.Generator) -> Tensor:
    """Unequal shares that sum to one, every fifth of them zero. Shape: (models, rows)."""
    weights = torch.rand(models, rows, generator=generator, dtype=torch.float64)
    weights[:, ::5] = 0.0
    return weights / weights.sum(1, keepdim=True)


def mlp_task(
    models: int,
    *,
    rows: int = 149,
    groups: int = 1,
    depth: int = 1,
    width: int = 5,
    dtype: torch.dtype = torch.float64,
    activation: str = "selu",
    weight_decay: float = 0.005,
    probes: int = 7,
) -> Task:
    """Networks on random rows: one set of rows for all models, or one for each group."""
    generator, inputs, targets = random_rows(groups, rows + probes, 4)
    inputs = inputs.to(dtype)
    started = networks(models, depth, width, dtype, activation)
    return Task(
        network=started[0],
        objective=Objective(weight_decay),
        parameters=stack_modules(started),
        inputs=inputs[:, :rows],
        targets=targets[:rows],
        weights=random_weights(models, rows, generator).to(dtype),
        probe_inputs=inputs[:, rows:] if probes else None,
        probe_targets=targets[rows:] if probes else None,
    )


def head_task(
    groups: int,
    models_per_group: int,
    *,
    rows: int = 149,
    width: int = 5,
    dtype: torch.dtype = torch.float64,
    weight_decay: float = 0.005,
    probes: int = 7,
) -> Task:
    """Linear heads on random features, another set of features for each group."""
    generator, features, targets = random_rows(groups, rows + probes, width)
    features = features.to(dtype)
    models = groups * models_per_group
    shape = (models, CLASSES * (width + 1))
    parameters = 0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return Task(
        network=nn.Linear(width, CLASSES),
        objective=Objective(weight_decay),
        parameters=parameters.to(dtype),
        inputs=features[:, :rows],
        targets=targets[:rows],
        weights=random_weights(models, rows, generator).to(dtype),
        probe_inputs=features[:, rows:] if probes else None,
        probe_targets=targets[rows:] if probes else None,
    )


class Bilinear(nn.Module):
    """A network that no kernel knows: a scalar parameter, and a matrix that is no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(CLASSES, 4))
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * (inputs @ self.matrix.T)


def bilinear_task(models: int) -> Task:
    generator, inputs, targets = random_rows(1, 20, 4)
    parameters = torch.randn(models, 4 * CLASSES + 1, generator=generator, dtype=torch.float64)
    weights = random_weights(models, 20, generator)
    return Task(Bilinear(), Objective(0.005), parameters, inputs, targets, weights)


def check_no_worker_is_left() -> None:
    """All have ended, or do so at once: one just started may find the work called off."""
    workers = [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")]
    for worker in workers:
        worker.join(timeout=1.0)
    assert not any(worker.is_alive() for worker in workers)

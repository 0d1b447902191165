"""A small problem of removals: two untrained networks, rows with noisy labels, two test points."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ifcheck.engines import Recipe
from ifcheck.models import initialise
from ifcheck.models.mlp import MLPSpec
from ifcheck.objective import Objective
from ifcheck.removal import RemovalProblem
from tests.benchmarks import sequential_loop as loop

INPUTS, WIDTH, CLASSES, ROWS, TESTS = 3, 4, 3, 20, 2


@pytest.fixture(autouse=True)
def quiet_threads():
    """One torch thread: for models this small more are slower, and much so on a busy machine."""
    with loop.one_thread():
        yield


@pytest.fixture
def make_problem() -> Callable[..., RemovalProblem]:
    """Return a builder whose keywords replace parts of the problem."""

    def make(weight_decay: float = 0.01, **parts) -> RemovalProblem:
        random = np.random.default_rng(3)
        inputs = torch.from_numpy(random.normal(size=(ROWS + TESTS, INPUTS)))
        targets = torch.from_numpy(random.integers(0, CLASSES, size=ROWS + TESTS))
        spec = MLPSpec(depth=1, width=WIDTH, activation="tanh")
        defaults = {
            "networks": [
                initialise(spec, (INPUTS,), CLASSES, seed, torch.float64) for seed in (0, 1)
            ],
            "live": None,
            "objective": Objective(weight_decay),
            "recipe": Recipe(epochs=200, learning_rate=1e-2, patience=5),
            "engine": "auto",
            "params": "head",
            "normalisation": "n-1",
            "removed": torch.tensor([[[0], [7], [12]], [[19], [3], [7]]]),
            "train": (inputs[:ROWS], targets[:ROWS]),
            "test": (inputs[ROWS:], targets[ROWS:]),
        }
        return RemovalProblem(**(defaults | parts))

    return make

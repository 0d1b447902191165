"""Tiny runs that are trained once, and what the tests of the stages read them with.

Four networks a variant (seeds 0 to 3), 60 epochs, two test points. The readers below use
safetensors, numpy, scikit-learn and the sequential loop: nothing that a stage itself uses.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sklearn.datasets import load_iris

from ifcheck.config import Config, load_config
from ifcheck.stages.influence import influence
from ifcheck.stages.retrain import retrain
from ifcheck.stages.train import train
from tests.benchmarks import sequential_loop as loop

TEST_IDS = (83, 106)
SEEDS = (0, 1, 2, 3)
TINY = {
    "data.test_points": "ids:83,106",
    "train.seeds": SEEDS,
    "train.epochs": 60,
    "retrain.removals": "top-loss:4",
    "retrain.epochs": 30,
    "evaluate.bootstrap_samples": 50,
}
FASTEST = "numba" if find_spec("numba") else "torch"  # what trains where nothing is asked
Rows = dict[str, tuple[np.ndarray, np.ndarray]]


def defined(value: Any) -> Any:
    """Records with None for every number that is not finite: nan equals nothing, itself neither."""
    if isinstance(value, dict):
        return {name: defined(item) for name, item in value.items()}
    if isinstance(value, list):
        return [defined(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """One torch thread: for models this small more are slower, and much so on a busy machine."""
    with loop.one_thread():
        yield


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Config]:
    """Return a builder of the tiny configuration; dotted keys replace parts of it."""

    def build(flags: dict[str, Any] | None = None) -> Config:
        return load_config(None, {**TINY, **(flags or {})})

    return build


@pytest.fixture(scope="session")
def runs(tiny, tmp_path_factory) -> Callable[[str], Path]:
    """Return the folder of a variant's run; every variant is trained once."""
    folders: dict[str, Path] = {}

    def folder(variant: str) -> Path:
        if variant not in folders:
            folders[variant] = tmp_path_factory.mktemp(f"run-{variant}")
            train(tiny({"variant.name": variant}), folders[variant])
        return folders[variant]

    return folder


@pytest.fixture(scope="session")
def precise(tiny, tmp_path_factory) -> Callable[[str], Path]:
    """Return the folder of a variant's run whose networks were trained in float64."""
    folders: dict[str, Path] = {}

    def folder(variant: str) -> Path:
        if variant not in folders:
            folders[variant] = tmp_path_factory.mktemp(f"precise-{variant}")
            train(
                tiny({"variant.name": variant, "train.dtype": "float64"}),
                folders[variant],
            )
        return folders[variant]

    return folder


@pytest.fixture(scope="session")
def iris_rows() -> Rows:
    """Inputs standardised on the training rows, and targets, under "train" and "test"."""
    inputs, targets = load_iris(return_X_y=True)
    kept = np.setdiff1d(np.arange(len(targets)), TEST_IDS)
    mean, deviation = inputs[kept].mean(axis=0), inputs[kept].std(axis=0)
    scaled = (inputs - mean) / deviation
    held_out = list(TEST_IDS)
    return {"train": (scaled[kept], targets[kept]), "test": (scaled[held_out], targets[held_out])}


@pytest.fixture(scope="session")
def train_ids() -> np.ndarray:
    return np.setdiff1d(np.arange(150), TEST_IDS)


@pytest.fixture(scope="session")
def state_of() -> Callable[[Path], dict[str, torch.Tensor]]:
    """Return a reader of a checkpoint's tensors."""

    def read(path: Path) -> dict[str, torch.Tensor]:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in list(file.keys())}

    return read


@pytest.fixture(scope="session")
def header_of() -> Callable[[Path], dict[str, Any]]:
    """Return a reader of what a checkpoint says about itself."""

    def read(path: Path) -> dict[str, Any]:
        with safe_open(path, framework="pt") as file:
            return json.loads(file.metadata()["ifcheck"])

    return read


@pytest.fixture(scope="session")
def loop_model(state_of) -> Callable[..., loop.MLP]:
    """Return a rebuilder of checkpoints as float64 networks of the sequential loop."""

    def rebuild(path: Path, depth: int = 1, width: int = 5) -> loop.MLP:
        model = loop.make_mlp(4, width, depth, 3, "selu").double()
        model.load_state_dict({name: value.double() for name, value in state_of(path).items()})
        return model

    return rebuild


@pytest.fixture(scope="session")
def digest() -> Callable[[Path], str]:
    return lambda path: hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def load_npz() -> Callable[[Path], dict[str, np.ndarray]]:
    """Return a reader of an artifact's arrays, meta left out."""

    def read(path: Path) -> dict[str, np.ndarray]:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files if name != "meta"}

    return read


@pytest.fixture(scope="session")
def meta_of() -> Callable[[Path], dict[str, Any]]:
    """Return a reader of an artifact's meta."""

    def read(path: Path) -> dict[str, Any]:
        with np.load(path, allow_pickle=False) as file:
            return json.loads(str(file["meta"]))

    return read


@pytest.fixture(scope="session")
def assert_identical() -> Callable[..., None]:
    """Return an assertion that arrays agree bit for bit.

    `rows` are the expected ones' rows to compare with, except for arrays `shared` by all seeds.
    """

    def check(
        found: dict[str, np.ndarray],
        expected: dict[str, np.ndarray],
        rows: list[int] | None = None,
        shared: tuple[str, ...] = (),
    ) -> None:
        assert found.keys() == expected.keys()
        different = []
        for name, value in expected.items():
            wanted = value if rows is None or name in shared else value[rows]
            assert found[name].dtype == wanted.dtype, name
            if not np.array_equal(found[name], wanted, equal_nan=wanted.dtype.kind == "f"):
                different.append(f"{name} by {np.abs(found[name] - wanted).max():.1e}")
        assert not different

    return check


@pytest.fixture(scope="session")
def assert_provenance(digest, meta_of) -> Callable[..., None]:
    """Return an assertion on what every artifact says about how it was made."""

    def check(path: Path, kind: str, checkpoints: list[Path], sections: set[str]) -> None:
        meta = meta_of(path)
        assert meta["kind"] == kind
        assert meta["parents"] == {file.name: digest(file) for file in checkpoints}
        assert set(meta["config"]) == sections
        assert meta["versions"]["torch"] == torch.__version__
        assert meta["versions"]["numpy"] == np.__version__
        assert {"python", "ifcheck", "scipy"} <= set(meta["versions"])
        assert 0 < meta["seconds"] < 60
        dtype = "float32" if kind == "train" else "float64"
        assert (meta["device"], meta["threads"]) == ("cpu", 1)
        assert meta["dtype"] in (dtype, "float32" if "all" in path.name else dtype)
        fitted = kind == "train" or "warm" in path.name
        assert meta["engine"] == (FASTEST if fitted else "torch")
        assert meta["code"]
        assert meta["schema"] == 1

    return check


@pytest.fixture(scope="session")
def checkpoints_of() -> Callable[[Path], list[Path]]:
    return lambda folder: sorted((folder / "checkpoints").iterdir())


@pytest.fixture(scope="session")
def scored(tiny, runs, tmp_path_factory) -> Callable[[str, str], Path]:
    """Return the influence file of a variant's run and an estimator; each is made once."""
    files: dict[tuple[str, str], Path] = {}

    def file(variant: str, estimator: str) -> Path:
        key = variant, estimator
        if key not in files:
            path = tmp_path_factory.mktemp("scores") / f"influence-{estimator}.npz"
            influence(tiny({"influence.estimator": estimator}), [runs(variant)], path)
            files[key] = path
        return files[key]

    return file


@pytest.fixture(scope="session")
def retrained(tiny, runs, tmp_path_factory) -> Callable[[str, str], Path]:
    """Return the retrain file of a variant's run and a truth such as warm:all; made once."""
    files: dict[tuple[str, str], Path] = {}

    def file(variant: str, truth: str) -> Path:
        key = variant, truth
        if key not in files:
            name, _, params = truth.partition(":")
            path = tmp_path_factory.mktemp("truth") / f"retrain-{truth.replace(':', '-')}.npz"
            flags = {"retrain.truth": name, "retrain.params": params or "head"}
            retrain(tiny(flags), [runs(variant)], path)
            files[key] = path
        return files[key]

    return file


@pytest.fixture(scope="session")
def user_model(runs, state_of, tmp_path_factory) -> Path:
    """A user's own `.pt`: the l2 run's first network, saved as a bare state dict."""
    path = tmp_path_factory.mktemp("own") / "model.pt"
    torch.save(state_of(runs("l2") / "checkpoints" / "seed-000.safetensors"), path)
    return path


class RecordingReporter:
    """Remembers the steps that were announced, what was done of each, and notes."""

    def __init__(self) -> None:
        self.totals: dict[str, int] = {}
        self.done: dict[str, int] = {}
        self.notes: list[str] = []

    def step(self, label: str, total: int) -> Callable[[int], None]:
        self.totals[label] = total
        self.done[label] = 0

        def advance(done: int) -> None:
            self.done[label] += done

        return advance

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture
def recording_reporter() -> RecordingReporter:
    return RecordingReporter()

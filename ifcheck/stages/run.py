"""A trained run as later stages see it: checkpoints, rebuilt networks, the data behind them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ifcheck.artifacts import Checkpoint, find_checkpoints, read_checkpoint
from ifcheck.config import Config, config_from_dict, replace_section
from ifcheck.datasets import Split
from ifcheck.errors import ArtifactMismatch, ArtifactUnreadable
from ifcheck.models import Network, evaluate, initialise
from ifcheck.params import Layout
from ifcheck.stages.reporting import Reporter
from ifcheck.stages.setup import SECTIONS, Setup, make_setup
from ifcheck.stages.testpoints import choose_test_points, watched_rows
from ifcheck.stages.train import LIVE_FOLDER, as_tensors

TRAINED_SECTIONS = SECTIONS["train"]


@dataclass(frozen=True)
class Run:
    """Networks of one architecture, one per seed, and the rows they were trained on."""

    setup: Setup
    split: Split
    checkpoints: list[Checkpoint]
    networks: list[Network]  # float64, on the setup's device
    test_ids: NDArray[np.int64]  # (S, T) the test points of each; `split` has all of them

    @property
    def seeds(self) -> NDArray[np.int64]:
        """Seed of each network. Shape: (S,)."""
        return np.array(self.setup.config.train.seeds)

    def own_tests(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the part that belongs to each network's own test points.

        Shape: (S, tests of the split, ...) -> (S, T, ...).
        """
        places = self.split.places_of(self.test_ids)
        return np.stack([of_seed[own] for of_seed, own in zip(values, places, strict=True)])

    @property
    def parents(self) -> dict[str, str]:
        """SHA-256 of each checkpoint, see `digests_of`."""
        return digests_of(self.checkpoints)

    @property
    def elements(self) -> int:
        """Elements of the largest tensor of work on one network, about: rows times parameters."""
        return len(self.split.train_ids) * Layout.of(self.networks[0]).size

    def tensors(self, dtype: torch.dtype = torch.float64) -> dict[str, tuple[Tensor, Tensor]]:
        """Return (inputs, targets) under "train" and "test"."""
        return as_tensors(self.split, dtype, self.setup.device)

    def live_weights(self) -> Tensor:
        """Return the weights that entered the average, where they stood last. Shape: (S, params).

        Raises: ArtifactUnreadable where the run keeps none.
        """
        layout = Layout.of(self.networks[0])
        flats = []
        for checkpoint in self.checkpoints:
            path = checkpoint.path.parent.parent / LIVE_FOLDER / checkpoint.path.name
            if not path.is_file():
                raise ArtifactUnreadable(
                    f"--swa-restart live needs {path}, which does not exist.",
                    remedy="Train with --variant swa or l2-swa, or use --swa-restart average.",
                )
            flats.append(layout.flatten(read_checkpoint(path).state))
        return torch.stack(flats).to(self.setup.device)


def digests_of(checkpoints: Sequence[Checkpoint]) -> dict[str, str]:
    """Return the SHA-256 of each checkpoint, by name; by path where names repeat."""
    paths = [checkpoint.path for checkpoint in checkpoints]
    unique = len({path.name for path in paths}) == len(paths)
    names = [path.name if unique else path.as_posix() for path in paths]
    return {name: c.digest for name, c in zip(names, checkpoints, strict=True)}


def load_run(
    sources: Sequence[Path], config: Config, explicit: dict[str, Any], reporter: Reporter
) -> Run:
    """Read checkpoints and rebuild what they were trained with.

    What made the checkpoints is read from them and completed with `config`; a user's own
    state dict brings no configuration, so there `config` describes it. `explicit` holds the
    dotted keys that the user gave: one that contradicts the checkpoints is an error.
    Raises: ArtifactUnreadable, ArtifactMismatch, UnusableInput.
    """
    checkpoints = [read_checkpoint(path) for path in find_checkpoints(sources)]
    setup = make_setup(_configuration_of(checkpoints, config, explicit))
    setup.dataset.prepare(reporter.step)
    shape, classes = setup.dataset.input_shape, setup.dataset.classes
    blank = initialise(setup.spec, shape, classes, 0, torch.float64)
    networks = [_rebuild(blank, checkpoint, setup) for checkpoint in checkpoints]
    test_ids = _test_points(setup, checkpoints, networks, reporter)
    union = list(dict.fromkeys(test_ids.flatten().tolist()))
    split = setup.split(np.array(union))
    for checkpoint, own in zip(checkpoints, test_ids, strict=True):
        found = split.digest_with(own)
        made_with = (checkpoint.meta or {}).get("data", found)
        if made_with != found:
            raise ArtifactMismatch(
                f"{checkpoint.path.name} was trained on data {made_with[:8]}; "
                f"{setup.config.data.dataset} is {found[:8]} here.",
                remedy="Use the same data files and versions, or train again.",
            )
    return Run(setup, split, checkpoints, networks, test_ids)


def trained_configuration(sources: Sequence[Path], config: Config) -> Config:
    """Return `config` with what the checkpoints say of how they were made.

    Raises: ArtifactUnreadable, ArtifactMismatch.
    """
    checkpoints = [read_checkpoint(path) for path in find_checkpoints(sources)]
    return _configuration_of(checkpoints, config, {})


def _test_points(
    setup: Setup, checkpoints: list[Checkpoint], networks: list[Network], reporter: Reporter
) -> NDArray[np.int64]:
    """Return the test points of each network: those that it was trained without, or chosen now."""
    known = [(checkpoint.meta or {}).get("test_ids") for checkpoint in checkpoints]
    if all(known):
        return np.array(known)
    data = setup.config.data
    watched = watched_rows(data.test_points, setup.dataset, data.dataset, reporter)
    inputs, targets = as_tensors(setup.split(watched), torch.float64, setup.device)["test"]
    losses = [
        setup.objective.per_example_loss(evaluate(network, inputs), targets) for network in networks
    ]
    found = torch.stack(losses).cpu().numpy()
    return choose_test_points(data.test_points, setup.dataset, watched, found)


def _configuration_of(
    checkpoints: list[Checkpoint], config: Config, explicit: dict[str, Any]
) -> Config:
    """Return `config` with the sections that made the checkpoints put in."""
    described = [c.meta["config"] for c in checkpoints if c.meta is not None]
    if not described:
        return replace_section(config, "train", seeds=tuple(range(len(checkpoints))))
    if len(described) < len(checkpoints) or any(d != described[0] for d in described):
        raise ArtifactMismatch(
            "the checkpoints were made by different configurations.",
            remedy="Give the checkpoints of one run.",
        )
    seeds = [c.meta["seed"] for c in checkpoints if c.meta is not None]
    values = config.to_dict()
    for section in TRAINED_SECTIONS:
        values[section] = dict(described[0][section])
    values["data"]["data_dir"] = config.data.data_dir
    trained = config_from_dict({**values, "train": {**values["train"], "seeds": seeds}})
    _refuse_contradiction(explicit, values)
    return trained


def _refuse_contradiction(explicit: dict[str, Any], trained: dict[str, Any]) -> None:
    for key, value in explicit.items():
        section, _, name = key.partition(".")
        if section not in TRAINED_SECTIONS or value is None or key == "data.data_dir":
            continue
        found = trained[section].get(name)
        if name != "seeds" and found != value:
            raise ArtifactMismatch(
                f"{key} is {value!r}, but the checkpoints were made with {found!r}.",
                remedy="Leave the flag out: checkpoints know what they were made with.",
            )


def _rebuild(blank: Network, checkpoint: Checkpoint, setup: Setup) -> Network:
    """Return the checkpoint's network in float64. Raises: ArtifactMismatch if it does not fit."""
    network = copy.deepcopy(blank)
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in checkpoint.state.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ArtifactMismatch(
                f"{checkpoint.path.name} does not fit {setup.config.network.name}: {name} is "
                f"{found.get(name, 'absent')}, expected {expected.get(name, 'absent')}.",
                remedy="Give the --network, --depth and --width that the checkpoint was made with.",
            )
    network.load_state_dict(checkpoint.state)
    return network.to(setup.device)


def require_same_checkpoints(run: Run, parents: dict[str, str], path: Path) -> None:
    """Refuse an artifact that was made from other checkpoints than those of `run`."""
    for name, digest in run.parents.items():
        if parents.get(name) != digest:
            raise ArtifactMismatch(
                f"{path.name} was made from checkpoint {name} "
                f"{parents.get(name, 'absent')[:8]}, not {digest[:8]}.",
                remedy="Make that file again from these checkpoints.",
            )

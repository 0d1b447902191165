"""Stage `train`: one checkpoint per seed, and `train.npz` with losses and certificates."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ifcheck.artifacts import Artifact, write_artifact, write_checkpoint
from ifcheck.artifacts.files import CHECKPOINT_FOLDER
from ifcheck.config import Config
from ifcheck.datasets import Split
from ifcheck.engines import Fit, Task, assess, select_engine
from ifcheck.errors import Diverged
from ifcheck.models import Network, build, evaluate, initialise
from ifcheck.objective import uniform_weights
from ifcheck.params import Layout, load_flat, stack_modules
from ifcheck.provenance import file_digest
from ifcheck.removal.newton import polish_head, refusal
from ifcheck.stages.reporting import Reporter, Silent
from ifcheck.stages.setup import Setup, make_setup
from ifcheck.stages.stage import stage
from ifcheck.stages.testpoints import choose_test_points, watched_rows
from ifcheck.stages.trunks import Trunks

LIVE_FOLDER = "live"  # where the weights that entered an average stood at the end


@stage
def train(
    config: Config, out: Path, reporter: Reporter | None = None, trunks: Trunks | None = None
) -> Artifact:
    """Train every seed at once; write `out/checkpoints/`, `out/train.npz`.

    `trunks` knows what the training has in common with others; it changes no number.

    A seed that turns non-finite gets no checkpoint: it is recorded with nan losses, and the
    others go on. Raises: UnusableInput; Diverged if no seed is left.
    """
    started = time.perf_counter()
    reporter = reporter or Silent()
    setup = make_setup(config)
    network_layout(setup)  # refuses rows that do not fit the network, before they cost time
    setup.dataset.prepare(reporter.step)
    data = config.data
    watched = watched_rows(data.test_points, setup.dataset, data.dataset, reporter)
    split = setup.split(watched)
    networks, fit, engine = _fit(setup, split, reporter, trunks or Trunks())
    finite = torch.isfinite(fit.parameters).all(dim=1)
    if not bool(finite.any()):
        raise Diverged(
            f"all {len(finite)} seeds turned non-finite in training.",
            remedy="Train with a smaller --set train.learning_rate.",
        )
    polished, reasons = _polish(setup, split, networks, finite, reporter)
    measured = _measure(setup, split, networks)
    test_ids = choose_test_points(data.test_points, setup.dataset, watched, measured["test_loss"])
    for name in ("test_loss", "test_negative_log_probability"):
        measured[name] = np.take_along_axis(measured[name], split.places_of(test_ids), axis=1)
    headers = _headers(setup, split, test_ids)
    parents = _write_checkpoints(out, networks, headers, finite)
    live_digests = {}
    if setup.recipe.averaging is not None:
        live_digests = _write_live(out, fit.live, networks[0], headers, finite)
    arrays = {
        "seeds": np.array(setup.config.train.seeds),
        "train_ids": split.train_ids,
        "test_ids": test_ids,
        **measured,
        "polished": polished.numpy(),
        "history_epoch": fit.recorded_epochs.numpy(),
        "history_loss": fit.losses.double().cpu().numpy(),
    }
    meta = {
        "config": setup.describe("train"),
        "parents": parents,
        "data": split.digest,
        "reasons": reasons,
        "live": live_digests,
        **setup.environment(started, engine, setup.config.train.dtype),
    }
    return write_artifact(out / "train.npz", "train", arrays, meta)


def network_layout(setup: Setup) -> Layout:
    """Return the layout of the configured network's parameters, without making any."""
    return Layout.of(blank_network(setup))


def blank_network(setup: Setup) -> Network:
    """Return the configured network without values."""
    with torch.device("meta"):
        return build(setup.spec, setup.dataset.input_shape, setup.dataset.classes)


def as_tensors(split: Split, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Return (inputs, targets) of the training rows and of the test points as tensors."""

    def pair(inputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
        return (
            torch.from_numpy(inputs).to(device, dtype),
            torch.from_numpy(targets).to(device),
        )

    return {
        "train": pair(split.train_inputs, split.train_targets),
        "test": pair(split.test_inputs, split.test_targets),
    }


def training_task(setup: Setup, split: Split) -> tuple[list[Network], Task]:
    """Return one freshly initialised network per seed and the task of training them all."""
    dtype, device = setup.dtype, setup.device
    shape = split.train_inputs.shape[1:]
    networks = [
        initialise(setup.spec, shape, split.classes, seed, dtype).to(device)
        for seed in setup.config.train.seeds
    ]
    inputs, targets = as_tensors(split, dtype, device)["train"]
    task = Task(
        network=networks[0],
        objective=setup.objective,
        parameters=stack_modules(networks),
        inputs=inputs[None],
        targets=targets,
        weights=uniform_weights(len(targets), dtype, device).expand(len(networks), -1),
        seeds=setup.config.train.seeds,
    )
    return networks, task


def _fit(
    setup: Setup, split: Split, reporter: Reporter, trunks: Trunks
) -> tuple[list[Network], Fit, str]:
    """Train, and leave the result in the returned networks; the engine's name comes last."""
    networks, task = training_task(setup, split)
    name, engine = select_engine(
        setup.config.run.engine, task.network, task.objective, setup.recipe
    )
    progress = reporter.step(
        f"training {len(networks)} networks ({name})", task.models * setup.recipe.epochs
    )
    fit = trunks.fit(setup, engine, task, progress)
    for network, flat in zip(networks, fit.parameters, strict=True):
        load_flat(network, flat)
    return networks, fit, name


def _polish(
    setup: Setup, split: Split, networks: list[Network], finite: Tensor, reporter: Reporter
) -> tuple[Tensor, list[str]]:
    """Move heads to their optimum if asked; polished networks become float64.

    Returns which seeds were polished, and why others were not.
    """
    polished = torch.zeros(len(networks), dtype=torch.bool)
    if setup.config.train.polish == "none":
        return polished, []
    if not setup.objective.regularised:
        rows = as_tensors(split, setup.dtype, setup.device)["train"]
        return polished, [f"not polished: {refusal(networks, rows)}"]
    train = as_tensors(split, torch.float64, setup.device)["train"]
    progress = reporter.step("polishing heads", len(networks))
    for index in finite.nonzero().flatten().tolist():
        network = networks[index].double()
        optimum = polish_head(network, setup.objective, train)
        load_flat(network.head, optimum.flat[0])
        polished[index] = optimum.positive_definite[0]
        progress(1)
    stuck = [setup.config.train.seeds[i] for i in (finite & ~polished).nonzero().flatten()]
    return polished, [f"Newton did not reach a minimum of the head of seed {s}" for s in stuck]


def _headers(setup: Setup, split: Split, test_ids: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Return what the header of each seed's checkpoint says; its data are its own test points."""
    described = setup.describe("train")
    return [
        {
            "config": described,
            "data": split.digest_with(own),
            "seed": seed,
            "test_ids": own.tolist(),
        }
        for seed, own in zip(setup.config.train.seeds, test_ids, strict=True)
    ]


def _write_checkpoints(
    out: Path, networks: list[Network], headers: list[dict[str, Any]], finite: Tensor
) -> dict[str, str]:
    """Write the finite seeds' checkpoints; return their digests by name."""
    _remove_former(out / CHECKPOINT_FOLDER)
    digests = {}
    for index in finite.nonzero().flatten().tolist():
        path = _place(out / CHECKPOINT_FOLDER, headers[index])
        write_checkpoint(path, networks[index].state_dict(), headers[index])
        digests[path.name] = file_digest(path)
    return digests


def _write_live(
    out: Path, live: Tensor, network: Network, headers: list[dict[str, Any]], finite: Tensor
) -> dict[str, str]:
    """Write the live weights (S, params) behind an average; return their digests by name."""
    _remove_former(out / LIVE_FOLDER)
    network = copy.deepcopy(network).cpu()
    digests = {}
    for index in finite.nonzero().flatten().tolist():
        path = _place(out / LIVE_FOLDER, headers[index])
        load_flat(network, live[index].cpu())
        write_checkpoint(path, network.state_dict(), headers[index])
        digests[path.name] = file_digest(path)
    return digests


def _place(folder: Path, header: dict[str, Any]) -> Path:
    """Return where a seed's file goes."""
    return folder / f"seed-{header['seed']:03d}.safetensors"


def _remove_former(folder: Path) -> None:
    """Remove the checkpoints of a run that is being replaced: later stages read them all."""
    for path in folder.glob("seed-*.safetensors"):
        path.unlink()


def _measure(setup: Setup, split: Split, networks: list[Network]) -> dict[str, Any]:
    """Evaluate the checkpoints in float64: losses, accuracies and the gradient's norm."""
    tensors = as_tensors(split, torch.float64, setup.device)
    train, test = tensors["train"], tensors["test"]
    networks = [copy.deepcopy(network).double() for network in networks]
    parameters = stack_modules(networks)
    task = Task(
        network=networks[0],
        objective=setup.objective,
        parameters=parameters,
        inputs=train[0][None],
        targets=train[1],
        weights=uniform_weights(len(train[1]), torch.float64, setup.device).expand(
            len(networks), -1
        ),
        probe_inputs=torch.cat([train[0], test[0]])[None],
        probe_targets=torch.cat([train[1], test[1]]),
    )
    assessment = assess(task, parameters)
    rows, objective = len(train[1]), setup.objective
    with torch.no_grad():
        accuracies = {
            name: torch.stack(
                [(objective.predictions(evaluate(n, x)) == y).double().mean() for n in networks]
            )
            for name, (x, y) in tensors.items()
        }
        log_probability = [
            objective.negative_log_probability(evaluate(n, test[0]), test[1]) for n in networks
        ]
    values = {
        "train_loss": assessment.probe_losses[:, :rows],
        "test_loss": assessment.probe_losses[:, rows:],
        "test_negative_log_probability": torch.stack(log_probability),
        "train_accuracy": accuracies["train"],
        "test_accuracy": accuracies["test"],
        "grad_norm": assessment.gradient_norm,
    }
    bad = ~torch.isfinite(parameters).all(dim=1)
    for value in values.values():
        value[bad] = torch.nan
    return {name: value.cpu().numpy() for name, value in values.items()}

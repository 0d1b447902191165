"""The stages on images: test points of each network's own, batches, convolutions, user's files.

The images are noise in MNIST's format: two blobs of brightness tell the classes apart.
"""

import dataclasses
import gzip
import struct

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from ifcheck import memory
from ifcheck.artifacts import read_checkpoint
from ifcheck.config import Config, load_config
from ifcheck.errors import ArtifactMismatch, UnusableInput
from ifcheck.stages.eigen import eigen
from ifcheck.stages.fragility import fragility
from ifcheck.stages.influence import influence
from ifcheck.stages.retrain import retrain
from ifcheck.stages.train import train
from tests.benchmarks import sequential_loop as loop

TRAIN, TEST = 50, 23


@pytest.fixture(autouse=True)
def quiet_threads():
    with loop.one_thread():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder with MNIST's files, of few rows."""
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("data")
    for part, count in (("train", TRAIN), ("t10k", TEST)):
        labels = random.integers(0, 10, count).astype(np.uint8)
        images = random.integers(0, 120, (count, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 4] += 100 if part == "train" else 20
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape)
            path = folder / f"{part}-{name}-ubyte.gz"
            path.write_bytes(gzip.compress(head + array.tobytes()))
    return folder


def config_of(folder, network="fc", **settings) -> Config:
    given = {
        "data.dataset": "mnist",
        "data.data_dir": str(folder),
        "data.limit_train": TRAIN,
        "data.limit_test": TEST,
        "network.name": network,
        "train.seeds": (0, 1, 2),
        "train.epochs": 30,
        "retrain.epochs": 12,
        "retrain.removals": "top-loss:3",
        **settings,
    }
    if network == "fc":
        given.setdefault("network.width", 4)
    return load_config(flags=given)


@pytest.fixture(scope="module", params=["fc", "lenet"])
def made(request, folder, tmp_path_factory):
    """A network's run folder, its configuration and what training returned."""
    settings = {"train.batch_size": 20} if request.param == "lenet" else {}
    config = config_of(folder, request.param, **settings)
    run = tmp_path_factory.mktemp(request.param)
    with loop.one_thread():
        return config, run, train(config, run)


def inputs_of(folder, part, network):
    """Images and labels, read and scaled by hand, in float32 as networks see them."""

    def content(name):
        return gzip.decompress((folder / f"{part}-{name}-ubyte.gz").read_bytes())

    pixels = np.frombuffer(content("images-idx3")[16:], np.uint8).reshape(-1, 1, 28, 28)
    pixels = pixels.astype(np.float32) / np.float32(255)
    if network == "lenet":
        pixels = np.pad(pixels, ((0, 0), (0, 0), (2, 2), (2, 2)))
        pixels = (pixels - np.float32(0.1307)) / np.float32(0.3081)
    pixels = pixels.astype(np.float64)
    labels = np.frombuffer(content("labels-idx1")[8:], np.uint8).astype(np.int64)
    return torch.from_numpy(pixels), torch.from_numpy(labels)


def rebuilt(network: str, state) -> nn.Module:
    """The network by torch alone."""
    if network == "fc":
        body = [nn.Flatten(), nn.Linear(784, 4), nn.Tanh()]
        head = nn.Linear(4, 10)
    else:
        body = [nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh()]
        body += [nn.AvgPool2d(2), nn.Conv2d(16, 120, 5), nn.Tanh(), nn.Flatten()]
        body += [nn.Linear(120, 84), nn.Tanh()]
        head = nn.Linear(84, 10)
    module = nn.Sequential(*body, head)
    names = sorted(state, key=lambda name: (name.split(".")[:1], *order_of(name)))
    own = dict(zip(module.state_dict(), (state[name] for name in names), strict=True))
    module.load_state_dict(own)
    return module.double()


def order_of(name: str) -> tuple[int, bool]:
    """The layer's place in the body, weights before biases."""
    *_, place, kind = ("0." + name).split(".")
    return int(place) if place.isdigit() else 0, kind == "bias"


def losses_of(config, run, folder, part="t10k") -> np.ndarray:
    """Each seed's losses on all rows of a file, by torch alone. Shape: (S, rows)."""
    network = config.network.name
    inputs, labels = inputs_of(folder, part, network)
    found = []
    for path in sorted((run / "checkpoints").iterdir()):
        module = rebuilt(network, read_checkpoint(path).state)
        with torch.no_grad():
            found.append(functional.cross_entropy(module(inputs), labels, reduction="none"))
    return torch.stack(found).numpy()


def test_each_network_is_tested_where_its_own_loss_is_largest(made, folder):
    config, run, trained = made
    losses = losses_of(config, run, folder)
    assert trained["test_ids"].tolist() == losses.argmax(1)[:, None].tolist()
    np.testing.assert_allclose(trained["test_loss"], losses.max(1, keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(
        trained["train_loss"], losses_of(config, run, folder, "train"), rtol=1e-10, atol=1e-14
    )
    assert trained["train_ids"].tolist() == [*range(TRAIN)]


def test_accuracy_is_that_of_the_whole_test_set(made, folder):
    config, run, trained = made
    inputs, labels = inputs_of(folder, "t10k", config.network.name)
    for seed, path in enumerate(sorted((run / "checkpoints").iterdir())):
        with torch.no_grad():
            outputs = rebuilt(config.network.name, read_checkpoint(path).state)(inputs)
        share = (outputs.argmax(1) == labels).double().mean().item()
        assert trained["test_accuracy"][seed] == pytest.approx(share, abs=1e-12)


def test_a_seed_has_the_same_numbers_alone(made, folder, tmp_path):
    """The test points of other seeds are carried along, and change nothing."""
    config, run, trained = made
    assert len({*trained["test_ids"].flatten().tolist()}) > 1
    single = [run / "checkpoints" / "seed-001.safetensors"]
    stages = {
        "influence": influence,
        "retrain": retrain,
        "eigen": eigen,
    }
    for name, stage in stages.items():
        together = stage(config, [run], tmp_path / f"{name}.npz")
        alone = stage(config, single, tmp_path / f"{name}-alone.npz")
        for key, value in alone.arrays.items():
            if "S" not in axes_of(name, key):
                continue
            np.testing.assert_allclose(together[key][1:2], value, rtol=1e-9, atol=1e-13)


def axes_of(kind, name):
    from ifcheck.artifacts.arrays import SCHEMAS

    return SCHEMAS[kind][name]


def test_losses_before_and_after_are_of_the_own_test_point(made, folder, tmp_path):
    config, run, trained = made
    truth = retrain(config, [run], tmp_path / "warm.npz")
    assert truth["test_ids"].tolist() == trained["test_ids"].tolist()
    np.testing.assert_allclose(truth["loss_before"], trained["test_loss"], rtol=1e-12)
    assert truth["loss_after"].shape == (3, 1, 3)
    exact = retrain(with_truth(config, "newton"), [run], tmp_path / "newton.npz")
    assert exact["converged"].all()


def with_truth(config, truth):
    return dataclasses.replace(config, retrain=dataclasses.replace(config.retrain, truth=truth))


def test_scores_are_those_of_the_formula(made, folder, tmp_path):
    """Head features by torch alone, then the normal equations in numpy."""
    config, run, trained = made
    found = influence(config, [run], tmp_path / "scores.npz")
    network, decay = config.network.name, config.variant.options["weight_decay"]
    (x, y), (tests, labels) = (inputs_of(folder, part, network) for part in ("train", "t10k"))
    for seed, path in enumerate(sorted((run / "checkpoints").iterdir())):
        module = rebuilt(network, read_checkpoint(path).state)
        own = int(trained["test_ids"][seed, 0])
        with torch.no_grad():
            h = np.c_[module[:-1](x).numpy(), np.ones(TRAIN)]
            t = np.r_[module[:-1](tests[own : own + 1]).numpy()[0], 1]
        head = module[-1]
        w = np.c_[head.weight.detach().numpy(), head.bias.detach().numpy()]
        p, pt = (softmax(rows @ w.T) for rows in (h, t[None]))
        hessian = sum(
            np.kron(np.diag(pi) - np.outer(pi, pi), np.outer(hi, hi))
            for pi, hi in zip(p, h, strict=True)
        )
        hessian = hessian / TRAIN + decay * np.eye(w.size)
        g = ((p - np.eye(10)[y])[:, :, None] * h[:, None]).reshape(TRAIN, -1)
        gt = np.outer(pt[0] - np.eye(10)[labels[own]], t).ravel()
        expected = (g + decay * w.ravel()) @ np.linalg.solve(hessian, gt) / (TRAIN - 1)
        np.testing.assert_allclose(found["scores"][seed, 0], expected, rtol=1e-7, atol=1e-10)


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_a_user_s_own_network_is_tested_where_its_loss_is_largest(folder, tmp_path):
    torch.manual_seed(3)
    module = nn.Sequential(nn.Flatten(), nn.Linear(784, 4), nn.Tanh(), nn.Linear(4, 10))
    inputs, labels = inputs_of(folder, "t10k", "fc")
    names = ["body.0.weight", "body.0.bias", "head.weight", "head.bias"]
    torch.save(dict(zip(names, module.state_dict().values(), strict=True)), tmp_path / "own.pt")
    found = influence(config_of(folder), [tmp_path / "own.pt"], tmp_path / "scores.npz")
    with torch.no_grad():
        losses = functional.cross_entropy(module.double()(inputs), labels, reduction="none")
    assert found["test_ids"].tolist() == [[int(losses.argmax())]]


def test_other_data_are_noticed(made, folder, tmp_path):
    config, run, _ = made
    other = tmp_path / "other"
    other.mkdir()
    for file in folder.iterdir():
        data = bytearray(gzip.decompress(file.read_bytes()))
        data[-1] ^= 1
        (other / file.name).write_bytes(gzip.compress(bytes(data)))
    moved = dataclasses.replace(config, data=dataclasses.replace(config.data, data_dir=str(other)))
    with pytest.raises(ArtifactMismatch, match="was trained on data"):
        influence(moved, [run], tmp_path / "scores.npz")


def test_too_few_rows_are_named_before_training(folder, tmp_path):
    config = config_of(folder, **{"data.limit_train": TRAIN + 1})
    with pytest.raises(UnusableInput, match=f"holds {TRAIN} rows; {TRAIN + 1} are wanted"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("network", ["lenet", "vgg13"])
def test_a_table_of_flowers_is_no_image(network, tmp_path):
    config = load_config(flags={"network.name": network, "data.dataset": "iris"})
    with pytest.raises(UnusableInput, match="takes images of 32 x 32 pixels; rows have shape"):
        train(config, tmp_path / "run")


def test_a_study_is_the_stages_one_by_one(folder, tmp_path):
    settings = {"study.variants": "l2", "retrain.removals": "top-score:3", "network.width": 1}
    config = config_of(folder, **settings, **{"evaluate.bootstrap_samples": 0})
    study = fragility(config, tmp_path / "study")
    (cell,) = (study.out / "cells").iterdir()
    run = tmp_path / "run"
    config = dataclasses.replace(config, variant=load_config(network="fc").variant)
    trained = train(config, run)
    scores = influence(config, [run], run / "influence-objective.npz")
    truth = retrain(config, [run], run / "warm.npz", influence_file=scores.path)
    for name, artifact in (
        ("train", trained),
        ("influence-objective", scores),
        ("retrain-warm", truth),
    ):
        with np.load(cell / f"{name}.npz") as file:
            for key, value in artifact.arrays.items():
                np.testing.assert_array_equal(file[key], value)
    figures = sorted(path.name for path in (study.out / "figures").iterdir())
    assert "figure-2-networks.png" in figures
    again = fragility(config_of(folder, **settings, **{"evaluate.bootstrap_samples": 0}), study.out)
    assert [row["status"] for row in again.results] == [row["status"] for row in study.results]


# --- features that are larger than they should be in memory --------------------------------------


@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize("variant", ["l2", "bnn"])
def test_numbers_of_features_in_files_are_those_of_features_in_memory(
    folder, tmp_path, monkeypatch, variant, engine
):
    settings = {"variant.name": variant, "train.seeds": (0,), "run.engine": engine}
    config = config_of(folder, **settings)
    run = tmp_path / "run"
    train(config, run)
    monkeypatch.setattr("ifcheck.models.base.ROWS_AT_ONCE", 20)  # so that rows are put together
    reserved = []
    reserve = memory._reserve
    monkeypatch.setattr(memory, "_reserve", lambda *at: reserved.append(at[1]) or reserve(*at))
    for place, budget in (("memory", memory.LARGEST_IN_MEMORY), ("files", 1)):
        assert not reserved
        monkeypatch.setattr(memory, "LARGEST_IN_MEMORY", budget)
        influence(config, [run], tmp_path / place / "influence.npz")
        for truth in ("warm", "newton"):
            part = dataclasses.replace(
                config, retrain=dataclasses.replace(config.retrain, truth=truth)
            )
            retrain(part, [run], tmp_path / place / f"{truth}.npz")
    moments, width = (2, 4) if variant == "bnn" else (1, 4)
    assert reserved.count(TRAIN * moments * width * 8) >= 2  # features of warm's, newton's
    for name in ("influence", "warm", "newton"):
        with (
            np.load(tmp_path / "memory" / f"{name}.npz") as expected,
            np.load(tmp_path / "files" / f"{name}.npz") as found,
        ):
            assert set(found) == set(expected)
            for key in set(found) - {"meta"}:
                np.testing.assert_array_equal(found[key], expected[key], err_msg=f"{name}: {key}")


def test_networks_of_both_kinds_are_trained_again_from_the_start(made, tmp_path):
    config, run, _ = made
    again = dataclasses.replace(
        config, retrain=dataclasses.replace(config.retrain, truth="scratch", params="all")
    )
    found = retrain(again, [run], tmp_path / "scratch.npz")
    drift = found["null_loss_after"] - found["loss_before"]
    assert np.abs(drift).max() < 1e-6  # the sums of float32 depend on how many models there are
    changes = found["loss_after"] - found["null_loss_after"][..., None]
    assert np.abs(changes).min() > 1e-5

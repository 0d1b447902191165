"""Stage `retrain` with the truth `scratch`: the base run is repeated bit for bit; refusals."""

import hashlib

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from ifcheck import removal
from ifcheck.errors import UnusableInput
from ifcheck.params import Layout
from ifcheck.stages import estimate as stage
from ifcheck.stages.estimate import estimate_retraining
from ifcheck.stages.fragility import fragility
from ifcheck.stages.retrain import retrain
from ifcheck.stages.train import train
from tests.benchmarks import sequential_loop as loop

SCRATCH = {"retrain.truth": "scratch"}
TRAININGS = {
    "none": {"variant.name": "none"},
    "l2-swa": {"variant.name": "l2-swa"},
    "float64": {"variant.name": "swa", "train.dtype": "float64"},
    "bnn": {"variant.name": "bnn"},
    "torch": {"variant.name": "l2-swa", "run.engine": "torch"},
    "vmap": {"variant.name": "l2-swa", "run.engine": "vmap"},
    "batches": {"train.batch_size": 32, "train.early_stop": 5, "train.patience": 2},
    "batches of torch": {"train.batch_size": 32, "run.engine": "torch", "train.amsgrad": True},
    "floor": {"variant.name": "l2", "train.stop_at_lr_floor": True, "train.patience": 1},
    "polished": {"variant.name": "l2", "train.polish": "head"},
    "not polished": {"variant.name": "none", "train.polish": "head"},
}


@pytest.fixture
def ends(monkeypatch):
    """Architecture and parameters that models ended with: null runs first, then removals."""
    found = []
    judge = removal.scratch.assess
    monkeypatch.setattr(
        removal.scratch,
        "assess",
        lambda task, flat: found.append((task.network, flat)) or judge(task, flat),
    )
    return found


def checkpoint_flat(network, state) -> torch.Tensor:
    return Layout.of(network).flatten({name: value.double() for name, value in state.items()})


@pytest.mark.parametrize("name", TRAININGS)
def test_the_null_run_is_the_base_network_bit_for_bit(
    name, tiny, tmp_path, ends, state_of, checkpoints_of
):
    config = tiny({**TRAININGS[name], **SCRATCH})
    folder = tmp_path / "run"
    train(config, folder)
    found = retrain(config, [folder], tmp_path / "truth.npz")
    (network, null), (_, without) = ends
    assert len(without) == 4 * 4
    for place, path in enumerate(checkpoints_of(folder)):
        expected = checkpoint_flat(network, state_of(path))
        assert torch.equal(null[place], expected)
        assert not torch.equal(without[4 * place], expected)
    assert_allclose(found["null_loss_after"], found["loss_before"], rtol=0, atol=1e-14)
    assert found.meta["dtype"] == config.train.dtype


def test_digits_in_batches_by_vmap_are_repeated_bit_for_bit(
    tmp_path, digits_config, ends, state_of
):
    train(digits_config, tmp_path / "run")
    retrain(digits_config, [tmp_path / "run"], tmp_path / "truth.npz")
    for seed in range(2):
        state = state_of(tmp_path / "run" / "checkpoints" / f"seed-00{seed}.safetensors")
        network, null = ends[0]
        assert torch.equal(null[seed], checkpoint_flat(network, state))


@pytest.fixture
def digits_config(tiny):
    return tiny(
        {
            **SCRATCH,
            "data.dataset": "digits",
            "data.test_points": "ids:3,4",
            "network.width": 6,
            "train.seeds": 2,
            "train.epochs": 8,
            "train.batch_size": 256,
            "run.engine": "vmap",
            "retrain.removals": "top-loss:2",
        }
    )


def test_losses_are_those_of_torchs_own_loop(tiny, precise, tmp_path, iris_rows, train_ids):
    found = retrain(tiny(SCRATCH), [precise("l2-swa")], tmp_path / "truth.npz")
    seed = 1
    for k, removed in enumerate(found["removed_ids"][seed][:2]):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(named(seed, "init"))
            model = loop.make_mlp(4, 5, 1, 3, "selu").double()
        kept = train_ids != removed
        rows = (torch.tensor(values[kept]) for values in iris_rows["train"])
        run = loop.train(model, *rows, epochs=60, weight_decay=0.005, averaging=True)
        losses = loop.row_losses(run.averaged, *map(torch.tensor, iris_rows["test"]))
        assert_allclose(found["loss_after"][seed, :, k], losses, rtol=0, atol=1e-10)


def named(seed, *names) -> int:
    """The documented derivation of named seeds, written out."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") // 2


def test_the_file_says_what_was_done_and_not_what_warm_would_do(tiny, runs, tmp_path):
    found = retrain(tiny(SCRATCH), [runs("l2")], tmp_path / "truth.npz")
    settings = found.meta["config"]["retrain"]
    assert (settings["params"], settings["epochs"]) == ("all", 60)
    assert found["loss_after"].shape == (4, 2, 4)
    assert found["loss_after"].dtype == np.float64


def test_groups_of_rows_leave_together(tiny, runs, tmp_path):
    flags = {**SCRATCH, "retrain.removals": "random:3", "retrain.group_size": 6}
    found = retrain(tiny(flags), [runs("l2")], tmp_path / "truth.npz")
    assert found["group_ids"].shape == (4, 3, 6)
    assert found["loss_after"].shape == (4, 2, 3)


@pytest.mark.parametrize(
    ("key", "given", "own"),
    [("params", "head", "all"), ("epochs", 30, "60"), ("stop_at_lr_floor", True, "False")],
)
def test_what_contradicts_the_training_is_refused_where_it_was_asked_for(
    key, given, own, tiny, runs, tmp_path
):
    explicit = {f"retrain.{key}": given}
    with pytest.raises(UnusableInput, match=f"retrain.{key} is {own}, not {given}"):
        retrain(tiny({**SCRATCH, **explicit}), [runs("l2")], tmp_path / "t.npz", explicit=explicit)
    retrain(tiny(SCRATCH), [runs("l2")], tmp_path / "t.npz", explicit={"retrain.params": "all"})


def test_a_state_dict_of_unknown_training_is_refused(tiny, user_model, tmp_path):
    with pytest.raises(UnusableInput, match="does not say how it was initialised"):
        retrain(tiny({**SCRATCH, "variant.name": "l2"}), [user_model], tmp_path / "truth.npz")


def test_the_head_alone_is_refused_in_a_study(tiny, tmp_path):
    with pytest.raises(UnusableInput, match="scratch trains all parameters"):
        fragility(tiny({"study.truths": ["warm", "scratch:head"]}), tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_a_dry_run_takes_the_checkpoints_epochs(tiny, runs, monkeypatch):
    sampled = []

    def sample(*arguments):
        sampled.append(arguments[-1])
        return retrain(*arguments)

    monkeypatch.setattr(stage, "retrain", sample)
    found = estimate_retraining(tiny({**SCRATCH, "train.epochs": 9}), [runs("l2")])
    assert max(sampled) == 60  # of the run, which are too few to extrapolate to
    assert found.seconds["retrain"] > 0

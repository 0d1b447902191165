"""A trained run as later stages see it: networks rebuilt, contradictions refused."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ifcheck.config import Config, load_config
from ifcheck.errors import ArtifactMismatch, ArtifactUnreadable
from ifcheck.stages.reporting import Silent
from ifcheck.stages.run import Run, load_run, require_same_checkpoints
from tests import oracles


def loaded(*sources: Path, config: Config | None = None, explicit: dict | None = None) -> Run:
    return load_run(list(sources), config or Config(), explicit or {}, Silent())


def checkpoint(run: Path, seed: int = 0) -> Path:
    return run / "checkpoints" / f"seed-{seed:03d}.safetensors"


@pytest.fixture
def l2(runs) -> Path:
    return runs("l2")


@pytest.fixture
def rewritten(tmp_path, state_of, header_of):
    """Return a writer of a copy of a checkpoint with parts of its tensors or header replaced."""

    def write(source: Path, name: str, tensors: dict | None = None, **meta) -> Path:
        path = tmp_path / name
        header = {**header_of(source), **meta}
        save_file({**state_of(source), **(tensors or {})}, path, {"ifcheck": json.dumps(header)})
        return path

    return write


@pytest.fixture
def own_file(tmp_path):
    """Return a saver of a user's own `.pt` state dict."""

    def save(state: dict[str, torch.Tensor], name: str = "model.pt") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path)
        return path

    return save


# --- networks and data ---------------------------------------------------------------------


def test_networks_are_those_of_the_checkpoints_in_float64(l2, state_of, iris_rows):
    run = loaded(l2)
    assert len(run.networks) == 4
    inputs, targets = iris_rows["train"]
    for seed, network in enumerate(run.networks):
        state = {
            name: value.double().numpy() for name, value in state_of(checkpoint(l2, seed)).items()
        }
        layers = [(state[f"{n}.weight"], state[f"{n}.bias"]) for n in ("body.0", "head")]
        expected = oracles.numpy_mlp(layers, inputs, "selu")
        rows, found_targets = run.tensors()["train"]
        with torch.no_grad():
            np.testing.assert_allclose(network(rows).numpy(), expected, rtol=1e-11, atol=1e-12)
        assert found_targets.tolist() == targets.tolist()


def test_rows_are_those_that_the_run_was_trained_on(l2, iris_rows, train_ids):
    run = loaded(l2)
    for part, dtype in (("train", torch.float64), ("test", torch.float32)):
        inputs, targets = run.tensors(dtype)[part]
        assert inputs.dtype is dtype
        np.testing.assert_allclose(inputs, iris_rows[part][0], rtol=1e-6)
        assert targets.tolist() == iris_rows[part][1].tolist()
    assert run.split.train_ids.tolist() == train_ids.tolist()


def test_test_points_are_repeated_for_each_seed(l2):
    assert loaded(l2).test_ids.tolist() == [[83, 106]] * 4


def test_parents_are_the_digests_of_the_files(l2):
    files = sorted((l2 / "checkpoints").iterdir())
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    assert loaded(l2).parents == digests


def test_two_files_of_one_name_are_two_parents(own_file, l2, state_of, tiny):
    state = state_of(checkpoint(l2))
    first = own_file(state, "first/model.pt")
    second = own_file({name: value + 1 for name, value in state.items()}, "second/model.pt")
    run = loaded(first, second, config=tiny())
    digests = {hashlib.sha256(file.read_bytes()).hexdigest() for file in (first, second)}
    assert set(run.parents.values()) == digests


# --- where the configuration comes from ----------------------------------------------------


def test_checkpoints_know_what_they_were_made_with(runs):
    run = loaded(runs("none"))
    assert run.setup.config.variant.name == "none"
    assert run.setup.config.train.epochs == 60
    assert run.setup.config.data.test_points == "ids:83,106"
    assert run.setup.objective.weight_decay == 0


def test_the_rest_comes_from_the_configuration(l2):
    flags = {"influence.damping": 0.5, "data.data_dir": "/data", "run.engine": "vmap"}
    config = loaded(l2, config=load_config(flags=flags)).setup.config
    assert (config.influence.damping, config.run.engine) == (0.5, "vmap")
    assert config.data.data_dir == "/data"
    assert config.train.epochs == 60


@pytest.mark.parametrize("seeds", [[2], [0, 3], [3, 0]], ids=str)
def test_seeds_are_those_of_the_files_given(l2, seeds):
    run = loaded(*(checkpoint(l2, seed) for seed in seeds))
    assert run.seeds.tolist() == seeds
    assert run.setup.config.train.seeds == tuple(seeds)


def test_checkpoints_folder_and_run_folder_are_one_run(l2):
    assert loaded(l2).parents == loaded(l2 / "checkpoints").parents


def test_file_given_twice_counts_once(l2):
    assert loaded(checkpoint(l2, 1), checkpoint(l2, 1)).seeds.tolist() == [1]


# --- contradictions ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "made_with"),
    [
        ("network.width", 8, 5),
        ("network.depth", 2, 1),
        ("network.name", "vgg", "mlp"),
        ("network.activation", "tanh", "selu"),
        ("variant.name", "none", "l2"),
        ("variant.weight_decay", 0.1, 0.005),
        ("train.epochs", 61, 60),
        ("train.dtype", "float64", "float32"),
        ("data.dataset", "digits", "iris"),
        ("data.test_points", "max-loss", "ids:83,106"),
        ("data.limit_train", 20, None),
    ],
)
def test_flag_that_contradicts_the_checkpoints_is_refused(l2, key, value, made_with):
    with pytest.raises(ArtifactMismatch) as caught:
        loaded(l2, explicit={key: value})
    message = f"{key} is {value!r}, but the checkpoints were made with {made_with!r}."
    assert caught.value.message == message
    assert "Leave the flag out" in caught.value.remedy
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "explicit",
    [
        {"network.width": 5, "network.depth": 1, "variant.name": "l2"},
        {"train.dtype": "float32", "data.dataset": "iris"},
        {"network.width": None, "variant.name": None},
        {"influence.damping": 0.5, "retrain.truth": "newton", "run.threads": 1},
        {"data.data_dir": "/data"},
    ],
    ids=str,
)
def test_flag_that_agrees_or_concerns_later_stages_is_let_through(l2, explicit):
    assert len(loaded(l2, explicit=explicit).networks) == 4


# --- checkpoints that do not belong together -----------------------------------------------


@pytest.mark.parametrize("other", ["none", "l2-swa"])
def test_runs_of_different_configurations_are_refused_together(runs, other):
    with pytest.raises(ArtifactMismatch, match="made by different configurations") as caught:
        loaded(runs("l2"), runs(other))
    assert "one run" in caught.value.remedy


def test_users_own_file_beside_a_run_is_refused(l2, own_file, state_of):
    with pytest.raises(ArtifactMismatch, match="made by different configurations"):
        loaded(l2, own_file(state_of(checkpoint(l2))))


def test_checkpoint_of_other_data_is_refused_with_both_digests(l2, rewritten, header_of):
    here = header_of(checkpoint(l2))["data"]
    path = rewritten(checkpoint(l2), "elsewhere.safetensors", data="0123456789" * 6 + "0123")
    with pytest.raises(ArtifactMismatch) as caught:
        loaded(path)
    assert "elsewhere.safetensors was trained on data 01234567" in caught.value.message
    assert f"iris is {here[:8]} here" in caught.value.message
    assert "same data" in caught.value.remedy


def test_digest_of_the_data_changes_with_the_test_points(l2, header_of):
    assert header_of(checkpoint(l2))["data"] == loaded(l2).split.digest
    other = loaded(l2).setup.split(np.array([83]))
    assert other.digest != loaded(l2).split.digest


# --- tensors that do not fit ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"head.weight": torch.zeros(3, 6)}, r"head\.weight is \(3, 6\), expected \(3, 5\)"),
        ({"head.bias": torch.zeros(4)}, r"head\.bias is \(4,\), expected \(3,\)"),
        ({"head.weight": torch.zeros(15)}, r"head\.weight is \(15,\), expected \(3, 5\)"),
        ({"body.2.bias": torch.zeros(5)}, r"body\.2\.bias is \(5,\), expected absent"),
    ],
)
def test_checkpoint_that_does_not_fit_its_network_is_refused(l2, rewritten, tensors, message):
    path = rewritten(checkpoint(l2), "odd.safetensors", tensors)
    with pytest.raises(ArtifactMismatch, match=rf"odd\.safetensors does not fit mlp: {message}"):
        loaded(path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"network.width": 8}, r"(body\.0|head)\.\w+ is .*5.*, expected .*8"),
        ({"network.depth": 2}, r"body\.2\.\w+ is absent, expected \(5"),
    ],
    ids=str,
)
def test_own_file_that_does_not_fit_is_refused_with_the_flags_to_give(
    user_model, tiny, flags, message
):
    with pytest.raises(ArtifactMismatch, match=rf"does not fit mlp: {message}") as caught:
        loaded(user_model, config=tiny(flags))
    assert re.search("--network, --depth and --width", caught.value.remedy)


def test_own_file_without_tensors_is_refused(own_file, tiny):
    with pytest.raises(ArtifactMismatch, match=r"model\.pt does not fit mlp: .* is absent"):
        loaded(own_file({}), config=tiny())


def test_network_that_has_diverged_is_refused(l2, rewritten):
    path = rewritten(checkpoint(l2), "bad.safetensors", {"head.bias": torch.full((3,), torch.nan)})
    with pytest.raises(ArtifactUnreadable, match=r"head\.bias holds values that are not finite"):
        loaded(path)


# --- users' own state dicts ----------------------------------------------------------------


def test_own_file_is_described_by_the_configuration(user_model, l2, tiny):
    run = loaded(user_model, config=tiny({"influence.damping": 0.5}))
    own, theirs = run.networks[0].state_dict(), loaded(l2).networks[0].state_dict()
    assert all(torch.equal(own[name], theirs[name]) for name in theirs)
    assert run.setup.config.variant.name == "l2"
    assert run.split.digest == loaded(l2).split.digest
    assert list(run.parents) == ["model.pt"]


def test_own_files_are_numbered_in_the_order_given(own_file, l2, state_of, tiny):
    files = [own_file(state_of(checkpoint(l2, s)), f"{n}.pt") for n, s in (("b", 2), ("a", 1))]
    run = loaded(*files, config=tiny())
    assert run.seeds.tolist() == [0, 1]
    for network, seed in zip(run.networks, (2, 1), strict=True):
        kept = state_of(checkpoint(l2, seed))["head.weight"].double()
        assert torch.equal(network.head.weight, kept)


def test_flags_describe_own_files_and_contradict_nothing(user_model, tiny):
    explicit = {"network.width": 5, "variant.name": "none", "data.test_points": "ids:83"}
    run = loaded(user_model, config=tiny(explicit), explicit=explicit)
    assert run.setup.objective.weight_decay == 0
    assert run.test_ids.tolist() == [[83]]


# --- live weights --------------------------------------------------------------------------


def test_live_weights_are_where_the_optimiser_stood(runs, state_of):
    folder = runs("l2-swa")
    live = loaded(folder).live_weights()
    names = ["body.0.weight", "body.0.bias", "head.weight", "head.bias"]
    assert live.shape == (4, 5 * 4 + 5 + 3 * 5 + 3)
    for seed in range(4):
        state = state_of(folder / "live" / f"seed-{seed:03d}.safetensors")
        expected = torch.cat([state[name].flatten() for name in names])
        assert torch.equal(live[seed], expected)
        average = state_of(checkpoint(folder, seed))
        assert not torch.equal(average["head.weight"], state["head.weight"])


def test_live_weights_of_one_seed_are_its_own(runs):
    folder = runs("l2-swa")
    all_seeds = loaded(folder).live_weights()
    assert torch.equal(loaded(checkpoint(folder, 2)).live_weights()[0], all_seeds[2])


def test_run_without_averaging_has_no_live_weights(l2):
    with pytest.raises(ArtifactUnreadable, match=r"live/seed-000\.safetensors") as caught:
        loaded(l2).live_weights()
    assert "--variant swa or l2-swa" in caught.value.remedy


def test_averaged_run_that_lost_its_live_weights_is_told(runs, tmp_path):
    shutil.copytree(runs("swa") / "checkpoints", tmp_path / "checkpoints")
    run = loaded(tmp_path)
    with pytest.raises(ArtifactUnreadable, match="which does not exist"):
        run.live_weights()


# --- artifacts of the same checkpoints -----------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"seed-009.safetensors": "0" * 64}], ids=["same", "more"])
def test_artifact_of_these_checkpoints_is_let_through(l2, more):
    run = loaded(l2)
    require_same_checkpoints(run, {**run.parents, **more}, Path("influence.npz"))


@pytest.mark.parametrize("found", ["0" * 64, None], ids=["other", "absent"])
def test_artifact_of_other_checkpoints_is_refused_with_both_digests(l2, found):
    run = loaded(l2)
    parents = {**run.parents, "seed-002.safetensors": found}
    if found is None:
        del parents["seed-002.safetensors"]
    with pytest.raises(ArtifactMismatch) as caught:
        require_same_checkpoints(run, parents, Path("run/influence.npz"))
    ours = run.parents["seed-002.safetensors"][:8]
    theirs = "absent" if found is None else "00000000"
    assert caught.value.message == (
        f"influence.npz was made from checkpoint seed-002.safetensors {theirs}, not {ours}."
    )
    assert caught.value.remedy


# --- sources that hold no run --------------------------------------------------------------


def test_folder_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(ArtifactUnreadable, match="no checkpoints"):
        loaded(tmp_path)


def test_damaged_checkpoint_is_named(l2, tmp_path):
    path = tmp_path / "seed-000.safetensors"
    path.write_bytes(checkpoint(l2).read_bytes()[:-1])
    with pytest.raises(ArtifactUnreadable, match=r"seed-000\.safetensors"):
        loaded(path)

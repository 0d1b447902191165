"""Stage `train`: what it writes, against the sequential loop, and when training fails."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.nn import functional

from ifcheck.errors import Diverged, UnknownName, UnusableInput
from ifcheck.models import initialise
from ifcheck.stages import train as stage
from ifcheck.stages.setup import make_setup
from ifcheck.stages.train import network_layout, train
from tests.benchmarks import sequential_loop as loop
from tests.stages.conftest import FASTEST

TRAIN_SECTIONS = {"data", "network", "variant", "train"}
BY_EPOCH = ("history_epoch",)
BY_ROW = ("train_ids",)


@pytest.fixture
def poison(monkeypatch):
    """Return a helper that makes the networks of some seeds start from infinite weights."""

    def infinite(*seeds: int) -> None:
        def build(spec, shape, classes, seed, dtype):
            network = initialise(spec, shape, classes, seed, dtype)
            if seed in seeds:
                with torch.no_grad():
                    network.head.weight.fill_(torch.inf)
            return network

        monkeypatch.setattr(stage, "initialise", build)

    return infinite


def test_arrays_have_the_documented_names_and_shapes(runs, load_npz, train_ids):
    arrays = load_npz(runs("l2") / "train.npz")
    epochs = len(arrays["history_epoch"])
    assert {name: value.shape for name, value in arrays.items()} == {
        "seeds": (4,),
        "train_ids": (148,),
        "test_ids": (4, 2),
        "train_loss": (4, 148),
        "test_loss": (4, 2),
        "test_negative_log_probability": (4, 2),
        "train_accuracy": (4,),
        "test_accuracy": (4,),
        "grad_norm": (4,),
        "polished": (4,),
        "history_epoch": (epochs,),
        "history_loss": (4, epochs),
    }
    assert arrays["seeds"].tolist() == [0, 1, 2, 3]
    assert np.array_equal(arrays["train_ids"], train_ids)
    assert arrays["test_ids"].tolist() == [[83, 106]] * 4
    assert arrays["train_loss"].dtype == np.float64
    beside = arrays["test_negative_log_probability"]  # the loss of a plain network is the same
    np.testing.assert_allclose(beside, arrays["test_loss"], rtol=1e-12)


def test_meta_names_the_checkpoints_by_their_sha_256(runs, checkpoints_of, assert_provenance):
    folder = runs("l2")
    files = checkpoints_of(folder)
    assert [file.name for file in files] == [f"seed-00{n}.safetensors" for n in range(4)]
    assert_provenance(folder / "train.npz", "train", files, TRAIN_SECTIONS)


def test_the_configuration_is_stored_with_every_option_spelled_out(runs, meta_of):
    config = meta_of(runs("l2") / "train.npz")["config"]
    assert config["network"] == {"name": "mlp", "depth": 1, "width": 5, "activation": "selu"}
    assert config["variant"] == {"name": "l2", "weight_decay": 0.005}
    assert config["train"]["epochs"] == 60
    assert config["train"]["seeds"] == [0, 1, 2, 3]


def test_a_checkpoint_says_what_made_it(runs, header_of, meta_of):
    folder = runs("l2")
    header = header_of(folder / "checkpoints" / "seed-002.safetensors")
    meta = meta_of(folder / "train.npz")
    assert header["seed"] == 2
    assert header["config"] == meta["config"]
    assert header["data"] == meta["data"]
    assert header["versions"]["torch"] == torch.__version__
    assert header["code"] == meta["code"]


@pytest.mark.parametrize("variant", ["none", "l2"])
def test_losses_accuracies_and_gradient_norm_are_those_of_the_checkpoints(
    variant, runs, load_npz, loop_model, iris_rows
):
    folder = runs(variant)
    arrays = load_npz(folder / "train.npz")
    weight_decay = 0.005 if variant == "l2" else 0.0
    for place, seed in enumerate(arrays["seeds"]):
        model = loop_model(folder / "checkpoints" / f"seed-{seed:03d}.safetensors")
        for name, (inputs, targets) in iris_rows.items():
            logits = model(torch.from_numpy(inputs))
            losses = functional.cross_entropy(logits, torch.tensor(targets), reduction="none")
            assert_allclose(arrays[f"{name}_loss"][place], losses.detach(), rtol=1e-9)
            accuracy = (logits.argmax(1).numpy() == targets).mean()
            assert arrays[f"{name}_accuracy"][place] == accuracy
        inputs, targets = map(torch.tensor, iris_rows["train"])
        squares = sum(p.square().sum() for p in model.parameters())
        objective = functional.cross_entropy(model(inputs), targets) + weight_decay / 2 * squares
        objective.backward()
        norm = sum(p.grad.square().sum() for p in model.parameters()).sqrt()
        assert_allclose(arrays["grad_norm"][place], norm, rtol=1e-9)


@pytest.mark.parametrize("variant", ["none", "swa", "l2", "l2-swa"])
def test_float64_training_equals_torchs_own_loop(variant, precise, state_of, iris_rows, tiny):
    folder = precise(variant)
    spec = stage.make_setup(tiny()).spec
    for seed in (0, 3):
        model = loop.make_mlp(4, 5, 1, 3, "selu").double()
        model.load_state_dict(initialise(spec, (4,), 3, seed, torch.float64).state_dict())
        run = loop.train(
            model,
            *map(torch.tensor, iris_rows["train"]),
            epochs=60,
            weight_decay=0.005 if variant.startswith("l2") else 0.0,
            averaging=variant.endswith("swa"),
        )
        expected = (run.averaged or model).state_dict()
        found = state_of(folder / "checkpoints" / f"seed-{seed:03d}.safetensors")
        for name, value in expected.items():
            assert_allclose(found[name], value, rtol=0, atol=1e-12)


def test_history_starts_at_the_initial_loss_and_ends_at_the_last_epoch(
    precise, load_npz, iris_rows, tiny
):
    arrays = load_npz(precise("l2") / "train.npz")
    assert arrays["history_epoch"].tolist() == list(range(61))
    spec = stage.make_setup(tiny()).spec
    inputs, targets = map(torch.tensor, iris_rows["train"])
    for place, seed in enumerate(arrays["seeds"]):
        network = initialise(spec, (4,), 3, int(seed), torch.float64)
        first = functional.cross_entropy(network(inputs), targets).item()
        assert_allclose(arrays["history_loss"][place, 0], first, rtol=1e-12)
    assert_allclose(arrays["history_loss"][:, -1], arrays["train_loss"].mean(axis=1), rtol=1e-12)


def test_a_long_history_keeps_some_epochs_and_the_last(tiny, tmp_path):
    config = tiny({"train.seeds": 1, "train.epochs": 450})
    epochs = train(config, tmp_path)["history_epoch"].tolist()
    assert epochs == [*range(0, 450, 2), 450]


def test_a_second_run_gives_the_same_bytes(tiny, runs, tmp_path, load_npz, assert_identical):
    folder = runs("l2")
    train(tiny(), tmp_path)
    assert_identical(load_npz(tmp_path / "train.npz"), load_npz(folder / "train.npz"))
    for file in (folder / "checkpoints").iterdir():
        assert (tmp_path / "checkpoints" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("variant", ["none", "swa", "l2", "l2-swa"])
def test_a_seed_does_not_depend_on_its_company(
    variant, tiny, runs, tmp_path, load_npz, state_of, assert_identical
):
    """Seeds in another number and order give the same numbers, bit for bit."""
    train(tiny({"variant.name": variant, "train.seeds": "3,1"}), tmp_path)
    full = runs(variant)
    found, expected = load_npz(tmp_path / "train.npz"), load_npz(full / "train.npz")
    assert_identical(found, expected, rows=[3, 1], shared=BY_EPOCH + BY_ROW)
    for name in ("seed-003.safetensors", "seed-001.safetensors"):
        ours, theirs = (state_of(f / "checkpoints" / name) for f in (tmp_path, full))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_the_number_of_threads_changes_no_bit(tiny, runs, tmp_path, load_npz, assert_identical):
    train(tiny({"run.threads": 2}), tmp_path)
    torch.set_num_threads(1)
    assert_identical(load_npz(tmp_path / "train.npz"), load_npz(runs("l2") / "train.npz"))


def test_the_live_weights_are_kept_where_there_is_an_average(runs, state_of):
    for variant in ("swa", "l2-swa"):
        folder = runs(variant)
        live = state_of(folder / "live" / "seed-000.safetensors")
        average = state_of(folder / "checkpoints" / "seed-000.safetensors")
        assert live.keys() == average.keys()
        assert not torch.equal(live["head.weight"], average["head.weight"])
    assert not (runs("l2") / "live").exists()


def test_polishing_moves_the_head_to_its_optimum_in_float64(
    tiny, runs, tmp_path, load_npz, state_of, loop_model, iris_rows
):
    trained = train(tiny({"train.polish": "head"}), tmp_path)
    assert trained["polished"].all()
    for seed in range(4):
        name = f"seed-{seed:03d}.safetensors"
        state, before = (state_of(f / "checkpoints" / name) for f in (tmp_path, runs("l2")))
        assert {value.dtype for value in state.values()} == {torch.float64}
        assert torch.equal(state["body.0.weight"], before["body.0.weight"].double())
        assert not torch.equal(state["head.weight"], before["head.weight"].double())
        model = loop_model(tmp_path / "checkpoints" / name)
        inputs, targets = map(torch.tensor, iris_rows["train"])
        head = list(model.head.parameters())
        squares = sum(p.square().sum() for p in head)
        objective = functional.cross_entropy(model(inputs), targets) + 0.0025 * squares
        gradient = torch.autograd.grad(objective, head)
        assert sum(g.square().sum() for g in gradient).sqrt() < 2e-10
        assert trained["train_loss"][seed].mean() == pytest.approx(
            functional.cross_entropy(model(inputs), targets).item(), rel=1e-9
        )


@pytest.mark.parametrize("variant", ["none", "swa"])
def test_polishing_is_refused_without_weight_decay_and_the_rest_goes_on(
    variant, tiny, runs, tmp_path, load_npz, assert_identical
):
    trained = train(tiny({"variant.name": variant, "train.polish": "head"}), tmp_path)
    assert not trained["polished"].any()
    (reason,) = trained.meta["reasons"]
    assert reason.startswith("not polished: without weight decay")
    assert "of 4 networks classify all training rows correctly" in reason
    assert_identical(load_npz(tmp_path / "train.npz"), load_npz(runs(variant) / "train.npz"))


@pytest.mark.parametrize("polish", ["none", "head"])
def test_a_diverging_seed_is_recorded_without_checkpoint_and_disturbs_no_other(
    polish, tiny, tmp_path, poison, state_of
):
    train(tiny({"train.polish": polish}), tmp_path / "clean")
    poison(1)
    trained = train(tiny({"train.polish": polish}), tmp_path / "poisoned")
    for name in ("train_loss", "test_loss", "train_accuracy", "test_accuracy", "grad_norm"):
        finite = np.isfinite(trained[name].reshape(4, -1)).all(axis=1)
        assert finite.tolist() == [True, False, True, True], name
        assert np.isnan(trained[name][1]).all(), name
    assert trained["polished"].tolist() == [polish == "head" and s != 1 for s in range(4)]
    names = [f"seed-{seed:03d}.safetensors" for seed in (0, 2, 3)]
    assert sorted(trained.parents) == names
    found = tmp_path / "poisoned" / "checkpoints"
    assert sorted(file.name for file in found.iterdir()) == names
    for name in names:
        clean = state_of(tmp_path / "clean" / "checkpoints" / name)
        assert all(torch.equal(value, clean[key]) for key, value in state_of(found / name).items())


def test_training_fails_when_every_seed_diverges(tiny, tmp_path):
    with pytest.raises(Diverged, match="all 4 seeds turned non-finite") as caught:
        train(tiny({"train.learning_rate": 1e38}), tmp_path)
    assert caught.value.exit_code == 3
    assert "learning_rate" in caught.value.remedy
    assert not (tmp_path / "train.npz").exists()


def test_limit_train_keeps_so_many_rows(tiny, tmp_path, train_ids):
    trained = train(tiny({"data.limit_train": 30, "train.seeds": 1}), tmp_path)
    assert trained["train_loss"].shape == (1, 30)
    assert np.isin(trained["train_ids"], train_ids).all()
    assert (np.diff(trained["train_ids"]) > 0).all()


def test_the_default_test_point_is_the_papers_row(tiny, tmp_path):
    config = tiny({"data.test_points": "max-loss", "train.seeds": 1, "train.epochs": 5})
    assert train(config, tmp_path)["test_ids"].tolist() == [[83]]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"data.dataset": "irsi"}, "unknown dataset 'irsi'"),
        ({"network.name": "mpl"}, "unknown network 'mpl'"),
        ({"network.widht": 3}, "'widht'"),
        ({"variant.name": "l3"}, "unknown variant 'l3'"),
        ({"variant.weight_decya": 0.1}, "'weight_decya'"),
        ({"run.engine": "trch"}, "unknown engine 'trch'"),
        ({"influence.estimator": "papre"}, "unknown estimator 'papre'"),
    ],
)
def test_unknown_names_are_refused_before_anything_is_written(flags, message, tiny, tmp_path):
    with pytest.raises(UnknownName, match=message) as caught:
        train(tiny(flags), tmp_path / "run")
    assert "Did you mean" in caught.value.remedy
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("network.depth", -1, "depth is -1; expected an integer of at least 1"),
        ("network.width", 0, "width is 0; expected an integer of at least 1"),
        ("network.activation", "gelu", "activation is 'gelu'; expected one of selu, tanh, relu"),
        ("variant.weight_decay", 0.0, "weight_decay is 0.0; expected a positive number"),
        ("run.device", "tpu", "--device got 'tpu'; expected auto, cpu or cuda"),
        ("run.device", "cuda:99", "--device cuda:99 asks for a GPU"),
        ("data.limit_test", 3, "--limit-test"),
        ("data.limit_train", 149, "asks for 149 training rows; there are 148"),
        ("data.test_points", "ids:150", "names row 150, which is not among the rows 0 to 149"),
        ("data.test_points", "ids:1,1", "names a row twice"),
        ("data.test_points", "max-loss:150", "asks for 150 rows"),
        ("data.test_points", "nearest", r"expected max-loss\[:K\], random:K or ids:1,2,3"),
    ],
)
def test_unusable_values_are_refused_before_anything_is_written(
    key, value, message, tiny, tmp_path
):
    with pytest.raises(UnusableInput, match=message) as caught:
        train(tiny({key: value}), tmp_path / "run")
    assert caught.value.remedy
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("depth", "width", "count"), [(1, 5, 43), (3, 5, 103), (1, 50, 403)])
def test_parameters_are_counted(depth, width, count, tiny):
    assert (
        network_layout(make_setup(tiny({"network.depth": depth, "network.width": width}))).size
        == count
    )


def test_progress_reaches_the_announced_total(tiny, tmp_path, recording_reporter):
    train(tiny({"train.polish": "head"}), tmp_path, recording_reporter)
    assert recording_reporter.totals == {
        f"training 4 networks ({FASTEST})": 240,
        "polishing heads": 4,
    }
    assert recording_reporter.done == recording_reporter.totals

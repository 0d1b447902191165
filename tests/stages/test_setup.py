"""From names to objects: everything is checked before anything is computed."""

import json

import numpy as np
import pytest
import torch

from ifcheck.config import Choice, Config, load_config
from ifcheck.errors import Diverged, IfcheckError, RunFailed, UnknownName, UnusableInput
from ifcheck.stages.setup import Setup, make_setup
from ifcheck.stages.stage import stage

STAGES = ["train", "influence", "retrain", "eigen"]


def setup_with(**flags) -> Setup:
    """The setup of the defaults with some dotted keys (dots as double underscores) replaced."""
    return make_setup(load_config(flags={k.replace("__", "."): v for k, v in flags.items()}))


@pytest.fixture
def cuda_devices(monkeypatch):
    """Return a setter of the number of GPUs that torch sees."""

    def see(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)

    return see


# --- what is made --------------------------------------------------------------------------


def test_default_setup_is_the_paper_s():
    setup = make_setup(Config())
    network = setup.spec.build((4,), 3)
    assert {n: tuple(p.shape) for n, p in network.named_parameters()} == {
        "body.0.weight": (5, 4),
        "body.0.bias": (5,),
        "head.weight": (3, 5),
        "head.bias": (3,),
    }
    assert isinstance(network.body[1], torch.nn.SELU)
    assert setup.objective.weight_decay == 0.005
    assert setup.dtype is torch.float32
    assert len(setup.dataset.row_ids) == 150


def test_options_that_were_left_out_are_spelled_out():
    setup = setup_with(network__width=8, influence__damping=0.5)
    config = setup.config
    assert config.network == Choice("mlp", {"depth": 1, "width": 8, "activation": "selu"})
    assert config.variant == Choice("l2", {"weight_decay": 0.005})
    assert (config.influence.estimator, config.influence.damping) == ("objective", 0.5)
    assert (config.influence.params, config.influence.hessian) == ("head", "objective")
    assert (config.influence.solver, config.influence.normalisation) == ("exact", "n-1")


def test_spelling_out_twice_changes_nothing():
    once = setup_with(network__width=8, variant__name="none").config
    assert make_setup(once).config == once


@pytest.mark.parametrize(
    ("variant", "weight_decay"), [("none", 0.0), ("swa", 0.0), ("l2", 0.005), ("l2-swa", 0.005)]
)
def test_objective_is_that_of_the_variant(variant, weight_decay):
    assert setup_with(variant__name=variant).objective.weight_decay == weight_decay


@pytest.mark.parametrize(
    ("name", "dtype"), [("float32", torch.float32), ("float64", torch.float64)]
)
def test_type_of_training(name, dtype):
    assert setup_with(train__dtype=name).dtype is dtype


@pytest.mark.parametrize(
    ("estimator", "parts"),
    [
        ("objective", ("head", "objective", 0.0, "exact", "n-1")),
        ("paper", ("head", "data", 0.01, "exact", "n")),
        ("authors", ("layer:head.weight", "data", 0.0, "exact", "n")),
    ],
)
def test_estimator_is_a_named_set_of_parts(estimator, parts):
    made = setup_with(influence__estimator=estimator).estimator
    assert (made.params, made.hessian, made.damping, made.solver, made.normalisation) == parts


def test_a_stage_runs_on_the_configured_threads_and_gives_them_back():
    seen = []
    count = stage(lambda config: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    count(load_config(None, {"run.threads": 3}))
    count(load_config())
    assert seen == [3, before]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), RunFailed),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"), RunFailed),
        (torch.linalg.LinAlgError("singular"), Diverged),
        (RuntimeError("a fault"), RuntimeError),
    ],
)
def test_what_torch_raises_becomes_a_failure_with_a_remedy(error, expected):
    def fail(config):
        raise error

    with pytest.raises(expected) as caught:
        stage(fail)(load_config())
    assert type(caught.value) is expected
    assert not isinstance(caught.value, IfcheckError) or caught.value.remedy


# --- names that do not exist ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "message", "near"),
    [
        ("data.dataset", "irsi", "unknown dataset 'irsi'", "iris"),
        ("network.name", "mpl", "unknown network 'mpl'", "mlp"),
        ("network.widht", 8, "option of network 'mlp': 'widht'", "width"),
        ("variant.name", "l3", "unknown variant 'l3'", "l2"),
        ("variant.weight-decay", 0.1, "option of variant 'l2': 'weight-decay'", "weight_decay"),
        ("influence.estimator", "objectiv", "unknown estimator 'objectiv'", "objective"),
        ("influence.solver", "exakt", "unknown solver 'exakt'", "exact"),
        ("run.engine", "trch", "unknown engine 'trch'", "torch"),
    ],
)
def test_unknown_name_is_refused_with_the_nearest(key, value, message, near):
    with pytest.raises(UnknownName) as caught:
        make_setup(load_config(flags={key: value}))
    assert message in caught.value.message
    assert near in caught.value.message  # among all that there are
    assert f"Did you mean {near!r}?" in caught.value.remedy
    assert caught.value.exit_code == 2


def test_option_of_another_variant_is_refused():
    with pytest.raises(UnknownName, match="option of variant 'none': 'weight_decay'"):
        setup_with(variant__name="none", variant__weight_decay=0.1)


# --- values that make no sense -------------------------------------------------------------


@pytest.mark.parametrize("option", ["depth", "width"])
@pytest.mark.parametrize("value", [-1, 0, 1.5, 5.0, "5", True, None, [5]], ids=repr)
def test_size_that_no_network_can_have_is_refused(option, value):
    with pytest.raises(UnusableInput) as caught:
        make_setup(load_config(assignments=(f"network.{option}={json.dumps(value)}",)))
    assert f"{option} is {value!r}; expected an integer of at least 1" in caught.value.message
    assert "depth, width, activation" in caught.value.remedy


@pytest.mark.parametrize("value", ["sellu", 5, [1]], ids=repr)
def test_activation_that_does_not_exist_is_refused(value):
    with pytest.raises(UnusableInput, match=r"network 'mlp' rejects"):
        setup_with(network__activation=value)


@pytest.mark.parametrize("value", [0, -0.005, float("nan"), "strong"], ids=repr)
def test_weight_decay_that_is_not_positive_is_refused(value):
    with pytest.raises(UnusableInput, match=r"variant 'l2' rejects"):
        setup_with(variant__weight_decay=value)


# --- devices -------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3"])
def test_gpu_that_is_not_there_is_refused(cuda_devices, device):
    cuda_devices(0)
    with pytest.raises(UnusableInput) as caught:
        setup_with(run__device=device)
    assert f"--device {device} asks for a GPU" in caught.value.message
    assert torch.__version__ in caught.value.message
    assert caught.value.message.endswith("sees 0.")
    assert "--device cpu" in caught.value.remedy


@pytest.mark.parametrize("device", ["cuda:2", "cuda:99"])
def test_gpu_beyond_those_that_are_there_is_refused(cuda_devices, device):
    cuda_devices(2)
    with pytest.raises(UnusableInput, match=f"--device {device} asks for a GPU.* sees 2"):
        setup_with(run__device=device)


@pytest.mark.parametrize(
    ("asked", "gpus", "chosen"),
    [
        ("auto", 0, "cpu"),
        ("auto", 1, "cuda"),
        ("cpu", 1, "cpu"),
        ("cuda", 1, "cuda"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_device_that_is_there_is_chosen(cuda_devices, asked, gpus, chosen):
    cuda_devices(gpus)
    assert setup_with(run__device=asked).device == torch.device(chosen)


@pytest.mark.parametrize("device", ["gpu", "", "mps", "cuda:", "cuda:x", "cuda:-1", "meta", "7"])
def test_device_of_another_form_is_refused(device):
    with pytest.raises(UnusableInput, match="expected auto, cpu or cuda") as caught:
        setup_with(run__device=device)
    assert repr(device) in caught.value.message


# --- limits on rows ------------------------------------------------------------------------


def test_split_holds_the_test_points_out():
    split = setup_with().split(np.array([83, 106]))
    assert split.test_ids.tolist() == [83, 106]
    assert sorted([*split.train_ids, 83, 106]) == list(range(150))


def test_training_rows_are_limited():
    split = setup_with(data__limit_train=20).split(np.array([83]))
    assert len(split.train_ids) == len(split.train_targets) == 20
    assert 83 not in split.train_ids


def test_more_training_rows_than_there_are_is_refused():
    with pytest.raises(
        UnusableInput, match="--limit-train asks for 150 training rows; there are 149"
    ):
        setup_with(data__limit_train=150).split(np.array([83]))


def test_limit_of_a_test_file_is_refused_where_there_is_one_table():
    with pytest.raises(UnusableInput, match="--limit-test") as caught:
        setup_with(data__limit_test=5)
    assert "--test-points" in caught.value.remedy


# --- what is recorded ----------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_description_has_the_sections_that_decide_what_the_stage_computes(stage):
    sections = {"data", "network", "variant", "train"} | ({stage} - {"train"})
    assert set(setup_with().describe(stage)) == sections


@pytest.mark.parametrize("stage", STAGES)
def test_description_does_not_say_where_the_data_lie(stage):
    here = setup_with(data__data_dir="/home/me/data").describe(stage)
    there = setup_with(data__data_dir="/mnt/data").describe(stage)
    assert "data_dir" not in here["data"]
    assert here == there == setup_with().describe(stage)
    assert "/home/me" not in json.dumps(here)


def test_describing_leaves_the_configuration_alone():
    setup = setup_with(data__data_dir="/home/me/data")
    setup.describe("train")
    assert setup.config.data.data_dir == "/home/me/data"


@pytest.mark.parametrize(
    ("stage", "flag", "value"),
    [
        ("train", "train.epochs", 5),
        ("train", "network.width", 8),
        ("influence", "influence.damping", 0.5),
        ("retrain", "retrain.removals", "random:3"),
        ("eigen", "eigen.top", 2),
        ("eigen", "data.limit_train", 20),
    ],
)
def test_description_changes_with_what_decides(stage, flag, value):
    changed = make_setup(load_config(flags={flag: value}))
    assert changed.describe(stage) != setup_with().describe(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_description_is_the_same_whether_defaults_are_spelled_out_or_not(stage):
    spelled = setup_with(network__depth=1, network__width=5, variant__weight_decay=0.005)
    assert spelled.describe(stage) == setup_with().describe(stage)


def test_environment_says_where_and_with_what():
    setup = setup_with(train__dtype="float64", run__device="cpu")
    environment = setup.environment(0.0, engine="vmap", dtype="float32")
    assert environment["device"] == "cpu"
    assert environment["dtype"] == "float32"  # what was used, not what was asked
    assert environment["engine"] == "vmap"
    assert environment["threads"] == torch.get_num_threads()
    assert environment["seconds"] > 0

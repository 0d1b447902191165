"""Configuration: what wins over what, what is refused and how it says so, files in configs/."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ifcheck.config import (
    Choice,
    Config,
    config_from_dict,
    differences,
    flatten,
    load_config,
    parse_integers,
)
from ifcheck.errors import UnknownName, UnusableInput

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
SECTIONS = ["data", "train", "influence", "retrain", "eigen", "evaluate", "study", "run"]


@pytest.fixture
def yaml_file(tmp_path):
    """Return a writer of a YAML file."""

    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def value_of(config: Config, dotted: str) -> Any:
    section, _, name = dotted.partition(".")
    return getattr(getattr(config, section), name)


def set_value(assignment: str) -> Any:
    """Return the value of a key after `--set key=value`."""
    return value_of(load_config(assignments=(assignment,)), assignment.partition("=")[0])


# --- defaults ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.dataset", "iris"),
        ("data.test_points", "max-loss"),
        ("train.seeds", tuple(range(50))),
        ("train.epochs", 60_000),
        ("train.learning_rate", 0.001),
        ("train.dtype", "float32"),
        ("train.polish", "none"),
        ("influence.estimator", "objective"),
        ("retrain.truth", "warm"),
        ("retrain.removals", "top-loss:40"),
        ("retrain.epochs", 7_500),
        ("retrain.normalisation", "n-1"),
        ("retrain.swa_restart", "average"),
        ("retrain.trajectory", False),
        ("eigen.method", "power"),
        ("eigen.top", 1),
        ("eigen.dtype", "float64"),
        ("study.estimators", ("objective", "paper", "authors")),
        ("study.truths", ("warm", "newton")),
        ("run.device", "auto"),
        ("run.engine", "auto"),
    ],
)
def test_defaults_are_those_of_the_study(key, value):
    assert value_of(load_config(), key) == value


def test_no_file_no_flags_is_the_default():
    assert load_config() == load_config(None, {}, ()) == Config()


def test_default_network_and_variant_leave_their_options_to_the_entries():
    assert (Config().network, Config().variant) == (Choice("mlp", {}), Choice("l2", {}))


# --- what wins over what -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "flag", "assignment", "epochs"),
    [
        (False, False, False, 60_000),
        (True, False, False, 100),
        (False, True, False, 200),
        (False, False, True, 300),
        (True, True, False, 200),
        (True, False, True, 300),
        (False, True, True, 300),
        (True, True, True, 300),
    ],
)
def test_file_over_defaults_flags_over_file_set_over_flags(
    yaml_file, file, flag, assignment, epochs
):
    config = load_config(
        yaml_file("train: {epochs: 100}") if file else None,
        {"train.epochs": 200 if flag else None},
        ("train.epochs=300",) if assignment else (),
    )
    assert config.train.epochs == epochs


def test_sources_are_merged_key_by_key(yaml_file):
    config = load_config(
        yaml_file("train: {epochs: 100, patience: 7}\neigen: {top: 3}"),
        {"train.epochs": 200, "retrain.epochs": 20},
        ("train.factor=0.5",),
    )
    expected = {"epochs": 200, "patience": 7, "factor": 0.5}
    assert config.train == dataclasses.replace(Config().train, **expected)
    assert config.eigen == dataclasses.replace(Config().eigen, top=3)
    assert config.retrain == dataclasses.replace(Config().retrain, epochs=20)
    assert (config.data, config.network) == (Config().data, Config().network)


def test_flag_that_was_not_given_leaves_the_file_alone(yaml_file):
    config = load_config(yaml_file("train: {epochs: 100}"), {"train.epochs": None})
    assert config.train.epochs == 100


@pytest.mark.parametrize(
    ("key", "value"),
    [("evaluate.bootstrap_samples", 0), ("retrain.trajectory", False), ("data.data_dir", "")],
)
def test_falsy_flag_is_a_given_flag(yaml_file, key, value):
    section, _, name = key.partition(".")
    file = yaml_file(f"{section}: {{{name}: '1'}}")
    assert value_of(load_config(file, {key: None}), key) != value
    assert value_of(load_config(file, {key: value}), key) == value


def test_last_assignment_wins():
    assert load_config(assignments=("train.epochs=1", "train.epochs=2")).train.epochs == 2


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("train.epochs=1000", 1000),
        ("train.learning_rate=1e-2", 0.01),
        ("train.learning_rate=0.5", 0.5),
        ("retrain.trajectory=true", True),
        ("influence.damping=null", None),
        ("influence.damping=0", 0.0),
        ("retrain.removals=ids:1,2,3", "ids:1,2,3"),
        ("influence.params=layer:head.weight", "layer:head.weight"),
        ("data.data_dir=/data/a=b", "/data/a=b"),
        ("study.variants=[none, swa]", ("none", "swa")),
        ("study.variants=none, swa", ("none", "swa")),
        ("study.sizes=[{depth: 1..8}]", ({"depth": "1..8"},)),
    ],
)
def test_assigned_value_is_read_as_yaml(assignment, value):
    assert set_value(assignment) == value


@pytest.mark.parametrize("assignment", ["train.epochs", "", "train epochs 5"])
def test_assignment_without_a_value_shows_the_form(assignment):
    with pytest.raises(UnusableInput, match=r"expected dotted\.key=value") as caught:
        load_config(assignments=(assignment,))
    assert repr(assignment) in caught.value.message
    assert "--set train.epochs=1000" in caught.value.remedy


@pytest.mark.parametrize(
    "assignment",
    ["train.epochs=[1", "data.dataset={", "data.dataset='iris", "train.epochs=!!x/y 1"],
)
def test_assigned_value_that_is_no_yaml_is_unusable(assignment):
    with pytest.raises(UnusableInput) as caught:
        load_config(assignments=(assignment,))
    assert assignment.partition("=")[0] in caught.value.message


# --- names with options --------------------------------------------------------------------


@pytest.mark.parametrize("section", ["network", "variant"])
@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("{section}: special", {}),
        ("{section}: {{name: special}}", {}),
        ("{section}: {{name: special, width: 8}}", {"width": 8}),
    ],
)
def test_name_stands_alone_or_beside_its_options(yaml_file, section, text, options):
    config = load_config(yaml_file(text.format(section=section)))
    assert getattr(config, section) == Choice("special", options)


@pytest.mark.parametrize(("section", "default"), [("network", "mlp"), ("variant", "l2")])
def test_options_without_a_name_are_those_of_the_default(yaml_file, section, default):
    config = load_config(yaml_file(f"{section}: {{width: 8}}"))
    assert getattr(config, section) == Choice(default, {"width": 8})


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"network.width": 8}, Choice("vgg", {"width": 8})),
        ({"network.name": "mlp"}, Choice("mlp", {})),
        ({"network": "mlp"}, Choice("mlp", {})),
        ({"network.name": "mlp", "network.depth": 3}, Choice("mlp", {"depth": 3})),
    ],
    ids=repr,
)
def test_flags_join_a_bare_name_in_the_file(yaml_file, flags, expected):
    assert load_config(yaml_file("network: vgg"), flags).network == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"network.width": 9}, Choice("vgg", {"width": 9, "depth": 2})),
        ({"network.name": "mlp"}, Choice("mlp", {"width": 8, "depth": 2})),
        (
            {"network.activation": "relu"},
            Choice("vgg", {"width": 8, "depth": 2} | {"activation": "relu"}),
        ),
    ],
    ids=repr,
)
def test_flags_join_options_in_the_file(yaml_file, flags, expected):
    text = "network: {name: vgg, width: 8, depth: 2}"
    assert load_config(yaml_file(text), flags).network == expected


@pytest.mark.parametrize("value", [5, None, [1, 2], True])
def test_what_is_neither_name_nor_options_is_refused(value):
    with pytest.raises(UnusableInput, match=r"^network is "):
        config_from_dict({"network": value})


@pytest.mark.parametrize("value", [5, None, ["mlp"]])
def test_name_that_is_no_text_is_refused_under_its_key(value):
    with pytest.raises(UnusableInput, match=r"^network\.name is ") as caught:
        config_from_dict({"network": {"name": value}})
    assert "network.name" in caught.value.remedy


# --- keys that do not exist ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("trian", "train"),
        ("netwrok", "network"),
        ("train.epoch", "train.epochs"),
        ("train.learningrate", "train.learning_rate"),
        ("data.testpoints", "data.test_points"),
        ("influence.dampening", "influence.damping"),
        ("retrain.truths", "retrain.truth"),
        ("eigen.methods", "eigen.method"),
        ("evaluate.topk", "evaluate.top_k"),
        ("study.variant", "study.variants"),
        ("run.devise", "run.device"),
    ],
)
@pytest.mark.parametrize("source", ["file", "flag", "set"])
def test_nearest_key_of_the_same_level_is_suggested(yaml_file, source, key, near):
    section, _, name = key.partition(".")
    text = f"{section}: {{{name}: 1}}" if name else f"{section}: 1"
    arguments = {
        "file": (yaml_file(text),),
        "flag": (None, {key: 1}),
        "set": (None, {}, (f"{key}=1",)),
    }[source]
    with pytest.raises(UnknownName) as caught:
        load_config(*arguments)
    assert f"unknown configuration key {key!r}" in caught.value.message
    assert f"Did you mean {near!r}?" in caught.value.remedy
    assert caught.value.exit_code == 2


def test_known_keys_of_the_level_are_listed():
    with pytest.raises(UnknownName) as caught:
        load_config(flags={"run.zzz": 1})
    assert "expected one of: run.device, run.engine, run.threads." in caught.value.message


def test_sections_are_listed_for_an_unknown_one():
    with pytest.raises(UnknownName) as caught:
        load_config(flags={"zzz.epochs": 1})
    for section in [*SECTIONS, "network", "variant"]:
        assert section in caught.value.message


# --- values that cannot be used ------------------------------------------------------------


@pytest.mark.parametrize(
    "assignment",
    [
        "train.epochs=0",
        "train.epochs=-1",
        "train.epochs=1.5",
        "train.epochs=many",
        "train.epochs=",
        "train.epochs=[1, 2]",
        "train.epochs=true",
        "train.patience=0",
        "train.learning_rate=0",
        "train.learning_rate=-0.1",
        "train.learning_rate=.nan",
        "train.learning_rate=.inf",
        "train.learning_rate=fast",
        "train.factor=0",
        "train.factor=1",
        "train.dtype=float16",
        "train.polish=all",
        "data.dataset=5",
        "data.limit_train=0",
        "data.limit_test=-3",
        "influence.hessian=total",
        "influence.damping=-0.01",
        "influence.damping=.nan",
        "influence.damping=.inf",
        "influence.normalisation=n-2",
        "retrain.epochs=0",
        "retrain.removals=40",
        "retrain.normalisation=1",
        "retrain.swa_restart=best",
        "retrain.trajectory=perhaps",
        "retrain.trajectory_every=0",
        "eigen.top=0",
        "evaluate.top_k=0",
        "evaluate.confidence=0",
        "evaluate.confidence=95",
        "evaluate.bootstrap_samples=-1",
        "evaluate.min_spearman=1.5",
        "study.sizes=5",
        "study.sizes=[5]",
        "study.sizes={depth: 1}",
        "study.variants=5",
        "study.estimators=",
        "study.estimators=5",
        "study.truths=7",
        "run.threads=0",
        "run.device=0",
    ],
)
def test_unusable_value_is_named_with_what_was_expected(assignment):
    key = assignment.partition("=")[0]
    with pytest.raises(UnusableInput) as caught:
        load_config(assignments=(assignment,))
    assert not isinstance(caught.value, UnknownName)
    assert caught.value.exit_code == 2
    assert key in caught.value.message
    assert key in caught.value.remedy


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.epochs=-1", "train.epochs is -1: input should be greater than or equal to 1."),
        ("train.dtype=half", "train.dtype is 'half': input should be 'float32' or 'float64'."),
        ("train.seeds=5..2", "train.seeds is '5..2': '5..2' names no seed; give a count of at"),
    ],
)
def test_message_says_what_was_got_and_what_was_expected(assignment, message):
    with pytest.raises(UnusableInput) as caught:
        load_config(assignments=(assignment,))
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize("key", ["estimators", "truths", "variants"])
def test_list_without_names_is_refused(key):
    with pytest.raises(UnusableInput, match=rf"study\.{key}"):
        config_from_dict({"study": {key: []}})


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("value", [5, "text", [1]], ids=repr)
def test_section_that_is_no_mapping_is_refused(section, value):
    with pytest.raises(UnusableInput, match=f"^{section} is "):
        config_from_dict({section: value})


@pytest.mark.parametrize("values", [{1: 2}, {"train": {1: 2}}], ids=repr)
def test_key_that_is_no_text_is_refused(values):
    with pytest.raises(UnusableInput, match="1"):
        config_from_dict(values)


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("train.epochs", "7", 7),
        ("train.epochs", 7.0, 7),
        ("train.learning_rate", "1e-3", 0.001),  # YAML reads 1e-3 as text
        ("influence.damping", 0, 0.0),
        ("evaluate.min_spearman", -1, -1.0),
        ("evaluate.bootstrap_samples", 0, 0),
        ("data.limit_train", None, None),
        ("study.variants", None, None),
        ("study.variants", "l2", ("l2",)),
        ("study.estimators", ["paper"], ("paper",)),
        ("study.truths", " warm:all , newton", ("warm:all", "newton")),
    ],
)
def test_usable_value_is_read(key, value, read):
    found = value_of(load_config(flags={key: value} if value is not None else {}), key)
    assert (found, type(found)) == (read, type(read))


# --- seeds ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seeds"),
    [
        (1, (0,)),
        (3, (0, 1, 2)),
        ("3", (0, 1, 2)),
        ("3,7,11", (3, 7, 11)),
        ("7,3", (7, 3)),
        ("5..8", (5, 6, 7, 8)),
        ("0..2,10", (0, 1, 2, 10)),
        ("4..4", (4,)),
        ([7], (7,)),
        ([2, 0], (2, 0)),
        ((2, 0), (2, 0)),
    ],
    ids=repr,
)
def test_seeds_are_a_count_a_list_or_ranges(value, seeds):
    assert load_config(flags={"train.seeds": value}).train.seeds == seeds


@pytest.mark.parametrize(
    "value",
    [
        0,
        -3,
        "0",
        "-1,3",
        "3..1",
        "3,3",
        "1..3,2",
        "",
        "three",
        "1;2",
        "1,",
        "--5",
        "1.5",
        "²",
        1.5,
        True,
        [],
        ["x"],
        [-1],
        [1, 1],
        [1.5, 2.7],
        [None],
        [[1]],
        {"first": 1},
    ],
    ids=repr,
)
def test_unusable_seeds_are_refused(value):
    with pytest.raises(UnusableInput, match=r"train\.seeds") as caught:
        load_config(flags={"train.seeds": value})
    assert caught.value.exit_code == 2


def test_no_seeds_at_all_are_refused():
    with pytest.raises(UnusableInput, match=r"train\.seeds"):
        config_from_dict({"train": {"seeds": None}})


# --- lists of integers ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "integers"),
    [
        ("5", (5,)),
        (5, (5,)),
        ("-2", (-2,)),
        ("5,8,14", (5, 8, 14)),
        (" 5 , 8 ", (5, 8)),
        ("1..8", tuple(range(1, 9))),
        ("1 .. 3", (1, 2, 3)),
        ("1..3,7", (1, 2, 3, 7)),
        ("-1..1", (-1, 0, 1)),
        ("8..1", ()),
        ("5,5", (5, 5)),
        ([1, 2], (1, 2)),
    ],
    ids=repr,
)
def test_integers_are_read(text, integers):
    assert parse_integers(text) == integers


@pytest.mark.parametrize(
    "text", ["", "a", "1..", "..8", "1...3", "1-8", "1.5", "1,,2", "1,2,", None]
)
def test_what_is_no_list_of_integers_shows_the_forms(text):
    with pytest.raises(ValueError, match=r"not a list of integers such as 5, 5,8,14 or 1\.\.8"):
        parse_integers(text)


# --- files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n", "{}"])
def test_file_without_content_departs_from_nothing(yaml_file, text):
    assert load_config(yaml_file(text)) == Config()


@pytest.mark.parametrize(
    "text",
    ["{", "train: [1", "\tx: 1", "a: 1\n---\nb: 2", "a: &x\nb: *y", "!!python/name:os.system ''"],
)
def test_file_that_is_no_yaml_is_named(yaml_file, text):
    with pytest.raises(UnusableInput, match=r"config\.yaml is not YAML") as caught:
        load_config(yaml_file(text))
    assert "configs/iris.yaml" in caught.value.remedy


@pytest.mark.parametrize(("text", "kind"), [("5", "int"), ("- a", "list"), ("train", "str")])
def test_file_that_holds_no_sections_is_named(yaml_file, text, kind):
    with pytest.raises(UnusableInput, match=rf"config\.yaml holds a {kind}; expected sections"):
        load_config(yaml_file(text))


def test_file_of_objects_runs_no_code(yaml_file, tmp_path):
    target = tmp_path / "made"
    with pytest.raises(UnusableInput, match="is not YAML"):
        load_config(yaml_file(f"train: !!python/object/apply:os.mkdir ['{target}']"))
    assert not target.exists()


def test_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UnusableInput, match=r"cannot read the configuration .*irsi\.yaml"):
        load_config(tmp_path / "irsi.yaml")


def test_folder_in_place_of_a_file_is_named(tmp_path):
    with pytest.raises(UnusableInput, match="cannot read the configuration"):
        load_config(tmp_path)


def test_file_in_another_encoding_is_named(tmp_path):
    (tmp_path / "config.yaml").write_bytes("data: {data_dir: Größe}".encode("latin-1"))
    with pytest.raises(UnusableInput, match=r"cannot read the configuration .*config\.yaml"):
        load_config(tmp_path / "config.yaml")


# --- round trips ---------------------------------------------------------------------------

EVERYTHING = {
    "data": {"test_points": "ids:83", "data_dir": "/data", "limit_train": 20},
    "network": {"name": "mlp", "depth": 3, "width": 8},
    "variant": {"name": "l2-swa", "weight_decay": 0.1},
    "train": {"seeds": [7], "epochs": 5, "dtype": "float64", "learning_rate": 0.1},
    "influence": {"damping": 0.5, "normalisation": "n"},
    "retrain": {"truth": "newton", "trajectory": True},
    "evaluate": {"min_spearman": -0.5},
    "study": {"sizes": [{"depth": "1..8", "width": 5}, {"width": [5, 8]}], "variants": ["swa"]},
    "run": {"threads": 2},
}


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["default", "everything"])
def test_configuration_survives_json_and_yaml(yaml_file, values):
    config = config_from_dict(values)
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert load_config(yaml_file(yaml.safe_dump(config.to_dict()))) == config


def test_written_out_configuration_has_every_key_and_options_beside_the_name():
    plain = config_from_dict(EVERYTHING).to_dict()
    assert plain["network"] == {"name": "mlp", "depth": 3, "width": 8}
    assert plain["train"]["seeds"] == [7]
    assert plain["study"]["sizes"] == EVERYTHING["study"]["sizes"]
    for section in SECTIONS:
        fields = dataclasses.fields(getattr(Config(), section))
        assert set(plain[section]) == {field.name for field in fields}


@pytest.mark.parametrize("section", SECTIONS)
def test_sections_are_frozen(section):
    config = Config()
    part = getattr(config, section)
    name = dataclasses.fields(part)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(part, name, getattr(part, name))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, section, part)


def test_choices_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().network.name = "vgg"


def test_loading_does_not_change_what_it_was_given():
    flags = {"network.width": 8, "study.sizes": [{"depth": 1}]}
    values = {"network": {"width": 8}}
    load_config(flags=flags, assignments=("network.depth=2",))
    config_from_dict(values)
    assert flags == {"network.width": 8, "study.sizes": [{"depth": 1}]}
    assert values == {"network": {"width": 8}}
    assert Config() == load_config()


# --- differences ---------------------------------------------------------------------------


def test_equal_configurations_differ_in_nothing():
    assert differences(Config().to_dict(), load_config().to_dict()) == []


def test_each_difference_is_one_line_with_both_values():
    ours = load_config(flags={"train.epochs": 100, "network.width": 8, "run.device": "cpu"})
    assert sorted(differences(ours.to_dict(), Config().to_dict())) == [
        "network.width: 8, was None",
        "run.device: 'cpu', was 'auto'",
        "train.epochs: 100, was 60000",
    ]


@pytest.mark.parametrize(
    ("ours", "theirs", "lines"),
    [
        ({"a": 1}, {}, ["a: 1, was None"]),
        ({}, {"a": {"b": 2}}, ["a.b: None, was 2"]),
        ({"a": [1, 2]}, {"a": [1]}, ["a: [1, 2], was [1]"]),
        ({"a": {}}, {"a": {"b": 1}}, ["a: {}, was None", "a.b: None, was 1"]),
        ({"a": None}, {}, []),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 1}}}, []),
    ],
)
def test_differences_of_nested_values(ours, theirs, lines):
    assert differences(ours, theirs) == lines


def test_flatten_yields_every_leaf_once():
    nested = {"a": 1, "b": {"c": 2, "d": {"e": 3}}, "f": {}, "g": [{"h": 4}]}
    leaves = [("a", 1), ("b.c", 2), ("b.d.e", 3), ("f", {}), ("g", [{"h": 4}])]
    assert list(flatten(nested)) == leaves


# --- configs/ ------------------------------------------------------------------------------


def without(values: dict[str, Any], dotted: str) -> dict[str, Any]:
    """A copy of nested values that lacks one leaf."""
    head, _, rest = dotted.partition(".")
    kept = {key: value for key, value in values.items() if key != head}
    return {**kept, head: without(values[head], rest)} if rest else kept


def test_the_studies_of_the_readme_are_there():
    assert {"iris.yaml", "iris-authors.yaml"} <= {path.name for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_file_loads_and_states_only_departures(path):
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    config = load_config(path)
    leaves = [key for key, _ in flatten(values)]
    assert leaves
    for key in leaves:
        assert config_from_dict(without(values, key)) != config, f"{key} is the default"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_file_says_what_it_is_for(path):
    first_line = path.read_text(encoding="utf-8").split("\n")[0]
    assert first_line.startswith("# ")


# --- the studies of networks ------------------------------------------------------------------


def test_a_network_brings_the_settings_of_its_study():
    config = load_config(flags={"network.name": "lenet"})
    assert (config.train.batch_size, config.train.epochs, config.retrain.epochs) == (1_024, 100, 30)
    assert config.variant == Choice("l2", {"weight_decay": 0.001})
    assert load_config().train.batch_size is None


@pytest.mark.parametrize("variant", ["l2", "l2-swa"])
def test_the_study_s_options_are_of_the_variant_that_is_chosen(variant):
    flags = {"network.name": "fc", "variant.name": variant}
    assert load_config(flags=flags).variant == Choice(variant, {"weight_decay": 0.001})
    flags["variant.name"] = "bnn"
    assert load_config(flags=flags).variant == Choice("bnn", {})


def test_what_is_given_wins_over_the_study(yaml_file):
    file = yaml_file("network: fc\ntrain: {epochs: 7}\nvariant: {weight_decay: 0.5}")
    config = load_config(file, flags={"train.patience": 3}, assignments=("retrain.epochs=9",))
    assert (config.train.epochs, config.train.patience, config.retrain.epochs) == (7, 3, 9)
    assert config.train.amsgrad
    assert config.variant == Choice("l2", {"weight_decay": 0.5})


def test_what_a_run_holds_decides_where_nothing_is_given():
    assert load_config(network="vgg13").retrain.epochs == 100
    assert load_config(flags={"network.name": "mlp"}, network="vgg13").retrain.epochs == 7_500


def test_studies_are_of_networks_that_exist_and_make_valid_settings():
    from ifcheck.config.studies import STUDIES
    from ifcheck.models import NETWORKS

    for name in STUDIES:
        assert name in NETWORKS
        assert load_config(network=name).study.variants is not None


@pytest.mark.parametrize("text", ["1e-8", "1E-8", "+1e-8", "10e-9"])
def test_a_number_without_a_point_is_a_number(text, tmp_path):
    """YAML 1.1 takes it for a text, which options that nobody types would keep."""
    key = "influence.solver_options.tolerance"
    given = load_config(assignments=(f"{key}={text}",)).influence.solver_options
    assert given == {"tolerance": 1e-8}
    file = tmp_path / "config.yaml"
    file.write_text(f"influence: {{solver_options: {{tolerance: {text}}}}}")
    assert load_config(file).influence.solver_options == {"tolerance": 1e-8}

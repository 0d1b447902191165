"""The cells of a study: which sizes and variants, how they are called, what they run under."""

import csv
from pathlib import Path

import pytest

from ifcheck.config import Choice, Config, config_from_dict, load_config
from ifcheck.errors import UnknownName, UnusableInput
from ifcheck.stages.cells import cells_of

CONFIGS = Path(__file__).parents[2] / "configs"
VARIANTS = ["none", "swa", "l2", "l2-swa"]
# Figure 1 of the paper: depth 1 to 8 at width 5, and seven widths at depth 1.
DEPTHS = [(depth, 5) for depth in range(1, 9)]
WIDTHS = [(1, width) for width in (5, 8, 14, 20, 30, 40, 50)]


def study(**values) -> Config:
    return config_from_dict({"study": {"variants": ["l2"], **values}})


def sizes(config: Config) -> list[tuple[int, int]]:
    return [(cell.options["depth"], cell.options["width"]) for cell in cells_of(config)]


def ids(config: Config) -> list[str]:
    return [cell.id for cell in cells_of(config)]


# --- which cells ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["iris.yaml", "iris-authors.yaml"])
def test_sweeps_of_the_paper_share_one_of_their_14_sizes(name):
    config = load_config(CONFIGS / name, {"study.variants": "l2"})
    assert sizes(config) == list(dict.fromkeys(DEPTHS + WIDTHS))
    assert len(set(sizes(config))) == 14


@pytest.mark.parametrize("name", ["iris.yaml", "iris-authors.yaml"])
def test_every_variant_is_studied_at_every_size_unless_some_are_named(name):
    cells = cells_of(load_config(CONFIGS / name))
    variants = [cell.config.variant.name for cell in cells]
    assert set(variants) >= set(VARIANTS)
    assert len(cells) == 14 * len(set(variants))
    assert all(variants.count(variant) == 14 for variant in VARIANTS)


def test_variants_stand_together_within_a_size():
    config = study(variants=["swa", "none"], sizes=[{"depth": "1,2"}])
    order = [(cell.options["depth"], cell.config.variant.name) for cell in cells_of(config)]
    assert order == [(1, "swa"), (1, "none"), (2, "swa"), (2, "none")]


@pytest.mark.parametrize(
    ("sweeps", "expected"),
    [
        ([], [(1, 5)]),
        ([{}], [(1, 5)]),
        ([{"depth": 3}], [(3, 5)]),
        ([{"depth": "3"}], [(3, 5)]),
        ([{"depth": [3, 1]}], [(3, 5), (1, 5)]),
        ([{"depth": "2..4"}], [(2, 5), (3, 5), (4, 5)]),
        ([{"width": "5,8", "depth": "1..2"}], [(1, 5), (2, 5), (1, 8), (2, 8)]),
        ([{"depth": "1,2", "width": [8]}], [(1, 8), (2, 8)]),
        ([{"depth": "1..3"}, {"width": "5,8"}], [(1, 5), (2, 5), (3, 5), (1, 8)]),
        ([{"depth": "2,2"}, {"depth": 2}], [(2, 5)]),
    ],
    ids=str,
)
def test_sweep_is_crossed_within_and_sweeps_are_united(sweeps, expected):
    assert sizes(study(sizes=sweeps)) == expected


def test_size_that_is_not_swept_is_that_of_the_network():
    config = config_from_dict(
        {
            "network": {"depth": 4, "activation": "tanh"},
            "study": {"variants": "l2", "sizes": [{"width": "5,8"}]},
        }
    )
    assert sizes(config) == [(4, 5), (4, 8)]
    assert {cell.options["activation"] for cell in cells_of(config)} == {"tanh"}


def test_sweep_wins_over_the_size_of_the_network():
    config = config_from_dict(
        {"network": {"depth": 4}, "study": {"variants": "l2", "sizes": [{"depth": 2}]}}
    )
    assert sizes(config) == [(2, 5)]


def test_options_that_are_text_are_swept_as_a_list():
    config = study(sizes=[{"activation": ["selu", "tanh"]}, {"activation": "relu"}])
    assert [cell.options["activation"] for cell in cells_of(config)] == ["selu", "tanh", "relu"]


def test_variant_named_twice_is_studied_once():
    assert ids(study(variants=["l2", "none", "l2"])) == [
        "iris-mlp-depth1-width5-selu-l2",
        "iris-mlp-depth1-width5-selu-none",
    ]


# --- names ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({}, "iris-mlp-depth1-width5-selu-l2"),
        ({"network": {"width": 50}}, "iris-mlp-depth1-width50-selu-l2"),
        ({"network": {"depth": 8, "activation": "tanh"}}, "iris-mlp-depth8-width5-tanh-l2"),
    ],
    ids=repr,
)
def test_id_spells_the_parameters_defaults_included(values, name):
    assert ids(config_from_dict({**values, "study": {"variants": "l2"}})) == [name]


def test_id_does_not_depend_on_the_order_in_which_options_are_given():
    first = study(sizes=[{"depth": 3, "width": 8}])
    second = study(sizes=[{"width": 8, "depth": 3}])
    assert ids(first) == ids(second) == ["iris-mlp-depth3-width8-selu-l2"]


def test_ids_of_the_whole_study_differ_and_can_be_folders():
    names = ids(load_config(CONFIGS / "iris.yaml"))
    assert len(set(names)) == len(names) == 14 * len({n.split("-selu-")[1] for n in names})
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in names)


# --- what a cell runs under ----------------------------------------------------------------


def test_cell_is_the_study_s_configuration_with_its_own_network_and_variant():
    config = config_from_dict(
        {
            "train": {"epochs": 7},
            "retrain": {"removals": "random:3"},
            "study": {"variants": ["none", "l2"], "sizes": [{"depth": "2"}]},
        }
    )
    for cell in cells_of(config):
        assert cell.config.network == Choice("mlp", {"depth": 2})
        assert (cell.config.train, cell.config.retrain) == (config.train, config.retrain)
    assert [cell.config.variant for cell in cells_of(config)] == [Choice("none"), Choice("l2")]


@pytest.mark.parametrize("own", ["l2", "l2-swa"])
def test_options_of_a_variant_do_not_carry_over_to_others(own):
    config = config_from_dict(
        {
            "variant": {"name": own, "weight_decay": 0.1},
            "study": {"variants": VARIANTS},
        }
    )
    options = {cell.config.variant.name: cell.config.variant.options for cell in cells_of(config)}
    assert options == {variant: {} for variant in VARIANTS} | {own: {"weight_decay": 0.1}}


def test_columns_say_which_cell_a_row_belongs_to():
    (cell,) = cells_of(study(sizes=[{"depth": 3, "width": 8}]))
    assert cell.columns == {
        "cell": "iris-mlp-depth3-width8-selu-l2",
        "dataset": "iris",
        "network": "mlp",
        "depth": 3,
        "width": 8,
        "activation": "selu",
        "variant": "l2",
    }


def test_columns_suit_the_released_figures():
    released = Path(__file__).parents[2] / "ifcheck" / "published.csv"
    with released.open(encoding="utf-8") as file:
        assert set(next(csv.reader(file))) >= {"dataset", "network", "activation", "variant"}
    (cell,) = cells_of(study())
    assert set(cell.columns) >= {"dataset", "network", "activation", "variant"}


# --- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "unknown", "near"),
    [
        ({"variants": ["l3"]}, "variant 'l3'", "l2"),
        ({"variants": ["l2", "swaa"]}, "variant 'swaa'", "swa"),
        ({"sizes": [{"dept": 3}]}, "option of network 'mlp': 'dept'", "depth"),
        ({"sizes": [{"depth": 1}, {"widht": "5,8"}]}, "'widht'", "width"),
    ],
    ids=str,
)
def test_unknown_name_is_refused_with_the_nearest(values, unknown, near):
    with pytest.raises(UnknownName) as caught:
        cells_of(study(**values))
    assert unknown in caught.value.message
    assert f"Did you mean {near!r}?" in caught.value.remedy


def test_unknown_network_is_refused_with_the_nearest():
    with pytest.raises(UnknownName, match="unknown network 'mpl'") as caught:
        cells_of(config_from_dict({"network": "mpl"}))
    assert "Did you mean 'mlp'?" in caught.value.remedy


@pytest.mark.parametrize(
    "value", [0, -1, "0..2", "-1", 1.5, "1.5", "", None, True, ["1..3"], [1.5], [None], "deep"]
)
def test_size_that_no_network_can_have_is_refused(value):
    with pytest.raises(UnusableInput, match=r"depth is .*; expected an integer of at least 1"):
        cells_of(study(sizes=[{"depth": value}]))


@pytest.mark.parametrize("value", ["8..1", []], ids=["range downwards", "empty list"])
def test_sweep_over_nothing_is_refused(value):
    with pytest.raises(UnusableInput, match="depth") as caught:
        cells_of(study(sizes=[{"depth": value}]))
    assert caught.value.exit_code == 2


def test_option_that_the_variant_does_not_have_is_refused():
    values = {"variant": {"name": "none", "weight_decay": 0.1}, "study": {"variants": ["none"]}}
    with pytest.raises(UnknownName, match="option of variant 'none': 'weight_decay'"):
        cells_of(config_from_dict(values))


@pytest.mark.parametrize("value", [0, -0.1, "high"])
def test_option_that_the_variant_rejects_is_refused(value):
    values = {"variant": {"name": "l2", "weight_decay": value}, "study": {"variants": ["l2"]}}
    with pytest.raises(UnusableInput, match="variant 'l2' rejects"):
        cells_of(config_from_dict(values))

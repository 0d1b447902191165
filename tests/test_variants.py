"""Variants: what each descends and how it trains."""

from dataclasses import replace

import pytest

from ifcheck.engines import Averaging, Recipe
from ifcheck.errors import UnknownName, UnusableInput
from ifcheck.models import VariationalSpec
from ifcheck.models.mlp import MLPSpec
from ifcheck.objective import Objective, VariationalObjective
from ifcheck.variants import VARIANTS

# not the defaults, so that a variant cannot restore them unnoticed
PLAIN = Recipe(400, learning_rate=0.02, patience=7, factor=0.3, threshold=1e-3, record_every=25)
NAMES = ["none", "swa", "l2", "l2-swa"]


def test_the_paper_s_variants_are_there():
    assert list(VARIANTS) == [*NAMES, "bnn"]


@pytest.mark.parametrize(
    ("name", "weight_decay"), [("none", 0.0), ("swa", 0.0), ("l2", 0.005), ("l2-swa", 0.005)]
)
def test_objective_of_a_variant(name, weight_decay):
    assert VARIANTS.create(name).objective(rows=10) == Objective(weight_decay)


@pytest.mark.parametrize("name", ["none", "l2"])
def test_without_averaging_the_recipe_is_the_plain_one(name):
    assert VARIANTS.create(name).recipe(PLAIN) == PLAIN


@pytest.mark.parametrize("name", ["swa", "l2-swa"])
@pytest.mark.parametrize(
    ("epochs", "start", "anneal_epochs"),
    [(60_000, 45_000, 6_000), (400, 300, 40), (10, 7.5, 1), (9, 6.75, 0)],
)
def test_averaging_takes_the_last_quarter_and_anneals_over_a_tenth(
    name, epochs, start, anneal_epochs
):
    recipe = VARIANTS.create(name).recipe(replace(PLAIN, epochs=epochs))
    averaging = Averaging(start=start, anneal_epochs=anneal_epochs, learning_rate=1e-3)
    assert recipe == replace(PLAIN, epochs=epochs, averaging=averaging)


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_the_one_that_was_asked_for(name):
    spec = MLPSpec(depth=3, width=7, activation="tanh")
    assert VARIANTS.create(name).network(spec) is spec


@pytest.mark.parametrize("name", ["l2", "l2-swa"])
def test_weight_decay_is_an_option(name):
    assert VARIANTS.create(name, {"weight_decay": 0.1}).objective(rows=10) == Objective(0.1)


@pytest.mark.parametrize("name", ["l2", "l2-swa"])
@pytest.mark.parametrize("weight_decay", [0.0, -0.1, float("nan")])
def test_weight_decay_must_be_positive(name, weight_decay):
    with pytest.raises(UnusableInput, match="expected a positive number") as error:
        VARIANTS.create(name, {"weight_decay": weight_decay})
    assert error.value.remedy == "Its options are: weight_decay."


@pytest.mark.parametrize("name", ["none", "swa"])
def test_variants_without_weight_decay_have_no_such_option(name):
    with pytest.raises(UnknownName, match="'weight_decay'"):
        VARIANTS.create(name, {"weight_decay": 0.1})


def test_the_bayesian_variant_trains_another_network_on_another_objective():
    variant = VARIANTS.create("bnn", {"kl_weight": 0.5, "noise": 0.2, "rho": -3.0})
    spec = MLPSpec(depth=3)
    assert variant.network(spec) == VariationalSpec(spec, rho=-3.0)
    assert variant.objective(rows=10) == VariationalObjective(rows=10, kl_weight=0.5, noise=0.2)
    assert variant.recipe(PLAIN) == PLAIN


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("kl_weight", 0.0),
        ("noise", -1.0),
        ("likelihood", "gaussian"),
        ("jacobian", "none"),
        ("means", "zeros"),
        ("rho_spread", -1.0),
    ],
)
def test_the_bayesian_variant_s_options_are_checked(option, value):
    with pytest.raises(UnusableInput, match=f"{option} is {value!r}; expected"):
        VARIANTS.create("bnn", {option: value})


def test_an_unknown_variant_suggests_a_near_one():
    with pytest.raises(UnknownName, match="unknown variant 'l2swa'") as error:
        VARIANTS.create("l2swa")
    assert "Did you mean 'l2-swa'?" in error.value.remedy

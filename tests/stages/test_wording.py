"""How numbers and names read: undefined is a dash, parts that all have in common are left out."""

import math

import pytest

from ifcheck.stages.wording import (
    between,
    interval,
    number,
    pair_name,
    share,
    size_name,
    truth_name,
)


@pytest.mark.parametrize(
    ("mean", "half_width", "text"),
    [
        (0.5, 0.25, "0.50±.25"),
        (1.0, 0.0, "1.00±.00"),
        (0.123, 1.5, "0.12±1.50"),
        (0.5, float("nan"), "0.50"),
        (float("nan"), float("nan"), "–"),
    ],
)
def test_intervals_are_short(mean, half_width, text):
    assert interval(mean, half_width) == text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.123456, 3, "0.123"),
        (0.123456, 2, "0.12"),
        (-12345.6, 3, "-1.23e+04"),
        (math.inf, 3, "∞"),
        (None, 3, "–"),
        (float("nan"), 3, "–"),
    ],
)
def test_numbers_have_significant_digits_or_a_dash(value, digits, text):
    assert number(value, digits) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(0.123, 0.98765, "0.12 to 0.99"), (math.nan, math.nan, "–"), (None, None, "–")],
)
def test_an_interval_by_its_ends(low, high, text):
    assert between(low, high) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.98765, "99%"), (-0.5, "-50%"), (math.nan, "–"), (None, "–")]
)
def test_a_share_is_in_percent(value, text):
    assert share(value) == text


def test_names_of_pairs_are_without_what_all_have():
    files = {"influence": "influence-second-order.npz", "retrain": "retrain-warm-all.npz"}
    assert pair_name(files) == "second-order / warm-all"


def test_a_truth_says_its_parameters_unless_it_moves_the_head():
    assert truth_name({"truth": "warm", "retrain_params": "head"}) == "warm"
    assert truth_name({"truth": "warm", "retrain_params": "all"}) == "warm:all"


def test_a_network_without_sizes_goes_by_its_name():
    assert size_name({"depth": 8, "width": 50, "network": "mlp"}) == "8x50"
    assert size_name({"depth": None, "width": None, "network": "lenet"}) == "lenet"

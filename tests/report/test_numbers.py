"""How numbers are shown, and what undefined ones say."""

import math

import pytest

from ifcheck.report import between, interval, number, share


@pytest.mark.parametrize(
    ("shown", "text", "value"),
    [
        (number(0.123456), "0.123", 0.123456),
        (number(1234.5), "1.23e+03", 1234.5),
        (number(0), "0", 0.0),
        (number(3, digits=1), "3", 3.0),
        (number(math.inf), "∞", math.inf),
        (number(-math.inf), "-∞", -math.inf),
        (share(0.256), "26%", 0.256),
        (share(-0.5), "-50%", -0.5),
        (interval(0.521, 0.079), "0.52 ± 0.08", 0.521),
        (interval(0.521, None), "0.52", 0.521),
        (interval(0.521, math.nan), "0.52", 0.521),
        (interval(math.inf, 0.1), "∞", math.inf),
        (between(-0.123, 0.456), "-0.12 to 0.46", -0.123),
    ],
)
def test_a_defined_number_has_its_digits_and_its_value(shown, text, value):
    assert (shown.text, shown.value, shown.reason) == (text, value, "")


@pytest.mark.parametrize(
    "shown",
    [
        number(None, "why"),
        number(math.nan, "why"),
        share(None, "why"),
        share(math.nan, "why"),
        interval(None, 0.1, "why"),
        interval(math.nan, 0.1, "why"),
        between(None, 1.0, "why"),
        between(0.0, math.nan, "why"),
    ],
)
def test_an_undefined_number_is_a_dash_with_its_reason(shown):
    assert (shown.text, shown.value, shown.reason) == ("–", None, "why")


def test_an_undefined_number_is_never_without_a_reason():
    assert number(None).reason == "not computed"

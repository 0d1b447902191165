"""The registry: one registration is the whole addition, and mistakes are named."""

from dataclasses import dataclass

import pytest

from ifcheck.errors import EXIT_UNUSABLE_INPUT, UnknownName, UnusableInput
from ifcheck.registry import Registry


@pytest.fixture
def animals():
    registry: Registry[object] = Registry("animal")

    @registry.register("horse")
    @dataclass(frozen=True)
    class Horse:
        """Runs fast.

        Eats oats.
        """

        legs: int = 4
        name: str = "Bella"

        def __post_init__(self) -> None:
            if self.legs < 1:
                raise ValueError(f"legs is {self.legs}; expected at least 1")

    @registry.register("snake")
    @dataclass(frozen=True)
    class Snake:
        pass

    return registry


def test_names_come_in_the_order_of_registration(animals):
    assert list(animals) == ["horse", "snake"]
    assert "horse" in animals
    assert "cow" not in animals
    assert 3 not in animals


def test_registering_leaves_the_class_as_it_is():
    registry: Registry[object] = Registry("animal")

    class Cow:
        pass

    assert registry.register("cow")(Cow) is Cow


def test_a_taken_name_is_refused_and_keeps_its_entry(animals):
    with pytest.raises(ValueError, match="animal 'snake' is registered twice"):
        animals.register("snake")(int)
    assert type(animals.create("snake")).__name__ == "Snake"


def test_registries_do_not_share_names(animals):
    other: Registry[object] = Registry("animal")
    assert list(other) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (None, (4, "Bella")),
        ({}, (4, "Bella")),
        ({"legs": 3}, (3, "Bella")),
        ({"name": "Ria", "legs": 2}, (2, "Ria")),
    ],
)
def test_options_go_over_the_defaults(animals, options, expected):
    horse = animals.create("horse", options)
    assert (horse.legs, horse.name) == expected


def test_options_and_defaults_are_the_fields(animals):
    assert animals.options("horse") == {"legs": 4, "name": "Bella"}
    assert animals.options("snake") == {}


def test_help_is_the_first_line_of_the_docstring(animals):
    assert animals.help("horse") == "Runs fast."


@pytest.mark.parametrize("ask", ["create", "options", "help"])
def test_an_unknown_name_lists_the_known_and_suggests_a_near_one(animals, ask):
    with pytest.raises(UnknownName) as error:
        getattr(animals, ask)("hors")
    assert error.value.message == "unknown animal 'hors'; expected one of: horse, snake."
    assert "Did you mean 'horse'?" in error.value.remedy
    assert error.value.exit_code == EXIT_UNUSABLE_INPUT


def test_a_name_like_no_other_gets_no_suggestion(animals):
    with pytest.raises(UnknownName) as error:
        animals.create("zzz")
    assert "Did you mean" not in error.value.remedy
    assert error.value.remedy


def test_an_unknown_option_suggests_a_near_one(animals):
    with pytest.raises(UnknownName, match="option of animal 'horse': 'leg'") as error:
        animals.create("horse", {"leg": 3})
    assert "expected one of: legs, name." in error.value.message
    assert "Did you mean 'legs'?" in error.value.remedy


@pytest.mark.parametrize(
    ("legs", "reason"), [(0, "legs is 0; expected at least 1"), ("four", "not supported")]
)
def test_a_value_that_the_entry_rejects_is_named_with_its_reason(animals, legs, reason):
    with pytest.raises(UnusableInput, match="animal 'horse' rejects") as error:
        animals.create("horse", {"legs": legs})
    assert reason in error.value.message
    assert repr(legs) in error.value.message
    assert error.value.remedy == "Its options are: legs, name."
    assert isinstance(error.value.__cause__, (TypeError, ValueError))


def test_options_given_are_not_changed(animals):
    options = {"legs": 3}
    animals.create("horse", options)
    assert options == {"legs": 3}

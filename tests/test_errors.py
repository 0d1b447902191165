"""Errors: what they say, what they suggest, and the exit codes that scripts rely on."""

import pytest

from ifcheck import errors
from ifcheck.errors import IfcheckError, UnknownName

USAGE, WHILE_RUNNING = 2, 3  # the exit codes of the README


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("UnusableInput", USAGE),
        ("ArtifactUnreadable", USAGE),
        ("ArtifactMismatch", USAGE),
        ("OutputRefused", USAGE),
        ("RunFailed", WHILE_RUNNING),
        ("Diverged", WHILE_RUNNING),
    ],
)
def test_exit_code_of_each_kind_of_error(error, code):
    raised = getattr(errors, error)("what happened.", remedy="what to do.")
    assert raised.exit_code == code
    assert raised.message == str(raised) == "what happened."
    assert raised.remedy == "what to do."


def test_unknown_name_is_unusable_input():
    assert issubclass(UnknownName, errors.UnusableInput)
    assert UnknownName("variant", "l3", ["l2"]).exit_code == USAGE


@pytest.mark.parametrize("error", ["RunFailed", "Diverged"])
def test_failure_while_running_is_not_unusable_input(error):
    """A study goes on after the one and stops at the other."""
    assert issubclass(getattr(errors, error), errors.RunFailed)
    assert not issubclass(getattr(errors, error), errors.UnusableInput)


def test_every_error_is_caught_by_its_base_and_has_a_known_code():
    found, pending = [], [IfcheckError]
    while pending:
        error = pending.pop()
        found.append(error)
        pending += error.__subclasses__()
    assert {error.__name__ for error in found} >= {"UnusableInput", "RunFailed", "Diverged"}
    assert {error.exit_code for error in found} == {USAGE, WHILE_RUNNING}


def test_remedy_may_be_left_out():
    assert IfcheckError("what happened.").remedy == ""


def test_exit_codes_are_those_that_scripts_know():
    assert errors.EXIT_DONE == 0
    assert errors.EXIT_BELOW_THRESHOLD == 1
    assert errors.EXIT_UNUSABLE_INPUT == USAGE
    assert errors.EXIT_FAILED_WHILE_RUNNING == WHILE_RUNNING
    assert errors.EXIT_INTERRUPTED == 130


@pytest.mark.parametrize(
    ("name", "known", "near"),
    [
        ("irsi", ["iris", "digits"], "iris"),
        ("l3", ["none", "swa", "l2", "l2-swa"], "l2"),
        ("l2swa", ["none", "swa", "l2", "l2-swa"], "l2-swa"),
        ("train.epoch", ["train.epochs", "train.seeds"], "train.epochs"),
        ("objectiv", ["objective", "paper", "authors"], "objective"),
        ("newtn", {"warm": 1, "newton": 2}, "newton"),
        ("newtn", (name for name in ("warm", "newton")), "newton"),
    ],
)
def test_nearest_name_is_suggested(name, known, near):
    assert f"Did you mean {near!r}?" in UnknownName("thing", name, known).remedy


@pytest.mark.parametrize("name", ["xyz", "", 7, None])
def test_nothing_is_suggested_where_nothing_is_near(name):
    error = UnknownName("truth", name, ["warm", "newton"])
    assert "Did you mean" not in error.remedy
    assert error.remedy
    assert error.message == f"unknown truth {name!r}; expected one of: newton, warm."

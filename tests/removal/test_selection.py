"""Which rows are removed: orders, draws and readable refusals."""

import numpy as np
import pytest

from ifcheck.errors import UnusableInput
from ifcheck.removal.selection import largest, parse_count, parse_ids, random_rows

KNOWN = np.array([0, 1, 2, 3, 5, 8])


# --- largest -------------------------------------------------------------------------------


def test_largest_come_first_and_ties_by_position():
    assert largest(np.array([1.0, 3.0, 2.0, 3.0, 1.0]), 4).tolist() == [1, 3, 2, 0]


def test_many_ties_keep_their_order():
    values = np.random.default_rng(0).integers(0, 4, size=1_000).astype(float)
    expected = sorted(range(1_000), key=lambda position: -values[position])
    assert largest(values, 300).tolist() == expected[:300]


def test_values_that_are_not_numbers_come_last():
    assert largest(np.array([np.nan, 1.0, np.inf, -2.0]), 4).tolist() == [2, 1, 3, 0]


# --- counts --------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "count"), [("1", 1), ("40", 40), ("150", 150)])
def test_count_is_read(text, count):
    assert parse_count(text, f"top-loss:{text}", 150) == count


@pytest.mark.parametrize("text", ["", "0", "-3", "2.5", "many", " 4", "1e2", "²"])
def test_what_is_not_a_count_is_refused(text):
    with pytest.raises(UnusableInput, match="expected a count of at least 1") as caught:
        parse_count(text, f"top-loss:{text}", 150)
    assert f"'top-loss:{text}'" in caught.value.message
    assert "top-loss:40" in caught.value.remedy


def test_more_rows_than_there_are_is_refused():
    with pytest.raises(UnusableInput, match=r"'random:7' asks for 7 rows; .* 6 ") as caught:
        parse_count("7", "random:7", 6)
    assert "at most 6" in caught.value.remedy


# --- ids -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ids"), [("3", [3]), ("8,0,5", [8, 0, 5]), (" 1 , 2", [1, 2]), ("00,08", [0, 8])]
)
def test_ids_are_read_in_their_order(text, ids):
    assert parse_ids(text, f"ids:{text}", KNOWN).tolist() == ids


@pytest.mark.parametrize("text", ["", "1,", ",", "1;2", "one", "-1", "1.0", "1-3", "²"])
def test_what_is_not_a_list_of_ids_is_refused(text):
    with pytest.raises(UnusableInput, match="is not a list of row ids") as caught:
        parse_ids(text, f"ids:{text}", KNOWN)
    assert "ids:3,7,11" in caught.value.remedy


@pytest.mark.parametrize(("text", "missing"), [("4", 4), ("1,9,4", 9), ("1,99999", 99999)])
def test_row_that_is_not_there_is_named(text, missing):
    with pytest.raises(UnusableInput, match=f"names row {missing}, .* rows 0 to 8") as caught:
        parse_ids(text, f"ids:{text}", KNOWN)
    assert "held out" in caught.value.remedy


def test_id_beyond_64_bits_is_refused_like_any_unknown_row():
    with pytest.raises(UnusableInput, match="99999999999999999999"):
        parse_ids("99999999999999999999", "ids:99999999999999999999", KNOWN)


def test_row_named_twice_is_refused():
    with pytest.raises(UnusableInput, match="'ids:3,1,3' names a row twice"):
        parse_ids("3,1,3", "ids:3,1,3", KNOWN)


# --- random --------------------------------------------------------------------------------


def test_random_rows_are_different_and_in_range():
    rows = random_rows(30, 40, seed=0, purpose="removals")
    assert len(set(rows.tolist())) == 30
    assert rows.min() >= 0
    assert rows.max() < 40


def test_all_rows_can_be_drawn():
    assert sorted(random_rows(9, 9, 0, "removals").tolist()) == list(range(9))


def test_random_rows_depend_on_seed_and_purpose_alone():
    np.random.seed(0)
    first = random_rows(20, 150, 3, "removals").tolist()
    np.random.seed(1)
    assert random_rows(20, 150, 3, "removals").tolist() == first
    assert random_rows(20, 150, 4, "removals").tolist() != first
    assert random_rows(20, 150, 3, "audit").tolist() != first
    assert first != sorted(first)

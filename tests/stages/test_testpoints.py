"""Test points: the rows of largest leave-one-out loss, searched once, and rows named otherwise."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris

from ifcheck.artifacts import caches
from ifcheck.datasets import DATASETS
from ifcheck.datasets.iris import Iris
from ifcheck.errors import UnusableInput
from ifcheck.stages import testpoints
from ifcheck.stages.reporting import Silent
from ifcheck.stages.testpoints import choose_test_points, held_out_losses, watched_rows
from tests.benchmarks import sequential_loop as loop

IRIS = DATASETS.create("iris")
ROWS = 150


@pytest.fixture(scope="module")
def losses(module_cache) -> np.ndarray:
    """Losses of the one real search of this module. Shape: (rows,)."""
    return held_out_losses(IRIS, "iris", NobodyListens())


@pytest.fixture(scope="module")
def module_cache(tmp_path_factory):
    """The folder that the real search is cached in."""
    folder = tmp_path_factory.mktemp("searched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IFCHECK_CACHE_DIR", str(folder))
        yield folder


class NobodyListens:
    def step(self, label, total):
        return lambda done: None

    def note(self, message):
        raise AssertionError(message)


@pytest.fixture
def known_search(monkeypatch, tmp_path):
    """Replace the search by losses known beforehand, in a cache of the test's own.

    Returns the list of searches made; row 7 has the largest loss, then 3, then 100.
    """
    searches = []

    def search(dataset, reporter):
        searches.append(dataset)
        reporter.step("finding the test point", 10)(10)
        found = np.linspace(0.1, 0.2, ROWS)
        found[[7, 3, 100]] = [3.0, 2.0, 1.0]
        return found

    monkeypatch.setattr(testpoints, "_search", search)
    monkeypatch.setenv("IFCHECK_CACHE_DIR", str(tmp_path / "cache"))
    return searches


def chosen(specification: str, reporter=None) -> list[int]:
    ids = watched_rows(specification, IRIS, "iris", reporter or NobodyListens())
    assert ids.dtype == np.int64
    return ids.tolist()


# --- the real search -----------------------------------------------------------------------


def test_row_of_largest_loss_is_the_paper_s(losses):
    assert chosen("max-loss") == [83]
    assert losses.shape == (ROWS,)
    assert losses.argmax() == 83


def test_rows_of_largest_loss_come_by_falling_loss(losses):
    rows = chosen("max-loss:5")
    assert rows[0] == 83
    assert losses[rows].tolist() == sorted(losses.tolist(), reverse=True)[:5]


@pytest.mark.parametrize("row", [83, 0])
def test_loss_is_that_of_a_plain_loop_without_the_row(losses, row):
    """Float64, 1,000 epochs, weight decay 0.005, 149 rows standardised among themselves."""
    inputs, targets, test_input, test_target = loop.load_iris_without(row, torch.float64)
    start = testpoints.initialise(testpoints.SEARCH_NETWORK, (4,), 3, 0, torch.float64)
    model = loop.make_mlp(4, 5, 1, 3, "selu").double()
    model.load_state_dict(start.state_dict())
    with loop.one_thread():
        loop.train(model, inputs, targets, epochs=1000, weight_decay=0.005)
    expected = float(loop.row_losses(model, test_input, test_target)[0])
    assert losses[row] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("parts", [50, 40], ids=["equal parts", "unequal parts"])
def test_a_longer_table_is_left_out_part_by_part(monkeypatch, parts):
    """The part of row 83 is left out of a plain loop, which scales what is left."""
    monkeypatch.setattr(testpoints, "SEARCH_PARTS", parts)
    monkeypatch.setattr(testpoints, "SEARCH_EPOCHS", 100)
    found = testpoints._search(IRIS, Silent())
    part = next(rows for rows in np.array_split(np.arange(ROWS), parts) if 83 in rows)
    assert len(part) > 1
    table, labels = load_iris(return_X_y=True)
    kept = np.setdiff1d(np.arange(ROWS), part)
    scaled = (table - table[kept].mean(0)) / table[kept].std(0)
    inputs, targets = torch.from_numpy(scaled), torch.from_numpy(labels)
    start = testpoints.initialise(testpoints.SEARCH_NETWORK, (4,), 3, 0, torch.float64)
    model = loop.make_mlp(4, 5, 1, 3, "selu").double()
    model.load_state_dict(start.state_dict())
    with loop.one_thread():
        loop.train(model, inputs[kept], targets[kept], epochs=100, weight_decay=0.005)
    expected = loop.row_losses(model, inputs[part], targets[part]).detach()
    np.testing.assert_allclose(found[part], expected, rtol=1e-9)


def test_searched_losses_come_back_from_the_cache_bit_for_bit(losses, module_cache, monkeypatch):
    monkeypatch.setattr(testpoints, "_search", None)  # calling it would fail
    assert len(list(module_cache.glob("iris-*.json"))) == 1
    again = held_out_losses(IRIS, "iris", NobodyListens())
    assert again.tobytes() == losses.tobytes()


# --- the cache -----------------------------------------------------------------------------


def test_second_call_trains_nothing(known_search, recording_reporter):
    assert chosen("max-loss", recording_reporter) == [7]
    assert list(recording_reporter.totals) == ["finding the test point"]
    recording_reporter.totals.clear()
    assert chosen("max-loss:3", recording_reporter) == [7, 3, 100]
    assert recording_reporter.totals == {}
    assert recording_reporter.notes == []
    assert len(known_search) == 1


def test_limits_make_no_difference_to_the_search(known_search):
    limited = DATASETS.create("iris", {"limit_train": 20})
    assert watched_rows("max-loss", limited, "iris", NobodyListens()).tolist() == [7]
    assert known_search == [IRIS]


def test_cache_lies_in_the_folder_that_the_user_names(known_search, tmp_path):
    chosen("max-loss")
    (file,) = (tmp_path / "cache").iterdir()
    assert file.name.startswith("iris-")
    assert len(json.loads(file.read_text())) == ROWS


def test_cache_lies_in_the_user_s_cache_folder_otherwise(known_search, tmp_path, monkeypatch):
    monkeypatch.delenv("IFCHECK_CACHE_DIR")
    monkeypatch.setattr(caches.platformdirs, "user_cache_dir", lambda name: tmp_path / name)
    chosen("max-loss")
    assert len(list((tmp_path / "ifcheck").iterdir())) == 1


def test_other_code_searches_again(known_search, monkeypatch):
    chosen("max-loss")
    monkeypatch.setattr(testpoints.provenance, "code_revision", lambda: "0123456789abcdef")
    chosen("max-loss")
    assert len(known_search) == 2


def test_other_data_search_again(known_search):
    @dataclass(frozen=True)
    class Shifted(Iris):
        def load(self):
            inputs, targets = super().load()
            return inputs + 1e-9 * np.eye(*inputs.shape), targets

    chosen("max-loss")
    watched_rows("max-loss", Shifted(), "iris", NobodyListens())
    assert len(known_search) == 2


DAMAGED = {
    "empty": "",
    "half": "[0.5, 0.25, 0.1",
    "text": "hello",
    "object": '{"losses": [1.0]}',
    "number": "3.5",
    "null": "null",
    "too short": json.dumps([0.5] * (ROWS - 1)),
    "too long": json.dumps([0.5] * (ROWS + 1)),
    "of text": json.dumps(["a"] * ROWS),
    "of nulls": json.dumps([None] * ROWS),
    "of booleans": json.dumps([True] * ROWS),
    "of lists": json.dumps([[0.5, 1.0]] * ROWS),
    "of lists and numbers": json.dumps([[0.5]] + [0.5] * (ROWS - 1)),
    "not finite": json.dumps([float("nan")] * ROWS),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_cache_is_searched_again_and_mended(known_search, tmp_path, content):
    chosen("max-loss")
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_text()
    file.write_text(content)
    assert chosen("max-loss:3") == [7, 3, 100]
    assert len(known_search) == 2
    assert file.read_text() == whole


def test_cache_of_other_bytes_is_searched_again(known_search, tmp_path):
    chosen("max-loss")
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(b"\xff\xfe\x00")
    assert chosen("max-loss") == [7]
    assert len(known_search) == 2


def test_cache_below_a_file_is_told_and_the_search_stands(
    known_search, tmp_path, monkeypatch, recording_reporter
):
    (tmp_path / "notes.txt").touch()
    monkeypatch.setenv("IFCHECK_CACHE_DIR", str(tmp_path / "notes.txt" / "cache"))
    assert chosen("max-loss", recording_reporter) == [7]
    (note,) = recording_reporter.notes
    assert "not cached" in note
    assert "notes.txt" in note


def test_cache_on_a_full_disk_is_told_and_the_search_stands(
    known_search, tmp_path, monkeypatch, recording_reporter
):
    def full(*_, **__):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_text", full)
    assert chosen("max-loss", recording_reporter) == [7]
    (note,) = recording_reporter.notes
    assert "not cached" in note
    assert "No space left" in note
    assert list((tmp_path / "cache").iterdir()) == []


# --- rows by other means -------------------------------------------------------------------


@pytest.fixture
def no_search(monkeypatch):
    monkeypatch.setattr(testpoints, "_search", None)
    monkeypatch.setattr(testpoints, "held_out_losses", None)


@pytest.mark.parametrize(
    ("specification", "ids"),
    [("ids:83", [83]), ("ids:106,83,0", [106, 83, 0]), ("ids:0,149", [0, 149])],
)
def test_named_rows_come_in_their_order(no_search, specification, ids):
    assert chosen(specification) == ids


@pytest.mark.parametrize("count", [1, 20, ROWS - 1])
def test_random_rows_are_different_rows_of_the_table(no_search, count):
    rows = chosen(f"random:{count}")
    assert len(rows) == len(set(rows)) == count
    assert set(rows) <= set(range(ROWS))


def test_random_rows_are_always_the_same_and_not_in_order(no_search):
    np.random.seed(1)
    first = chosen("random:20")
    np.random.seed(2)
    assert chosen("random:20") == first
    assert first != sorted(first)


def test_max_loss_may_take_all_but_one_row(known_search):
    rows = chosen(f"max-loss:{ROWS - 1}")
    assert rows[:3] == [7, 3, 100]
    assert sorted([*rows, 0]) == list(range(ROWS))  # row 0 has the smallest loss


# --- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        ("ids:", "is not a list of row ids"),
        ("ids:1;2", "is not a list of row ids"),
        ("ids:-1", "is not a list of row ids"),
        ("ids:150", "names row 150"),
        ("ids:3,3", "names a row twice"),
        ("random", "expected a count of at least 1"),
        ("random:0", "expected a count of at least 1"),
        ("random:x", "expected a count of at least 1"),
        ("random:150", "at most 149"),
        ("max-loss:0", "expected a count of at least 1"),
        ("max-loss:-1", "expected a count of at least 1"),
        ("max-loss:1.5", "expected a count of at least 1"),
        ("max-loss:150", "at most 149"),
    ],
)
def test_unusable_rows_are_refused_before_any_search(no_search, specification, message):
    with pytest.raises(UnusableInput, match=message) as caught:
        chosen(specification)
    assert repr(specification) in caught.value.message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "specification", ["", "max-los", "top-loss:3", "83", "MAX-LOSS", ":3", "like:run/x.npz"]
)
def test_unknown_form_shows_the_forms(no_search, specification):
    with pytest.raises(UnusableInput) as caught:
        chosen(specification)
    assert repr(specification) in caught.value.message
    assert "max-loss[:K], random:K or ids:1,2,3" in caught.value.message


@pytest.mark.parametrize("specification", ["random:0", "max-loss:x", "ids:150"])
def test_remedy_is_about_test_points(no_search, specification):
    with pytest.raises(UnusableInput) as caught:
        chosen(specification)
    assert "top-loss" not in caught.value.remedy
    assert "cannot be removed" not in caught.value.remedy


# --- a test set --------------------------------------------------------------------------------

MNIST = DATASETS.create("mnist", {"limit_test": 6})
LOSSES = np.array([[0.1, 3.0, 0.2, 2.0, 0.0, 1.0], [5.0, 0.0, 0.1, 0.2, 0.3, 5.0]])


def chosen_of_seeds(specification: str) -> list[list[int]]:
    watched = watched_rows(specification, MNIST, "mnist", NobodyListens())
    assert watched.tolist() == [*range(6)]
    return choose_test_points(specification, MNIST, watched, LOSSES).tolist()


def test_each_network_has_its_own_rows_of_largest_loss():
    assert chosen_of_seeds("max-loss") == [[1], [0]]
    assert chosen_of_seeds("max-loss:3") == [[1, 3, 5], [0, 5, 4]]
    assert chosen_of_seeds("max-loss:6") == [[1, 3, 5, 2, 0, 4], [0, 5, 4, 3, 2, 1]]


def test_a_network_that_failed_has_test_points_too():
    losses = np.vstack([LOSSES, np.full(6, np.nan)])
    found = choose_test_points("max-loss:2", MNIST, np.arange(6), losses)
    assert found.shape == (3, 2)
    assert np.isin(found, np.arange(6)).all()


@pytest.mark.parametrize("specification", ["random:2", "ids:4,2"])
def test_named_rows_of_a_test_set_are_the_same_for_all(specification):
    first, second = chosen_of_seeds(specification)
    assert first == second
    assert len(set(first)) == 2
    if specification == "ids:4,2":
        assert first == [4, 2]


@pytest.mark.parametrize(
    ("specification", "message"),
    [("max-loss:7", "at most 6 can be taken"), ("ids:6", "names row 6"), ("worst", "expected max")],
)
def test_what_a_test_set_does_not_have_is_refused_before_training(specification, message):
    with pytest.raises(UnusableInput, match=message):
        watched_rows(specification, MNIST, "mnist", NobodyListens())


def test_points_of_a_table_are_those_held_out():
    watched = watched_rows("ids:5,3", IRIS, "iris", NobodyListens())
    found = choose_test_points("ids:5,3", IRIS, watched, np.zeros((4, 2)))
    assert found.tolist() == [[5, 3]] * 4

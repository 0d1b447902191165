"""Iris: which rows are where, and on what they are standardised."""

import dataclasses

import numpy as np
import pytest
from sklearn.datasets import load_iris

from ifcheck.datasets import DATASETS
from ifcheck.errors import UnusableInput

IRIS = DATASETS.create("iris")
TABLE, LABELS = load_iris(return_X_y=True)
SPLITS = pytest.mark.parametrize("test_ids", [[83], [0], [149], [120, 3, 77], [*range(0, 150, 2)]])


def test_every_row_may_be_a_test_point():
    assert IRIS.row_ids.tolist() == [*range(150)]


@SPLITS
def test_test_points_keep_their_order_and_the_rest_is_for_training(test_ids):
    split = IRIS.split(test_ids)
    assert split.test_ids.tolist() == test_ids
    assert split.train_ids.tolist() == [i for i in range(150) if i not in test_ids]
    assert split.classes == 3


@SPLITS
def test_rows_are_standardised_on_the_training_rows_alone(test_ids):
    """Mean and population deviation of the training rows, for test points too."""
    split = IRIS.split(test_ids)
    training = np.delete(TABLE, test_ids, axis=0)
    mean, deviation = training.mean(axis=0), training.std(axis=0)
    np.testing.assert_allclose(split.train_inputs, (training - mean) / deviation, atol=1e-13)
    expected = (TABLE[test_ids] - mean) / deviation
    np.testing.assert_allclose(split.test_inputs, expected, atol=1e-13)


@SPLITS
def test_targets_belong_to_their_rows(test_ids):
    split = IRIS.split(test_ids)
    assert split.train_targets.tolist() == np.delete(LABELS, test_ids).tolist()
    assert split.test_targets.tolist() == LABELS[test_ids].tolist()


def test_types_and_shapes():
    split = IRIS.split([83, 2])
    expected = {
        "train_inputs": (np.float64, (148, 4)),
        "train_targets": (np.int64, (148,)),
        "train_ids": (np.int64, (148,)),
        "test_inputs": (np.float64, (2, 4)),
        "test_targets": (np.int64, (2,)),
        "test_ids": (np.int64, (2,)),
    }
    arrays = {name: getattr(split, name) for name in expected}
    assert {name: (a.dtype.type, a.shape) for name, a in arrays.items()} == expected


@pytest.mark.parametrize("test_ids", [[150], [-1], [3, 1000], [3, -150]])
def test_an_unknown_row_is_named(test_ids):
    with pytest.raises(UnusableInput, match=f"no row {test_ids[-1]}; expected ids from 0 to 149"):
        IRIS.split(test_ids)


def test_some_row_must_be_left_for_training():
    with pytest.raises(UnusableInput, match="expected some left to train on"):
        IRIS.split(range(150))


# --- the digest ------------------------------------------------------------------------------


def test_the_digest_is_the_same_for_the_same_split():
    assert IRIS.split([83]).digest == IRIS.split([83]).digest


@pytest.mark.parametrize(
    "name",
    ["train_inputs", "train_targets", "train_ids", "test_inputs", "test_targets", "test_ids"],
)
def test_the_digest_notices_one_changed_value(name):
    split = IRIS.split([83])
    changed = getattr(split, name).copy()
    changed.flat[0] += 1
    assert dataclasses.replace(split, **{name: changed}).digest != split.digest


def test_the_digest_depends_on_the_test_points_and_their_order():
    digests = [IRIS.split(ids).digest for ids in ([83], [82], [82, 83], [83, 82])]
    assert len(set(digests)) == 4

"""Digits: which rows are where, and how they are scaled."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from ifcheck.datasets import DATASETS
from ifcheck.errors import UnusableInput

DIGITS = DATASETS.create("digits")
PIXELS, LABELS = load_digits(return_X_y=True)


def test_every_row_may_be_a_test_point():
    assert DIGITS.row_ids.tolist() == [*range(1797)]


@pytest.mark.parametrize("test_ids", [[83], [1796, 0, 77]])
def test_rows_are_the_table_s_in_zero_to_one(test_ids):
    split = DIGITS.split(test_ids)
    kept = np.setdiff1d(np.arange(1797), test_ids)
    assert split.train_inputs.shape == (1797 - len(test_ids), 1, 8, 8)
    np.testing.assert_array_equal(split.train_ids, kept)
    np.testing.assert_array_equal(split.train_inputs.reshape(-1, 64), PIXELS[kept] / 16)
    np.testing.assert_array_equal(split.train_targets, LABELS[kept])
    np.testing.assert_array_equal(split.test_inputs.reshape(-1, 64), PIXELS[test_ids] / 16)
    np.testing.assert_array_equal(split.test_targets, LABELS[test_ids])
    assert split.train_inputs.max() == 1
    assert split.classes == 10


def test_a_limit_keeps_rows_of_every_class():
    split = DATASETS.create("digits", {"limit_train": 300}).split([5])
    assert len(split.train_ids) == 300
    assert set(split.train_targets) == set(range(10))
    assert 5 not in split.train_ids


def test_a_limit_on_a_test_file_is_refused():
    with pytest.raises(UnusableInput, match="--limit-test limits a file of test rows; digits has"):
        DATASETS.create("digits", {"limit_test": 3})

"""MNIST: the published files, parts of them, and how images are scaled."""

import gzip
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from ifcheck.datasets import DATASETS
from ifcheck.datasets.mnist import MNIST
from ifcheck.errors import UnusableInput

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (12, 28, 28), dtype=np.uint8)
LABELS = np.arange(12, dtype=np.uint8) % 10


def write_idx(path: Path, array: np.ndarray) -> None:
    head = struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes()))


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A folder of 12 training and 5 test rows, and no network."""
    monkeypatch.setenv("IFCHECK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("ifcheck.datasets.mnist.MIRRORS", ("http://127.0.0.1:9/",))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    folder = tmp_path / "mnist"
    folder.mkdir()
    write_idx(folder / "train-images-idx3-ubyte.gz", IMAGES)
    write_idx(folder / "train-labels-idx1-ubyte.gz", LABELS)
    write_idx(folder / "t10k-images-idx3-ubyte.gz", IMAGES[:5])
    write_idx(folder / "t10k-labels-idx1-ubyte.gz", LABELS[:5])
    return tmp_path


def mnist(folder, **options) -> MNIST:
    return DATASETS.create("mnist", {"data_dir": str(folder), **options})


def limited(folder, **options) -> MNIST:
    return mnist(folder, **{"limit_train": 12, "limit_test": 5, **options})


# --- small files ---------------------------------------------------------------------------------


def test_rows_are_the_files_and_test_points_keep_their_order(small):
    split = limited(small).split([4, 0])
    assert split.train_ids.tolist() == [*range(12)]
    assert split.test_ids.tolist() == [4, 0]
    assert split.train_inputs.dtype == np.float32
    np.testing.assert_allclose(split.train_inputs[:, 0], IMAGES / 255, rtol=1e-6)
    np.testing.assert_allclose(split.test_inputs[:, 0], IMAGES[[4, 0]] / 255, rtol=1e-6)
    np.testing.assert_array_equal(split.train_targets, LABELS)
    np.testing.assert_array_equal(split.test_targets, LABELS[[4, 0]])
    assert split.classes == 10


def test_images_for_convolutions_are_padded_with_black_and_standardised(small):
    data = limited(small, for_convolution=True)
    inputs = data.split([0]).train_inputs
    assert inputs.shape[1:] == data.input_shape == (1, 32, 32)
    inner = inputs[:, 0, 2:30, 2:30]
    np.testing.assert_allclose(inner, (IMAGES / 255 - 0.1307) / 0.3081, atol=1e-6)
    edge = np.ones((32, 32), dtype=bool)
    edge[2:30, 2:30] = False
    np.testing.assert_allclose(inputs[:, 0][:, edge], -0.1307 / 0.3081, atol=1e-6)


@pytest.mark.parametrize("count", [1, 7, 12])
def test_a_limit_keeps_the_first_rows(small, count):
    split = limited(small, limit_train=count).split([0])
    np.testing.assert_allclose(split.train_inputs[:, 0], IMAGES[:count] / 255, rtol=1e-6)
    assert split.train_targets.tolist() == LABELS[:count].tolist()


def test_what_is_known_without_the_files():
    data = DATASETS.create("mnist", {"limit_train": 100, "limit_test": 7})
    assert (data.input_shape, data.classes, data.has_test_set) == ((1, 28, 28), 10, True)
    assert data.train_rows(3) == 100
    assert data.row_ids.tolist() == [*range(7)]
    assert DATASETS.create("mnist").train_rows(1) == 60_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit_train": 60_001}, "--limit-train asks for 60001 training rows; there are 60000"),
        ({"limit_test": 10_001}, "--limit-test asks for 10001 test rows; there are 10000"),
    ],
)
def test_more_rows_than_there_are_cannot_be_had(options, message):
    data = DATASETS.create("mnist", options)
    with pytest.raises(UnusableInput, match=message):
        (data.train_rows(1), data.row_ids)


def test_part_of_the_rows_is_refused_without_a_limit(small):
    with pytest.raises(UnusableInput, match=r"train-images.* holds 12 of 60,000 rows"):
        mnist(small, limit_test=5).split([0])
    with pytest.raises(UnusableInput, match=r"t10k-images.* holds 5 of 10,000 rows"):
        mnist(small, limit_train=12).split([0])


def test_an_unknown_test_point_is_named(small):
    with pytest.raises(UnusableInput, match=r"the test set of mnist has no row 5; .* from 0 to 4"):
        limited(small).split([0, 5])


def test_labels_in_the_place_of_images_are_found(small):
    folder = small / "mnist"
    shutil.copy(folder / "train-labels-idx1-ubyte.gz", folder / "train-images-idx3-ubyte.gz")
    with pytest.raises(UnusableInput, match="images and labels may have changed places"):
        limited(small).split([0])


def test_labels_of_no_class_are_found(small):
    write_idx(small / "mnist" / "t10k-labels-idx1-ubyte.gz", np.array([0, 1, 10, 3, 4], np.uint8))
    with pytest.raises(UnusableInput, match=r"t10k-labels.* gives row 2 the label 10"):
        limited(small).split([0])


def test_another_data_set_of_the_same_size_is_found(small, monkeypatch):
    """As Fashion-MNIST is, whose files have the names of MNIST's."""
    monkeypatch.setattr(MNIST, "rows", {"train": 12, "test": 5})
    with pytest.raises(UnusableInput, match=r"train-images.* is not the published file: .* 6bbc9a"):
        mnist(small).split([0])


def test_files_that_are_nowhere_are_named_with_the_folders(small):
    (small / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UnusableInput) as error:
        limited(small).prepare()
    assert error.value.message.startswith(f"t10k-labels-idx1-ubyte.gz is not in {small} and ")


# --- the published files -----------------------------------------------------------------------


def test_the_published_files(data_dir):
    """Counts by class as LeCun's page and everybody after it has them."""
    split = mnist(data_dir).split([0, 9999])
    assert split.train_inputs.shape == (60_000, 1, 28, 28)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(split.train_targets).tolist() == counts
    assert split.train_targets[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert split.test_targets.tolist() == [7, 6]
    assert split.train_inputs.mean(dtype=np.float64) == pytest.approx(0.1307, abs=5e-5)
    assert split.train_inputs.std(dtype=np.float64) == pytest.approx(0.3081, abs=5e-5)


def test_a_limit_keeps_the_first_published_rows(data_dir):
    whole = mnist(data_dir).split([3])
    part = mnist(data_dir, limit_train=500, limit_test=10).split([3])
    np.testing.assert_array_equal(part.train_inputs, whole.train_inputs[:500])
    np.testing.assert_array_equal(part.test_inputs, whole.test_inputs)

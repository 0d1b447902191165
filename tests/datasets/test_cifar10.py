"""CIFAR-10: records of the binary version, one file after the other."""

import numpy as np
import pytest

from ifcheck.datasets import DATASETS
from ifcheck.datasets.cifar10 import CIFAR10
from ifcheck.datasets.files import Download
from ifcheck.errors import UnusableInput

RANDOM = np.random.default_rng(0)


def records(count: int) -> tuple[np.ndarray, np.ndarray, bytes]:
    """Images (count, 3, 32, 32), labels, and the bytes of a file that holds them."""
    images = RANDOM.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    labels = RANDOM.integers(0, 10, count, dtype=np.uint8)
    rows = [bytes([label]) + image.tobytes() for label, image in zip(labels, images, strict=True)]
    return images, labels, b"".join(rows)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("IFCHECK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    return folder


def cifar10(folder, **options) -> CIFAR10:
    return DATASETS.create("cifar10", {"data_dir": str(folder), **options})


def test_rows_are_scaled_to_minus_one_and_one(folder):
    images, labels, data = records(6)
    test_images, test_labels, test_data = records(4)
    (folder / "data_batch_1.bin").write_bytes(data)
    (folder / "test_batch.bin").write_bytes(test_data)
    split = cifar10(folder.parent, limit_train=5, limit_test=4).split([3, 1])
    np.testing.assert_allclose(split.train_inputs, images[:5] / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(split.train_targets, labels[:5])
    np.testing.assert_allclose(split.test_inputs, test_images[[3, 1]] / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(split.test_targets, test_labels[[3, 1]])


def test_files_follow_each_other_and_later_ones_are_not_needed(folder, monkeypatch):
    monkeypatch.setattr("ifcheck.datasets.cifar10.FILE_ROWS", 4)
    expected = []
    for index in (1, 2):
        images, _, data = records(4)
        expected.append(images)
        (folder / f"data_batch_{index}.bin").write_bytes(data)
    (folder / "test_batch.bin").write_bytes(records(4)[2])
    split = cifar10(folder, limit_train=6, limit_test=4).split([0])
    np.testing.assert_allclose(
        split.train_inputs, np.concatenate(expected)[:6] / 127.5 - 1, atol=1e-6
    )


def test_part_of_a_file_needs_a_limit(folder):
    (folder / "data_batch_1.bin").write_bytes(records(6)[2])
    with pytest.raises(UnusableInput, match=r"data_batch_1.bin holds 6 rows; 7 are wanted"):
        cifar10(folder, limit_train=7, limit_test=1).split([0])
    with pytest.raises(UnusableInput, match=r"data_batch_1.bin holds 6 of 10,000 rows"):
        cifar10(folder, limit_train=10_001, limit_test=1).split([0])


def test_labels_of_no_class_are_found(folder):
    data = bytearray(records(3)[2])
    data[3073] = 12
    (folder / "data_batch_1.bin").write_bytes(data)
    with pytest.raises(UnusableInput, match="gives row 1 the label 12"):
        cifar10(folder, limit_train=3, limit_test=1).split([0])


def test_a_missing_file_is_named(folder, monkeypatch):
    nowhere = Download("x.tar.gz", "0" * 32, ("http://127.0.0.1:9/x.tar.gz",))
    monkeypatch.setattr(CIFAR10, "archive", nowhere)
    with pytest.raises(UnusableInput, match=f"data_batch_1.bin is not in {folder} and "):
        cifar10(folder).prepare()


# --- the published files -----------------------------------------------------------------------


def test_the_published_files(data_dir):
    """The first labels, and a pixel: frog, truck, truck, deer, automobile."""
    split = cifar10(data_dir, limit_train=10_000, limit_test=1_000).split([0])
    assert split.train_targets[:5].tolist() == [6, 9, 9, 4, 1]
    assert np.bincount(split.train_targets).tolist() == [
        1005, 974, 1032, 1016, 999, 937, 1030, 1001, 1025, 981
    ]  # fmt: skip
    first = (split.train_inputs[0, :, 0, 0] + 1) * 127.5
    np.testing.assert_allclose(first, [59, 62, 63], atol=1e-4)
    assert split.test_targets.tolist() == [3]


def test_a_prefix_is_refused_without_a_limit(data_dir):
    with pytest.raises(UnusableInput, match=r"test_batch.bin holds 1,000 of 10,000 rows"):
        cifar10(data_dir, limit_train=10).split([0])

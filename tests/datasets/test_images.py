"""Image files: what is read from whole ones, and what is said of all others."""

import gzip
import struct

import numpy as np
import pytest

from ifcheck.datasets.images import read_idx, read_records, require_checksum, require_labels
from ifcheck.errors import UnusableInput

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (7, 4, 3), dtype=np.uint8)
LABELS = RANDOM.integers(0, 10, 7, dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    """The format as its authors describe it: two zeros, type, dimensions, sizes, data."""
    head = struct.pack(">BBBB", 0, 0, 8, array.ndim)
    return head + b"".join(struct.pack(">I", n) for n in array.shape) + array.tobytes()


def written(folder, data: bytes, name: str = "images"):
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(("array", "shape"), [(IMAGES, (4, 3)), (LABELS, ())])
def test_an_idx_file_is_read_compressed_or_not(tmp_path, pack, array, shape):
    path = written(tmp_path, pack(idx(array)))
    np.testing.assert_array_equal(read_idx(path, shape, 7, None), array)


@pytest.mark.parametrize("limit", [1, 3, 7])
def test_a_limit_takes_the_first_rows(tmp_path, limit):
    path = written(tmp_path, idx(IMAGES))
    np.testing.assert_array_equal(read_idx(path, (4, 3), 7, limit), IMAGES[:limit])


@pytest.mark.parametrize(("pack", "cut"), [(bytes, 0.6), (gzip.compress, 0.7)])
def test_a_file_that_breaks_off_says_how_many_rows_it_holds(tmp_path, pack, cut):
    """Compressed data are cut, too: the rows some way before the cut can be read."""
    noise = RANDOM.integers(0, 256, (7, 100, 100), dtype=np.uint8)
    data = pack(idx(noise))
    path = written(tmp_path, data[: int(len(data) * cut)])
    with pytest.raises(UnusableInput, match="holds 4 of 7 rows") as error:
        read_idx(path, (100, 100), 7, None)
    assert "--limit-train" in error.value.remedy
    np.testing.assert_array_equal(read_idx(path, (100, 100), 7, 4), noise[:4])
    with pytest.raises(UnusableInput, match="holds 4 rows; 5 are wanted"):
        read_idx(path, (100, 100), 7, 5)


def test_a_file_whose_head_names_fewer_rows_is_a_part(tmp_path):
    path = written(tmp_path, idx(IMAGES[:5]))
    with pytest.raises(UnusableInput, match="holds 5 of 7 rows"):
        read_idx(path, (4, 3), 7, None)
    np.testing.assert_array_equal(read_idx(path, (4, 3), 7, 5), IMAGES[:5])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "starts with b'', which is no idx file"),
        (b"\x00\x00", r"starts with b'\\x00\\x00', which is no idx file"),
        (b"<!DOCTYPE html>", "starts with b'<!DO', which is no idx file"),
        (b"\x00\x00\x0d\x03" + bytes(100), "which is no idx file of bytes"),
        (idx(LABELS), "has 1 dimensions, expected 3: images and labels may have changed places"),
        (idx(IMAGES.transpose(0, 2, 1)), r"has rows of shape \(3, 4\), expected \(4, 3\)"),
        (idx(IMAGES) + b"!", "goes on after its 7 rows"),
        (idx(IMAGES)[:10], "breaks off before its first row"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path, data, message):
    with pytest.raises(UnusableInput, match=message):
        read_idx(written(tmp_path, data), (4, 3), 7, None)


def test_corrupt_compressed_data_are_refused(tmp_path):
    data = bytearray(gzip.compress(idx(RANDOM.integers(0, 256, (7, 100, 100), dtype=np.uint8))))
    data[200:260] = bytes(60)
    with pytest.raises(UnusableInput, match="is corrupt"):
        read_idx(written(tmp_path, bytes(data)), (100, 100), 7, None)


def test_a_file_that_cannot_be_opened_is_refused(tmp_path):
    with pytest.raises(UnusableInput, match="cannot be read"):
        read_idx(tmp_path, (4, 3), 7, None)


# --- records ---------------------------------------------------------------------------------

RECORDS = RANDOM.integers(0, 256, (6, 5), dtype=np.uint8)


@pytest.mark.parametrize("limit", [None, 1, 6])
def test_records_are_read(tmp_path, limit):
    path = written(tmp_path, RECORDS.tobytes())
    np.testing.assert_array_equal(read_records(path, 5, 6, limit), RECORDS[:limit])


def test_a_part_of_the_records_needs_a_limit(tmp_path):
    path = written(tmp_path, RECORDS[:4].tobytes())
    with pytest.raises(UnusableInput, match="holds 4 of 6 rows"):
        read_records(path, 5, 6, None)
    with pytest.raises(UnusableInput, match="holds 4 rows; 5 are wanted"):
        read_records(path, 5, 6, 5)
    np.testing.assert_array_equal(read_records(path, 5, 6, 4), RECORDS[:4])


@pytest.mark.parametrize(
    ("size", "message"),
    [(29, "has 29 bytes, which are no whole records of 5"), (35, "holds 7 rows, expected 6")],
)
def test_files_of_another_size_are_refused(tmp_path, size, message):
    with pytest.raises(UnusableInput, match=message):
        read_records(written(tmp_path, bytes(size)), 5, 6, None)


def test_a_broken_last_record_does_no_harm_where_it_is_not_wanted(tmp_path):
    path = written(tmp_path, RECORDS.tobytes()[:-2])
    np.testing.assert_array_equal(read_records(path, 5, 6, 5), RECORDS[:5])


# --- labels and checksums ----------------------------------------------------------------------


def test_labels_that_no_class_has_are_refused(tmp_path):
    require_labels(tmp_path, LABELS, 10)
    require_labels(tmp_path, LABELS[:0], 10)
    with pytest.raises(UnusableInput, match="gives row 2 the label 10, expected 0 to 9"):
        require_labels(tmp_path, np.array([0, 9, 10, 255], dtype=np.uint8), 10)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_checksum_is_of_what_a_file_holds(tmp_path, pack):
    path = written(tmp_path, pack(b"abc"))
    require_checksum(path, "900150983cd24fb0d6963f7d28e17f72")  # RFC 1321's test suite
    with pytest.raises(UnusableInput, match="is not the published file: its checksum is 90015098"):
        require_checksum(path, "900150983cd24fb0d6963f7d28e17f73")

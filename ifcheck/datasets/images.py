"""Readers of image files in their canonical formats: idx, and CIFAR-10's binary version."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from ifcheck.errors import UnusableInput

Bytes = NDArray[np.uint8]
IDX_BYTES = 0x08  # the third byte of an idx file of unsigned bytes; the first two are zero
BLOCK_BYTES = 1 << 13  # of compressed data that break off, the last block is lost
GZIP_MAGIC = b"\x1f\x8b"


def read_idx(path: Path, row_shape: tuple[int, ...], rows: int, limit: int | None) -> Bytes:
    """Read the rows of an idx file of unsigned bytes, compressed or not. Shape: (rows, ...).

    `rows` is how many the published file has; with a limit the first so many are read, and the
    file may be a part of it. Raises: UnusableInput for anything else.
    """
    with _opened(path) as file:
        sizes = _idx_sizes(file, path, 1 + len(row_shape))
        if tuple(sizes[1:]) != row_shape:
            raise _unusable(path, f"has rows of shape {tuple(sizes[1:])}, expected {row_shape}")
        wanted = rows if limit is None else limit
        row_bytes = math.prod(row_shape)
        data = _read(file, path, min(wanted, sizes[0]) * row_bytes)
        _require_rows(path, len(data) // row_bytes, wanted, rows, limit)
        if limit is None and _read(file, path, 1):
            raise _unusable(path, f"goes on after its {rows} rows")
    return np.frombuffer(data, dtype=np.uint8).reshape(wanted, *row_shape)


def _idx_sizes(file: BinaryIO, path: Path, dimensions: int) -> list[int]:
    head = _read(file, path, 4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] != IDX_BYTES:
        raise _unusable(path, f"starts with {head!r}, which is no idx file of bytes")
    if head[3] != dimensions:
        raise _unusable(
            path,
            f"has {head[3]} dimensions, expected {dimensions}: images and labels may have changed "
            "places",
        )
    sizes = _read(file, path, 4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise _unusable(path, "breaks off before its first row")
    return [int(size) for size in np.frombuffer(sizes, dtype=">u4")]


def read_records(path: Path, row_bytes: int, rows: int, limit: int | None) -> Bytes:
    """Read the records of a file that holds nothing else. Shape: (rows, row_bytes).

    `rows` and `limit` as for `read_idx`. Raises: UnusableInput.
    """
    size = path.stat().st_size
    if size % row_bytes and (limit is None or size // row_bytes < limit):
        raise _unusable(path, f"has {size} bytes, which are no whole records of {row_bytes} bytes")
    if size > rows * row_bytes:
        raise _unusable(path, f"holds {size // row_bytes} rows, expected {rows}")
    wanted = rows if limit is None else limit
    _require_rows(path, size // row_bytes, wanted, rows, limit)
    with _opened(path) as file:
        data = _read(file, path, wanted * row_bytes)
    return np.frombuffer(data, dtype=np.uint8).reshape(wanted, row_bytes)


def require_labels(path: Path, labels: Bytes, classes: int) -> None:
    """Raises: UnusableInput for a label that no class has."""
    if labels.size and labels.max() >= classes:
        row = int(np.argmax(labels >= classes))
        raise _unusable(
            path, f"gives row {row} the label {labels[row]}, expected 0 to {classes - 1}"
        )


def require_checksum(path: Path, md5: str) -> None:
    """Compare what a file holds, decompressed, with what was published. Raises: UnusableInput."""
    digest = hashlib.md5(usedforsecurity=False)
    with _opened(path) as file:
        while block := _read(file, path, 1 << 20):
            digest.update(block)
    if digest.hexdigest() != md5:
        raise _unusable(
            path,
            f"is not the published file: its checksum is {digest.hexdigest()[:8]}, "
            f"expected {md5[:8]}",
        )


def _opened(path: Path) -> BinaryIO:
    try:
        file = path.open("rb")
        if file.read(2) == GZIP_MAGIC:
            file.close()
            return cast(BinaryIO, gzip.open(path, "rb"))
        file.seek(0)
        return file
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error}") from error


def _read(file: BinaryIO, path: Path, size: int) -> bytes:
    """Return up to `size` bytes, fewer where the file ends or its compressed data breaks off."""
    parts: list[bytes] = []
    try:
        while size > 0 and (part := file.read(min(size, BLOCK_BYTES))):
            parts.append(part)
            size -= len(part)
    except EOFError:
        pass  # compressed data that was cut off: what came before it counts as a shorter file
    except (OSError, zlib.error) as error:
        raise _unusable(path, f"is corrupt: {error}") from error
    return b"".join(parts)


def _require_rows(path: Path, found: int, wanted: int, rows: int, limit: int | None) -> None:
    if found >= wanted:
        return
    if limit is None:
        raise UnusableInput(
            f"{path} holds {found:,} of {rows:,} rows.",
            remedy="Limit the rows with --limit-train or --limit-test, or remove the file, so "
            "that the whole one is downloaded.",
        )
    raise UnusableInput(
        f"{path} holds {found:,} rows; {wanted:,} are wanted from it.",
        remedy="Limit the rows further, or remove the file, so that the whole one is downloaded.",
    )


def _unusable(path: Path, what: str) -> UnusableInput:
    return UnusableInput(
        f"{path} {what}.", remedy="Remove the file, so that it is downloaded again."
    )

"""CIFAR-10: 60,000 colour images of 32 x 32 pixels (Krizhevsky 2009), in the binary version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ifcheck.datasets.base import DATASETS, Inputs, Step
from ifcheck.datasets.files import Download
from ifcheck.datasets.images import Bytes, read_records, require_labels
from ifcheck.datasets.pair import TrainAndTest

SHAPE = (3, 32, 32)
ROW_BYTES = 1 + 3 * 32 * 32  # a label, then red, green and blue, each row by row
FILE_ROWS = 10_000
WHITE = 255.0
MEAN, DEVIATION = 0.5, 0.5
FOLDER = "cifar-10-batches-bin"
FILES = {
    "train": tuple(f"data_batch_{index}.bin" for index in range(1, 6)),
    "test": ("test_batch.bin",),
}
ARCHIVE = Download(
    name="cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    urls=("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    members=tuple(f"{FOLDER}/{name}" for part in FILES.values() for name in part),
)


@DATASETS.register("cifar10")
@dataclass(frozen=True)
class CIFAR10(TrainAndTest):
    """Colour images of 32 x 32 pixels in [-1, 1]; test points are rows of the test set."""

    name: ClassVar[str] = "cifar10"
    rows: ClassVar[dict[str, int]] = {"train": 50_000, "test": 10_000}
    folders: ClassVar[tuple[str, ...]] = (FOLDER, f"cifar10/{FOLDER}", f"CIFAR10/{FOLDER}")

    archive: ClassVar[Download] = ARCHIVE

    @property
    def input_shape(self) -> tuple[int, ...]:
        return SHAPE

    def read(self, part: str, limit: int | None, step: Step) -> tuple[Bytes, Bytes]:
        """Read the files one after the other, and none of which no row is wanted."""
        wanted = self.rows[part] if limit is None else limit
        records = []
        for index, name in enumerate(FILES[part]):
            rest = wanted - index * FILE_ROWS
            if rest <= 0:
                break
            path = self.library.require(name, self.archive, step)
            of_file = read_records(path, ROW_BYTES, FILE_ROWS, rest if rest < FILE_ROWS else None)
            require_labels(path, of_file[:, 0], self.classes)
            records.append(of_file)
        rows = np.concatenate(records)
        return rows[:, 1:].reshape(-1, *SHAPE), rows[:, 0]

    def scale(self, images: Bytes) -> Inputs:
        scaled = images.astype(np.float32) / np.float32(WHITE)
        scaled -= np.float32(MEAN)
        scaled /= np.float32(DEVIATION)
        return scaled

"""MNIST: 70,000 handwritten digits of 28 x 28 pixels (LeCun & Cortes)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ifcheck.datasets.base import DATASETS, Inputs, Step
from ifcheck.datasets.files import Download
from ifcheck.datasets.images import Bytes, read_idx, require_checksum, require_labels
from ifcheck.datasets.pair import TrainAndTest

SIDE, PADDING = 28, 2
WHITE = 255.0
MEAN, DEVIATION = 0.1307, 0.3081  # of the training pixels, as everybody rounds them
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
FILES = {"train": "train", "test": "t10k"}
# Of the published files, and of what they hold.
CHECKSUMS = {
    "train-images-idx3-ubyte": (
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "6bbc9ace898e44ae57da46a324031adb",
    ),
    "train-labels-idx1-ubyte": (
        "d53e105ee54ea40749a09fcbcd1e9432",
        "a25bea736e30d166cdddb491f175f624",
    ),
    "t10k-images-idx3-ubyte": (
        "9fb629c4189551a2d022fa330f9573f3",
        "2646ac647ad5339dbf082846283269ea",
    ),
    "t10k-labels-idx1-ubyte": (
        "ec29112dd5afa0611ce80d1b7f02629c",
        "27ae3e4e09519cfbb04c329615203637",
    ),
}


@DATASETS.register("mnist")
@dataclass(frozen=True)
class MNIST(TrainAndTest):
    """Handwritten digits of 28 x 28 pixels; test points are rows of the test set."""

    name: ClassVar[str] = "mnist"
    rows: ClassVar[dict[str, int]] = {"train": 60_000, "test": 10_000}
    folders: ClassVar[tuple[str, ...]] = ("mnist", "MNIST/raw")

    @property
    def input_shape(self) -> tuple[int, ...]:
        side = SIDE + 2 * PADDING if self.for_convolution else SIDE
        return (1, side, side)

    def read(self, part: str, limit: int | None, step: Step) -> tuple[Bytes, Bytes]:
        images = self._file(f"{FILES[part]}-images-idx3-ubyte", (SIDE, SIDE), part, limit, step)
        labels = self._file(f"{FILES[part]}-labels-idx1-ubyte", (), part, limit, step)
        return images, labels

    def scale(self, images: Bytes) -> Inputs:
        """Return pixels in [0, 1]; for convolutions padded with black, and standardised."""
        margin = PADDING if self.for_convolution else 0
        padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin)))[:, None]
        scaled = padded.astype(np.float32) / np.float32(WHITE)
        if self.for_convolution:
            scaled -= np.float32(MEAN)
            scaled /= np.float32(DEVIATION)
        return scaled

    def _file(
        self, name: str, shape: tuple[int, ...], part: str, limit: int | None, step: Step
    ) -> Bytes:
        published, content = CHECKSUMS[name]
        packed = f"{name}.gz"
        download = Download(packed, published, tuple(mirror + packed for mirror in MIRRORS))
        path = self.library.require(packed, download, step)
        values = read_idx(path, shape, self.rows[part], limit)
        if not shape:
            require_labels(path, values, self.classes)
        if limit is None:
            require_checksum(path, content)
        return values

"""Data sets of two files: training rows in one, test points in the other."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ifcheck.datasets.base import (
    DatasetOptions,
    Inputs,
    Split,
    Step,
    limited_count,
    refuse_unknown_rows,
    unwatched,
)
from ifcheck.datasets.files import Library
from ifcheck.datasets.images import Bytes

PARTS = ("train", "test")


@dataclass(frozen=True)
class TrainAndTest(DatasetOptions):
    """What data sets with a test set of their own share; a limit keeps the first rows of a part.

    Files that hold a part of the rows are accepted where a limit leaves no more.
    """

    name: ClassVar[str]
    rows: ClassVar[dict[str, int]]  # of each part, as published
    folders: ClassVar[tuple[str, ...]]  # where files lie inside a folder of data, by custom
    classes: ClassVar[int] = 10
    has_test_set: ClassVar[bool] = True

    @property
    def input_shape(self) -> tuple[int, ...]:
        raise NotImplementedError(f"{type(self).__name__} must define input_shape")

    def read(self, part: str, limit: int | None, step: Step) -> tuple[Bytes, Bytes]:
        """Return images (rows, ...) and labels (rows,) of "train" or "test".

        With a limit the first so many. Raises: UnusableInput.
        """
        raise NotImplementedError(f"{type(self).__name__} must define read()")

    def scale(self, images: Bytes) -> Inputs:
        """Return the images as networks take them, in float32."""
        raise NotImplementedError(f"{type(self).__name__} must define scale()")

    @property
    def row_ids(self) -> NDArray[np.int64]:
        limit, rows = self.limit_test, self.rows["test"]
        return np.arange(limited_count("--limit-test", limit, rows, "test"))

    @property
    def library(self) -> Library:
        """Where the files may lie."""
        return Library(self.name, self.folders, self.data_dir)

    def train_rows(self, tests: int) -> int:
        return limited_count("--limit-train", self.limit_train, self.rows["train"], "training")

    def prepare(self, step: Step = unwatched) -> None:
        for part in PARTS:
            self._part(part, step)

    def split(self, test_ids: Sequence[int]) -> Split:
        test = np.asarray(test_ids, dtype=np.int64)
        refuse_unknown_rows(f"the test set of {self.name}", test, len(self.row_ids))
        inputs, targets = self._part("train")
        test_inputs, test_targets = self._part("test")
        return Split(
            train_inputs=inputs,
            train_targets=targets,
            train_ids=np.arange(len(targets)),
            test_inputs=test_inputs[test],
            test_targets=test_targets[test],
            test_ids=test,
            classes=self.classes,
        )

    def _part(self, part: str, step: Step = unwatched) -> tuple[Inputs, NDArray[np.int64]]:
        """Return inputs and targets of a part, read once."""
        if part not in self._parts:
            count = self.train_rows(0) if part == "train" else len(self.row_ids)
            limit = None if count == self.rows[part] else count
            images, labels = self.read(part, limit, step)
            self._parts[part] = self.scale(images), labels.astype(np.int64)
        return self._parts[part]

    @functools.cached_property
    def _parts(self) -> dict[str, tuple[Inputs, NDArray[np.int64]]]:
        return {}

"""Data sets of one table, from which test points are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ifcheck import provenance
from ifcheck.datasets.base import (
    DatasetOptions,
    Inputs,
    Split,
    Step,
    limited_count,
    refuse_unknown_rows,
    unwatched,
)
from ifcheck.errors import UnusableInput


@dataclass(frozen=True)
class Table(DatasetOptions):
    """What data sets of one table share: rows, limits, and who is held out."""

    name: ClassVar[str]
    has_test_set: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.limit_test is not None:
            raise UnusableInput(
                f"--limit-test limits a file of test rows; {self.name} has none: its test points "
                "are rows held out of its one table.",
                remedy="Choose test points with --test-points.",
            )

    def load(self) -> tuple[Inputs, NDArray[np.int64]]:
        """Return inputs (rows, features...) and targets (rows,)."""
        raise NotImplementedError(f"{type(self).__name__} must define load()")

    def scale(self, train: Inputs, test: Inputs) -> tuple[Inputs, Inputs]:
        """Return both as networks take them, scaled by what the training rows alone say."""
        return train, test

    @property
    def row_ids(self) -> NDArray[np.int64]:
        return np.arange(len(self.load()[1]))

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.load()[0].shape[1:]

    @property
    def classes(self) -> int:
        return int(self.load()[1].max()) + 1

    def prepare(self, step: Step = unwatched) -> None:
        """Do nothing: tables come with scikit-learn."""

    def train_rows(self, tests: int) -> int:
        rest = len(self.row_ids) - tests
        if rest < 1:
            raise UnusableInput(
                f"all rows of {self.name} are test points; expected some left to train on.",
                remedy="Hold out fewer --test-points.",
            )
        return limited_count("--limit-train", self.limit_train, rest, "training")

    def split(self, test_ids: Sequence[int]) -> Split:
        """Hold the test points out together; a limit keeps rows that are drawn from all others.

        Not scaled again when a row is removed.
        """
        inputs, targets = self.load()
        rows, test = np.arange(len(targets)), np.asarray(test_ids, dtype=np.int64)
        refuse_unknown_rows(self.name, test, len(rows))
        train = np.setdiff1d(rows, test)
        train = _drawn(train, self.train_rows(len(rows) - len(train)))
        train_inputs, test_inputs = self.scale(inputs[train], inputs[test])
        return Split(
            train_inputs=train_inputs,
            train_targets=targets[train],
            train_ids=train,
            test_inputs=test_inputs,
            test_targets=targets[test],
            test_ids=test,
            classes=self.classes,
        )


def _drawn(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return so many of the rows, drawn once and for all from a named seed, in their order."""
    generator = np.random.default_rng(provenance.named_seed(0, "limit-train"))
    return np.sort(generator.permutation(rows)[:count])

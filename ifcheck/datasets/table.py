"""Data sets of one table, from which test points are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ifcheck import provenance
from ifcheck.datasets.base import DatasetOptions, Split
from ifcheck.errors import UnusableInput

Inputs = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Table(DatasetOptions):
    """What data sets of one table share: rows, limits, and who is held out."""

    name: ClassVar[str]

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

    def split(self, test_ids: Sequence[int]) -> Split:
        """Hold the test points out together; a limit keeps rows that are drawn from all others.

        Not scaled again when a row is removed.
        """
        inputs, targets = self.load()
        rows, test = np.arange(len(targets)), np.asarray(test_ids, dtype=np.int64)
        unknown = test[~np.isin(test, rows)]
        if unknown.size:
            raise UnusableInput(
                f"{self.name} has no row {unknown[0]}; expected ids from 0 to {rows[-1]}.",
                remedy="Give other --test-points.",
            )
        train = np.setdiff1d(rows, test)
        if train.size == 0:
            raise UnusableInput(
                f"all rows of {self.name} are test points; expected some left to train on.",
                remedy="Hold out fewer --test-points.",
            )
        train = _limited(train, self.limit_train)
        train_inputs, test_inputs = self.scale(inputs[train], inputs[test])
        return Split(
            train_inputs=train_inputs,
            train_targets=targets[train],
            train_ids=train,
            test_inputs=test_inputs,
            test_targets=targets[test],
            test_ids=test,
            classes=int(targets.max()) + 1,
        )


def _limited(rows: NDArray[np.int64], limit: int | None) -> NDArray[np.int64]:
    """Return `limit` of the rows, drawn once and for all from a named seed, in their order."""
    if limit is None:
        return rows
    if limit > len(rows):
        raise UnusableInput(
            f"--limit-train asks for {limit} training rows; there are {len(rows)}.",
            remedy=f"Ask for at most {len(rows)}.",
        )
    generator = np.random.default_rng(provenance.named_seed(0, "limit-train"))
    return np.sort(generator.permutation(rows)[:limit])

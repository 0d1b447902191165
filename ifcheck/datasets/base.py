"""What a data set is: labelled rows with stable ids, split into training rows and test points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ifcheck import provenance
from ifcheck.registry import Registry


@dataclass(frozen=True)
class Split:
    """Training rows and test points, scaled and ready for a network.

    Row ids are 0-based and stable: rows of the table where there is one table, rows of the
    training and of the test file where there are two.
    """

    train_inputs: NDArray[np.floating[Any]]  # (rows, features...)
    train_targets: NDArray[np.int64]  # (rows,)
    train_ids: NDArray[np.int64]  # (rows,)
    test_inputs: NDArray[np.floating[Any]]  # (tests, features...)
    test_targets: NDArray[np.int64]  # (tests,)
    test_ids: NDArray[np.int64]  # (tests,)
    classes: int

    @property
    def digest(self) -> str:
        """SHA-256 of everything that a result can depend on."""
        return provenance.array_digest(
            (
                self.train_inputs,
                self.train_targets,
                self.train_ids,
                self.test_inputs,
                self.test_targets,
                self.test_ids,
            )
        )


class Dataset(Protocol):
    """A source of splits; an entry of `DATASETS` is a frozen dataclass with these members."""

    @property
    def row_ids(self) -> NDArray[np.int64]:
        """Ids that a test point may have, (rows,)."""

    def split(self, test_ids: Sequence[int]) -> Split:
        """Return the training rows and the test points `test_ids`, in that order.

        Raises: UnusableInput for unknown rows, or limits that do not fit.
        """


@dataclass(frozen=True)
class DatasetOptions:
    """What every data set can be told."""

    limit_train: int | None = None  # training rows to keep, always the same
    limit_test: int | None = None  # rows of the test set to keep, where there is one


DATASETS: Registry[Dataset] = Registry("dataset")

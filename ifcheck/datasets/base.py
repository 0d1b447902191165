"""What a data set is: labelled rows with stable ids, split into training rows and test points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ifcheck import provenance
from ifcheck.errors import UnusableInput
from ifcheck.registry import Registry


@dataclass(frozen=True)
class Split:
    """Training rows and test points, scaled and ready for a network.

    Row ids are 0-based and stable: rows of the table where there is one table, rows of the
    training and of the test file where there are two.
    """

    train_inputs: NDArray[np.float64]  # (rows, features...)
    train_targets: NDArray[np.int64]  # (rows,)
    train_ids: NDArray[np.int64]  # (rows,)
    test_inputs: NDArray[np.float64]  # (tests, features...)
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

    def split(self, test_ids: Sequence[int], limit_train: int | None = None) -> Split:
        """Return the training rows and the test points `test_ids`, in that order.

        Where there is one table, all test points are held out of training together.
        `limit_train` keeps so many training rows, always the same.
        Raises: UnusableInput for unknown rows or more rows than there are.
        """


DATASETS: Registry[Dataset] = Registry("dataset")


def limited(rows: NDArray[np.int64], limit: int | None) -> NDArray[np.int64]:
    """Return `limit` of the rows, drawn once and for all from a named seed, in their order.

    Raises: UnusableInput where there are fewer rows.
    """
    if limit is None:
        return rows
    if limit > len(rows):
        raise UnusableInput(
            f"--limit-train asks for {limit} training rows; there are {len(rows)}.",
            remedy=f"Ask for at most {len(rows)}.",
        )
    generator = np.random.default_rng(provenance.named_seed(0, "limit-train"))
    return np.sort(generator.permutation(rows)[:limit])

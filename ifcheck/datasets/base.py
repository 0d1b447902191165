"""What a data set is: labelled rows with stable ids, split into training rows and test points."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ifcheck import provenance
from ifcheck.errors import UnusableInput
from ifcheck.registry import Registry

Inputs = NDArray[np.floating[Any]]
Step = Callable[[str, int], Callable[[int], None]]
"""Begins a piece of work, by label and size; what it returns is called with units done."""


def unwatched(label: str, total: int) -> Callable[[int], None]:
    """Begin work whose progress nobody watches."""
    return lambda done: None


@dataclass(frozen=True)
class Split:
    """Training rows and test points, scaled and ready for a network.

    Row ids are 0-based and stable: rows of the table where there is one table, rows of the
    training and of the test file where there are two.
    """

    train_inputs: Inputs  # (rows, features...)
    train_targets: NDArray[np.int64]  # (rows,)
    train_ids: NDArray[np.int64]  # (rows,)
    test_inputs: Inputs  # (tests, features...)
    test_targets: NDArray[np.int64]  # (tests,)
    test_ids: NDArray[np.int64]  # (tests,)
    classes: int

    @property
    def digest(self) -> str:
        """SHA-256 of everything that a result can depend on."""
        return self.digest_with(self.test_ids)

    def digest_with(self, test_ids: NDArray[np.int64]) -> str:
        """Return the digest of the split that has these of the test points, in this order."""
        places = self.places_of(test_ids)
        test = provenance.array_digest(
            (self.test_inputs[places], self.test_targets[places], self.test_ids[places])
        )
        return provenance.text_digest(self._train_digest + test)

    def places_of(self, test_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where rows stand among the test points, in the shape of `test_ids`."""
        order = np.argsort(self.test_ids)
        return order[np.searchsorted(self.test_ids, test_ids, sorter=order)]

    @functools.cached_property
    def _train_digest(self) -> str:
        return provenance.array_digest((self.train_inputs, self.train_targets, self.train_ids))


class Dataset(Protocol):
    """A source of splits; an entry of `DATASETS` is a frozen dataclass with these members.

    All but `split` and `prepare` answer without the data where these are in files.
    """

    has_test_set: ClassVar[bool]  # else test points are held out of the training rows

    @property
    def row_ids(self) -> NDArray[np.int64]:
        """Ids that a test point may have, (rows,)."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one row's inputs."""

    @property
    def classes(self) -> int:
        """How many classes there are."""

    def train_rows(self, tests: int) -> int:
        """Return how many rows are trained on if there are so many test points.

        Raises: UnusableInput for a limit that does not fit.
        """

    def prepare(self, step: Step = unwatched) -> None:
        """Bring files that the data set needs to this machine.

        Raises: UnusableInput where that fails.
        """

    def split(self, test_ids: Sequence[int]) -> Split:
        """Return the training rows and the test points `test_ids`, in that order.

        Raises: UnusableInput for unknown rows, limits that do not fit, or unusable files.
        """


@dataclass(frozen=True)
class DatasetOptions:
    """What every data set can be told."""

    data_dir: str | None = None  # where files are looked for first
    limit_train: int | None = None  # training rows to keep, always the same
    limit_test: int | None = None  # rows of the test set to keep, where there is one
    for_convolution: bool = False  # images as convolutional networks take them


def refuse_unknown_rows(name: str, test_ids: NDArray[np.int64], rows: int) -> None:
    """Raises: UnusableInput for the first test point that is not one of `rows` rows."""
    unknown = test_ids[(test_ids < 0) | (test_ids >= rows)]
    if unknown.size:
        raise UnusableInput(
            f"{name} has no row {unknown[0]}; expected ids from 0 to {rows - 1}.",
            remedy="Give other --test-points.",
        )


def limited_count(flag: str, limit: int | None, rows: int, what: str) -> int:
    """Return how many of `rows` rows a limit leaves. Raises: UnusableInput if there are fewer."""
    if limit is not None and limit > rows:
        raise UnusableInput(
            f"{flag} asks for {limit} {what} rows; there are {rows}.",
            remedy=f"Ask for at most {rows}.",
        )
    return rows if limit is None else limit


DATASETS: Registry[Dataset] = Registry("dataset")

"""Iris: 150 rows, 4 features, 3 classes, from scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_iris
from sklearn.preprocessing import StandardScaler

from ifcheck.datasets.base import DATASETS, Split, limited
from ifcheck.errors import UnusableInput


@DATASETS.register("iris")
@dataclass(frozen=True)
class Iris:
    """Fisher's iris flowers; test points are rows held out of the one table."""

    @property
    def row_ids(self) -> NDArray[np.int64]:
        return np.arange(len(load_iris().target))

    def split(self, test_ids: Sequence[int], limit_train: int | None = None) -> Split:
        """Standardise on the training rows alone; not refitted when a row is removed.

        The table is sorted by class, so a limit keeps rows that are drawn from all of it.
        """
        table = load_iris()
        test = np.asarray(test_ids, dtype=np.int64)
        unknown = test[(test < 0) | (test >= len(table.target))]
        if unknown.size:
            raise UnusableInput(
                f"iris has no row {unknown[0]}; expected ids from 0 to {len(table.target) - 1}.",
                remedy="Give other --test-points.",
            )
        train = np.setdiff1d(self.row_ids, test)
        if train.size == 0:
            raise UnusableInput(
                "all rows of iris are test points; expected some left to train on.",
                remedy="Hold out fewer --test-points.",
            )
        train = limited(train, limit_train)
        scaler = StandardScaler().fit(table.data[train])
        return Split(
            train_inputs=scaler.transform(table.data[train]),
            train_targets=table.target[train].astype(np.int64),
            train_ids=train,
            test_inputs=scaler.transform(table.data[test]),
            test_targets=table.target[test].astype(np.int64),
            test_ids=test,
            classes=len(table.target_names),
        )

"""Iris: 150 rows, 4 features, 3 classes, from scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_iris
from sklearn.preprocessing import StandardScaler

from ifcheck.datasets.base import DATASETS, Inputs
from ifcheck.datasets.table import Table


@DATASETS.register("iris")
@dataclass(frozen=True)
class Iris(Table):
    """Fisher's iris flowers; test points are rows held out of the one table."""

    name: ClassVar[str] = "iris"

    def load(self) -> tuple[Inputs, NDArray[np.int64]]:
        table = load_iris()
        return table.data, table.target.astype(np.int64)

    def scale(self, train: Inputs, test: Inputs) -> tuple[Inputs, Inputs]:
        """Standardise each feature."""
        scaler = StandardScaler().fit(train)
        return scaler.transform(train), scaler.transform(test)

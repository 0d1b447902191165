"""Digits: 1,797 images of 8 x 8 pixels, 10 classes, from scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from ifcheck.datasets.base import DATASETS, Inputs
from ifcheck.datasets.table import Table

WHITE = 16.0  # the largest value of a pixel


@DATASETS.register("digits")
@dataclass(frozen=True)
class Digits(Table):
    """Handwritten digits of 8 x 8 pixels in [0, 1]; test points are held out of the table."""

    name: ClassVar[str] = "digits"

    def load(self) -> tuple[Inputs, NDArray[np.int64]]:
        table = load_digits()
        return table.images[:, None] / WHITE, table.target.astype(np.int64)

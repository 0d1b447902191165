"""Data sets by name; importing this package registers those that ship with ifcheck."""

from ifcheck.datasets import cifar10 as _cifar10  # noqa: F401 (each registers itself)
from ifcheck.datasets import digits as _digits  # noqa: F401
from ifcheck.datasets import iris as _iris  # noqa: F401
from ifcheck.datasets import mnist as _mnist  # noqa: F401
from ifcheck.datasets.base import DATASETS, Dataset, DatasetOptions, Split

__all__ = ["DATASETS", "Dataset", "DatasetOptions", "Split"]

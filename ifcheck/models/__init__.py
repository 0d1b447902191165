"""Networks by name; importing this package registers those that ship with ifcheck."""

from ifcheck.models import convolutional as _convolutional  # noqa: F401 (registers itself)
from ifcheck.models.base import (
    NETWORKS,
    ROWS_AT_ONCE,
    Network,
    NetworkSpec,
    build,
    evaluate,
    initialise,
    rows_at_once,
)
from ifcheck.models.mlp import MLP
from ifcheck.models.variational import VariationalNetwork, VariationalSpec

__all__ = [
    "MLP",
    "NETWORKS",
    "ROWS_AT_ONCE",
    "Network",
    "NetworkSpec",
    "VariationalNetwork",
    "VariationalSpec",
    "build",
    "evaluate",
    "initialise",
    "rows_at_once",
]

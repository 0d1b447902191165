"""Networks by name; importing this package registers those that ship with ifcheck."""

from ifcheck.models.base import NETWORKS, Network, NetworkSpec, initialise
from ifcheck.models.mlp import MLP
from ifcheck.models.variational import VariationalNetwork, VariationalSpec

__all__ = [
    "MLP",
    "NETWORKS",
    "Network",
    "NetworkSpec",
    "VariationalNetwork",
    "VariationalSpec",
    "initialise",
]

"""Networks by name; importing this package registers those that ship with ifcheck."""

from ifcheck.models.base import NETWORKS, Network, NetworkSpec, initialise
from ifcheck.models.mlp import MLP

__all__ = ["MLP", "NETWORKS", "Network", "NetworkSpec", "initialise"]

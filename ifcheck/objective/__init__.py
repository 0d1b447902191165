"""What training descends: per-example losses, their weighted mean, regularisers."""

from ifcheck.objective.cross_entropy import Objective
from ifcheck.objective.variational import VariationalObjective, kl_divergence
from ifcheck.objective.weights import uniform_weights, weighted_mean, weights_without

__all__ = [
    "Objective",
    "VariationalObjective",
    "kl_divergence",
    "uniform_weights",
    "weighted_mean",
    "weights_without",
]

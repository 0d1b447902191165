"""Whether an agreement means anything: chance, uncertainty at every level, power, noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ifcheck.agreement.metrics import MINIMUM_PAIRS, is_constant, resampled_ranks

Floats = NDArray[np.float64]
Pair = tuple[Floats, Floats]  # predicted and true changes of one seed and test point, (removals,)

# Of Fisher's z of a rank correlation: (1 + rho^2 / 2) / (n - 3), Bonett & Wright (2000).
RANK_VARIANCE = 0.5


@dataclass(frozen=True)
class Interval:
    """A statistic with its percentile interval."""

    value: float
    low: float
    high: float
    reason: str | None = None  # why a number is nan


@dataclass(frozen=True)
class SignalToNoise:
    """Spread of the true changes over removals, and what it stands beside; all in nats.

    A ratio below one says that what is measured is not the removal.
    """

    signal: float  # standard deviation over removals of the changes
    replicate_noise: float  # standard error of a change over replicates; nan without them
    drift: float  # size of the change when nothing is removed
    resolution: float  # of the floating-point type at the test loss

    def ratio(self, noise: str) -> float:
        """Return the signal over the named noise; infinite where there is none of it."""
        size = float(getattr(self, noise))
        return math.inf if size == 0 else self.signal / size


def permutation_test(pairs: Sequence[Pair], samples: int, seed: int) -> float:
    """Return the p-value of the mean |Spearman| if predictions had nothing to do with truth.

    Each pair's predictions are put in random orders, independently of the other pairs; the p-value
    is (1 + how many orders reach the mean found) / (1 + samples) (Phipson & Smyth 2010). Pairs
    without a correlation are left out; nan if none is left.
    """
    ranked = [_centred_ranks(*pair) for pair in pairs if _has_correlation(*pair)]
    if not ranked:
        return math.nan
    generator = np.random.default_rng(seed)
    found, chance = 0.0, np.zeros(samples)
    for predicted, true in ranked:
        orders = generator.permuted(np.tile(predicted, (samples, 1)), axis=1)
        found += abs(float(predicted @ true))
        chance += np.abs(orders @ true)
    # Equal orders differ by the rounding of their sums.
    reached = int((chance >= found * (1 - 1e-12)).sum())
    return (1 + reached) / (1 + samples)


def hierarchical_interval(
    pairs: Sequence[Sequence[Pair]], samples: int, confidence: float, seed: int
) -> Interval:
    """Return the mean |Spearman| with an interval over seeds, test points and removals.

    `pairs` holds those of each test point of each seed. Every resample draws seeds, then test
    points within each, then removals within each of these, all with replacement (Davison & Hinkley
    1997, section 3.8). Seeds without any correlation are left out.
    Raises: ValueError unless 0 < confidence < 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1.")
    usable = [[pair for pair in own if _has_correlation(*pair)] for own in pairs]
    usable = [own for own in usable if own]
    if not usable:
        return Interval(math.nan, math.nan, math.nan, "no pair has a correlation")
    each = [np.mean([abs(_correlation(*pair)) for pair in own]) for own in usable]
    value = float(np.mean(each))
    if len(usable) < 2:
        return Interval(value, math.nan, math.nan, "one seed has no interval")
    generator = np.random.default_rng(seed)
    resampled = [
        np.stack([_resampled_correlations(*pair, samples, generator) for pair in own])
        for own in usable
    ]
    means = np.zeros(samples)
    for _ in usable:
        chosen = generator.integers(0, len(usable), samples)
        for place, of_seed in enumerate(resampled):
            where = np.flatnonzero(chosen == place)
            tests = generator.integers(0, len(of_seed), (len(of_seed), len(where)))
            removals = generator.integers(0, samples, (len(of_seed), len(where)))
            means[where] += of_seed[tests, removals].mean(axis=0)
    means /= len(usable)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high))


def detection_power(
    correlation: float, removals: int, seeds: int, significance: float = 0.05
) -> float:
    """Return the probability that a correlation of this size is told from none.

    By a two-sided test of the mean of Fisher's z over independent seeds, each with a Spearman of so
    many removals (Bonett & Wright 2000). nan below four removals. Raises: ValueError for a
    correlation that is not between -1 and 1.
    """
    if not -1 < correlation < 1:
        raise ValueError(f"correlation is {correlation}; it must lie between -1 and 1.")
    if removals <= MINIMUM_PAIRS or seeds < 1:
        return math.nan
    share = (removals - 3) * seeds
    shift = math.atanh(correlation) * math.sqrt(share)
    spread = math.sqrt(1 + RANK_VARIANCE * correlation**2)
    limit = stats.norm.ppf(1 - significance / 2)
    return float(
        stats.norm.sf((limit - shift) / spread) + stats.norm.cdf((-limit - shift) / spread)
    )


def signal_to_noise(changes: ArrayLike, drift: float, loss: float, precision: str) -> SignalToNoise:
    """Return the spread of true changes of one test loss beside their noise.

    `changes` (removals, replicates) are drift-corrected, in nats; `drift` is the change when
    nothing is removed, `loss` the test loss, `precision` the type that it was computed in.
    """
    values = np.asarray(changes, dtype=np.float64)
    removals, replicates = values.shape
    of_removal = values.mean(axis=1)
    signal = float(of_removal.std(ddof=1)) if removals > 1 else math.nan
    noise = math.nan
    if replicates > 1:
        noise = math.sqrt(float(values.var(axis=1, ddof=1).mean()) / replicates)
    resolution = float(np.finfo(precision).eps) * max(abs(loss), float(np.finfo(precision).tiny))
    return SignalToNoise(signal, noise, abs(drift), resolution)


def _has_correlation(predicted: Floats, true: Floats) -> bool:
    enough = len(predicted) >= MINIMUM_PAIRS
    finite = bool(np.isfinite(predicted).all() and np.isfinite(true).all())
    return enough and finite and not bool(is_constant(predicted) or is_constant(true))


def _centred_ranks(predicted: Floats, true: Floats) -> Pair:
    """Return ranks of mean 0 and length 1, whose product is Spearman's rho."""
    ranks = [stats.rankdata(values) - (len(values) + 1) / 2 for values in (predicted, true)]
    first, second = (values / np.linalg.norm(values) for values in ranks)
    return first, second


def _correlation(predicted: Floats, true: Floats) -> float:
    first, second = _centred_ranks(predicted, true)
    return float(first @ second)


def _resampled_correlations(
    predicted: Floats, true: Floats, samples: int, generator: np.random.Generator
) -> Floats:
    """Return |Spearman| of resampled removals; 0 where a resample does not vary. (samples,)"""
    n = len(predicted)
    draws = generator.integers(0, n, (n, samples))
    ranks = [resampled_ranks(values, draws) - (n + 1) / 2 for values in (predicted, true)]
    sizes = np.sqrt((ranks[0] ** 2).sum(0) * (ranks[1] ** 2).sum(0))
    products = np.abs((ranks[0] * ranks[1]).sum(0))
    return np.asarray(np.divide(products, sizes, out=np.zeros(samples), where=sizes > 0))

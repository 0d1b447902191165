"""Whether an agreement means anything: chance, uncertainty at every level, power, noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
    """Spread of the true changes over removals, and what it stands beside; all in nats."""

    signal: float  # standard deviation over removals of the changes, noise of replicates included
    replicate_noise: float  # of it, by replicates that differ; nan without them
    drift: float  # size of the change when nothing is removed; 0 up to the resolution
    resolution: float  # of the floating-point type at the test loss

    @property
    def to_drift(self) -> float:
        """Return the signal over the drift; infinite without drift."""
        return _ratio(self.signal, self.drift)

    @property
    def to_replicates(self) -> float:
        """Return what is left of the signal without the noise, over the noise: 0 is noise alone."""
        left = math.sqrt(max(0.0, self.signal**2 - self.replicate_noise**2))
        return math.nan if math.isnan(self.replicate_noise) else _ratio(left, self.replicate_noise)

    @property
    def to_resolution(self) -> float:
        """Return the signal over the resolution: near 1 it is rounding."""
        return _ratio(self.signal, self.resolution)


def permutation_test(pairs: Sequence[Sequence[Pair]], samples: int, seed: int) -> float:
    """Return the p-value of the mean |Spearman| if predictions had nothing to do with truth.

    `pairs` holds those of each test point of each seed. The removals of each seed are put in random
    orders, for all of its test points alike, which they may agree on, and independently of other
    seeds; the p-value is (1 + how many orders reach the mean found) / (1 + samples) (Phipson &
    Smyth 2010). Pairs without a correlation are left out; nan if none is left, or without samples.
    """
    usable = usable_seeds(pairs)
    if not usable or samples < 1:
        return math.nan
    generator = np.random.default_rng(seed)
    found, chance = 0.0, np.zeros(samples)
    for own in usable:
        removals = len(own[0][0])
        orders = generator.permuted(np.tile(np.arange(removals), (samples, 1)), axis=1)
        for predicted, true in (_centred_ranks(*pair) for pair in own):
            found += abs(float(predicted @ true)) / len(own)
            chance += np.abs(predicted[orders] @ true) / len(own)
    # Equal orders differ by the rounding of their sums.
    reached = int((chance >= found * (1 - 1e-12)).sum())
    return (1 + reached) / (1 + samples)


def hierarchical_interval(
    pairs: Sequence[Sequence[Pair]],
    samples: int,
    confidence: float,
    seed: int,
    signed: bool = False,
) -> Interval:
    """Return the mean |Spearman|, or Spearman, with an interval over seeds, tests and removals.

    `pairs` holds those of each test point of each seed. Every resample draws seeds, then test
    points within each, and removals within each seed, for its test points alike, all with
    replacement. |Spearman| of resampled removals is larger where there is little agreement, by
    noise that counts twice: the interval is of the resamples' deviations from their own mean, and
    rather wide. What seeds differ by is widened as far as few of them ask for. Of one seed the
    interval is over its test points and removals alone. Seeds without any correlation are left out.
    Raises: ValueError unless 0 < confidence < 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1.")
    usable = usable_seeds(pairs)
    if not usable:
        return Interval(math.nan, math.nan, math.nan, "no pair has a correlation")
    size: Callable[[Any], Any] = np.asarray if signed else np.abs
    each = np.array([np.mean(size([correlation(*pair) for pair in own])) for own in usable])
    value = float(np.mean(each))
    if samples < 1:
        return Interval(value, math.nan, math.nan, "no resamples were asked for")
    generator = np.random.default_rng(seed)
    resampled = [size(resampled_correlations(own, samples, generator)) for own in usable]
    means, of_seeds = np.zeros(samples), np.zeros(samples)
    for _ in usable:
        chosen = generator.integers(0, len(usable), samples)
        of_seeds += each[chosen]
        for place, of_seed in enumerate(resampled):
            where = np.flatnonzero(chosen == place)
            tests = generator.integers(0, len(of_seed), (len(of_seed), len(where)))
            removals = generator.integers(0, samples, len(where))
            means[where] += of_seed[tests, removals].mean(axis=0)
    means += (_widening(len(usable), confidence) - 1) * of_seeds
    means /= len(usable)
    centred = means - means.mean() + value
    low, high = np.quantile(centred, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, max(-1.0 if signed else 0.0, float(low)), min(1.0, float(high)))


def _widening(seeds: int, confidence: float) -> float:
    """Return by how much deviations of a resampled mean fall short of Student's t interval.

    Resampling n values gives their mean (n - 1) / n of its variance, and the quantiles of a known
    one: below ten seeds intervals would hold the mean too rarely (Hesterberg 2015).
    """
    if seeds < 2:
        return 1.0
    level = (1 + confidence) / 2
    quantiles = stats.t.ppf(level, seeds - 1) / stats.norm.ppf(level)
    return float(quantiles * math.sqrt(seeds / (seeds - 1)))


def usable_seeds(pairs: Sequence[Sequence[Pair]]) -> list[list[Pair]]:
    """Return the pairs of each seed that have a correlation, of seeds that have any."""
    return [own for own in map(_usable, pairs) if own]


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
    nothing is removed, `loss` the test loss, `precision` the type that it was computed in. What
    a replicate does to all removals alike is no noise: neither spread nor ranks see it.
    """
    values = np.asarray(changes, dtype=np.float64)
    removals, replicates = values.shape
    resolution = float(np.finfo(precision).eps) * max(abs(loss), float(np.finfo(precision).tiny))
    drift = 0.0 if abs(drift) <= resolution else abs(drift)
    if removals < 2:
        return SignalToNoise(math.nan, math.nan, drift, resolution)
    signal, noise = float(values.mean(axis=1).std(ddof=1)), math.nan
    if replicates > 1:
        rest = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
        freedom = (removals - 1) * (replicates - 1)
        noise = math.sqrt(float((rest**2).sum()) / freedom / replicates)
    return SignalToNoise(signal, noise, drift, resolution)


def correlation(predicted: Floats, true: Floats) -> float:
    """Return Spearman's rho of changes that vary; both of shape (removals,)."""
    first, second = _centred_ranks(predicted, true)
    return float(first @ second)


def resampled_correlations(
    pairs: Sequence[Pair], samples: int, generator: np.random.Generator
) -> Floats:
    """Return Spearman's rho of each test point for resampled removals. Shape: (tests, samples).

    The pairs are of one seed and its removals, which are drawn with replacement, the same for all
    test points. 0 where a resample does not vary.
    """
    n = len(pairs[0][0])
    draws = generator.integers(0, n, (n, samples))
    found = []
    for pair in pairs:
        first, second = (resampled_ranks(values, draws) - (n + 1) / 2 for values in pair)
        sizes = np.sqrt((first**2).sum(0) * (second**2).sum(0))
        products = (first * second).sum(0)
        found.append(np.divide(products, sizes, out=np.zeros(samples), where=sizes > 0))
    return np.stack(found)


def _ratio(signal: float, noise: float) -> float:
    return math.inf if noise == 0 else signal / noise


def _usable(pairs: Sequence[Pair]) -> list[Pair]:
    return [pair for pair in pairs if _has_correlation(*pair)]


def _has_correlation(predicted: Floats, true: Floats) -> bool:
    enough = len(predicted) >= MINIMUM_PAIRS
    finite = bool(np.isfinite(predicted).all() and np.isfinite(true).all())
    return enough and finite and not bool(is_constant(predicted) or is_constant(true))


def _centred_ranks(predicted: Floats, true: Floats) -> Pair:
    """Return ranks of mean 0 and length 1, whose product is Spearman's rho."""
    ranks = [stats.rankdata(values) - (len(values) + 1) / 2 for values in (predicted, true)]
    first, second = (values / np.linalg.norm(values) for values in ranks)
    return first, second

"""Agreement of predicted with true loss changes, for one seed and one test point."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from itertools import permutations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
Outcome = float | str  # a number, or the reason why there is none

MINIMUM_PAIRS = 3  # two pairs lie on a line and rank perfectly whatever they measure
CONSTANT_RTOL = 8 * float(np.finfo(np.float64).eps)  # a few roundings of equal values
EXACT_PAIRS = 7  # 7! = 5040 orders; the t approximation gives p = 0 to a perfect ranking of three
BEYOND_FLOAT = "beyond float64: the values are too large or too small to square"
BLOCK_CELLS = 12_000  # 96 kB an array: below the size from which malloc maps fresh pages


@dataclass(frozen=True)
class Agreement:
    """Agreement over the removals of one seed and test point.

    Correlations and the least-squares line are of the true changes on the predicted ones.
    `r2`, `sign_agreement` and `top_k_overlap` compare with the drift-corrected changes.
    `*_p` are two-sided p-values; `*_low` and `*_high` bound bootstrap percentile intervals.
    An undefined number is `nan`, and `reasons` says why under the name of its field.
    """

    n: int  # removals
    spearman: float
    spearman_p: float
    spearman_low: float
    spearman_high: float
    pearson: float
    pearson_p: float
    pearson_low: float
    pearson_high: float
    kendall: float  # tau-b
    kendall_p: float
    slope: float  # true nats for each predicted nat; 1 is ideal
    slope_low: float
    slope_high: float
    intercept: float  # nats; 0 is ideal
    r2: float  # 1 - SSE / SST about the identity line; 1 is ideal, no lower bound
    r2_low: float
    r2_high: float
    sign_agreement: float  # share of pairs
    top_k_overlap: float  # share of the k largest
    top_k_chance: float  # what unrelated rankings share on average
    reasons: dict[str, str]

    def to_record(self) -> dict[str, int | float | dict[str, str]]:
        """Give the fields as one flat dictionary, with the reasons under `reasons`."""
        return asdict(self)


def agreement(
    predicted: ArrayLike,
    true: ArrayLike,
    drift_corrected: ArrayLike,
    *,
    top_k: int = 10,
    confidence: float = 0.95,
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> Agreement:
    """Compare the predicted with the true changes of one test loss.

    All three arrays have shape (removals,), are in nats, and are positive where removal hurts.
    `true` counts from before the removal, `drift_corrected` from a retraining without one.
    Intervals resample removals; the same seed draws the same removals for every test point.
    Correlations, line and R^2 take three pairs, signs and overlap one.

    Raises: ValueError for arrays of other or unequal shapes and for options out of range.
    Reference: Basu et al. (2021) for the rank correlation; Efron & Tibshirani (1993),
    chapter 13, for the percentile interval.
    """
    arrays = _same_shape(predicted=predicted, true=true, drift_corrected=drift_corrected)
    _check_options(top_k, confidence, bootstrap_samples)
    n = len(arrays["predicted"])
    obstacle = _obstacle_to_everything(arrays)
    if obstacle is not None:
        return _assemble(n, dict.fromkeys(_number_names(), obstacle))
    with quiet():
        outcomes = _point_estimates(**arrays, top_k=top_k)
        resampled = _bootstrap(**arrays, samples=bootstrap_samples, seed=seed)
        for name, values in resampled.items():
            low, high = _interval(outcomes[name], values, confidence)
            outcomes |= {f"{name}_low": low, f"{name}_high": high}
    return _assemble(n, outcomes)


def chance_absolute_correlation(n: int) -> float:
    """Give the mean |Spearman| of two unrelated rankings of `n` items: sqrt(2 / (pi (n - 1))).

    Over random orders rho has mean 0 and variance 1 / (n - 1), exactly, and is close to normal;
    the absolute value of a normal variable has mean sqrt(2 / pi) standard deviations. That is
    0.128 for 40 items and 0.163 for 25, both within 1%, and 2% too low for 10. Below three
    items there is no correlation: `nan`.

    Reference: Kendall & Gibbons (1990), Rank Correlation Methods.
    """
    if n < MINIMUM_PAIRS:
        return math.nan
    return math.sqrt(2 / (math.pi * (n - 1)))


def spearman(x: ArrayLike, y: ArrayLike) -> tuple[float, float]:
    """Give Spearman's rho and its two-sided p-value; both arrays of shape (pairs,).

    Up to seven pairs the p-value is exact, over all orders of `y`; above, scipy's t
    approximation. The caller makes sure of finite values, three pairs and no constant.
    """
    result = stats.spearmanr(x, y)
    if np.size(x) > EXACT_PAIRS:
        return float(result.statistic), float(result.pvalue)
    # Centred ranks are multiples of 1/2 and their products exact: `>=` needs no tolerance.
    centre = (np.size(x) + 1) / 2
    ranks_x, ranks_y = stats.rankdata(x) - centre, stats.rankdata(y) - centre
    products = ranks_y[_orders(np.size(x))] @ ranks_x
    return float(result.statistic), float(np.mean(np.abs(products) >= abs(ranks_x @ ranks_y)))


def is_constant(values: Floats) -> NDArray[np.bool_]:
    """Say whether the values along the first axis are equal up to rounding."""
    high, low = values.max(axis=0), values.min(axis=0)
    return np.asarray(high - low <= CONSTANT_RTOL * np.maximum(abs(high), abs(low)))


def resampled_ranks(values: Floats, draws: NDArray[np.int64]) -> Floats:
    """Rank `values[draws]` within each column, ties averaged; draws of shape (n, samples).

    Equals `scipy.stats.rankdata(values[draws], axis=0)`, which sorts every resample. Here an
    average rank is the number of draws below a value, half of those equal to it, and a half.
    """
    distinct, place = np.unique(values, return_inverse=True)
    width, samples = len(distinct), draws.shape[1]
    cells = samples * place[draws] + np.arange(samples)
    counts = np.bincount(cells.ravel(), minlength=width * samples).reshape(width, samples)
    ranks = np.cumsum(counts, axis=0) - (counts - 1) / 2
    return np.asarray(ranks.ravel()[cells])


@contextmanager
def quiet() -> Iterator[None]:
    """Keep numerical warnings off, where the caller checks that the numbers are finite."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


@lru_cache(maxsize=EXACT_PAIRS)
def _orders(n: int) -> NDArray[np.int64]:
    return np.array(list(permutations(range(n))), dtype=np.int64)


def _same_shape(**inputs: ArrayLike) -> dict[str, Floats]:
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in inputs.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"Expected arrays of one shape (removals,), got {shapes}.")
    return arrays


def _check_options(top_k: int, confidence: float, bootstrap_samples: int) -> None:
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}; it must be at least 1.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1.")
    if bootstrap_samples < 0:
        raise ValueError(f"bootstrap_samples is {bootstrap_samples}; it cannot be negative.")


def _obstacle_to_everything(arrays: dict[str, Floats]) -> str | None:
    bad = {name: int(np.sum(~np.isfinite(array))) for name, array in arrays.items()}
    if any(bad.values()):
        total = sum(array.size for array in arrays.values())
        parts = ", ".join(f"{name}: {count}" for name, count in bad.items() if count)
        return f"{sum(bad.values())} of {total} values are not finite ({parts})"
    return None if arrays["predicted"].size else "there are no pairs"


def _obstacle_to_spread(**inputs: Floats) -> str | None:
    """Say why a statistic that needs each of these inputs to vary has no value."""
    n = len(next(iter(inputs.values())))
    if n < MINIMUM_PAIRS:
        return f"{n} of the {MINIMUM_PAIRS} pairs that it takes"
    constant = [name for name, values in inputs.items() if is_constant(values)]
    return f"constant input: {' and '.join(constant)}" if constant else None


def _point_estimates(
    predicted: Floats, true: Floats, drift_corrected: Floats, *, top_k: int
) -> dict[str, Outcome]:
    obstacle = _obstacle_to_spread(drift_corrected=drift_corrected)
    return {
        **_correlations(predicted, true),
        **_line(predicted, true),
        "r2": obstacle or float(_identity_r2(predicted, drift_corrected)),
        "sign_agreement": float(np.mean(np.sign(predicted) == np.sign(drift_corrected))),
        "top_k_overlap": _top_k_overlap(predicted, drift_corrected, top_k),
        "top_k_chance": min(top_k, len(predicted)) / len(predicted),
    }


def _correlations(predicted: Floats, true: Floats) -> dict[str, Outcome]:
    names = ("spearman", "pearson", "kendall")
    obstacle = _obstacle_to_spread(predicted=predicted, true=true)
    if obstacle is not None:
        return {key: obstacle for name in names for key in (name, f"{name}_p")}
    pearson, kendall = stats.pearsonr(predicted, true), stats.kendalltau(predicted, true)
    pairs = (
        spearman(predicted, true),
        (float(pearson.statistic), float(pearson.pvalue)),
        (float(kendall.statistic), float(kendall.pvalue)),
    )
    return {
        key: value
        for name, pair in zip(names, pairs, strict=True)
        for key, value in zip((name, f"{name}_p"), pair, strict=True)
    }


def _line(predicted: Floats, true: Floats) -> dict[str, Outcome]:
    # A constant truth has a line, with slope 0; only constant predictions have none.
    obstacle = _obstacle_to_spread(predicted=predicted)
    if obstacle is not None:
        return {"slope": obstacle, "intercept": obstacle}
    fit = stats.linregress(predicted, true)
    return {"slope": float(fit.slope), "intercept": float(fit.intercept)}


def _top_k_overlap(predicted: Floats, true: Floats, top_k: int) -> Outcome:
    k = min(top_k, len(predicted))
    magnitudes = {"predicted": np.abs(predicted), "drift_corrected": np.abs(true)}
    equal = [name for name, values in magnitudes.items() if is_constant(values)]
    if equal and k < len(predicted):
        # Otherwise ties by position would let the order of the removals pass for agreement.
        return f"no {k} largest: equal magnitudes in {' and '.join(equal)}"
    tops = [set(np.argsort(-v, kind="stable")[:k].tolist()) for v in magnitudes.values()]
    return len(tops[0] & tops[1]) / k


def _identity_r2(predicted: Floats, true: Floats) -> Floats:
    centred = true - true.mean(axis=0)
    errors = true - predicted
    return np.asarray(1 - (errors**2).sum(axis=0) / (centred**2).sum(axis=0))


def _correlation_and_slope(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Correlate `y` with `x`, and fit it, along the first axis."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    xx, xy, yy = (x * x).sum(axis=0), (x * y).sum(axis=0), (y * y).sum(axis=0)
    return np.clip(xy / np.sqrt(xx) / np.sqrt(yy), -1, 1), xy / xx


def _bootstrap(
    predicted: Floats, true: Floats, drift_corrected: Floats, *, samples: int, seed: int
) -> dict[str, Floats]:
    """Resample removals; give each statistic where it is defined, shape (at most samples,)."""
    n = len(predicted)
    generator = np.random.default_rng(seed)
    width = max(1, BLOCK_CELLS // n)
    blocks = []
    for start in range(0, max(samples, 1), width):
        draws = generator.integers(0, n, (n, min(width, samples - start)))
        blocks.append(_resampled_statistics(predicted, true, drift_corrected, draws))
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _resampled_statistics(
    predicted: Floats, true: Floats, drift_corrected: Floats, draws: NDArray[np.int64]
) -> dict[str, Floats]:
    """Evaluate each statistic on the resamples, columns of `draws`, that it is defined on."""
    x, y, corrected = predicted[draws], true[draws], drift_corrected[draws]
    x_varies = ~is_constant(x)
    both_vary = x_varies & ~is_constant(y)
    pearson, slope = _correlation_and_slope(x, y)
    ranks_x, ranks_y = resampled_ranks(predicted, draws), resampled_ranks(true, draws)
    return {
        "spearman": _correlation_and_slope(ranks_x, ranks_y)[0][both_vary],
        "pearson": pearson[both_vary],
        "slope": slope[x_varies],
        "r2": _identity_r2(x, corrected)[~is_constant(corrected)],
    }


def _interval(estimate: Outcome, resampled: Floats, confidence: float) -> tuple[Outcome, Outcome]:
    if isinstance(estimate, str):
        return estimate, estimate
    # With fewer, a tail holds less than one draw and its percentile is an extrapolation.
    needed = math.ceil(round(2 / (1 - confidence), 6))
    if len(resampled) < needed:
        reason = f"{len(resampled)} of the {needed} resamples that it takes vary"
        return reason, reason
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _number_names() -> list[str]:
    return [field.name for field in fields(Agreement) if field.name not in ("n", "reasons")]


def _assemble(n: int, outcomes: dict[str, Outcome]) -> Agreement:
    numbers: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for name in _number_names():
        outcome = outcomes[name]
        if not isinstance(outcome, str) and not math.isfinite(outcome):
            outcome = BEYOND_FLOAT
        if isinstance(outcome, str):
            reasons[name] = outcome
        numbers[name] = math.nan if isinstance(outcome, str) else outcome
    return Agreement(n=n, reasons=reasons, **numbers)

"""What is looked at before scores are trusted: one function for each check."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from ifcheck.agreement.controls import detection_power
from ifcheck.config import VerdictConfig


class Outcome(StrEnum):
    """How a check ended; unknown where what it needs was not measured."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


class Role(StrEnum):
    """What a check that fails takes away."""

    TRUTH = "truth"  # that the truth can judge at all: cannot tell
    RANK = "rank"  # trust in the ranking
    SIZE = "size"  # trust in size and sign; so does not knowing
    CONDITION = "condition"  # that too: what influence functions assume
    ADVICE = "advice"  # nothing: worth knowing


EIGENVALUE_RTOL = 1.5e-8  # sqrt(eps) of float64: below it beside the largest, signs are of rounding


@dataclass(frozen=True)
class Evidence:
    """What is known of one pair of prediction and truth; undefined numbers are `nan`.

    Medians are over seeds and test points. All changes are in nats.
    """

    removals: int  # of each seed
    seeds: int  # with a correlation
    spearman: float  # mean over seeds and test points, signed
    spearman_low: float  # of its interval
    spearman_high: float
    chance_p: float  # how often predictions in random orders agree as much
    slope: float  # median, of true on predicted changes
    r2: float  # median, about the identity, drift-corrected
    sign_agreement: float  # mean
    signal_to_drift: float  # median: spread of true changes over the null drift
    signal_to_resolution: float  # median: the same over the resolution of the type
    predicted_to_drift: float  # median: spread of predicted changes over one Newton step's change
    same_normalisation: bool  # of prediction and truth: else they differ by a constant
    proximal: bool  # whether the truth is about the network as it was trained, optimum or not
    replicates: int
    deterministic: str  # why nothing is drawn at random in the truth; "" where something is
    reliable_share: float  # of seeds and test points, of reliability above the least
    noise_ceiling: float  # median
    rel_residual: float  # largest of the solves
    lowest_eigenvalue: float  # of the damped Hessian, over seeds; nan where it was not looked for
    largest_eigenvalue: float  # of the same
    negative: int  # eigenvalues below zero at most, undamped; -1 where they were not looked for
    null_space: int  # directions left out at most; -1 where they were not looked for
    damping: float
    over_baseline: float  # mean advantage over the best baseline in |Spearman|
    over_baseline_half_width: float
    best_baseline: str
    obstacle: str = ""  # why there is no agreement to judge


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    role: Role
    outcome: Outcome
    value: float
    expected: str
    sentence: str


Judge = Callable[[Evidence, VerdictConfig], Check]


def _power(evidence: Evidence, thresholds: VerdictConfig) -> Check:
    least, removals, seeds = thresholds.min_power, evidence.removals, evidence.seeds
    found = detection_power(thresholds.min_rank, removals, seeds)
    outcome = Outcome.PASS if found >= least else Outcome.FAIL
    told = f"{_count(removals, 'removal')} and {_count(seeds, 'seed')}"
    sentence = (
        f"{told} tell a Spearman of {thresholds.min_rank:g} from none with probability {found:.2f}."
    )
    if math.isnan(found):
        sentence = f"{told} tell no Spearman from none: it takes four removals and a seed."
    return Check("power", Role.TRUTH, outcome, found, f"at least {least:g}", sentence)


def _noise_ceiling(evidence: Evidence, thresholds: VerdictConfig) -> Check:
    expected = f"reliability of at least {thresholds.min_reliability:g} on most seeds"
    found, outcome = evidence.noise_ceiling, Outcome.UNKNOWN
    if evidence.replicates > 1:
        reliable = evidence.reliable_share > thresholds.min_reliable_share
        outcome = Outcome.PASS if reliable else Outcome.FAIL
        sentence = (
            f"A perfect prediction would reach {found:.2f}, by {evidence.replicates} replicates."
            if reliable
            else f"{evidence.replicates} replicates of the truth do not agree enough to judge by."
        )
    elif evidence.deterministic:
        outcome, found = Outcome.PASS, 1.0
        sentence = f"The truth holds no noise: {evidence.deterministic}."
    else:
        sentence = "How much of the truth is noise is not known: use --replicates."
    return Check("noise ceiling", Role.TRUTH, outcome, found, expected, sentence)


def _resolution(evidence: Evidence, thresholds: VerdictConfig) -> Check:
    found = evidence.signal_to_resolution
    least, clear = thresholds.min_signal_to_resolution, thresholds.clear_signal_to_resolution
    outcome = _at_least(found, clear, least)
    sentence = f"True changes spread over {found:.2g} times what the floating-point type resolves."
    if outcome is Outcome.UNKNOWN:
        sentence = "How far true changes spread is not known: it takes two removals."
    expected = f"at least {clear:g} times, and no less than {least:g}"
    return Check("resolution", Role.TRUTH, outcome, found, expected, sentence)


def _rank(evidence: Evidence, thresholds: VerdictConfig) -> Check:
    """Judge the interval of the mean Spearman, corrected for noise where that is known."""
    least = thresholds.min_rank
    found, low, high = evidence.spearman, evidence.spearman_low, evidence.spearman_high
    measured = ""
    if evidence.replicates > 1 and evidence.noise_ceiling > 0:
        ceiling = evidence.noise_ceiling
        found, low, high = (max(-1.0, min(1.0, v / ceiling)) for v in (found, low, high))
        measured = f"; {evidence.spearman:.2f} before the truth's noise is taken out"
    between = f"{low:.2f} to {high:.2f}{measured}"
    if math.isnan(low):
        outcome = Outcome.UNKNOWN
        sentence = (
            f"Spearman {found:.2f} has no interval: resample more, with evaluate.bootstrap_samples."
        )
    elif low >= least and not evidence.chance_p > thresholds.max_chance_p:
        outcome = Outcome.PASS
        sentence = f"Removals are ranked right: Spearman {found:.2f} ({between})."
    elif high < least:
        outcome = Outcome.FAIL
        sentence = f"Removals are not ranked right: Spearman {found:.2f} ({between})."
    elif low >= least:
        outcome = Outcome.UNKNOWN
        sentence = (
            f"Spearman {found:.2f} ({between}) may be chance: random orders agree as "
            f"much with probability {evidence.chance_p:.2g}."
        )
    else:
        outcome = Outcome.UNKNOWN
        sentence = (
            f"Spearman {found:.2f} may lie on either side of {least:g} ({between}): "
            "remove more rows, train more seeds or take more replicates."
        )
    return Check("rank", Role.RANK, outcome, found, f"at least {least:g}", sentence)


def _signs(evidence: Evidence, thresholds: VerdictConfig) -> Check:
    found, least = evidence.sign_agreement, thresholds.min_signs
    outcome = _at_least(found, least, least)
    sentence = f"{found:.0%} of the changes have the predicted sign, beside the null run."
    if outcome is Outcome.UNKNOWN:
        sentence = "How many changes have the predicted sign is not known."
    role = Role.SIZE
    if not evidence.same_normalisation:
        role = Role.ADVICE
        sentence += " Prediction and truth have other normalisations, which differ by a constant."
    return Check("signs", role, outcome, found, f"at least {least:.0%}", sentence)


def _scale(evidence: Evidence, thresholds: VerdictConfig) -> Check:
    factor, least = thresholds.max_factor, thresholds.min_r2
    slope, r2 = evidence.slope, evidence.r2
    # A constant, by which other normalisations differ, is no fault of scale.
    right = 1 / factor <= slope <= factor and (r2 >= least or not evidence.same_normalisation)
    outcome = Outcome.PASS if right else Outcome.FAIL
    sentence = (
        f"True changes are {slope:.2g} times the predicted ones; R² about the identity {r2:.2f}."
    )
    if math.isnan(slope) or math.isnan(r2):
        outcome, sentence = Outcome.UNKNOWN, "True changes have no line on the predicted ones."
    expected = f"slope of {1 / factor:g} to {factor:g}, R² of at least {least:g}"
    return Check("scale", Role.SIZE, outcome, slope, expected, sentence)


def _miss_relation(evidence: Evidence, thresholds: VerdictConfig) -> Check:
    """Name what Epifano et al. call the miss-relation: ranks agree, values do not (figure 4)."""
    ranked = _rank(evidence, thresholds).outcome is Outcome.PASS
    scale = _scale(evidence, thresholds)
    outcome = Outcome.UNKNOWN
    sentence = "Ranks are not known to agree, so that values are not asked about."
    if ranked and scale.outcome is not Outcome.UNKNOWN:
        outcome = scale.outcome
        sentence = f"Ranks agree, and values do: R² about the identity {evidence.r2:.2f}."
        if outcome is Outcome.FAIL:
            sentence = (
                "Ranks agree and values do not, the paper's miss-relation: true changes are "
                f"{evidence.slope:.2g} times the predicted ones, R² {evidence.r2:.2f}."
            )
    return Check("miss-relation", Role.ADVICE, outcome, evidence.r2, scale.expected, sentence)


def _stationarity(evidence: Evidence, thresholds: VerdictConfig) -> Check:
    """Judge where training stopped by one Newton step with nothing removed."""
    found = evidence.predicted_to_drift
    least, clear = thresholds.min_signal_to_drift, thresholds.clear_signal_to_drift
    outcome = _at_least(found, clear, least)
    role = Role.ADVICE if evidence.proximal else Role.CONDITION
    sentence = (
        "Where training stopped, one Newton step with nothing removed would move the test loss by "
        f"{_times(found)} the spread of the predicted changes."
    )
    if outcome is Outcome.UNKNOWN:
        sentence = "How far training stopped from an optimum is not known."
    expected = f"spread of at least {clear:g} times that step, and no less than {least:g}"
    return Check("stationarity", role, outcome, found, expected, sentence)


def _null_drift(evidence: Evidence, thresholds: VerdictConfig) -> Check:
    found = evidence.signal_to_drift
    least, clear = thresholds.min_signal_to_drift, thresholds.clear_signal_to_drift
    sentence = (
        f"Removing nothing changes the test loss by {_times(found)} the spread of the true changes."
    )
    outcome = _at_least(found, clear, least)
    if outcome is Outcome.UNKNOWN:
        sentence = "What removing nothing changes is not known beside the true changes."
    expected = f"spread of at least {clear:g} times the drift, and no less than {least:g}"
    return Check("null drift", Role.CONDITION, outcome, found, expected, sentence)


def _curvature(evidence: Evidence, thresholds: VerdictConfig) -> Check:
    lowest, expected = evidence.lowest_eigenvalue, "no negative direction, none left out"
    rounding = EIGENVALUE_RTOL * evidence.largest_eigenvalue
    if math.isnan(lowest):
        outcome, sentence = Outcome.UNKNOWN, "The solver did not look for eigenvalues."
    elif evidence.negative > 0 and lowest < -rounding:
        outcome = Outcome.FAIL
        sentence = (
            f"The Hessian has up to {_count(evidence.negative, 'negative eigenvalue')}, and "
            f"damping of {evidence.damping:g} leaves the lowest at {lowest:.1e}: this is no "
            "minimum."
        )
    elif lowest <= rounding and not evidence.null_space > 0:
        outcome = Outcome.WARN
        sentence = (
            f"The lowest eigenvalue, {lowest:.1e}, is none beside the largest, "
            f"{evidence.largest_eigenvalue:.1e}: there are directions without curvature."
        )
    elif evidence.null_space > 0:
        outcome = Outcome.WARN
        sentence = f"Left out: up to {_count(evidence.null_space, 'direction')} without curvature."
    else:
        outcome = Outcome.PASS
        damped = f", damped by {evidence.damping:g}," if evidence.damping else ""
        sentence = (
            f"The Hessian{damped} is positive definite: its lowest eigenvalue is {lowest:.1e}."
        )
    return Check("curvature", Role.CONDITION, outcome, lowest, expected, sentence)


def _solver(evidence: Evidence, thresholds: VerdictConfig) -> Check:
    found, most = evidence.rel_residual, thresholds.max_residual
    outcome = _at_least(-found, -thresholds.clear_residual, -most)
    sentence = f"The solves leave a relative residual of at most {found:.1e}."
    if outcome is Outcome.UNKNOWN:
        sentence = "What the solves leave unsolved is not known."
    expected = f"at most {thresholds.clear_residual:g}, and no more than {most:g}"
    return Check("solver residual", Role.CONDITION, outcome, found, expected, sentence)


def _baselines(evidence: Evidence, thresholds: VerdictConfig) -> Check:
    over, half_width = evidence.over_baseline, evidence.over_baseline_half_width
    expected = "better than all of them"
    if not evidence.best_baseline or math.isnan(over):
        sentence = "No baseline was given to compare with."
        return Check("baselines", Role.ADVICE, Outcome.UNKNOWN, over, expected, sentence)
    name = evidence.best_baseline
    if math.isnan(half_width):
        # One network is above a baseline by chance as often as below.
        sentence = (
            f"One network alone is {over:+.2f} of |Spearman| beside {name}, which may be chance: "
            "train more seeds."
        )
        return Check("baselines", Role.ADVICE, Outcome.UNKNOWN, over, expected, sentence)
    outcome, words = Outcome.WARN, f"no better than {name}"
    if over - half_width > 0:
        outcome, words = Outcome.PASS, f"better than {name}, the best baseline"
    elif over + half_width < 0:
        outcome, words = Outcome.FAIL, f"worse than {name}, which costs next to nothing"
    sentence = f"Removals are ranked {words} (by {over:+.2f} ± {half_width:.2f} of |Spearman|)."
    return Check("baselines", Role.ADVICE, outcome, over, expected, sentence)


def _at_least(value: float, clear: float, least: float) -> Outcome:
    if math.isnan(value):
        return Outcome.UNKNOWN
    if value >= clear:
        return Outcome.PASS
    return Outcome.WARN if value >= least else Outcome.FAIL


def _times(ratio: float) -> str:
    """Return the inverse of a ratio as text: how often the latter is the former."""
    if ratio == 0:
        return "infinitely many times"
    return f"{1 / ratio:.2g} times"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


# In the order in which the first that fails is given as the reason.
CHECKS: tuple[Judge, ...] = (
    _resolution,
    _power,
    _noise_ceiling,
    _rank,
    _stationarity,
    _null_drift,
    _curvature,
    _solver,
    _signs,
    _scale,
    _miss_relation,
    _baselines,
)

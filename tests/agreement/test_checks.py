"""Every check at and around its threshold, and what it says."""

import math
import re
from dataclasses import fields, replace

import pytest
from scipy import stats

from ifcheck.agreement.checks import CHECKS, Check, Evidence, Outcome, Role
from ifcheck.config import VerdictConfig, load_config

NAN, INF = math.nan, math.inf
THRESHOLDS = VerdictConfig()
GOOD = Evidence(
    removals=40,
    seeds=3,
    spearman=0.95,
    spearman_low=0.91,
    spearman_high=0.98,
    chance_p=0.001,
    slope=1.1,
    r2=0.9,
    sign_agreement=0.97,
    signal_to_drift=50.0,
    signal_to_resolution=1e6,
    predicted_to_drift=60.0,
    same_normalisation=True,
    proximal=False,
    replicates=1,
    deterministic="full batches draw nothing",
    reliable_share=0.0,
    noise_ceiling=NAN,
    rel_residual=1e-9,
    lowest_eigenvalue=0.02,
    largest_eigenvalue=2.0,
    negative=0,
    null_space=0,
    damping=0.0,
    over_baseline=0.3,
    over_baseline_half_width=0.1,
    best_baseline="gradient-dot",
)
ROLES = {
    "resolution": Role.TRUTH,
    "power": Role.TRUTH,
    "noise ceiling": Role.TRUTH,
    "rank": Role.RANK,
    "stationarity": Role.CONDITION,
    "null drift": Role.CONDITION,
    "curvature": Role.CONDITION,
    "solver residual": Role.CONDITION,
    "signs": Role.SIZE,
    "scale": Role.SIZE,
    "miss-relation": Role.ADVICE,
    "baselines": Role.ADVICE,
}


def checked(name: str, thresholds: VerdictConfig = THRESHOLDS, **changes: object) -> Check:
    """The check of this name, of good evidence with these changes."""
    evidence = replace(GOOD, **changes)
    return {check.name: check for check in (judge(evidence, thresholds) for judge in CHECKS)}[name]


def test_good_evidence_passes_every_check_and_each_limits_what_it_should():
    found = [judge(GOOD, THRESHOLDS) for judge in CHECKS]
    assert {check.name: check.role for check in found} == ROLES
    assert [check.name for check in found] == list(ROLES)
    assert {check.outcome for check in found} == {Outcome.PASS}


REPLICATED = {"deterministic": "", "replicates": 2, "reliable_share": 1.0, "noise_ceiling": 0.8}
CASES = [
    # check, changes, outcome, the numbers that the sentence must carry
    ("resolution", {"signal_to_resolution": 100.0}, "pass", ["1e+02"]),
    ("resolution", {"signal_to_resolution": 99.9}, "warn", ["1e+02"]),
    ("resolution", {"signal_to_resolution": 10.0}, "warn", ["10"]),
    ("resolution", {"signal_to_resolution": 9.9}, "fail", ["9.9"]),
    ("resolution", {"signal_to_resolution": 0.0}, "fail", ["0"]),
    ("resolution", {"signal_to_resolution": INF}, "pass", ["inf"]),
    ("resolution", {"signal_to_resolution": NAN}, "unknown", []),
    ("noise ceiling", {}, "pass", []),
    ("noise ceiling", REPLICATED | {"noise_ceiling": 0.91}, "pass", ["0.91", "2 replicates"]),
    ("noise ceiling", REPLICATED | {"reliable_share": 0.51}, "pass", ["0.80", "2 replicates"]),
    ("noise ceiling", REPLICATED | {"reliable_share": 0.5}, "fail", ["2 replicates"]),
    ("noise ceiling", REPLICATED | {"reliable_share": NAN}, "fail", ["2 replicates"]),
    ("noise ceiling", {"deterministic": ""}, "unknown", ["--replicates"]),
    ("power", {"removals": 15, "seeds": 1}, "pass", ["15 removals and 1 seed ", "0.7", "0.83"]),
    ("power", {"removals": 14, "seeds": 1}, "fail", ["14 removals and 1 seed ", "0.7", "0.79"]),
    ("power", {"removals": 5, "seeds": 1}, "fail", ["5 removals and 1 seed ", "0.7", "0.26"]),
    ("power", {"removals": 3, "seeds": 9}, "fail", ["3 removals and 9 seeds "]),
    ("power", {"removals": 0, "seeds": 0}, "fail", ["0 removals and 0 seeds "]),
    ("rank", {"spearman_low": 0.7}, "pass", ["0.95", "0.70 to 0.98"]),
    ("rank", {"spearman_low": 0.699}, "unknown", ["0.95", "either side of 0.7", "0.70 to 0.98"]),
    ("rank", {"spearman_low": 0.2, "spearman_high": 0.7}, "unknown", ["0.20 to 0.70"]),
    ("rank", {"spearman_low": 0.2, "spearman_high": 0.69}, "fail", ["0.95", "0.20 to 0.69"]),
    ("rank", {"spearman_low": -0.98, "spearman_high": -0.9}, "fail", ["-0.98 to -0.90"]),
    ("rank", {"spearman_low": NAN, "spearman_high": NAN}, "unknown", ["0.95", "bootstrap_samples"]),
    ("rank", {"chance_p": 0.05}, "pass", ["0.95"]),
    ("rank", {"chance_p": 0.06}, "unknown", ["0.95", "0.91 to 0.98", "probability 0.06"]),
    ("rank", {"chance_p": NAN}, "pass", ["0.95"]),
    ("stationarity", {"predicted_to_drift": 10.0}, "pass", ["0.1 times"]),
    ("stationarity", {"predicted_to_drift": 9.9}, "warn", ["0.1 times"]),
    ("stationarity", {"predicted_to_drift": 1.0}, "warn", ["1 times"]),
    ("stationarity", {"predicted_to_drift": 0.5}, "fail", ["2 times"]),
    ("stationarity", {"predicted_to_drift": 0.0}, "fail", ["infinitely many times"]),
    ("stationarity", {"predicted_to_drift": INF}, "pass", ["0 times"]),
    ("stationarity", {"predicted_to_drift": NAN}, "unknown", ["not known"]),
    ("null drift", {"signal_to_drift": 10.0}, "pass", ["0.1 times"]),
    ("null drift", {"signal_to_drift": 9.0}, "warn", ["0.11 times"]),
    ("null drift", {"signal_to_drift": 1.0}, "warn", ["1 times"]),
    ("null drift", {"signal_to_drift": 0.9}, "fail", ["1.1 times"]),
    ("null drift", {"signal_to_drift": 0.0}, "fail", ["infinitely many times"]),
    ("null drift", {"signal_to_drift": INF}, "pass", ["0 times"]),
    ("null drift", {"signal_to_drift": NAN}, "unknown", ["not known"]),
    ("curvature", {"lowest_eigenvalue": 1e-7}, "pass", ["1.0e-07"]),
    ("curvature", {"negative": 4, "damping": 0.5}, "pass", ["damped by 0.5", "2.0e-02"]),
    ("curvature", {"negative": 4, "lowest_eigenvalue": -1e-6}, "fail", ["4 negative eigenvalues"]),
    ("curvature", {"negative": 4, "lowest_eigenvalue": -1e-15}, "warn", ["-1.0e-15", "2.0e+00"]),
    ("curvature", {"lowest_eigenvalue": 1e-9}, "warn", ["1.0e-09", "2.0e+00"]),
    (
        "curvature",
        {"negative": 1, "lowest_eigenvalue": -0.1, "damping": 0.01},
        "fail",
        ["1 negative eigenvalue,", "0.01", "-1.0e-01"],
    ),
    ("curvature", {"lowest_eigenvalue": -1e-17, "null_space": 1}, "warn", ["1 direction "]),
    ("curvature", {"null_space": 3}, "warn", ["3 directions "]),
    ("curvature", {"null_space": -1, "negative": -1}, "pass", ["2.0e-02"]),
    ("curvature", {"lowest_eigenvalue": NAN, "negative": -1}, "unknown", []),
    ("solver residual", {"rel_residual": 1e-3}, "pass", ["1.0e-03"]),
    ("solver residual", {"rel_residual": 1.1e-3}, "warn", ["1.1e-03"]),
    ("solver residual", {"rel_residual": 0.1}, "warn", ["1.0e-01"]),
    ("solver residual", {"rel_residual": 0.11}, "fail", ["1.1e-01"]),
    ("solver residual", {"rel_residual": INF}, "fail", ["inf"]),
    ("solver residual", {"rel_residual": NAN}, "unknown", ["not known"]),
    ("signs", {"sign_agreement": 0.75}, "pass", ["75%"]),
    ("signs", {"sign_agreement": 0.74}, "fail", ["74%"]),
    ("signs", {"sign_agreement": NAN}, "unknown", ["not known"]),
    ("scale", {"slope": 2.0}, "pass", ["2 times", "0.90"]),
    ("scale", {"slope": 2.01}, "fail", ["2 times", "0.90"]),
    ("scale", {"slope": 0.5}, "pass", ["0.5 times"]),
    ("scale", {"slope": 0.49}, "fail", ["0.49 times"]),
    ("scale", {"slope": -1.0}, "fail", ["-1 times"]),
    ("scale", {"slope": INF}, "fail", ["inf times"]),
    ("scale", {"slope": 3e-6}, "fail", ["3e-06 times"]),
    ("scale", {"r2": 0.5}, "pass", ["0.50"]),
    ("scale", {"r2": 0.49}, "fail", ["1.1 times", "0.49"]),
    ("scale", {"r2": -INF}, "fail", ["-inf"]),
    ("scale", {"r2": NAN}, "unknown", ["no line"]),
    ("scale", {"slope": NAN}, "unknown", ["no line"]),
    ("miss-relation", {}, "pass", ["0.90"]),
    ("miss-relation", {"slope": 30.0, "r2": -4.0}, "fail", ["30 times", "-4.00"]),
    ("miss-relation", {"slope": NAN}, "unknown", []),
    ("miss-relation", {"slope": 30.0, "spearman_low": 0.4}, "unknown", []),
    ("baselines", {"over_baseline_half_width": 0.29}, "pass", ["gradient-dot", "+0.30 ± 0.29"]),
    ("baselines", {"over_baseline_half_width": 0.3}, "warn", ["gradient-dot", "+0.30 ± 0.30"]),
    ("baselines", {"over_baseline": -0.1}, "warn", ["gradient-dot", "-0.10 ± 0.10"]),
    ("baselines", {"over_baseline": -0.11}, "fail", ["gradient-dot", "-0.11 ± 0.10"]),
    ("baselines", {"over_baseline_half_width": NAN}, "unknown", ["gradient-dot", "+0.30"]),
    ("baselines", {"over_baseline": NAN}, "unknown", ["No baseline"]),
    ("baselines", {"best_baseline": ""}, "unknown", ["No baseline"]),
]


@pytest.mark.parametrize(("name", "changes", "outcome", "numbers"), CASES)
def test_a_check_ends_as_its_threshold_says_and_tells_its_numbers(name, changes, outcome, numbers):
    found = checked(name, **changes)
    assert found.outcome == outcome
    assert [number for number in numbers if number not in found.sentence] == []


@pytest.mark.parametrize(("name", "changes", "outcome", "numbers"), CASES)
def test_sentences_read_as_english(name, changes, outcome, numbers):
    sentence = checked(name, **changes).sentence
    assert sentence[0].isupper() or sentence[0].isdigit()
    assert sentence.endswith(".")
    assert "nan" not in re.findall(r"\w+", sentence)
    assert not re.search(r"\b1 (?!times)\w+s\b", sentence)  # 1 seeds, 1 removals
    assert "  " not in sentence
    assert len(sentence) <= 200


def test_every_check_has_cases_of_each_outcome_that_it_can_end_with():
    ends = {name: {outcome for n, _, outcome, _ in CASES if n == name} for name in ROLES}
    graded = {"resolution", "stationarity", "null drift", "curvature", "solver residual"}
    for name, found in ends.items():
        expected = {"pass", "fail", "unknown"} - ({"unknown"} if name == "power" else set())
        assert found == expected | ({"warn"} if name in graded | {"baselines"} else set()), name


def test_values_are_those_that_are_judged():
    values = {check.name: check.value for check in (judge(GOOD, THRESHOLDS) for judge in CHECKS)}
    assert values.pop("power") > 0.999
    assert values == {
        "resolution": 1e6,
        "noise ceiling": 1.0,
        "rank": 0.95,
        "stationarity": 60.0,
        "null drift": 50.0,
        "curvature": 0.02,
        "solver residual": 1e-9,
        "signs": 0.97,
        "scale": 1.1,
        "miss-relation": 0.9,
        "baselines": 0.3,
    }


@pytest.mark.parametrize(("removals", "seeds"), [(14, 1), (15, 1), (6, 3), (40, 1)])
def test_power_is_of_the_least_spearman(removals, seeds):
    """The normal theory of Fisher's z, written out."""
    shift = math.atanh(0.7) * math.sqrt((removals - 3) * seeds)
    found_at, limit = stats.norm(shift, math.sqrt(1 + 0.7**2 / 2)), stats.norm.ppf(0.975)
    beyond = found_at.sf(limit) + found_at.cdf(-limit)
    found = checked("power", removals=removals, seeds=seeds)
    assert found.value == pytest.approx(beyond, abs=1e-9)
    assert (found.outcome is Outcome.PASS) == (beyond >= 0.8)


def test_noise_of_the_truth_is_taken_out_of_the_ranking_where_it_was_measured():
    noisy = {"spearman": 0.8, "spearman_low": 0.64, "spearman_high": 0.88}
    assert checked("rank", **noisy).outcome is Outcome.UNKNOWN
    found = checked("rank", **(noisy | REPLICATED | {"noise_ceiling": 0.9}))
    assert found.outcome is Outcome.PASS
    assert "0.71 to 0.98; 0.80 before the truth's noise is taken out" in found.sentence
    capped = checked("rank", **(noisy | REPLICATED | {"noise_ceiling": 0.72}))
    assert "0.89 to 1.00" in capped.sentence
    for ceiling in (NAN, 0.0):  # nothing to divide by
        unmended = checked("rank", **(noisy | REPLICATED | {"noise_ceiling": ceiling}))
        assert "0.64 to 0.88" in unmended.sentence
        assert "corrected" not in unmended.sentence
    one = checked("rank", **noisy, noise_ceiling=0.9)  # of a single run nothing is known
    assert "corrected" not in one.sentence


def test_what_the_network_was_trained_to_matters_to_truths_about_its_optimum_alone():
    stopped = checked("stationarity", predicted_to_drift=0.1)
    near = checked("stationarity", predicted_to_drift=0.1, proximal=True)
    assert (stopped.role, near.role) == (Role.CONDITION, Role.ADVICE)
    assert stopped.outcome is near.outcome is Outcome.FAIL


# Of each threshold: a setting, the evidence, and the check that it turns from one to another.
MOSTLY = {"reliable_share": 0.8}
SETTINGS = [
    ("min_rank", 0.92, {}, "rank", "pass", "unknown"),
    ("min_rank", 0.99, {}, "rank", "pass", "fail"),
    ("min_rank", 0.3, {"removals": 15, "seeds": 1}, "power", "pass", "fail"),
    ("max_chance_p", 1e-4, {}, "rank", "pass", "unknown"),
    (
        "min_reliable_share",
        0.9,
        REPLICATED | {"reliable_share": 0.8},
        "noise ceiling",
        "pass",
        "fail",
    ),
    ("min_power", 0.9, {"removals": 15, "seeds": 1}, "power", "pass", "fail"),
    ("min_signs", 0.99, {}, "signs", "pass", "fail"),
    ("max_factor", 1.05, {}, "scale", "pass", "fail"),
    ("max_factor", 40.0, {"slope": 30.0}, "scale", "fail", "pass"),
    ("min_r2", 0.95, {}, "scale", "pass", "fail"),
    ("min_r2", 0.95, {}, "miss-relation", "pass", "fail"),
    ("min_signal_to_drift", 60.0, {"signal_to_drift": 5.0}, "null drift", "warn", "fail"),
    ("clear_signal_to_drift", 55.0, {}, "null drift", "pass", "warn"),
    ("min_signal_to_drift", 6.0, {"predicted_to_drift": 5.0}, "stationarity", "warn", "fail"),
    ("clear_signal_to_drift", 70.0, {}, "stationarity", "pass", "warn"),
    (
        "min_signal_to_resolution",
        60.0,
        {"signal_to_resolution": 50.0},
        "resolution",
        "warn",
        "fail",
    ),
    ("clear_signal_to_resolution", 2e6, {}, "resolution", "pass", "warn"),
    ("max_residual", 1e-2, {"rel_residual": 0.05}, "solver residual", "warn", "fail"),
    ("clear_residual", 1e-10, {}, "solver residual", "pass", "warn"),
]
# Elsewhere: reliability is judged where records are summarised, `require` where a command ends.
NOT_OF_A_CHECK = {"min_reliability", "require"}


@pytest.mark.parametrize(("setting", "value", "changes", "name", "before", "after"), SETTINGS)
def test_a_threshold_that_is_set_changes_how_its_check_ends(
    setting, value, changes, name, before, after
):
    thresholds = load_config(None, {f"verdict.{setting}": value}).verdict
    assert checked(name, **changes).outcome == before
    assert checked(name, thresholds, **changes).outcome == after


def test_every_threshold_is_set_above():
    settable = {field.name for field in fields(VerdictConfig)} - NOT_OF_A_CHECK
    assert {setting for setting, *_ in SETTINGS} == settable


@pytest.mark.parametrize("name", ROLES)
def test_what_is_expected_names_the_threshold(name):
    moved = load_config(
        None,
        {
            "verdict.min_rank": 0.61,
            "verdict.min_power": 0.62,
            "verdict.min_reliability": 0.63,
            "verdict.min_signs": 0.64,
            "verdict.min_r2": 0.65,
            "verdict.min_signal_to_drift": 0.66,
            "verdict.min_signal_to_resolution": 0.67,
            "verdict.max_residual": 0.68,
        },
    ).verdict
    expected = {
        "resolution": "0.67",
        "noise ceiling": "0.63",
        "power": "0.62",
        "rank": "0.61",
        "stationarity": "0.66",
        "null drift": "0.66",
        "solver residual": "0.68",
        "signs": "64%",
        "scale": "0.65",
        "miss-relation": "0.65",
    }
    assert expected.get(name, "") in checked(name, moved).expected


def test_a_constant_between_normalisations_is_no_fault_of_sign_or_scale():
    other = {"same_normalisation": False}
    signs = checked("signs", sign_agreement=0.5, **other)
    assert (signs.outcome, signs.role) == (Outcome.FAIL, Role.ADVICE)
    assert "differ by a constant" in signs.sentence
    assert checked("scale", r2=-1.0, **other).outcome is Outcome.PASS
    assert checked("scale", r2=-1.0).outcome is Outcome.FAIL
    assert checked("scale", slope=30.0, **other).outcome is Outcome.FAIL

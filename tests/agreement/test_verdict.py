"""What checks come to, by order of precedence; each case is good evidence with a fault or two."""

import itertools
import math
from dataclasses import replace

import pytest

from ifcheck.agreement.checks import Outcome
from ifcheck.agreement.verdict import Decision, Verdict, judge, meets
from ifcheck.config import VerdictConfig, load_config
from tests.agreement.test_checks import GOOD, ROLES, THRESHOLDS

OBSTACLE = {"obstacle": "a retraining turned non-finite"}
NO_TRUTH = {
    "resolution": {"signal_to_resolution": 2.0},
    "power": {"removals": 5, "seeds": 1},
    "noise ceiling": {"replicates": 2, "deterministic": "", "reliable_share": 0.2},
}
UNKNOWN_RANK = {"spearman_low": 0.4}
WRONG_RANK = {"spearman": 0.3, "spearman_low": 0.1, "spearman_high": 0.5}
WRONG_SIZE = {
    "stationarity": {"predicted_to_drift": 0.5},
    "null drift": {"signal_to_drift": 0.5},
    "curvature": {"negative": 3, "lowest_eigenvalue": -1.0},
    "solver residual": {"rel_residual": 0.5},
    "signs": {"sign_agreement": 0.5},
    "scale": {"slope": 30.0},
}
ADVICE = {"over_baseline": -0.5}
UNMEASURED = {"deterministic": ""}


def judged(*faults: dict, thresholds: VerdictConfig = THRESHOLDS) -> Verdict:
    return judge(replace(GOOD, **{k: v for fault in faults for k, v in fault.items()}), thresholds)


def sentence_of(verdict: Verdict, name: str) -> str:
    return next(check.sentence for check in verdict.checks if check.name == name)


def test_good_evidence_is_trusted_for_its_ranking():
    found = judged()
    assert found.decision is Decision.TRUST
    assert found.reason == sentence_of(found, "rank")
    assert [check.name for check in found.checks] == list(ROLES)


@pytest.mark.parametrize("name", NO_TRUTH)
def test_a_truth_that_cannot_judge_tells_nothing(name):
    found = judged(NO_TRUTH[name])
    assert found.decision is Decision.CANNOT_TELL
    assert found.reason == sentence_of(found, name)


@pytest.mark.parametrize("name", WRONG_SIZE)
def test_a_fault_of_size_leaves_the_ranking(name):
    found = judged(WRONG_SIZE[name])
    assert found.decision is Decision.RANKING_ONLY
    assert found.reason == f"{sentence_of(found, 'rank')} {sentence_of(found, name)}"


def test_a_ranking_that_fails_is_not_trusted():
    found = judged(WRONG_RANK)
    assert found.decision is Decision.DO_NOT_TRUST
    assert found.reason == sentence_of(found, "rank")


def test_an_interval_that_holds_the_threshold_tells_nothing():
    found = judged(UNKNOWN_RANK)
    assert found.decision is Decision.CANNOT_TELL
    assert found.reason == sentence_of(found, "rank")


def test_advice_takes_nothing_away():
    assert judged(ADVICE).decision is Decision.TRUST
    near = judged(WRONG_SIZE["stationarity"], {"proximal": True})
    assert near.decision is Decision.TRUST


@pytest.mark.parametrize("fault", [UNMEASURED, {"signal_to_resolution": math.nan}])
def test_a_failed_ranking_is_not_blamed_on_scores_where_the_truth_was_not_measured(fault):
    found = judged(WRONG_RANK, fault)
    assert found.decision is Decision.CANNOT_TELL
    assert found.reason.startswith(sentence_of(found, "rank"))
    name = "noise ceiling" if fault is UNMEASURED else "resolution"
    assert found.reason.endswith(sentence_of(found, name))


def test_noise_that_nobody_measured_cannot_make_a_ranking_right():
    """Noise takes from agreement; of what agrees in spite of it there is no doubt."""
    assert judged(UNMEASURED).decision is Decision.TRUST


def test_conditions_that_nobody_looked_at_are_named_and_do_not_limit():
    unknown = {
        "predicted_to_drift": math.nan,
        "signal_to_drift": math.nan,
        "lowest_eigenvalue": math.nan,
        "rel_residual": math.nan,
    }
    found = judged(unknown)
    names = [c.name for c in found.checks if c.outcome is Outcome.UNKNOWN]
    assert found.decision is Decision.TRUST
    assert found.reason.endswith(f"Not known: {', '.join(names)}.")
    assert names == ["stationarity", "null drift", "curvature", "solver residual"]


@pytest.mark.parametrize("unknown", ["sign_agreement", "slope"])
def test_a_size_that_is_not_known_is_not_trusted(unknown):
    assert judged({unknown: math.nan}).decision is Decision.RANKING_ONLY


# From the strongest to the weakest: of two faults the earlier one decides.
PRECEDENCE = [
    ("obstacle", OBSTACLE, Decision.CANNOT_TELL),
    *((name, fault, Decision.CANNOT_TELL) for name, fault in NO_TRUTH.items()),
    ("rank", WRONG_RANK, Decision.DO_NOT_TRUST),
    *((name, fault, Decision.RANKING_ONLY) for name, fault in WRONG_SIZE.items()),
    ("", ADVICE, Decision.TRUST),
]


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(PRECEDENCE, 2)))
def test_of_two_faults_the_stronger_decides_and_is_the_reason(first, second):
    name, fault, decision = first
    found = judged(second[1], fault)
    assert found.decision is decision
    if name == "obstacle":
        assert found.reason == OBSTACLE["obstacle"]
        assert found.checks == ()
    else:
        ranked = f"{sentence_of(found, 'rank')} " if decision is Decision.RANKING_ONLY else ""
        assert found.reason == ranked + sentence_of(found, name or "rank")


@pytest.mark.parametrize("name", WRONG_SIZE)
def test_an_unknown_ranking_is_not_made_good_by_a_known_size(name):
    assert judged(UNKNOWN_RANK, WRONG_SIZE[name]).decision is Decision.CANNOT_TELL


def test_a_threshold_that_is_set_changes_the_verdict():
    strict = load_config(None, {"verdict.min_rank": 0.99}).verdict
    assert judged(thresholds=strict).decision is Decision.DO_NOT_TRUST
    lenient = load_config(None, {"verdict.max_factor": 50.0}).verdict
    assert judged(WRONG_SIZE["scale"], thresholds=lenient).decision is Decision.TRUST


def test_what_is_required_is_met_by_that_and_by_more():
    met = {
        required: [decision.value for decision in Decision if meets(decision, required)]
        for required in (None, "trust", "ranking")
    }
    assert met == {
        None: ["trust", "ranking only", "do not trust", "cannot tell"],
        "trust": ["trust"],
        "ranking": ["trust", "ranking only"],
    }


def test_decisions_of_a_file_are_text():
    assert meets("trust", "ranking")
    assert not meets("cannot tell", "ranking")

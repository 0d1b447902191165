"""How often verdicts are wrong where the answer is known: at most one time in twenty.

Every case is drawn 200 times and goes through the files of `influence` and `retrain` and through
`evaluate`. `cannot tell` is never wrong, and never right but where nothing can be told.
"""

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from tests.stages import simulated
from tests.stages.simulated import Scenario

DRAWS = 200
MOST = 0.05  # of the draws may go wrong: the target, not what was measured

Summaries = Callable[[Scenario, tuple[int, ...]], list[dict]]


@pytest.fixture(scope="module")
def summaries(tmp_path_factory) -> Summaries:
    """Return a reader of a case's summaries, networks of each as many as given, in turn."""
    found: dict[tuple[Scenario, tuple[int, ...]], list[dict]] = {}
    folder = tmp_path_factory.mktemp("simulated")

    def of(scenario: Scenario, seeds: tuple[int, ...]) -> list[dict]:
        if (scenario, seeds) not in found:
            generator = np.random.default_rng(seeds)
            networks = itertools.islice(itertools.cycle(seeds), DRAWS)
            found[scenario, seeds] = [
                simulated.summary_of(scenario, generator, count, folder) for count in networks
            ]
        return found[scenario, seeds]

    return of


def verdicts(found: list[dict]) -> Counter:
    return Counter(summary["verdict"] for summary in found)


def outcomes(found: list[dict], name: str) -> Counter:
    """How often the check of this name ended how."""
    return Counter(
        c["outcome"] for summary in found for c in summary["checks"] if c["name"] == name
    )


CERTAIN = [
    (simulated.ridge, (1,), "trust"),
    (simulated.ridge, (3,), "trust"),
    (simulated.shuffled, (1, 3), "do not trust"),
    (simulated.opposite, (1, 3), "do not trust"),
    (simulated.bent, (1, 3), "ranking only"),
    (simulated.noise_alone, (1,), "cannot tell"),
    (simulated.noise_alone, (3,), "cannot tell"),
    (simulated.noise_unmeasured, (1, 3), "cannot tell"),
    (simulated.rounded, (1, 3), "cannot tell"),
    (simulated.few, (1, 3), "cannot tell"),
]
BY_CHANCE = [
    (simulated.bent_and_noisy, (1, 3), "ranking only"),
    (simulated.noisy, (1,), "trust"),
    (simulated.noisy, (3,), "trust"),
    (simulated.well_ranked, (1,), "trust"),
    (simulated.well_ranked, (3,), "trust"),
    (simulated.half_right, (1,), "do not trust"),
    (simulated.half_right, (3,), "do not trust"),
    (simulated.noisy_and_half_right, (1,), "do not trust"),
    (simulated.noisy_and_half_right, (3,), "do not trust"),
    (simulated.unlike_each_other, (3,), "do not trust"),
]


def named(value: object) -> str | None:
    return getattr(value, "__name__", None)


@pytest.mark.parametrize(("scenario", "seeds", "answer"), CERTAIN, ids=named)
def test_a_clear_case_has_its_verdict(summaries, scenario, seeds, answer):
    found = verdicts(summaries(scenario, seeds))
    assert found[answer] >= (1 - MOST) * DRAWS, found


@pytest.mark.parametrize(("scenario", "seeds", "answer"), BY_CHANCE, ids=named)
def test_a_case_near_the_threshold_is_seldom_judged_wrong(summaries, scenario, seeds, answer):
    found = verdicts(summaries(scenario, seeds))
    wrong = DRAWS - found[answer] - found["cannot tell"]
    assert wrong <= MOST * DRAWS, found
    assert found[answer] > wrong, found


def test_a_base_network_that_stopped_early_is_found_out(summaries):
    found = summaries(simulated.stopped_early, (1, 3))
    assert outcomes(found, "stationarity")["fail"] >= (1 - MOST) * DRAWS
    assert verdicts(found)["trust"] <= MOST * DRAWS
    failed = [summary for summary in found if "stationarity" in summary["checks_failed"]]
    assert "trust" not in verdicts(failed)


@pytest.mark.parametrize("seeds", [(1,), (3,)])
def test_one_that_trained_to_its_optimum_is_not_suspected(summaries, seeds):
    assert outcomes(summaries(simulated.ridge, seeds), "stationarity") == {"pass": DRAWS}


def test_a_prediction_like_a_baseline_is_seldom_said_to_be_better_or_worse(summaries):
    found = outcomes(summaries(simulated.no_better_than_a_baseline, (3,)), "baselines")
    assert found["pass"] <= MOST * DRAWS, found
    assert found["fail"] <= MOST * DRAWS, found


def test_one_network_is_never_said_to_beat_a_baseline(summaries):
    """By chance it is above or below: told as such, every second draw went wrong."""
    found = outcomes(summaries(simulated.no_better_than_a_baseline, (1,)), "baselines")
    assert found == {"unknown": DRAWS}


def test_a_prediction_that_is_better_than_its_baseline_is_said_to_be(summaries):
    found = outcomes(summaries(simulated.better_than_a_baseline, (3,)), "baselines")
    assert found["pass"] >= (1 - MOST) * DRAWS, found

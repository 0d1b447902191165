"""Controls against simulations whose answer is known, closed forms, and naive loops."""

import math

import numpy as np
import pytest
from scipy import stats

from ifcheck.agreement.controls import (
    detection_power,
    hierarchical_interval,
    permutation_test,
    signal_to_noise,
)

pytestmark = pytest.mark.filterwarnings("error")


def correlated(rho: float, n: int, generator: np.random.Generator) -> tuple:
    """Predicted and true changes of a Pearson correlation."""
    x, noise = generator.normal(size=(2, n))
    return x, rho * x + math.sqrt(1 - rho**2) * noise


# --- chance ------------------------------------------------------------------------------------


def test_the_p_value_of_one_pair_is_that_of_all_orders():
    pair = (np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([1.0, 3.0, 2.0, 4.0, 5.0]))
    found = permutation_test([[pair]], 40_000, seed=0)
    exact = stats.permutation_test(
        pair,
        lambda x, y: abs(stats.spearmanr(x, y).statistic),
        permutation_type="pairings",
        n_resamples=np.inf,
        alternative="greater",
    ).pvalue
    assert found == pytest.approx(exact, abs=0.006)


def test_the_p_value_is_uniform_where_nothing_agrees():
    generator = np.random.default_rng(1)
    found = [
        permutation_test([[correlated(0.0, 12, generator)] for _ in range(3)], 199, seed)
        for seed in range(400)
    ]
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert np.mean(np.array(found) <= 0.05) < 0.09


def test_many_weak_agreements_are_told_together():
    generator = np.random.default_rng(2)
    pairs = [[correlated(0.5, 15, generator)] for _ in range(20)]
    alone = permutation_test(pairs[:1], 999, seed=0)
    assert permutation_test(pairs, 999, seed=0) == 0.001 < alone


def test_test_points_that_agree_with_each_other_are_no_more_evidence_than_one():
    """All test points of a seed share its removals, and what these do to them is alike."""
    generator = np.random.default_rng(9)
    found = []
    for trial in range(200):
        shared, predicted = generator.normal(size=(2, 20))
        own = [
            (predicted + 0.1 * generator.normal(size=20), shared + 0.1 * generator.normal(size=20))
            for _ in range(6)
        ]
        found.append(permutation_test([own], 99, seed=trial))
    assert np.mean(np.array(found) <= 0.05) < 0.1


def test_a_perfect_order_has_the_smallest_p_value_and_none_has_none():
    x = np.arange(10.0)
    assert permutation_test([[(x, -x)]], 99, seed=0) == 0.01
    constant = (np.ones(10), x)
    assert math.isnan(permutation_test([[constant]], 99, seed=0))
    assert permutation_test([[constant], [(x, x)]], 99, seed=0) == 0.01


# --- uncertainty -------------------------------------------------------------------------------


def test_the_interval_is_of_the_mean_that_is_reported():
    generator = np.random.default_rng(3)
    pairs = [[correlated(0.8, 40, generator) for _ in range(2)] for _ in range(12)]
    found = hierarchical_interval(pairs, 2_000, 0.95, seed=0)
    expected = np.mean([[abs(stats.spearmanr(*p).statistic) for p in own] for own in pairs])
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.low < found.value < found.high
    assert found.reason is None


def test_the_interval_covers_the_mean_of_all_seeds_as_often_as_it_says():
    """Seeds whose own correlations differ: more of them matters, more removals alone does not."""
    generator = np.random.default_rng(4)
    truth = np.mean(
        [
            abs(stats.spearmanr(*correlated(rho, 40, generator)).statistic)
            for rho in generator.uniform(0.4, 0.9, 4_000)
        ]
    )
    covered = 0
    for trial in range(120):
        pairs = [[correlated(rho, 40, generator)] for rho in generator.uniform(0.4, 0.9, 15)]
        interval = hierarchical_interval(pairs, 300, 0.9, seed=trial)
        covered += interval.low <= truth <= interval.high
    assert 0.84 <= covered / 120 <= 0.99  # resampled removals widen it beyond the 0.9


@pytest.mark.parametrize("seeds", [2, 3])
def test_few_seeds_that_differ_are_not_taken_for_all(seeds):
    """Resamples alone lie above the mean of all seeds in 13% of draws of two, 9% of three."""
    generator = np.random.default_rng(10)
    above = 0
    for _ in range(400):
        own = generator.uniform(0.45, 0.95, seeds)  # Spearman's, as Pearson's below
        pairs = [[correlated(2 * math.sin(math.pi * r / 6), 40, generator)] for r in own]
        above += hierarchical_interval(pairs, 100, 0.95, seed=0, signed=True).low > 0.7
    assert above / 400 <= 0.05


def test_where_nothing_agrees_the_interval_is_about_what_is_found_and_reaches_chance():
    """Resampled removals count noise twice: without mending, the interval lies above its mean."""
    generator = np.random.default_rng(8)
    reached = 0
    for trial in range(40):
        pairs = [[correlated(0.0, 40, generator)] for _ in range(20)]
        interval = hierarchical_interval(pairs, 300, 0.95, seed=trial)
        assert interval.low < interval.value < interval.high
        reached += interval.low <= math.sqrt(2 / (math.pi * 39)) <= interval.high
    assert reached >= 36


def test_the_interval_is_wider_where_seeds_differ():
    generator = np.random.default_rng(5)
    alike = [[correlated(0.7, 200, generator)] for _ in range(10)]
    unlike = [[correlated(rho, 200, generator)] for rho in np.linspace(0.45, 0.95, 10)]
    widths = []
    for pairs in (alike, unlike):
        interval = hierarchical_interval(pairs, 1_000, 0.95, seed=0)
        widths.append(interval.high - interval.low)
    assert widths[1] > 1.5 * widths[0]


def test_one_seed_has_an_interval_over_its_removals():
    """Beside the normal theory of Fisher's z, which takes no resamples."""
    x, y = correlated(0.8, 60, np.random.default_rng(2))
    one = hierarchical_interval([[(x, y)]], 2_000, 0.95, seed=0, signed=True)
    rho = stats.spearmanr(x, y).statistic
    half = 1.96 * math.sqrt((1 + rho**2 / 2) / 57)
    assert one.low == pytest.approx(math.tanh(math.atanh(rho) - half), abs=0.07)
    assert one.high == pytest.approx(math.tanh(math.atanh(rho) + half), abs=0.07)


def test_a_signed_interval_tells_agreement_from_its_opposite():
    x, y = correlated(0.8, 60, np.random.default_rng(2))
    along = hierarchical_interval([[(x, y)]], 500, 0.95, seed=0, signed=True)
    against = hierarchical_interval([[(x, -y)]], 500, 0.95, seed=0, signed=True)
    assert against.value == pytest.approx(-along.value)
    assert against.high < 0 < along.low
    assert hierarchical_interval([[(x, -y)]], 500, 0.95, seed=0).low > 0


def test_without_correlation_or_resamples_there_is_no_interval():
    x = np.arange(8.0)
    one = hierarchical_interval([[(x, x)]], 0, 0.95, seed=0)
    assert one.value == pytest.approx(1)
    assert math.isnan(one.low)
    assert one.reason == "no resamples were asked for"
    none = hierarchical_interval([[(np.ones(8), x)], []], 100, 0.95, seed=0)
    assert math.isnan(none.value)
    with pytest.raises(ValueError, match="between 0 and 1"):
        hierarchical_interval([[(x, x)]], 100, 95, seed=0)


# --- power -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rho", "removals", "seeds"), [(0.3, 40, 1), (0.1, 40, 10), (0.5, 12, 1), (0.05, 25, 20)]
)
def test_power_is_how_often_a_simulation_detects_it(rho, removals, seeds):
    generator = np.random.default_rng(6)
    pearson = 2 * math.sin(math.pi * rho / 6)  # of normal values with this Spearman
    trials, detected = 600, 0
    for _ in range(trials):
        z = [
            math.atanh(stats.spearmanr(*correlated(pearson, removals, generator)).statistic)
            for _ in range(seeds)
        ]
        detected += abs(np.mean(z)) * math.sqrt(seeds * (removals - 3)) > 1.96
    assert detection_power(rho, removals, seeds) == pytest.approx(detected / trials, abs=0.06)


def test_power_without_a_correlation_is_the_significance():
    assert detection_power(0.0, 40, 50) == pytest.approx(0.05)
    assert detection_power(0.0, 40, 5, significance=0.01) == pytest.approx(0.01)


def test_power_grows_to_one_and_is_undefined_for_three():
    powers = [detection_power(0.3, 40, seeds) for seeds in (1, 2, 5, 50)]
    assert powers == sorted(powers)
    assert powers[-1] > 0.999999
    assert math.isnan(detection_power(0.3, 3, 50))
    with pytest.raises(ValueError, match="between -1 and 1"):
        detection_power(1.0, 40, 50)


# --- signal and noise --------------------------------------------------------------------------


def test_signal_and_noise_are_those_that_were_put_in():
    generator = np.random.default_rng(7)
    removal = generator.normal(scale=0.2, size=(4_000, 1))
    alike = generator.normal(scale=5.0, size=(1, 4))  # of a replicate's null run, say
    changes = removal + alike + generator.normal(scale=0.3, size=(4_000, 4))
    found = signal_to_noise(changes, drift=-0.05, loss=1.5, precision="float32")
    assert found.replicate_noise == pytest.approx(0.3 / 2, rel=0.03)
    assert found.signal == pytest.approx(math.hypot(0.2, 0.15), rel=0.03)
    assert found.to_replicates == pytest.approx(0.2 / 0.15, rel=0.05)
    assert found.drift == 0.05
    assert found.to_drift == pytest.approx(found.signal / 0.05)
    assert found.resolution == pytest.approx(1.5 * 2**-23)
    assert found.to_resolution == pytest.approx(found.signal / found.resolution)


def test_noise_alone_is_no_signal():
    noise = np.random.default_rng(7).normal(size=(4_000, 3))
    assert signal_to_noise(noise, 0.0, 1.0, "float64").to_replicates < 0.2


def test_what_is_not_known_is_not_a_number():
    alone = signal_to_noise(np.array([[1.0], [2.0]]), 0.0, 0.0, "float64")
    assert math.isnan(alone.replicate_noise)
    assert math.isnan(alone.to_replicates)
    assert alone.to_drift == math.inf
    rounded = signal_to_noise(np.array([[1.0], [2.0]]), 1e-16, 1.0, "float64")
    assert rounded.to_drift == math.inf  # a drift of rounding is none
    for nothing in (np.array([[1.0]]), np.empty((0, 2))):
        assert math.isnan(signal_to_noise(nothing, 0.0, 1.0, "float64").signal)

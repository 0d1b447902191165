"""Controls and gaps of an evaluation against numpy on the raw files."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from ifcheck.stages.evaluate import evaluate
from ifcheck.stages.influence import influence
from ifcheck.stages.retrain import retrain
from tests.stages.conftest import defined

BASELINES = ("gradient-dot", "train-loss", "same-class")
TRUTHS = ("warm", "newton", "pbrf")


@pytest.fixture(scope="module")
def files(tiny, runs, scored, tmp_path_factory):
    """Scores of two estimators and three baselines, and three truths of the same removals."""
    folder = tmp_path_factory.mktemp("controls")
    paths = [scored("l2", "objective"), scored("l2", "paper")]
    for name in BASELINES:
        paths.append(folder / f"influence-{name}.npz")
        influence(tiny({"influence.estimator": name}), [runs("l2")], paths[-1])
    truths = []
    for truth in TRUTHS:
        truths.append(folder / f"retrain-{truth}.npz")
        flags = {"retrain.truth": truth, "retrain.removals": "top-loss:15"}
        retrain(tiny(flags), [runs("l2")], truths[-1])
    return paths, truths


@pytest.fixture(scope="module")
def evaluation(files, tiny):
    return evaluate(tiny({"evaluate.bootstrap_samples": 400}), *files)


@pytest.fixture(scope="module")
def changes(files, load_npz):
    """Predicted, true and drift-corrected changes of a pair. Shape: (seeds, tests, removals)."""

    def of(estimator, truth):
        paths = {path.stem: load_npz(path) for path in (*files[0], *files[1])}
        scores, found = paths[f"influence-{estimator}"], paths[f"retrain-{truth}"]
        rows = np.searchsorted(scores["train_ids"], found["removed_ids"])
        predicted = np.take_along_axis(scores["scores"], rows[:, None], axis=2)
        true = found["loss_after"] - found["loss_before"][..., None]
        return predicted, true, found["loss_after"] - found["null_loss_after"][..., None]

    return of


def absolute(predicted, true) -> np.ndarray:
    """|Spearman| of each seed and test point, in the order of records."""
    return np.array(
        [abs(stats.spearmanr(predicted[i], true[i]).statistic) for i in np.ndindex(4, 2)]
    )


def summary_of(evaluation, estimator, truth):
    return next(
        s
        for s in evaluation.summaries
        if (s["influence"], s["retrain"]) == (f"influence-{estimator}.npz", f"retrain-{truth}.npz")
    )


def test_the_p_value_and_the_interval_are_of_all_seeds_and_test_points(evaluation, changes):
    good, bad = (summary_of(evaluation, name, "newton") for name in ("objective", "train-loss"))
    assert good["chance_p"] == 1 / 401  # no order of 400 comes near
    assert good["abs_spearman_low"] <= good["abs_spearman_mean"] <= good["abs_spearman_high"]
    predicted, true, _ = changes("train-loss", "newton")
    generator = np.random.default_rng(1)
    chance = []
    for _ in range(400):
        orders = [generator.permutation(15) for _ in range(4)]  # of a seed's removals
        chance.append(
            np.mean(
                [
                    abs(stats.spearmanr(predicted[s, t][orders[s]], true[s, t]).statistic)
                    for s, t in np.ndindex(4, 2)
                ]
            )
        )
    expected = np.mean(np.array(chance) >= absolute(predicted, true).mean())
    assert bad["chance_p"] == pytest.approx(expected, abs=0.08)


def test_power_is_that_of_fisher_s_z(evaluation):
    found = summary_of(evaluation, "objective", "warm")["power"]
    shift = math.atanh(0.3) * math.sqrt(4 * 12)
    spread = math.sqrt(1 + 0.3**2 / 2)
    low, high = (stats.norm.cdf((sign * 1.959964 - shift) / spread) for sign in (-1, 1))
    assert found == pytest.approx(low + 1 - high, abs=1e-6)


def test_estimates_are_compared_with_the_baseline_that_is_best(evaluation, changes):
    for truth in TRUTHS:
        levels = {name: absolute(*changes(name, truth)[:2]) for name in BASELINES}
        best = max(levels, key=lambda name: np.nanmean(levels[name]))
        for estimator in ("objective", "paper"):
            found = summary_of(evaluation, estimator, truth)
            over = absolute(*changes(estimator, truth)[:2]) - levels[best]
            each = [row[np.isfinite(row)] for row in over.reshape(4, 2)]
            # Of one class, same-class ranks nothing.
            over = np.array([row.mean() for row in each if row.size])
            n = len(over)
            half = stats.t.ppf(0.975, n - 1) * over.std(ddof=1) / math.sqrt(n)
            assert found["best_baseline"] == f"influence-{best}.npz"
            assert found["over_best_baseline"] == pytest.approx(over.mean())
            assert found["over_best_baseline_ci95"] == pytest.approx(half)
            assert not found["baseline"]
        itself = summary_of(evaluation, best, truth)
        assert itself["baseline"]
        assert itself["best_baseline"] == ""
        assert math.isnan(itself["over_best_baseline"])


def test_without_baselines_nothing_is_over_them(files, tiny):
    alone = evaluate(tiny(), files[0][:1], files[1][:1]).summaries[0]
    assert alone["best_baseline"] == ""
    assert math.isnan(alone["over_best_baseline"])


def test_signals_stand_beside_drift_and_resolution(evaluation, changes, files, load_npz):
    raw = load_npz(files[1][0])
    _, _, corrected = changes("objective", "warm")
    for record in evaluation.records:
        if record["retrain"] != "retrain-warm.npz":
            continue
        s, t = record["seed"], [83, 106].index(record["test_id"])
        signal = corrected[s, t].std(ddof=1)
        drift = abs(raw["null_loss_after"][s, t] - raw["loss_before"][s, t])
        assert record["signal"] == pytest.approx(signal)
        assert record["signal_to_drift"] == pytest.approx(signal / drift)
        resolution = np.finfo(np.float64).eps * raw["loss_before"][s, t]  # heads move in float64
        assert record["signal_to_resolution"] == pytest.approx(signal / resolution)
        assert math.isnan(record["signal_to_replicates"])
        assert math.isnan(record["spearman_corrected"])


def test_the_way_to_the_truth_is_in_order_and_by_projection(evaluation, changes):
    own = [gap for gap in evaluation.gaps if gap["influence"] == "influence-paper.npz"]
    members = ["predicted", "pbrf", "newton", "warm"]
    assert [(gap["before"], gap["after"]) for gap in own] == list(itertools.pairwise(members))
    values = {truth: changes("paper", truth)[2] for truth in TRUTHS}
    values["predicted"] = changes("paper", "warm")[0]
    for gap in own:
        projections, sizes = [], []
        for i in np.ndindex(4, 2):
            centred = {name: found[i] - found[i].mean() for name, found in values.items()}
            total = centred["warm"] - centred["predicted"]
            step = centred[gap["after"]] - centred[gap["before"]]
            projections.append(step @ total)
            sizes.append(total @ total)
        assert gap["share"] == pytest.approx(np.sum(projections) / np.sum(sizes))
        assert gap["retrain"] == f"retrain-{gap['after']}.npz"
        assert gap["n"] == 8
    assert sum(gap["share"] for gap in own) == pytest.approx(1)
    assert {gap["influence"] for gap in evaluation.gaps} == {
        "influence-objective.npz",
        "influence-paper.npz",
    }


def test_truths_of_other_removals_and_refused_ones_are_no_way(files, tiny, runs, tmp_path):
    retrain(
        tiny({"retrain.truth": "newton", "retrain.removals": "random:15"}),
        [runs("l2")],
        tmp_path / "retrain-other.npz",
    )
    assert evaluate(tiny(), files[0][:1], [files[1][0], tmp_path / "retrain-other.npz"]).gaps == []
    assert evaluate(tiny(), files[0][:1], files[1][:1]).gaps == []
    refused = tmp_path / "retrain-refused.npz"
    flags = {"retrain.truth": "newton", "retrain.params": "all", "retrain.removals": "top-loss:15"}
    retrain(tiny(flags), [runs("l2")], refused)
    assert evaluate(tiny(), files[0][:1], [refused, files[1][0]]).gaps == []
    both = evaluate(tiny(), files[0][:1], [refused, *files[1]]).gaps
    assert [gap["after"] for gap in both] == ["pbrf", "newton", "warm"]


def test_a_prediction_of_all_parameters_is_not_led_over_retrained_heads(
    files, tiny, runs, tmp_path
):
    flags = {"influence.params": "all", "influence.damping": 1.0}
    influence(tiny(flags), [runs("l2")], tmp_path / "influence-all.npz")
    flags = {"retrain.params": "all", "retrain.removals": "top-loss:15"}
    retrain(tiny(flags), [runs("l2")], tmp_path / "retrain-whole.npz")
    scratch = {"retrain.truth": "scratch", "retrain.removals": "top-loss:15"}
    retrain(tiny(scratch), [runs("l2")], tmp_path / "retrain-scratch.npz")
    whole = [tmp_path / "retrain-whole.npz", tmp_path / "retrain-scratch.npz"]
    found = evaluate(tiny(), [tmp_path / "influence-all.npz"], [*files[1], *whole]).gaps
    assert [gap["retrain"] for gap in found] == ["retrain-whole.npz", "retrain-scratch.npz"]
    assert evaluate(tiny(), [tmp_path / "influence-all.npz"], files[1]).gaps == []


def test_files_of_one_name_are_told_apart(files, tiny, tmp_path):
    other = tmp_path / files[0][0].name
    other.write_bytes(files[0][1].read_bytes())
    found = evaluate(tiny(), [files[0][0], other, files[0][2]], files[1][:1]).summaries
    apart = evaluate(tiny(), [*files[0][:2], files[0][2]], files[1][:1]).summaries
    for ours, theirs in zip(found, apart, strict=True):
        assert defined([ours["over_best_baseline"]]) == defined([theirs["over_best_baseline"]])


def test_without_resamples_there_is_no_interval_and_no_p_value(files, tiny):
    config = tiny({"evaluate.bootstrap_samples": 0})
    (found,) = evaluate(config, files[0][:1], files[1][:1]).summaries
    assert math.isnan(found["abs_spearman_low"])
    assert math.isnan(found["chance_p"])
    assert found["abs_spearman_interval_reason"] == "no resamples were asked for"

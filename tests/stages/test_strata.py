"""Selections of removed rows: how files say them, how agreement over them compares, subsets."""

import json
import math
import shutil

import numpy as np
import pytest
from scipy import stats

from ifcheck.agreement.metrics import chance_absolute_correlation
from ifcheck.artifacts import read_artifact
from ifcheck.stages.evaluate import evaluate
from ifcheck.stages.influence import influence
from ifcheck.stages.retrain import retrain
from ifcheck.stages.strata import long_rows, selection_of, strata

REMOVALS = {"top-loss": "top-loss:12", "random": "random:10", "top-score": "top-score:8"}


@pytest.fixture(scope="module")
def files(tiny, runs, scored, tmp_path_factory):
    """Retrainings of the l2 run by three selections of rows."""
    folder, scores = tmp_path_factory.mktemp("selected"), scored("l2", "objective")
    for name, removals in REMOVALS.items():
        config = tiny({"retrain.truth": "newton", "retrain.removals": removals})
        ranked_by = scores if name == "top-score" else None
        retrain(config, [runs("l2")], folder / f"{name}.npz", influence_file=ranked_by)
    return folder


@pytest.fixture(scope="module")
def evaluation(files, tiny, scored, tmp_path_factory):
    out = tmp_path_factory.mktemp("strata") / "evaluation.json"
    truths = [files / f"{name}.npz" for name in REMOVALS]
    scores = [scored("l2", name) for name in ("objective", "paper")]
    return evaluate(tiny(), scores, truths, out=out), out


def summary(selection, retrain_file, **parts):
    return {
        "influence": "influence-objective.npz",
        "retrain": retrain_file,
        "estimator": "objective",
        "baseline": False,
        "truth": "warm",
        "retrain_params": "head",
        "selection": selection,
        "abs_spearman_mean": 0.5,
        "abs_spearman_ci95": 0.1,
        "chance_abs_spearman": 0.13,
        "slope_median": 1.0,
        "r2_median": 0.5,
        "n": 4,
        "reason": "",
        **parts,
    }


def records(values, tests=1):
    """Records of |Spearman| by seed; several test points lie around it, of either sign."""
    shifts = np.linspace(-0.05, 0.05, tests) if tests > 1 else [0.0]
    return [
        {"seed": seed, "n": 40, "spearman": (-1) ** place * (value + shift)}
        for seed, value in enumerate(values)
        for place, shift in enumerate(shifts)
    ]


# --- what a file says ---------------------------------------------------------------------------


def test_a_selection_is_what_the_file_was_told_to_remove(files):
    for name in REMOVALS:
        assert selection_of(read_artifact(files / f"{name}.npz")) == name


@pytest.fixture
def like(files, tiny, runs, tmp_path):
    """A copy of the random removals, and a file that removed the same rows."""
    named, out = tmp_path / "a" / "random.npz", tmp_path / "a" / "like.npz"
    named.parent.mkdir()
    shutil.copy(files / "random.npz", named)
    config = tiny({"retrain.truth": "newton", "retrain.removals": f"like:{named}"})
    retrain(config, [runs("l2")], out)
    return named, out


def test_like_is_followed_to_the_file_it_names(like, tiny, runs, tmp_path):
    _, first = like
    assert selection_of(read_artifact(first)) == "random"
    config = tiny({"retrain.truth": "newton", "retrain.removals": f"like:{first}"})
    again = retrain(config, [runs("l2")], tmp_path / "again.npz")
    assert selection_of(again) == "random"


def test_like_is_followed_where_both_files_moved_together(like, tmp_path):
    named, out = like
    named.parent.rename(tmp_path / "b")
    assert selection_of(read_artifact(tmp_path / "b" / out.name)) == "random"


def test_like_is_not_followed_to_another_file_of_that_name(like, files):
    named, out = like
    shutil.copy(files / "top-loss.npz", named)
    assert selection_of(read_artifact(out)) == "like"
    named.unlink()
    assert selection_of(read_artifact(out)) == "like"


def test_like_is_followed_to_scores_of_groups(tiny, runs, tmp_path):
    flags = {"retrain.group_size": 5, "retrain.removals": "random:6", "retrain.truth": "newton"}
    scores = influence(tiny(flags), [runs("l2")], tmp_path / "scores.npz")
    same = {"retrain.removals": f"like:{scores.path}", "retrain.truth": "newton"}
    assert selection_of(retrain(tiny(same), [runs("l2")], tmp_path / "like.npz")) == "random"


# --- strata of an evaluation --------------------------------------------------------------------


def test_records_and_summaries_say_their_selection(evaluation):
    found, _ = evaluation
    for row in [*found.records, *found.summaries]:
        assert row["selection"] == row["retrain"].removesuffix(".npz")


def test_every_prediction_has_a_stratum_with_all_selections(evaluation):
    found, out = evaluation
    assert [row["estimator"] for row in found.strata] == ["objective", "paper"]
    assert json.loads(out.read_text())["strata"][0]["selections"].keys() == REMOVALS.keys()
    for row in found.strata:
        for name, numbers in row["selections"].items():
            (own,) = [
                s
                for s in found.summaries
                if (s["influence"], s["selection"]) == (row["influence"], name)
            ]
            for column in ("abs_spearman_mean", "abs_spearman_ci95", "slope_median", "r2_median"):
                assert numbers[column] == own[column]
            removed = int(REMOVALS[name].partition(":")[2])
            assert numbers["removals"] == removed
            assert numbers["chance_abs_spearman"] == chance_absolute_correlation(removed)


def test_the_difference_is_of_the_records_seed_by_seed(evaluation):
    found, _ = evaluation
    row = found.strata[0]
    means = {
        name: np.array(
            [
                np.mean(
                    [
                        abs(r["spearman"])
                        for r in found.records
                        if (r["influence"], r["selection"]) == (row["influence"], name)
                        and r["seed"] == seed
                    ]
                )
                for seed in range(4)
            ]
        )
        for name in REMOVALS
    }
    largest = max(abs(means[a].mean() - means[b].mean()) for a in means for b in means)
    assert row["difference"] == pytest.approx(largest)
    differences = means[row["first"]] - means[row["second"]]
    assert differences.mean() == pytest.approx(row["difference"])
    half = stats.t.ppf(1 - 0.05 / 3 / 2, 3) * stats.sem(differences)  # one of three pairs
    assert (row["low"], row["high"]) == pytest.approx(
        (row["difference"] - half, row["difference"] + half)
    )
    assert row["seeds"] == 4


def test_one_selection_has_no_strata(files, tiny, scored):
    truth = files / "random.npz"
    assert evaluate(tiny(), [scored("l2", "objective")], [truth]).strata == []


def test_what_concerns_some_files_is_kept_with_the_strata_of_all(evaluation):
    found, _ = evaluation
    part = found.against(["random.npz"])
    assert {row["retrain"] for row in [*part.records, *part.summaries]} == {"random.npz"}
    assert part.strata == found.strata
    assert len(part.summaries) == 2


# --- strata of hand-made rows -------------------------------------------------------------------


def test_seeds_are_paired_and_their_test_points_are_no_seeds():
    shared = np.array([0.2, 0.5, 0.8])
    pairs = [records(shared), records(shared - [0.10, 0.11, 0.12], tests=3)]
    (row,) = strata([summary("random", "a"), summary("top-loss", "b")], pairs, 0.95)
    assert (row["first"], row["second"], row["seeds"]) == ("random", "top-loss", 3)
    assert row["difference"] == pytest.approx(0.11)
    # 0.01 between seeds, which by themselves differ by 0.3.
    assert row["high"] - row["low"] < 0.06


def test_a_negative_difference_is_told_the_other_way_round():
    pairs = [records([0.2, 0.3]), records([0.6, 0.8])]
    (row,) = strata([summary("random", "a"), summary("top-loss", "b")], pairs, 0.95)
    assert (row["first"], row["second"]) == ("top-loss", "random")
    assert row["difference"] == pytest.approx(0.45)
    assert row["low"] < 0.45 < row["high"]


def test_intervals_hold_for_the_largest_of_all_differences():
    """Of four selections that do not differ, the largest difference is taken for real in 5%."""
    random, trials, wrong = np.random.default_rng(0), 400, 0
    summaries = [summary(name, name) for name in ("top-loss", "top-score", "random", "ids")]
    for _ in range(trials):
        shared = random.normal(size=8)
        pairs = [records(10 + shared + random.normal(size=8)) for _ in summaries]
        (row,) = strata(summaries, pairs, 0.95)
        wrong += row["low"] > 0
    assert wrong <= stats.binom.ppf(0.999, trials, 0.05)
    assert wrong > 0


def test_only_seeds_that_both_have_are_compared():
    pairs = [records([0.2, math.nan, 0.4, 0.6]), records([0.1, 0.9, 0.3, math.nan])]
    (row,) = strata([summary("random", "a"), summary("top-loss", "b")], pairs, 0.95)
    assert row["seeds"] == 2
    assert row["difference"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("first", "difference", "phrase"),
    [([0.5], 0.3, "one value has no interval"), ([math.nan], math.nan, "no seed")],
)
def test_undefined_differences_say_why(first, difference, phrase):
    pairs = [records(first), records([0.2])]
    (row,) = strata([summary("random", "a"), summary("top-loss", "b")], pairs, 0.95)
    assert row["difference"] == pytest.approx(difference, nan_ok=True)
    assert math.isnan(row["low"])
    assert phrase in row["difference_reason"]


def test_files_of_one_selection_are_told_apart_by_name():
    summaries = [summary("random", "a.npz"), summary("random", "b.npz"), summary("ids", "c.npz")]
    (row,) = strata(summaries, [records([0.1, 0.2])] * 3, 0.95)
    assert list(row["selections"]) == ["a.npz", "b.npz", "ids"]
    assert strata(summaries[:2], [records([0.1, 0.2])] * 2, 0.95) == []


def test_other_truths_and_estimators_are_strata_of_their_own():
    other = {"truth": "newton", "retrain": "x"}
    summaries = [
        summary(name, name, **parts)
        for parts in ({}, other, {"influence": "influence-paper.npz"})
        for name in ("random", "ids")
        for parts in [{k: v for k, v in parts.items() if k != "retrain"}]
    ]
    rows = strata(summaries, [records([0.1, 0.2])] * 6, 0.95)
    assert [(row["influence"], row["truth"]) for row in rows] == [
        ("influence-objective.npz", "warm"),
        ("influence-objective.npz", "newton"),
        ("influence-paper.npz", "warm"),
    ]


def test_long_rows_have_one_selection_each():
    pairs = [records([0.2, 0.3]), records([0.6, 0.8])]
    rows = strata([summary("random", "a"), summary("top-loss", "b")], pairs, 0.95)
    long = long_rows(rows)
    assert [row["selection"] for row in long] == ["random", "top-loss"]
    assert [row["retrain"] for row in long] == ["a", "b"]
    assert {row["difference"] for row in long} == {rows[0]["difference"]}
    assert not any(isinstance(value, dict) for row in long for value in row.values())


# --- random subsets -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def subsets(tiny, runs, tmp_path_factory):
    """Scores and retrainings of random groups of the l2 run, and what `evaluate` says."""
    folder = tmp_path_factory.mktemp("subsets")
    flags = {"retrain.group_size": 9, "retrain.removals": "random:14", "retrain.truth": "newton"}
    scores = influence(tiny(flags), [runs("l2")], folder / "scores.npz")
    truth = retrain(tiny(flags), [runs("l2")], folder / "truth.npz")
    return scores, truth, evaluate(tiny(), [scores.path], [truth.path])


def test_datamodeling_score_is_that_of_sums_over_kept_rows(subsets, load_npz):
    scores, truth, found = subsets
    arrays, after = load_npz(scores.path), load_npz(truth.path)["loss_after"]
    rhos = []
    for s in range(4):
        for t in range(2):
            sums = [
                -arrays["scores"][s, t][~np.isin(arrays["train_ids"], group)].sum()
                for group in truth["group_ids"][s]
            ]
            rhos.append(stats.spearmanr(sums, after[s, t]).statistic)
    (own,) = found.summaries
    assert own["lds"] == pytest.approx(np.mean(rhos))
    assert own["lds_low"] < own["lds"] <= own["lds_high"]
    assert own["lds_kept_share"] == pytest.approx(1 - 9 / 148)
    assert own["lds_reason"] == ""


def test_single_rows_and_chosen_groups_have_no_datamodeling_score(evaluation, tiny, runs, tmp_path):
    flags = {"retrain.group_size": 5, "retrain.removals": "top-loss:6", "retrain.truth": "newton"}
    scores = influence(tiny(flags), [runs("l2")], tmp_path / "scores.npz")
    truth = retrain(tiny(flags), [runs("l2")], tmp_path / "truth.npz")
    chosen = evaluate(tiny(), [scores.path], [truth.path])
    for own in [*evaluation[0].summaries, *chosen.summaries]:
        assert math.isnan(own["lds"])
        assert math.isnan(own["lds_low"])
        assert "at random" in own["lds_reason"]

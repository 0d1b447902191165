"""Paths of dampings through the stages: scores, agreement along them, and the one chosen."""

import csv

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from ifcheck.errors import ArtifactMismatch, UnusableInput
from ifcheck.provenance import file_digest
from ifcheck.scores.estimators import DAMPING_PATH
from ifcheck.stages.estimate import estimate_influence
from ifcheck.stages.evaluate import evaluate
from ifcheck.stages.fragility import fragility
from ifcheck.stages.influence import influence
from ifcheck.stages.retrain import retrain
from ifcheck.stages.study_checks import check_study
from tests.stages.conftest import defined

PATH = {"influence.damping": "path", "influence.damping_path": [0.01, 0.0, 0.5, 30.0]}
AUTO = {**PATH, "influence.damping": "auto"}


@pytest.fixture(scope="module")
def truth(tiny, runs, tmp_path_factory):
    """Return a file of exact removals of the l2 run by the rows that are named."""
    folder = tmp_path_factory.mktemp("truths")

    def make(removals="random:12", **flags):
        path = folder / f"{removals.replace(':', '-')}{len(flags)}.npz"
        if not path.exists():
            given = {"retrain.truth": "newton", "retrain.removals": removals, **flags}
            retrain(tiny(given), [runs("l2")], path)
        return path

    return make


@pytest.fixture(scope="module")
def score(tiny, runs, tmp_path_factory):
    """Return scores of the l2 run."""
    folder = tmp_path_factory.mktemp("paths")

    def make(name, flags, held_out_file=None):
        path = folder / f"{name}.npz"
        return influence(tiny(flags), [runs("l2")], path, held_out_file=held_out_file)

    return make


@pytest.mark.parametrize("estimator", ["objective", "paper", "authors"])
@pytest.mark.parametrize("solver", ["exact", "minres"])
def test_each_damping_scores_as_it_does_alone(estimator, solver, score):
    options = {} if solver == "exact" else {"influence.solver_options": {"tolerance": 1e-11}}
    parts = {"influence.estimator": estimator, "influence.solver": solver, **options}
    found = score("path", {**parts, **PATH})
    assert found["damping_path"].tolist() == PATH["influence.damping_path"]
    assert found["path_scores"].shape == (4, 4, 2, 148)
    close = {"rtol": 1e-6, "atol": 1e-10}
    for place, damping in enumerate(PATH["influence.damping_path"]):
        alone = score("alone", {**parts, "influence.damping": damping})
        assert_allclose(found["path_scores"][:, place], alone["scores"], **close)
        assert found["path_rel_residual"][:, place] == pytest.approx(
            alone["rel_residual"], abs=1e-10
        )
    own = score("own", parts)
    assert_allclose(found["scores"], own["scores"], **close)
    assert (
        found.meta["config"]["influence"]["damping"] == own.meta["config"]["influence"]["damping"]
    )


def test_the_path_has_defaults_that_a_list_replaces(score):
    found = score("default", {"influence.damping": "path"})
    assert found["damping_path"].tolist() == list(DAMPING_PATH)
    assert (np.diff(found["damping_path"]) > 0).all()
    assert "path_scores" not in score("none", {"influence.damping": 0.1}).arrays


def by_hand(influence_file, truth_file, kept=lambda s, ids: np.ones(len(ids), bool)):
    """Spearman of each damping's scores. Shape: (dampings, seeds x tests)."""
    ids = influence_file["train_ids"]
    found = []
    for place in range(len(influence_file["damping_path"])):
        of_damping = []
        for s, t in np.ndindex(4, 2):
            mask = kept(s, truth_file["removed_ids"][s])
            rows = np.searchsorted(ids, truth_file["removed_ids"][s][mask])
            true = (truth_file["loss_after"][s, t] - truth_file["loss_before"][s, t])[mask]
            predicted = influence_file["path_scores"][s, place, t, rows]
            of_damping.append(stats.spearmanr(predicted, true).statistic)
        found.append(of_damping)
    return np.array(found)


def test_evaluation_follows_the_path(score, truth, tiny, load_npz):
    scores = score("followed", PATH)
    found = evaluate(tiny(), [scores.path], [truth()])
    expected = by_hand(scores, load_npz(truth()))
    assert [row["damping"] for row in found.paths] == PATH["influence.damping_path"]
    for row, values in zip(found.paths, expected, strict=True):
        assert row["abs_spearman_mean"] == pytest.approx(np.abs(values).mean(), abs=1e-12)
        assert row["spearman_median"] == pytest.approx(np.median(values), abs=1e-12)
        assert row["n"] == 8
        assert row["solved_share"] == 1
    slopes = [row["slope_median"] for row in found.paths]
    assert slopes[3] > slopes[2] > slopes[1] > 0  # damping shrinks predictions
    assert found.to_dict(tiny())["paths"] == found.paths


def test_auto_takes_the_damping_that_ranks_held_out_removals_best(score, truth, load_npz):
    held_out = truth()
    found = score("auto", AUTO, held_out_file=held_out)
    expected = by_hand(found, load_npz(held_out)).mean(axis=1)
    place = int(np.argmax(expected))
    chosen = found.meta["damping_chosen"]
    assert chosen["damping"] == PATH["influence.damping_path"][place]
    assert chosen["spearman"] == pytest.approx(expected[place], abs=1e-12)
    assert (chosen["chosen_on"], chosen["removals"]) == (held_out.name, 12)
    assert found.meta["config"]["influence"]["damping"] == chosen["damping"]
    for name in ("scores", "rel_residual", "converged", "steps"):
        assert np.array_equal(found[name], found[f"path_{name}"][:, place])
    assert np.array_equal(found["held_out_ids"], load_npz(held_out)["removed_ids"])


def test_what_the_damping_was_chosen_on_is_not_what_it_is_judged_by(score, truth, tiny, load_npz):
    scores = score("judged", AUTO, held_out_file=truth("random:60"))
    other = truth("top-loss:40")
    found = evaluate(tiny(), [scores.path], [other])
    removed, held_out = load_npz(other)["removed_ids"], scores["held_out_ids"]
    left_out = [int(np.isin(removed[s], held_out[s]).sum()) for s in range(4)]
    assert min(left_out) > 0
    for record in found.records:
        assert record["held_out"] == left_out[record["seed"]]
        assert record["n"] == 40 - left_out[record["seed"]]
    assert found.summaries[0]["damping_chosen"] == scores.meta["damping_chosen"]

    def kept(s, ids):
        return ~np.isin(ids, held_out[s])

    expected = by_hand(scores, load_npz(other), kept)
    assert found.paths[0]["abs_spearman_mean"] == pytest.approx(np.abs(expected[0]).mean())
    # Where nothing is left there is no number but a reason, and the other pairs are as they are.
    both = evaluate(tiny(), [scores.path], [truth("random:60"), other])
    assert [record["n"] for record in both.records[:8]] == [0] * 8
    assert all(np.isnan(record["spearman"]) for record in both.records[:8])
    assert both.records[0]["status"].startswith("nothing to judge by: the damping was chosen on")
    assert both.summaries[0]["reason"] == both.records[0]["status"]
    assert defined(both.summaries[1]) == defined(found.summaries[0])


def test_dampings_that_rank_alike_leave_the_smallest(score, truth):
    path = {"influence.damping": "auto", "influence.damping_path": [1e-9, 1e-10, 1e-8]}
    found = score("alike", path, held_out_file=truth())
    assert found.meta["damping_chosen"]["damping"] == 1e-10
    assert found.meta["damping_chosen"]["at_end_of_path"]


@pytest.mark.parametrize(
    ("flags", "with_file", "message"),
    [
        (AUTO, False, "--damping auto and --held-out go together"),
        (PATH, True, "--damping auto and --held-out go together"),
        ({**AUTO, "influence.estimator": "newton-step"}, True, "are for --step first-order"),
        ({**PATH, "influence.estimator": "second-order"}, False, "are for --step first-order"),
        ({**AUTO, "retrain.group_size": 3}, True, "--damping auto scores single rows"),
    ],
)
def test_what_does_not_go_together_is_refused(flags, with_file, message, score, truth):
    with pytest.raises(UnusableInput, match=message):
        score("refused", flags, held_out_file=truth() if with_file else None)


def test_held_out_groups_and_refused_truths_choose_nothing(score, truth, runs, tiny, tmp_path):
    with pytest.raises(UnusableInput, match="chosen on single rows"):
        score("groups", AUTO, held_out_file=truth(**{"retrain.group_size": 3}))
    retrain(tiny({"retrain.truth": "newton"}), [runs("none")], tmp_path / "refused.npz")
    with pytest.raises(UnusableInput, match="ranks nothing that a damping could be chosen by"):
        influence(
            tiny(AUTO), [runs("none")], tmp_path / "x.npz", held_out_file=tmp_path / "refused.npz"
        )
    with pytest.raises(ArtifactMismatch):
        influence(tiny(AUTO), [runs("none")], tmp_path / "x.npz", held_out_file=truth())


def test_a_solver_that_fails_at_a_damping_scores_the_others(score):
    """Whole networks are not convex: LiSSA and cg solve from some damping on."""
    parts = {"influence.params": "all", "influence.damping": "path"}
    exact = score("exact", {**parts, "influence.damping_path": [0.0, 30.0]})
    assert exact["negative"].max() > 0
    for solver in ("lissa", "cg"):
        flags = {**parts, "influence.solver": solver, "influence.damping_path": [0.0, 30.0]}
        found = score(solver, flags)
        place = int(np.argmax(exact["negative"]))
        assert not found["path_converged"][place, 0].any()
        assert found["path_converged"][:, 1].all()
        assert_allclose(
            found["path_scores"][:, 1], exact["path_scores"][:, 1], rtol=1e-3, atol=1e-7
        )
        assert found.meta["not_converged"]


def test_a_study_takes_a_path_and_no_damping_of_its_own(tiny):
    assert check_study(tiny({**PATH, "study.variants": "l2"}))
    for damping in (0.1, "auto"):
        with pytest.raises(UnusableInput, match=r"influence\.damping would change"):
            check_study(tiny({"influence.damping": damping, "study.variants": "l2"}))


def test_the_time_of_auto_is_that_of_the_path(tiny, runs, truth):
    assert estimate_influence(tiny(AUTO), [runs("l2")], None, truth()).total_seconds > 0
    with pytest.raises(UnusableInput, match="go together"):
        estimate_influence(tiny(AUTO), [runs("l2")])


def test_groups_that_a_file_names_are_refused_beside_auto(score, truth):
    groups = truth(**{"retrain.group_size": 3})
    flags = {**AUTO, "retrain.removals": f"like:{groups}"}
    with pytest.raises(UnusableInput, match="--damping auto scores single rows"):
        score("lied", flags, held_out_file=truth())


def test_each_network_is_judged_by_its_own_removals(tiny, runs, truth, tmp_path):
    """Seeds that stand in another order, and some of them alone."""
    flags, held_out = {**AUTO, "influence.damping_path": [0.0, 0.003, 0.1, 3.0]}, truth()
    checkpoints = sorted((runs("l2") / "checkpoints").iterdir())
    path = tmp_path / "scores.npz"
    straight = influence(tiny(flags), checkpoints, path, held_out_file=held_out)
    turned = influence(
        tiny(flags), checkpoints[::-1], tmp_path / "turned.npz", held_out_file=held_out
    )
    chosen = straight.meta["damping_chosen"]
    assert turned.meta["damping_chosen"]["damping"] == chosen["damping"]
    assert turned.meta["damping_chosen"]["spearman"] == pytest.approx(chosen["spearman"])
    assert np.array_equal(turned["held_out_ids"], straight["held_out_ids"][::-1])
    alone = influence(tiny(flags), checkpoints[2:3], tmp_path / "one.npz", held_out_file=held_out)
    assert np.array_equal(alone["held_out_ids"], straight["held_out_ids"][2:3])
    assert alone.meta["inputs"] == {held_out.as_posix(): file_digest(held_out)}


def test_a_damping_that_was_not_solved_is_not_chosen_where_others_are(score, truth):
    """Two iterations solve the largest damping alone; undamped scores rank better all the same."""
    options = {"influence.solver": "minres", "influence.solver_options": {"iterations": 2}}
    path = {"influence.damping": "auto", "influence.damping_path": [0.0, 1e7]}
    found = score("solved", {**options, **path}, held_out_file=truth())
    assert found["path_converged"].mean(axis=(0, 2)).tolist() == [0, 1]
    assert found.meta["damping_chosen"]["damping"] == 1e7
    assert found.meta["damping_chosen"]["solved_share"] == 1
    assert found.meta["not_converged"] == []


def test_a_study_writes_the_agreement_along_the_path(tiny, tmp_path):
    flags = {"study.variants": "l2", "study.truths": "newton", "train.seeds": (0, 1)}
    study = fragility(
        tiny({**PATH, **flags, "study.estimators": "objective,paper"}), tmp_path / "s"
    )
    with (tmp_path / "s" / "paths.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["damping"]) for row in rows] == 2 * PATH["influence.damping_path"]
    assert {row["influence"] for row in rows} == {"influence-objective.npz", "influence-paper.npz"}
    assert {row["variant"] for row in rows} == {"l2"}
    assert [row["abs_spearman_mean"] for row in study.paths] == pytest.approx(
        [float(row["abs_spearman_mean"]) for row in rows]
    )

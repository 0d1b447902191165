"""Groups of rows through the stages: which leave, how they are scored, and how both are matched."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from ifcheck.errors import ArtifactMismatch, UnusableInput
from ifcheck.provenance import file_digest
from ifcheck.stages.evaluate import evaluate
from ifcheck.stages.fragility import fragility
from ifcheck.stages.influence import influence
from ifcheck.stages.retrain import retrain
from ifcheck.stages.train import train

GROUPS = {"retrain.group_size": 5, "retrain.removals": "random:12", "retrain.truth": "newton"}


@pytest.fixture(scope="module")
def remove(tiny, runs, tmp_path_factory):
    """Return a retraining of the l2 run without groups, whose flags may be replaced."""
    folder = tmp_path_factory.mktemp("removed")

    def make(name="groups", influence_file=None, **flags):
        config = tiny({**GROUPS, **{f"retrain.{key}": value for key, value in flags.items()}})
        path = folder / f"{name}.npz"
        return retrain(config, [runs("l2")], path, influence_file=influence_file)

    return make


@pytest.fixture(scope="module")
def score(tiny, runs, tmp_path_factory):
    """Return scores of the l2 run with groups."""
    folder = tmp_path_factory.mktemp("scored")

    def make(name="groups", influence_file=None, **flags):
        config = tiny({**GROUPS, **{key.replace("__", "."): v for key, v in flags.items()}})
        path = folder / f"{name}.npz"
        return influence(config, [runs("l2")], path, influence_file=influence_file)

    return make


def test_random_groups_are_of_different_training_rows_and_differ_by_seed(remove, train_ids):
    groups = remove()["group_ids"]
    assert groups.shape == (4, 12, 5)
    assert np.isin(groups, train_ids).all()
    assert all(len(set(group)) == 5 for group in groups.reshape(-1, 5).tolist())
    assert len({tuple(group) for group in groups.reshape(-1, 5).tolist()}) == 48
    assert "removed_ids" not in remove().arrays


def test_largest_losses_are_cut_into_groups_in_falling_order(remove, runs, load_npz):
    trained = load_npz(runs("l2") / "train.npz")
    order = np.argsort(-trained["train_loss"], axis=1)[:, :20]
    found = remove("top", removals="top-loss:4")["group_ids"]
    assert np.array_equal(found, trained["train_ids"][order].reshape(4, 4, 5))


def test_ids_are_cut_into_groups_as_they_stand(remove):
    groups = remove("ids", removals="ids:149,0,84,7,3,1", group_size=3)["group_ids"]
    assert groups.tolist() == [[[149, 0, 84], [7, 3, 1]]] * 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"removals": "ids:1,2,3"}, "no whole number of groups of 5"),
        ({"removals": "top-loss:30"}, "asks for 30 groups of 5 rows; at most 29 can be taken"),
        ({"removals": "random:1000000000000"}, "at most 100000 can be taken"),
        ({"group_size": 148}, "there are 148 training rows, of which one must be left"),
        ({"removals": "random:0"}, "expected a count of at least 1"),
    ],
)
def test_groups_that_cannot_be_are_refused(flags, message, remove, score):
    with pytest.raises(UnusableInput, match=message):
        remove("refused", **flags)
    with pytest.raises(UnusableInput, match=message):
        score("refused", **{f"retrain__{key}": value for key, value in flags.items()})


def test_influence_and_retrain_choose_the_same_groups(remove, score):
    for removals in ("random:12", "top-loss:4"):
        removed = remove("same", removals=removals)
        scored = score("same", retrain__removals=removals)
        assert np.array_equal(removed["group_ids"], scored["group_ids"])


def test_largest_scores_are_their_own_or_those_of_a_file(remove, score, scored):
    flags = {"retrain__removals": "top-score:4"}
    own = score("own", **flags)
    size = np.abs(own["scores"]).max(axis=1)
    order = np.argsort(-size, axis=1, kind="stable")[:, :20]  # rows 101 and 142 are the same
    assert np.array_equal(own["group_ids"], own["train_ids"][order].reshape(4, 4, 5))
    other = scored("l2", "paper")
    by_file = score("by-file", influence_file=other, **flags)
    assert not np.array_equal(by_file["group_ids"], own["group_ids"])
    removed = remove("by-file", influence_file=other, removals="top-score:4")
    assert np.array_equal(removed["group_ids"], by_file["group_ids"])


def test_like_takes_the_groups_of_either_kind_of_file(remove, score):
    removed, scored = remove(), score()
    single = {"group_size": 1}  # the file says it
    by_scores = remove("like", removals=f"like:{scored.path}", **single)
    assert np.array_equal(by_scores["group_ids"], removed["group_ids"])
    by_truth = score("like", retrain__removals=f"like:{removed.path}", retrain__group_size=1)
    assert np.array_equal(by_truth["group_ids"], removed["group_ids"])
    assert np.array_equal(by_truth["group_scores"], scored["group_scores"])
    assert by_truth.meta["groups"]["group_size"] == by_scores.meta["group_size"] == 5
    assert by_truth.meta["inputs"] == {removed.path.as_posix(): file_digest(removed.path)}
    assert by_scores.meta["inputs"] == {scored.path.as_posix(): file_digest(scored.path)}
    with pytest.raises(UnusableInput, match="holds groups of 5; --group-size got 4"):
        remove("like", removals=f"like:{scored.path}", group_size=4)


def test_first_order_scores_of_groups_add_up(score):
    found = score()
    places = np.searchsorted(found["train_ids"], found["group_ids"])
    for s, t in np.ndindex(4, 2):
        sums = found["scores"][s, t][places[s]].sum(-1) * 147 / 143
        assert_allclose(found["group_scores"][s, t], sums, rtol=1e-12)
    assert found["group_converged"].all()
    assert found["group_residual"].shape == (4, 12)
    assert found.meta["groups"] == {"removals": "random:12", "group_size": 5}
    assert found.meta["inputs"] == {}


def test_scores_of_few_rows_do_not_ask_what_retrain_would_remove(tiny, tmp_path):
    config = tiny({"data.limit_train": 3, "retrain.removals": "top-loss:40"})
    train(config, tmp_path / "run")
    assert influence(config, [tmp_path / "run"], tmp_path / "x.npz")["scores"].shape == (4, 2, 3)


def test_single_rows_leave_no_groups_in_the_file(score):
    assert "group_ids" not in score("single", retrain__group_size=1).arrays


def test_evaluation_matches_groups_whatever_their_order(remove, score, tiny, runs, tmp_path):
    removed, scored = remove(), score()
    generator = np.random.default_rng(0)
    arrays = dict(removed.arrays)
    order = generator.permutation(12)
    arrays["group_ids"] = arrays["group_ids"][:, order][..., ::-1]
    arrays["loss_after"] = arrays["loss_after"][..., order]
    for name in ("converged", "grad_norm", "positive_definite"):
        arrays[name] = arrays[name][:, order]
    np.savez(
        tmp_path / "turned.npz",
        allow_pickle=False,
        meta=np.load(removed.path)["meta"],
        **arrays,
    )
    found = evaluate(tiny(), [scored.path], [tmp_path / "turned.npz"])
    for record in found.records:
        s, t = record["seed"], [83, 106].index(record["test_id"])
        true = removed["loss_after"][s, t] - removed["loss_before"][s, t]
        expected = stats.spearmanr(scored["group_scores"][s, t], true).statistic
        assert record["spearman"] == pytest.approx(expected, abs=1e-12)
    assert found.summaries[0]["group_size"] == 5


def test_groups_that_were_not_scored_are_refused_with_the_command(remove, score, scored, tiny):
    removed = remove()
    with pytest.raises(ArtifactMismatch, match="did not score groups") as caught:
        evaluate(tiny(), [scored("l2", "objective")], [removed.path])
    assert caught.value.remedy == (
        f"Score them: ifcheck influence RUN --removals like:{removed.path}"
    )
    other = score("others", retrain__removals="random:3")
    with pytest.raises(ArtifactMismatch, match="did not score these"):
        evaluate(tiny(), [other.path], [removed.path])


def test_a_study_of_groups_runs_every_estimator_on_the_same_groups(tiny, tmp_path):
    config = tiny(
        {
            "train.seeds": (0, 1),
            "retrain.group_size": 3,
            "retrain.removals": "top-score:4",
            "train.polish": "head",
            "study.variants": "l2",
            "study.truths": "newton",
            "study.estimators": "paper,objective,second-order,newton-step",
        }
    )
    study = fragility(config, tmp_path / "study")
    assert {row["estimator"] for row in study.summaries} == set(config.study.estimators)
    assert {row["group_size"] for row in study.summaries} == {3}
    assert all(row["status"] == "ok" for row in study.results)

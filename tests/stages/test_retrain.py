"""Stage `retrain`: which rows leave, and the losses afterwards against loops and optima."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.nn import functional

from ifcheck.errors import ArtifactMismatch, ArtifactUnreadable, UnknownName, UnusableInput
from ifcheck.stages.influence import influence
from ifcheck.stages.retrain import retrain, with_trajectory
from ifcheck.stages.train import train
from tests import oracles
from tests.benchmarks import sequential_loop as loop

SECTIONS = {"data", "network", "variant", "train", "retrain"}
TRUTHS = ["warm", "warm:all", "newton", "pbrf"]
EPOCHS = 30


@pytest.fixture
def removals(tiny, runs, tmp_path):
    """Return a helper that removes what a specification says; warm, 2 epochs."""

    def remove(specification, sources=None, **parts):
        config = tiny({"retrain.removals": specification, "retrain.epochs": 2})
        return retrain(config, sources or [runs("l2")], tmp_path / "truth.npz", **parts)

    return remove


def seed_files(folder, seeds):
    return [folder / "checkpoints" / f"seed-{seed:03d}.safetensors" for seed in seeds]


def weights_without(rows, row, normalisation="n-1"):
    """Shares of each row in the mean if `row` is removed; None removes nothing."""
    removed = row is not None
    weights = np.full(rows, 1 / (rows - (removed and normalisation == "n-1")))
    if removed:
        weights[row] = 0
    return weights


# --- what is written ----------------------------------------------------------------------------


MINIMA = {"positive_definite": (4, 4), "null_positive_definite": (4,)}


@pytest.mark.parametrize("truth", TRUTHS)
def test_arrays_have_the_documented_names_and_shapes(truth, retrained, load_npz):
    arrays = load_npz(retrained("l2", truth))
    assert {name: value.shape for name, value in arrays.items()} == {
        "seeds": (4,),
        "test_ids": (4, 2),
        "removed_ids": (4, 4),
        "loss_before": (4, 2),
        "loss_after": (4, 2, 4),
        "null_loss_after": (4, 2),
        "converged": (4, 4),
        "grad_norm": (4, 4),
        "null_grad_norm": (4,),
        **(MINIMA if truth in ("newton", "pbrf") else {}),
    }
    assert arrays["loss_after"].dtype == np.float64
    assert arrays["converged"].dtype == np.bool_


@pytest.mark.parametrize("truth", TRUTHS)
def test_meta_names_parents_and_configuration(
    truth, retrained, runs, checkpoints_of, assert_provenance, meta_of
):
    path = retrained("l2", truth)
    assert_provenance(path, "retrain", checkpoints_of(runs("l2")), SECTIONS)
    meta = meta_of(path)
    assert meta["reasons"] == []
    assert meta["config"]["retrain"]["truth"] == truth.partition(":")[0]
    assert meta["config"]["retrain"]["params"] == (truth.partition(":")[2] or "head")
    assert meta["config"]["retrain"]["removals"] == "top-loss:4"


@pytest.mark.parametrize("truth", TRUTHS)
def test_the_loss_before_is_that_of_the_trained_network(truth, retrained, runs, load_npz):
    """The same number in both files; whole-network retraining converts to float32 only after."""
    before = load_npz(retrained("l2", truth))["loss_before"]
    assert_allclose(before, load_npz(runs("l2") / "train.npz")["test_loss"], rtol=1e-12)


@pytest.mark.parametrize("variant", ["l2", "l2-swa"])
@pytest.mark.parametrize("truth", TRUTHS)
def test_a_second_run_gives_identical_arrays(
    variant, truth, tiny, runs, retrained, tmp_path, load_npz, assert_identical
):
    name, _, params = truth.partition(":")
    flags = {"retrain.truth": name, "retrain.params": params or "head"}
    retrain(tiny(flags), [runs(variant)], tmp_path / "again.npz")
    assert_identical(load_npz(tmp_path / "again.npz"), load_npz(retrained(variant, truth)))


@pytest.mark.parametrize("variant", ["none", "l2"])
@pytest.mark.parametrize("truth", TRUTHS)
def test_a_seed_does_not_depend_on_its_company(
    variant, truth, tiny, runs, retrained, tmp_path, load_npz, assert_identical
):
    name, _, params = truth.partition(":")
    flags = {"retrain.truth": name, "retrain.params": params or "head"}
    retrain(tiny(flags), seed_files(runs(variant), (3, 1)), tmp_path / "two.npz")
    found, expected = load_npz(tmp_path / "two.npz"), load_npz(retrained(variant, truth))
    assert_identical(found, expected, rows=[3, 1])


# --- which rows leave ---------------------------------------------------------------------------


def test_top_loss_removes_the_rows_of_largest_loss_in_order(removals, runs, load_npz):
    trained = load_npz(runs("l2") / "train.npz")
    order = np.argsort(-trained["train_loss"], axis=1)[:, :4]
    assert np.array_equal(removals("top-loss:4")["removed_ids"], trained["train_ids"][order])


def test_top_score_removes_the_rows_of_largest_absolute_score(removals, scored, load_npz):
    path = scored("l2", "paper")
    scores = load_npz(path)
    order = np.argsort(-np.abs(scores["scores"]).max(axis=1), axis=1)[:, :5]
    removed = removals("top-score:5", influence_file=path)["removed_ids"]
    assert np.array_equal(removed, scores["train_ids"][order])


def test_top_score_finds_each_seed_in_the_file_whatever_its_place(removals, runs, scored, load_npz):
    scores = load_npz(scored("l2", "paper"))
    removed = removals(
        "top-score:3",
        sources=seed_files(runs("l2"), (2, 0)),
        influence_file=scored("l2", "paper"),
    )["removed_ids"]
    for place, seed in enumerate((2, 0)):
        size = np.abs(scores["scores"][seed]).max(axis=0)
        assert np.array_equal(removed[place], scores["train_ids"][np.argsort(-size)[:3]])


def test_random_removes_different_training_rows_for_each_seed(removals, runs, train_ids):
    removed = removals("random:10")["removed_ids"]
    assert removed.shape == (4, 10)
    assert np.isin(removed, train_ids).all()
    assert all(len(set(row)) == 10 for row in removed.tolist())
    assert len({tuple(row) for row in removed.tolist()}) == 4
    assert np.array_equal(removed, removals("random:10")["removed_ids"])
    fewer = removals("random:10", sources=seed_files(runs("l2"), (2,)))["removed_ids"]
    assert np.array_equal(fewer, removed[2:3])


def test_ids_remove_these_rows_in_the_order_given(removals):
    assert removals("ids:149,0,84")["removed_ids"].tolist() == [[149, 0, 84]] * 4


def test_like_removes_the_rows_of_another_file_seed_by_seed(removals, runs, retrained, load_npz):
    path = retrained("l2", "newton")
    expected = load_npz(path)["removed_ids"]
    assert len({tuple(row) for row in expected.tolist()}) > 1  # or the order could not be seen
    assert np.array_equal(removals(f"like:{path}")["removed_ids"], expected)
    some = removals(f"like:{path}", sources=seed_files(runs("l2"), (3, 0)))["removed_ids"]
    assert np.array_equal(some, expected[[3, 0]])


@pytest.mark.parametrize("specification", ["top-loss:7", "random:7"])
def test_removed_rows_belong_to_training(specification, removals, train_ids):
    assert np.isin(removals(specification)["removed_ids"], train_ids).all()


def test_removed_ids_are_ids_and_not_positions_where_rows_are_left_out(tiny, tmp_path):
    config = tiny({"data.limit_train": 20, "retrain.removals": "top-loss:19", "retrain.epochs": 2})
    trained = train(config, tmp_path / "run")
    removed = retrain(config, [tmp_path / "run"], tmp_path / "truth.npz")["removed_ids"]
    order = np.argsort(-trained["train_loss"], axis=1)[:, :19]
    assert np.array_equal(removed, trained["train_ids"][order])


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        ("top-loss:148", "148 rows"),
        ("top-loss:1000", "1000 rows"),
        ("random:1000", "1000 rows"),
        ("top-loss:0", "'0' rows; expected a count of at least 1"),
        ("top-loss:-3", "'-3' rows"),
        ("top-loss:", "'' rows"),
        ("top-loss", "'' rows"),
        ("ids:83", "names row 83, which is not among the rows"),
        ("ids:1,1", "names a row twice"),
        ("ids:one", "not a list of row ids"),
        ("nonsense", "expected top-loss:K, top-score:K"),
        ("top-score:3", "needs the scores to rank by"),
    ],
)
def test_unusable_removals_are_refused(specification, message, removals, tmp_path):
    with pytest.raises(UnusableInput, match=message) as caught:
        removals(specification)
    assert caught.value.remedy
    assert not (tmp_path / "truth.npz").exists()


def test_like_a_missing_file_is_refused(removals, tmp_path):
    with pytest.raises(ArtifactUnreadable, match=r"other.npz does not exist"):
        removals(f"like:{tmp_path / 'other.npz'}")


def test_like_a_file_of_another_kind_is_refused(removals, scored):
    with pytest.raises(ArtifactUnreadable, match="holds neither removed_ids nor group_ids"):
        removals(f"like:{scored('l2', 'paper')}")


@pytest.mark.parametrize("form", ["like", "top-score"])
def test_a_file_of_other_checkpoints_is_refused_with_both_names(
    form, removals, retrained, scored, runs, digest
):
    other = retrained("none", "warm") if form == "like" else scored("none", "paper")
    ours, theirs = (seed_files(runs(variant), (0,))[0] for variant in ("l2", "none"))
    specification = f"like:{other}" if form == "like" else "top-score:3"
    with pytest.raises(ArtifactMismatch) as caught:
        removals(specification, influence_file=other)
    message = caught.value.message
    assert other.name in message
    assert "seed-000.safetensors" in message
    assert digest(theirs)[:8] in message
    assert digest(ours)[:8] in message


def test_a_file_without_one_of_the_seeds_is_refused(removals, tiny, runs, tmp_path):
    some = tmp_path / "some.npz"
    influence(tiny(), seed_files(runs("l2"), (0, 1)), some)
    with pytest.raises(ArtifactMismatch, match=r"some.npz .*seed-002.safetensors absent"):
        removals("top-score:3", influence_file=some)


# --- what happens then --------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["none", "l2", "swa", "l2-swa"])
def test_warm_head_equals_torchs_own_loop_on_the_head(
    variant, retrained, runs, load_npz, loop_model, iris_rows, train_ids
):
    """A fresh optimiser, the plain schedule (also after averaging), the mean of the rest."""
    arrays = load_npz(retrained(variant, "warm"))
    weight_decay = 0.005 if variant.startswith("l2") else 0.0
    for place in (0, 3):
        path = seed_files(runs(variant), (place,))[0]
        for k, removed in enumerate([None, *arrays["removed_ids"][place, :2]]):
            model = loop_model(path)
            row = None if removed is None else np.searchsorted(train_ids, removed)
            loop.train(
                model,
                *map(torch.tensor, iris_rows["train"]),
                epochs=EPOCHS,
                weights=torch.from_numpy(weights_without(148, row)),
                weight_decay=weight_decay,
                parameters=model.head.parameters(),
            )
            losses = loop.row_losses(model, *map(torch.tensor, iris_rows["test"]))
            found = arrays["loss_after"][place, :, k - 1] if k else arrays["null_loss_after"][place]
            assert_allclose(found, losses, rtol=0, atol=1e-10)


@pytest.mark.parametrize("normalisation", ["n", "n-1"])
def test_warm_all_equals_torchs_own_loop_on_the_whole_network(
    normalisation, precise, tiny, tmp_path, loop_model, iris_rows, train_ids
):
    flags = {"retrain.params": "all", "retrain.normalisation": normalisation}
    found = retrain(tiny(flags), [precise("l2")], tmp_path / "truth.npz")
    path = seed_files(precise("l2"), (1,))[0]
    for k, removed in enumerate([None, *found["removed_ids"][1]]):
        model = loop_model(path)
        row = None if removed is None else np.searchsorted(train_ids, removed)
        weights = torch.from_numpy(weights_without(148, row, normalisation))
        loop.train(
            model,
            *map(torch.tensor, iris_rows["train"]),
            epochs=EPOCHS,
            weights=weights,
            weight_decay=0.005,
        )
        losses = loop.row_losses(model, *map(torch.tensor, iris_rows["test"]))
        after = found["loss_after"][1, :, k - 1] if k else found["null_loss_after"][1]
        assert_allclose(after, losses, rtol=0, atol=1e-10)


@pytest.mark.parametrize("normalisation", ["n", "n-1"])
def test_newton_reaches_the_heads_optimum_without_the_row(
    normalisation, runs, tiny, tmp_path, loop_model, iris_rows, train_ids
):
    flags = {"retrain.truth": "newton", "retrain.normalisation": normalisation}
    found = retrain(tiny(flags), [runs("l2")], tmp_path / "truth.npz")
    assert found["converged"].all()
    assert (found["grad_norm"] <= 1e-10).all()
    assert (found["null_grad_norm"] <= 1e-10).all()
    model = loop_model(seed_files(runs("l2"), (2,))[0])
    with torch.no_grad():
        features = {
            name: model.body(torch.from_numpy(inputs)).numpy()
            for name, (inputs, _) in iris_rows.items()
        }
    for k, removed in enumerate([None, *found["removed_ids"][2, :2]]):
        row = None if removed is None else np.searchsorted(train_ids, removed)
        weights = weights_without(148, row, normalisation)
        targets = iris_rows["train"][1]
        theta = oracles.head_optimum(features["train"], targets, weights, 0.005, classes=3)
        losses = oracles.softmax_loss(theta, features["test"], iris_rows["test"][1], classes=3)
        after = found["loss_after"][2, :, k - 1] if k else found["null_loss_after"][2]
        assert_allclose(after, losses, rtol=0, atol=1e-8)


def test_warm_head_tends_to_the_newton_optimum(tiny, runs, tmp_path):
    sources = seed_files(runs("l2"), (0,))
    long = tiny({"retrain.epochs": 6000})
    warm = retrain(long, sources, tmp_path / "warm.npz")
    newton = retrain(tiny({"retrain.truth": "newton"}), sources, tmp_path / "newton.npz")
    assert_allclose(warm["loss_after"], newton["loss_after"], rtol=0, atol=1e-2)
    start = np.abs(warm["loss_before"] - newton["null_loss_after"]).min()
    assert start > 0.05  # it came a long way


@pytest.mark.parametrize("variant", ["none", "swa"])
def test_newton_is_refused_without_weight_decay_with_the_reason(variant, retrained, load_npz):
    arrays = load_npz(retrained(variant, "newton"))
    for name in ("loss_after", "null_loss_after", "grad_norm", "null_grad_norm"):
        assert np.isnan(arrays[name]).all(), name
    assert not arrays["converged"].any()
    assert np.isfinite(arrays["loss_before"]).all()


@pytest.mark.parametrize("variant", ["none", "swa"])
def test_the_reason_of_a_refused_newton_is_in_the_file(variant, retrained, meta_of):
    (reason,) = meta_of(retrained(variant, "newton"))["reasons"]
    assert reason.startswith("without weight decay the head problem is not strictly convex")


def test_newton_of_the_whole_network_is_refused_with_the_reason(tiny, runs, tmp_path):
    flags = {"retrain.truth": "newton", "retrain.params": "all"}
    found = retrain(tiny(flags), [runs("l2")], tmp_path / "truth.npz")
    assert found.meta["reasons"] == ["newton moves the head alone, not --params all"]
    assert np.isnan(found["loss_after"]).all()


@pytest.mark.parametrize("params", ["head", "all"])
def test_a_trajectory_leads_from_the_loss_before_to_the_loss_after(
    params, tiny, precise, tmp_path, load_npz, assert_identical
):
    config = tiny({"retrain.params": params, "retrain.epochs": 60})
    plain = retrain(config, [precise("l2")], tmp_path / "plain.npz")
    watched = retrain(with_trajectory(config), [precise("l2")], tmp_path / "watched.npz")
    assert watched["trajectory_epoch"].tolist() == [0, 25, 50, 60]
    assert watched["trajectory"].shape == (4, 2, 4, 4)
    before = np.broadcast_to(watched["loss_before"][..., None], (4, 2, 4))
    assert_allclose(watched["trajectory"][..., 0], before, rtol=1e-12)
    assert_allclose(watched["trajectory"][..., -1], watched["loss_after"], rtol=1e-12)
    rest = load_npz(tmp_path / "watched.npz")
    del rest["trajectory"], rest["trajectory_epoch"]
    assert_identical(rest, load_npz(tmp_path / "plain.npz"))
    assert plain.meta["config"]["retrain"]["trajectory"] is False


def test_the_trajectorys_step_can_be_set(tiny, runs, tmp_path):
    config = with_trajectory(tiny({"retrain.trajectory_every": 7}))
    found = retrain(config, [runs("l2")], tmp_path / "truth.npz")
    assert found["trajectory_epoch"].tolist() == [0, 7, 14, 21, 28, 30]


def test_restarting_from_the_live_weights_averages_again_from_there(
    precise, tiny, tmp_path, state_of, loop_model, iris_rows, train_ids
):
    flags = {"retrain.params": "all", "retrain.swa_restart": "live", "retrain.epochs": 40}
    found = retrain(tiny(flags), [precise("l2-swa")], tmp_path / "truth.npz")
    path = seed_files(precise("l2-swa"), (1,))[0]
    live = state_of(path.parent.parent / "live" / path.name)
    for k, removed in enumerate([None, *found["removed_ids"][1]]):
        model = loop_model(path)
        model.load_state_dict(live)
        row = None if removed is None else np.searchsorted(train_ids, removed)
        run = loop.train(
            model,
            *map(torch.tensor, iris_rows["train"]),
            epochs=40,
            weights=torch.from_numpy(weights_without(148, row)),
            weight_decay=0.005,
            averaging=True,
        )
        losses = loop.row_losses(run.averaged, *map(torch.tensor, iris_rows["test"]))
        after = found["loss_after"][1, :, k - 1] if k else found["null_loss_after"][1]
        assert_allclose(after, losses, rtol=0, atol=1e-10)


def test_live_and_average_are_the_same_restart_where_nothing_was_averaged(tiny, runs, tmp_path):
    live, average = (
        retrain(tiny({"retrain.swa_restart": mode}), [runs("l2")], tmp_path / f"{mode}.npz")
        for mode in ("live", "average")
    )
    assert np.array_equal(live["loss_after"], average["loss_after"])


def test_restarting_live_without_live_weights_is_refused(tiny, runs, tmp_path):
    folder = tmp_path / "run"
    train(tiny({"variant.name": "swa", "train.epochs": 10}), folder)
    (folder / "live" / "seed-002.safetensors").unlink()
    flags = {"retrain.swa_restart": "live", "retrain.params": "all"}
    with pytest.raises(ArtifactUnreadable, match=r"--swa-restart live needs .*seed-002"):
        retrain(tiny(flags), [folder], tmp_path / "truth.npz")


def test_a_live_head_does_not_stand_on_an_averaged_body(tiny, tmp_path):
    folder = tmp_path / "run"
    train(tiny({"variant.name": "swa", "train.epochs": 10}), folder)
    with pytest.raises(UnusableInput, match="averaged body") as caught:
        retrain(tiny({"retrain.swa_restart": "live"}), [folder], tmp_path / "truth.npz")
    assert "--params all" in caught.value.remedy


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        ({"retrain.truth": "newtn"}, UnknownName, "unknown truth 'newtn'"),
        ({"retrain.params": "layer:head"}, UnusableInput, "expected head or all"),
    ],
)
def test_unusable_choices_are_refused_before_anything_is_written(
    flags, error, message, tiny, runs, tmp_path
):
    with pytest.raises(error, match=message):
        retrain(tiny(flags), [runs("l2")], tmp_path / "truth.npz")
    assert not (tmp_path / "truth.npz").exists()


def test_a_retraining_that_turns_non_finite_is_recorded_as_nan(tiny, tmp_path):
    """One step at a rate of 1e30 leaves weights that float32 holds, and products beyond it."""
    config = tiny({"train.learning_rate": 1e30, "train.epochs": 1, "retrain.params": "all"})
    trained = train(config, tmp_path / "run")
    assert np.isfinite(trained["train_loss"]).all()
    found = retrain(config, [tmp_path / "run"], tmp_path / "truth.npz")
    assert np.isfinite(found["loss_before"]).all()
    assert np.isnan(found["loss_after"]).all()
    assert np.isnan(found["null_loss_after"]).all()
    assert not found["converged"].any()


def test_the_rate_of_a_retraining_is_the_checkpoints(tiny, runs, retrained, tmp_path, load_npz):
    found = retrain(tiny({"train.learning_rate": 1.0}), [runs("l2")], tmp_path / "truth.npz")
    assert found.meta["config"]["train"]["learning_rate"] == 1e-3
    assert np.array_equal(found["loss_after"], load_npz(retrained("l2", "warm"))["loss_after"])


@pytest.mark.parametrize("truth", TRUTHS)
def test_a_users_own_state_dict_is_retrained_like_the_run_it_came_from(
    truth, tiny, user_model, retrained, tmp_path, load_npz, digest
):
    name, _, params = truth.partition(":")
    flags = {"variant.name": "l2", "retrain.truth": name, "retrain.params": params or "head"}
    found = retrain(tiny(flags), [user_model], tmp_path / "truth.npz")
    expected = load_npz(retrained("l2", truth))
    assert np.array_equal(found["removed_ids"], expected["removed_ids"][:1])
    assert np.array_equal(found["loss_after"], expected["loss_after"][:1])
    assert np.array_equal(found["null_loss_after"], expected["null_loss_after"][:1])
    assert found.parents == {"model.pt": digest(user_model)}


def test_gradient_norms_are_those_of_the_retraining_objective(
    runs, retrained, load_npz, loop_model, iris_rows, train_ids
):
    arrays = load_npz(retrained("l2", "warm"))
    model = loop_model(seed_files(runs("l2"), (0,))[0])
    row = np.searchsorted(train_ids, arrays["removed_ids"][0, 0])
    weights = torch.from_numpy(weights_without(148, row))
    inputs, targets = map(torch.tensor, iris_rows["train"])
    loop.train(
        model,
        inputs,
        targets,
        epochs=EPOCHS,
        weights=weights,
        weight_decay=0.005,
        parameters=model.head.parameters(),
    )
    losses = functional.cross_entropy(model(inputs), targets, reduction="none")
    head = list(model.head.parameters())
    objective = weights @ losses + 0.0025 * sum(p.square().sum() for p in head)
    gradient = torch.autograd.grad(objective, head)
    norm = sum(g.square().sum() for g in gradient).sqrt()
    assert_allclose(arrays["grad_norm"][0, 0], norm, rtol=1e-8)
    assert not arrays["converged"].any()  # 30 epochs are far from the optimum

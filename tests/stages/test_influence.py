"""Stage `influence`: closed forms from the raw checkpoints, what is refused, users' own files."""

import shutil

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.datasets import load_iris

from ifcheck.errors import ArtifactMismatch, ArtifactUnreadable, Diverged, UnknownName
from ifcheck.solvers import SOLVERS
from ifcheck.stages.influence import influence
from ifcheck.stages.retrain import retrain
from ifcheck.stages.train import train
from tests import oracles

SECTIONS = {"data", "network", "variant", "train", "influence"}
CLASSES = 3
WEIGHT_DECAY = {"none": 0.0, "l2": 0.005}


@pytest.fixture(scope="module")
def head_of(loop_model, iris_rows):
    """Return a reader of a checkpoint's head: theta, features and targets by set of rows."""

    def read(path):
        model = loop_model(path)
        head = model.head
        theta = np.concatenate([head.weight.detach().numpy().ravel(), head.bias.detach().numpy()])
        rows = {
            name: (model.body(torch.from_numpy(inputs)).detach().numpy(), targets)
            for name, (inputs, targets) in iris_rows.items()
        }
        return theta, rows

    return read


def closed_form(estimator, weight_decay, theta, rows):
    """Hessian (undamped) and scores of an estimator, by numpy alone, following its definition."""
    features, targets = rows["train"]
    n = len(targets)
    chosen = slice(0, CLASSES * features.shape[1] if estimator == "authors" else None)
    mean = np.full(n, 1 / n)
    of_objective = weight_decay if estimator == "objective" else 0.0
    hessian = oracles.head_hessian(theta, features, targets, mean, of_objective)[chosen, chosen]
    by_row = [
        oracles.row_gradient(theta, h, y)[chosen] for h, y in zip(*rows["train"], strict=True)
    ]
    by_test = [
        oracles.row_gradient(theta, h, y)[chosen] for h, y in zip(*rows["test"], strict=True)
    ]
    damped = hessian + (0.01 if estimator == "paper" else 0.0) * np.eye(len(hessian))
    solved = np.array(by_test) @ np.linalg.pinv(damped, rcond=1e-12, hermitian=True)
    if estimator == "objective":
        changes = np.array(by_row) + weight_decay * theta
        return hessian, solved @ changes.T / (n - 1)
    return hessian, solved @ np.array(by_row).T / n


@pytest.mark.parametrize("variant", ["none", "l2"])
@pytest.mark.parametrize("estimator", ["objective", "paper", "authors"])
def test_scores_equal_the_closed_form(variant, estimator, scored, runs, load_npz, head_of):
    arrays = load_npz(scored(variant, estimator))
    weight_decay = WEIGHT_DECAY[variant]
    for place, seed in enumerate(arrays["seeds"]):
        path = runs(variant) / "checkpoints" / f"seed-{seed:03d}.safetensors"
        hessian, scores = closed_form(estimator, weight_decay, *head_of(path))
        assert_allclose(arrays["scores"][place], scores, rtol=1e-6, atol=1e-10)
        eigenvalues = np.linalg.eigvalsh(hessian)
        assert_allclose(arrays["hessian_max"][place], eigenvalues[-1], rtol=1e-9)
        assert_allclose(arrays["hessian_min"][place], eigenvalues[0], rtol=1e-6, atol=1e-14)


def test_arrays_have_the_documented_names_and_shapes(scored, load_npz, train_ids):
    arrays = load_npz(scored("l2", "objective"))
    assert {name: value.shape for name, value in arrays.items()} == {
        "seeds": (4,),
        "train_ids": (148,),
        "test_ids": (4, 2),
        "scores": (4, 2, 148),
        "null_scores": (4, 2),
        "rel_residual": (4, 2),
        "converged": (4, 2),
        "steps": (4, 2),
        "hessian_min": (4,),
        "hessian_max": (4,),
        "null_space": (4,),
        "negative": (4,),
    }
    assert arrays["seeds"].tolist() == [0, 1, 2, 3]
    assert np.array_equal(arrays["train_ids"], train_ids)
    assert arrays["test_ids"].tolist() == [[83, 106]] * 4
    assert arrays["scores"].dtype == np.float64
    assert arrays["converged"].dtype == np.bool_


def test_certificates_tell_the_singular_head_from_the_regularised_one(scored, load_npz):
    """One vector added to every class's weights changes no probability: width + 1 directions."""
    free = load_npz(scored("none", "objective"))
    assert free["null_space"].tolist() == [6] * 4
    assert load_npz(scored("none", "authors"))["null_space"].tolist() == [5] * 4
    regular = load_npz(scored("l2", "objective"))
    assert regular["null_space"].tolist() == [0] * 4
    assert_allclose(regular["hessian_min"], 0.005, rtol=1e-9)
    for arrays in (free, regular):
        assert arrays["converged"].all()
        assert (arrays["rel_residual"] < 1e-8).all()
        assert not arrays["negative"].any()


def test_meta_says_what_the_estimator_was(scored, runs, checkpoints_of, assert_provenance, meta_of):
    path = scored("l2", "paper")
    assert_provenance(path, "influence", checkpoints_of(runs("l2")), SECTIONS)
    assert meta_of(path)["config"]["influence"] == {
        "estimator": "paper",
        "params": "head",
        "hessian": "data",
        "damping": 0.01,
        "solver": "exact",
        "normalisation": "n",
        "solver_options": {},
        "step": "first-order",
        "curvature": "hessian",
        "damping_path": None,
    }


def test_parts_that_are_given_one_by_one_replace_the_estimators(tiny, runs, tmp_path, load_npz):
    parts = {
        "influence.estimator": "authors",
        "influence.params": "head",
        "influence.damping": 0.01,
    }
    influence(tiny(parts), [runs("l2")], tmp_path / "parts.npz")
    influence(tiny({"influence.estimator": "paper"}), [runs("l2")], tmp_path / "paper.npz")
    found, expected = (load_npz(tmp_path / f"{name}.npz") for name in ("parts", "paper"))
    assert np.array_equal(found["scores"], expected["scores"])


@pytest.mark.parametrize("estimator", ["objective", "paper", "authors"])
def test_a_second_run_gives_identical_arrays(
    estimator, tiny, runs, scored, tmp_path, load_npz, assert_identical
):
    influence(tiny({"influence.estimator": estimator}), [runs("l2")], tmp_path / "again.npz")
    assert_identical(load_npz(tmp_path / "again.npz"), load_npz(scored("l2", estimator)))


@pytest.mark.parametrize("estimator", ["objective", "paper", "authors"])
def test_a_seed_does_not_depend_on_its_company(
    estimator, tiny, runs, scored, tmp_path, load_npz, assert_identical
):
    files = [runs("l2") / "checkpoints" / f"seed-00{seed}.safetensors" for seed in (3, 1)]
    influence(tiny({"influence.estimator": estimator}), files, tmp_path / "two.npz")
    found, expected = load_npz(tmp_path / "two.npz"), load_npz(scored("l2", estimator))
    assert_identical(found, expected, rows=[3, 1], shared=("train_ids",))


def test_run_folder_checkpoint_folder_and_files_mean_the_same(
    tiny, runs, checkpoints_of, scored, tmp_path, load_npz, assert_identical
):
    expected = load_npz(scored("l2", "objective"))
    for place, sources in enumerate([[runs("l2") / "checkpoints"], checkpoints_of(runs("l2"))]):
        influence(tiny(), sources, tmp_path / f"{place}.npz")
        assert_identical(load_npz(tmp_path / f"{place}.npz"), expected)


def test_the_checkpoints_and_not_the_configuration_say_what_they_are(
    tiny, runs, scored, tmp_path, load_npz, assert_identical
):
    other = tiny({"variant.name": "none", "network.width": 9, "train.seeds": 1})
    influence(other, [runs("l2")], tmp_path / "scores.npz")
    assert_identical(load_npz(tmp_path / "scores.npz"), load_npz(scored("l2", "objective")))


def test_scores_of_a_polished_network_predict_exact_removal(tiny, tmp_path):
    """From a stationary point, prediction and truth differ by second order in 1/n alone."""
    config = tiny({"train.polish": "head", "train.epochs": 600, "retrain.truth": "newton"})
    train(config, tmp_path / "run")
    scores = influence(config, [tmp_path / "run"], tmp_path / "scores.npz")["scores"]
    truth = retrain(config, [tmp_path / "run"], tmp_path / "truth.npz")
    rows = np.searchsorted(np.setdiff1d(np.arange(150), (83, 106)), truth["removed_ids"])
    predicted = np.take_along_axis(scores, rows[:, None, :], axis=2)
    change = truth["loss_after"] - truth["loss_before"][:, :, None]
    size = np.abs(change).max()
    assert size > 1e-3
    assert_allclose(predicted, change, rtol=0.25, atol=0.02 * size)


def test_params_all_and_one_layer_score_with_more_and_fewer_parameters(tiny, runs, tmp_path):
    found = {
        selection: influence(
            tiny({"influence.params": selection}), [runs("l2")], tmp_path / f"{place}.npz"
        )
        for place, selection in enumerate(["head", "all", "layer:body.0,head", "layer:body.0"])
    }
    assert np.array_equal(found["all"]["scores"], found["layer:body.0,head"]["scores"])
    assert not np.allclose(found["all"]["scores"], found["head"]["scores"], rtol=1e-3)
    assert not np.allclose(found["layer:body.0"]["scores"], found["head"]["scores"], rtol=1e-3)


@pytest.mark.parametrize(("params", "damping"), [("all", 30.0), ("head", 0.1)])
def test_conjugate_gradient_scores_without_the_matrix_as_exact_does(
    params, damping, tiny, runs, tmp_path
):
    parts = {"influence.params": params, "influence.damping": damping}
    exact = influence(tiny(parts), [runs("l2")], tmp_path / "exact.npz")
    config = tiny({**parts, "influence.solver": "cg"})
    found = influence(config, [runs("l2")], tmp_path / "cg.npz")
    largest = np.abs(exact["scores"]).max()
    assert_allclose(found["scores"], exact["scores"], rtol=0, atol=1e-5 * largest)
    assert found["converged"].all()
    assert (found["rel_residual"] > exact["rel_residual"]).all()
    assert np.isnan(found["hessian_min"]).all()
    assert (found["null_space"] == -1).all()


@pytest.mark.parametrize(
    ("solver", "options", "close"),
    [
        ("cg", {"tolerance": 1e-9}, 1e-7),
        ("minres", {"tolerance": 1e-9}, 1e-7),
        ("lissa", {"tolerance": 1e-9}, 1e-7),
        ("lanczos", {"rank": 18}, 1e-9),
    ],
)
def test_every_solver_scores_as_exact_does(solver, options, close, tiny, runs, tmp_path):
    damping = {"influence.damping": 0.1}
    exact = influence(tiny(damping), [runs("l2")], tmp_path / "exact.npz")
    config = tiny({**damping, "influence.solver": solver, "influence.solver_options": options})
    found = influence(config, [runs("l2")], tmp_path / "found.npz")
    largest = np.abs(exact["scores"]).max()
    assert_allclose(found["scores"], exact["scores"], rtol=0, atol=close * largest)
    assert found["converged"].all()
    assert found.meta["not_converged"] == []
    assert (found["steps"] > 0).all() == (solver != "lanczos")
    described = found.meta["config"]["influence"]["solver_options"]
    assert described == SOLVERS.options(solver) | options


@pytest.mark.parametrize("params", ["head", "all"])
def test_an_approximate_solver_scores_and_says_that_it_is_one(params, tiny, runs, tmp_path):
    parts = {"influence.params": params, "influence.damping": 0.1}
    exact = influence(tiny(parts), [runs("l2")], tmp_path / "exact.npz")
    config = tiny({**parts, "influence.solver": "ekfac"})
    found = influence(config, [runs("l2")], tmp_path / "ekfac.npz")
    assert found["scores"].shape == exact["scores"].shape
    assert (found["rel_residual"] > 1e-3).all()
    assert not found["converged"].any()
    assert all("EK-FAC is an approximation" in reason for reason in found.meta["not_converged"])
    assert found.meta["config"]["influence"]["solver_options"] == {"tolerance": 1e-6}


@pytest.mark.parametrize("curvature", ["ggn", "empirical-fisher"])
@pytest.mark.parametrize("params", ["head", "all"])
def test_curvature_by_name(curvature, params, tiny, runs, tmp_path):
    parts = {"influence.damping": 0.1, "influence.params": params}
    plain = influence(tiny(parts), [runs("l2")], tmp_path / "plain.npz")
    config = tiny({**parts, "influence.curvature": curvature})
    found = influence(config, [runs("l2")], tmp_path / "found.npz")
    same = curvature == "ggn" and params == "head"
    assert np.allclose(found["scores"], plain["scores"], rtol=1e-9, atol=1e-14) == same
    assert (found["hessian_min"] > -1e-12).all()  # the weight decay included
    by_products = tiny({**parts, "influence.curvature": curvature, "influence.solver": "minres"})
    again = influence(by_products, [runs("l2")], tmp_path / "again.npz")
    largest = np.abs(found["scores"]).max()
    assert_allclose(again["scores"], found["scores"], rtol=0, atol=1e-5 * largest)


def test_what_did_not_converge_is_told_with_its_reason(tiny, runs, tmp_path):
    options = {"influence.solver": "cg", "influence.solver_options.iterations": 2}
    found = influence(tiny({**options, "influence.damping": 0.1}), [runs("l2")], tmp_path / "c.npz")
    assert not found["converged"].any()
    assert (found["steps"] == 2).all()
    assert all("after 2 iterations" in reason for reason in found.meta["not_converged"])
    assert found.meta["not_converged"]


def test_a_hessian_that_is_not_positive_definite_asks_for_damping(tiny, runs, tmp_path):
    config = tiny({"influence.params": "all", "influence.solver": "cg"})
    with pytest.raises(Diverged, match="without positive curvature") as caught:
        influence(config, [runs("none")], tmp_path / "cg.npz")
    assert "--damping" in caught.value.remedy
    assert not (tmp_path / "cg.npz").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"influence.params": "layer:haed"}, "unknown layer 'haed'"),
        ({"influence.curvature": "gnn"}, "unknown curvature 'gnn'"),
        ({"influence.solver": "exatc"}, "unknown solver 'exatc'"),
        ({"influence.solver_options": {"rnak": 3}, "influence.solver": "lanczos"}, "'rnak'"),
        ({"influence.estimator": "author"}, "unknown estimator 'author'"),
    ],
)
def test_unknown_names_are_refused_before_anything_is_written(flags, message, tiny, runs, tmp_path):
    with pytest.raises(UnknownName, match=message) as caught:
        influence(tiny(flags), [runs("l2")], tmp_path / "scores.npz")
    assert "Did you mean" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


# --- users' own files ---------------------------------------------------------------------------


def test_a_users_own_state_dict_is_scored_like_the_run_it_came_from(
    tiny, user_model, scored, tmp_path, load_npz, digest
):
    described = tiny({"variant.name": "l2", "train.seeds": 9})
    artifact = influence(described, [user_model], tmp_path / "scores.npz")
    expected = load_npz(scored("l2", "objective"))
    assert artifact["seeds"].tolist() == [0]
    assert np.array_equal(artifact["scores"], expected["scores"][:1])
    assert artifact.parents == {"model.pt": digest(user_model)}


def test_a_users_own_file_takes_variant_and_test_points_from_the_configuration(
    tiny, user_model, tmp_path
):
    config = tiny({"variant.name": "none", "data.test_points": "ids:7"})
    artifact = influence(config, [user_model], tmp_path / "scores.npz")
    assert artifact["test_ids"].tolist() == [[7]]
    assert artifact["scores"].shape == (1, 1, 149)
    assert artifact["null_space"].tolist() == [6]  # without the weight decay of l2: singular


def test_two_own_files_of_one_name_are_both_named_as_parents(
    tiny, user_model, runs, state_of, tmp_path, digest
):
    other = tmp_path / "model.pt"
    torch.save(state_of(runs("l2") / "checkpoints" / "seed-001.safetensors"), other)
    artifact = influence(tiny(), [user_model, other], tmp_path / "scores.npz")
    assert sorted(artifact.parents.values()) == sorted([digest(user_model), digest(other)])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"network.width": 8}, "model.pt does not fit mlp: .* expected"),
        ({"network.depth": 2}, "model.pt does not fit mlp: body.2.* is absent, expected"),
    ],
)
def test_an_own_file_that_does_not_fit_is_refused(flags, message, tiny, user_model, tmp_path):
    with pytest.raises(ArtifactMismatch, match=message) as caught:
        influence(tiny(flags), [user_model], tmp_path / "scores.npz")
    assert "--width" in caught.value.remedy


# --- what does not belong together --------------------------------------------------------------


def test_a_flag_that_contradicts_the_checkpoints_is_refused(tiny, runs, tmp_path):
    with pytest.raises(ArtifactMismatch, match=r"network.width is 8, .* made with 5"):
        influence(tiny(), [runs("l2")], tmp_path / "scores.npz", explicit={"network.width": 8})


def test_a_flag_that_agrees_with_the_checkpoints_is_accepted(tiny, runs, tmp_path):
    given = {"network.width": 5, "variant.name": "l2", "train.dtype": "float32"}
    influence(tiny(), [runs("l2")], tmp_path / "scores.npz", explicit=given)
    assert (tmp_path / "scores.npz").is_file()


def test_checkpoints_of_two_configurations_are_refused(tiny, runs, tmp_path):
    with pytest.raises(ArtifactMismatch, match="different configurations"):
        influence(tiny(), [runs("l2"), runs("none")], tmp_path / "scores.npz")


def test_an_own_file_among_the_runs_checkpoints_is_refused(tiny, runs, user_model, tmp_path):
    with pytest.raises(ArtifactMismatch, match="different configurations"):
        influence(tiny(), [runs("l2"), user_model], tmp_path / "scores.npz")


def test_checkpoints_of_other_data_are_refused(tiny, tmp_path, monkeypatch):
    train(tiny({"train.seeds": 1}), tmp_path / "run")
    table = load_iris()
    table.data[0] += 0.1
    monkeypatch.setattr("ifcheck.datasets.iris.load_iris", lambda: table)
    with pytest.raises(ArtifactMismatch, match=r"seed-000.safetensors was trained on data"):
        influence(tiny(), [tmp_path / "run"], tmp_path / "scores.npz")


def test_a_folder_without_checkpoints_is_refused(tiny, tmp_path):
    with pytest.raises(ArtifactUnreadable, match="no checkpoints in"):
        influence(tiny(), [tmp_path], tmp_path / "scores.npz")


def test_a_missing_run_is_refused(tiny, tmp_path):
    with pytest.raises(ArtifactUnreadable, match=r"nowhere does not exist"):
        influence(tiny(), [tmp_path / "nowhere"], tmp_path / "scores.npz")


def test_a_damaged_checkpoint_is_refused_by_name(tiny, runs, tmp_path):
    shutil.copytree(runs("l2"), tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "seed-002.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ArtifactUnreadable, match=r"seed-002.safetensors is not a readable"):
        influence(tiny(), [tmp_path / "run"], tmp_path / "scores.npz")
    assert not (tmp_path / "scores.npz").exists()


def test_scores_that_overflow_are_a_failure_while_running(tiny, user_model, tmp_path):
    state = {k: value.double() for k, value in torch.load(user_model, weights_only=True).items()}
    state["body.0.weight"] *= 1e200
    torch.save(state, tmp_path / "huge.pt")
    with pytest.raises(Diverged) as caught:
        influence(tiny(), [tmp_path / "huge.pt"], tmp_path / "scores.npz")
    assert caught.value.exit_code == 3
    assert not (tmp_path / "scores.npz").exists()


def test_scores_tell_what_one_step_of_newtons_would_change_with_nothing_removed(scored, load_npz):
    """The mean of all scores, x^T (g_i + grad Omega) / (n - 1), is that of grad R: an identity."""
    arrays = load_npz(scored("l2", "objective"))
    rows = arrays["scores"].shape[2]
    by_mean = -(rows - 1) * arrays["scores"].mean(axis=2)
    assert np.abs(by_mean).min() > 1e-4
    assert_allclose(arrays["null_scores"], by_mean, rtol=1e-8)

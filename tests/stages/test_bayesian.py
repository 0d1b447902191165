"""The Bayesian variant through all stages."""

import json

import numpy as np
import pytest
import torch

from ifcheck.artifacts import read_artifact
from ifcheck.config import Config
from ifcheck.models import VariationalNetwork
from ifcheck.removal.newton import HeadProblem, minimise_head
from ifcheck.stages.eigen import eigen
from ifcheck.stages.evaluate import evaluate
from ifcheck.stages.influence import influence
from ifcheck.stages.reporting import Silent
from ifcheck.stages.retrain import retrain
from ifcheck.stages.run import load_run
from ifcheck.stages.setup import make_setup
from ifcheck.stages.train import train
from tests import oracles

BAYESIAN = {"variant.name": "bnn", "train.epochs": 3_000, "train.learning_rate": 0.01}


@pytest.fixture(scope="module")
def flags(tiny):
    """Networks that come near an optimum in little time."""
    return lambda more=None: tiny({**BAYESIAN, **(more or {})})


@pytest.fixture(scope="module")
def polished(flags, tmp_path_factory):
    """Four networks whose heads stand at their optimum, with what later stages say of them."""
    folder = tmp_path_factory.mktemp("bayesian")
    train(flags({"train.polish": "head"}), folder)
    for name in ("objective", "paper"):
        config = flags({"influence.estimator": name})
        influence(config, [folder], folder / f"influence-{name}.npz")
    for truth in ("newton", "warm"):
        config = flags({"retrain.truth": truth, "retrain.removals": "top-loss:12"})
        retrain(config, [folder], folder / f"retrain-{truth}.npz")
    return folder


def test_heads_are_polished_and_training_rows_are_learnt(polished):
    trained = read_artifact(polished / "train.npz", "train")
    assert trained["polished"].all()
    assert (trained["train_accuracy"] > 0.95).all()
    assert (trained["train_loss"] >= 0).all()
    assert not trained.meta["reasons"]


def test_the_log_probability_stands_beside_the_loss(polished, iris_rows, state_of):
    """-log of the softmax's mean, by a plain forward pass of the means."""
    trained = read_artifact(polished / "train.npz", "train")
    state = state_of(polished / "checkpoints" / "seed-000.safetensors")
    layers = [
        (state[f"{name}.weight"].double().numpy(), state[f"{name}.bias"].double().numpy())
        for name in ("body.0", "head")
    ]
    inputs, targets = iris_rows["test"]
    logits = oracles.numpy_mlp(layers, inputs, "selu")
    expected = [-np.log(oracles.softmax(row)[y]) for row, y in zip(logits, targets, strict=True)]
    found = trained["test_negative_log_probability"][0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert not np.allclose(found, trained["test_loss"][0])


def test_prediction_and_truth_rank_removals_alike_from_a_polished_base(polished):
    predicted, true = polished / "influence-objective.npz", polished / "retrain-newton.npz"
    evaluation = evaluate(Config(), [predicted], [true])
    (summary,) = evaluation.summaries
    assert summary["spearman_median"] > 0.99
    assert summary["converged_share"] == 1.0
    assert summary["slope_median"] == pytest.approx(1.0, abs=0.25)
    assert "both n" in summary["normalisation"]
    newton = read_artifact(polished / "retrain-newton.npz", "retrain")
    assert newton["positive_definite"].all()
    assert (newton["null_grad_norm"] <= 1e-10).all()


def test_both_ways_to_say_what_the_mean_runs_over_are_one(flags, polished, tmp_path):
    """The KL divergence shrinks with the rows: the same minimum, so the same numbers."""
    arrays = []
    for normalisation in ("n", "n-1"):
        out = tmp_path / f"retrain-{normalisation}.npz"
        more = {"retrain.truth": "newton", "retrain.normalisation": normalisation}
        arrays.append(retrain(flags(more), [polished], out)["loss_after"])
        out = tmp_path / f"influence-{normalisation}.npz"
        scores = influence(flags({"influence.normalisation": normalisation}), [polished], out)
        arrays.append(scores["scores"])
        assert scores.meta["config"]["influence"]["normalisation"] == "n"
    np.testing.assert_array_equal(arrays[0], arrays[2])
    np.testing.assert_array_equal(arrays[1], arrays[3])


def test_a_score_is_the_derivative_of_the_optimum(polished, flags, tmp_path):
    """Remove a thousandth of a row by weight: the optimum moves by that much of the score."""
    run = load_run([polished], flags(), {}, Silent())
    tensors, network = run.tensors(), run.networks[0]
    rows, share = len(tensors["train"][1]), 1e-3
    weights = torch.full((3, rows), 1 / rows, dtype=torch.float64)
    weights[1, 7] *= 1 - share
    weights[2, 7] *= 1 + share
    problem, flat = HeadProblem.of(network, run.setup.objective, tensors["train"], weights)
    optimum = minimise_head(problem, flat.expand(3, -1))
    features = network.features(tensors["test"][0]).detach()
    losses = problem.loss.losses(optimum.flat, features, tensors["test"][1])
    derivative = (losses[1] - losses[2]) / (2 * share)
    scores = read_artifact(polished / "influence-objective.npz", "influence")["scores"]
    np.testing.assert_allclose(scores[0, :, 7], derivative, rtol=1e-4)


@pytest.mark.parametrize("params", ["head-mean", "layer:head.weight", "all"])
def test_other_parameters_can_be_scored(polished, flags, tmp_path, params):
    artifact = influence(flags({"influence.params": params}), [polished], tmp_path / "i.npz")
    assert np.isfinite(artifact["scores"]).all()
    assert (artifact["rel_residual"] < 1e-6).all()


@pytest.mark.parametrize("method", ["power", "dense", "lanczos"])
@pytest.mark.parametrize("curvature", ["data", "objective"])
def test_eigenvalues(polished, flags, tmp_path, method, curvature):
    config = flags({"eigen.method": method, "eigen.hessian": curvature})
    artifact = eigen(config, [polished], tmp_path / "eigen.npz")
    assert (artifact["values"][:, 0] > 0).all()
    if method == "dense" and curvature == "objective":
        assert np.isfinite(artifact["min_value"]).all()


def test_the_whole_network_can_be_retrained(polished, flags, tmp_path):
    more = {"retrain.params": "all", "retrain.epochs": 50}
    artifact = retrain(flags(more), [polished], tmp_path / "retrain.npz")
    assert np.isfinite(artifact["loss_after"]).all()
    assert artifact.meta["config"]["retrain"]["params"] == "all"


def test_checkpoints_hold_means_and_rho(polished, state_of, header_of):
    state = state_of(polished / "checkpoints" / "seed-000.safetensors")
    kinds = {"weight", "bias", "weight_rho", "bias_rho"}
    assert set(state) == {f"{layer}.{kind}" for layer in ("body.0", "head") for kind in kinds}
    header = header_of(polished / "checkpoints" / "seed-000.safetensors")
    options = header["config"]["variant"]
    assert options["name"] == "bnn"
    assert options["noise"] == 0.1
    assert json.dumps(options)


def test_the_network_is_the_plain_one_s_counterpart(polished, flags):
    setup = make_setup(flags())
    network = setup.spec.build((4,), 3)
    assert isinstance(network, VariationalNetwork)
    assert setup.objective.rows == 148

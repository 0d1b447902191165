"""Digits through all stages: images in one table, ten classes."""

import numpy as np
import pytest

from ifcheck.artifacts import read_artifact
from ifcheck.config import Config
from ifcheck.stages.evaluate import evaluate
from ifcheck.stages.influence import influence
from ifcheck.stages.retrain import retrain
from ifcheck.stages.train import train

DIGITS = {
    "data.dataset": "digits",
    "data.limit_train": 120,
    "train.seeds": 1,
    "train.epochs": 500,
    "train.polish": "head",
    "retrain.truth": "newton",
    "retrain.removals": "top-loss:15",
}


@pytest.mark.parametrize("variant", ["l2", "bnn"])
def test_prediction_and_truth_rank_removals_alike(tiny, tmp_path, variant):
    config = tiny({**DIGITS, "variant.name": variant})
    trained = train(config, tmp_path)
    assert trained["polished"].all()
    assert trained["train_loss"].shape == (1, 120)
    assert trained["train_accuracy"] > 0.8
    predicted, true = tmp_path / "influence.npz", tmp_path / "retrain.npz"
    scores = influence(config, [tmp_path], predicted)["scores"]
    assert scores.shape == (1, 2, 120)
    retrain(config, [tmp_path], true)
    newton = read_artifact(true, "retrain")
    assert newton["converged"].all()
    assert newton["positive_definite"].all()
    evaluation = evaluate(Config(), [predicted], [true])
    assert np.median([record["spearman"] for record in evaluation.records]) > 0.9

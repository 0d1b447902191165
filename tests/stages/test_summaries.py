"""Rows of a study's tables, from an evaluation and artifacts made by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from ifcheck.artifacts import Artifact
from ifcheck.stages.evaluate import Evaluation
from ifcheck.stages.summaries import (
    RESULT_COLUMNS,
    SUMMARY_COLUMNS,
    disagreement,
    failed_row,
    failed_seed_rows,
    result_rows,
    summary_rows,
)

COLUMNS = {
    "cell": "iris-mlp-depth1-width5-selu-l2",
    "dataset": "iris",
    "network": "mlp",
    "depth": 1,
    "width": 5,
    "activation": "selu",
    "variant": "l2",
}
SEEDS = (4, 7, 9)  # 7 diverged
TOP, DENSE = np.array([2.0, 5.0]), np.array([2.5, 5.0])


def artifact(kind, **arrays):
    return Artifact(None, kind, {name: np.array(value) for name, value in arrays.items()}, {})


@pytest.fixture
def trained():
    return artifact(
        "train",
        seeds=SEEDS,
        train_loss=[[0.1, 0.2], [np.nan, np.nan], [0.3, 0.4]],
        train_accuracy=[0.9, np.nan, 0.8],
        grad_norm=[1e-3, np.nan, 3e-3],
    )


@pytest.fixture
def power():
    return artifact("eigen", seeds=(4, 9), values=TOP[:, None])


@pytest.fixture
def dense():
    return artifact("eigen", seeds=(4, 9), values=DENSE[:, None])


@pytest.fixture
def evaluation():
    pairs = [("influence-paper.npz", "retrain-warm.npz"), ("influence-paper.npz", "retrain-x.npz")]
    records = [
        {
            "seed": seed,
            "test_id": 83,
            "influence": i,
            "retrain": r,
            "spearman": 0.1 * seed,
            "reasons": {},
        }
        for i, r in pairs
        for seed in (9, 4)
    ]
    summaries = [
        {
            "influence": i,
            "retrain": r,
            "estimator": "paper",
            "truth": r[8:-4],
            "retrain_params": "head",
            "abs_spearman_mean": 0.65,
            "group_size": 1,
        }
        for i, r in pairs
    ]
    return Evaluation(records, summaries, [], [], {})


def test_each_record_gets_the_numbers_of_its_own_seed(evaluation, trained, dense):
    rows = result_rows(COLUMNS, evaluation, trained, dense, 12.5)
    assert len(rows) == 4
    for row in rows:
        place = {4: 0, 9: 2}[row["seed"]]
        assert row["train_accuracy"] == trained["train_accuracy"][place]
        assert row["grad_norm"] == trained["grad_norm"][place]
        assert row["top_eigenvalue_dense"] == {4: 2.5, 9: 5.0}[row["seed"]]
        assert row["spearman"] == 0.1 * row["seed"]
        assert row["seconds"] == 12.5
        assert {k: row[k] for k in COLUMNS} == COLUMNS
    assert [row["truth"] for row in rows] == ["warm", "warm", "x", "x"]


def test_without_a_dense_spectrum_its_columns_are_empty(evaluation, trained, power):
    rows = result_rows(COLUMNS, evaluation, trained, None, 1.0)
    assert {row["top_eigenvalue_dense"] for row in rows} == {None}
    summaries = summary_rows(COLUMNS, evaluation, trained, power, None, 1.0)
    for name in ("top_eigenvalue_dense_median", "top_eigenvalue_disagreement"):
        assert {row[name] for row in summaries} == {None}


def test_a_diverged_seed_has_a_row_that_says_so(trained):
    (row,) = failed_seed_rows(COLUMNS, trained)
    assert row["seed"] == 7
    assert row["status"] == "failed: training turned non-finite"
    assert row["cell"] == COLUMNS["cell"]


def test_a_summary_is_over_the_seeds_that_finished(evaluation, trained, power, dense):
    first, second = summary_rows(COLUMNS, evaluation, trained, power, dense, 3.0)
    assert (first["seeds"], first["failed"]) == (3, 1)
    assert first["train_accuracy_mean"] == pytest.approx(0.85)
    assert first["grad_norm_median"] == pytest.approx(2e-3)
    assert first["top_eigenvalue_mean"] == pytest.approx(3.5)
    half = stats.t.ppf(0.975, 1) * TOP.std(ddof=1) / math.sqrt(2)
    assert first["top_eigenvalue_ci95"] == pytest.approx(half)
    assert first["top_eigenvalue_median"] == pytest.approx(3.5)
    assert first["top_eigenvalue_dense_median"] == pytest.approx(3.75)
    assert (first["truth"], second["truth"]) == ("warm", "x")
    assert first["abs_spearman_mean"] == 0.65


def test_disagreement_is_relative_to_the_dense_value(power, dense):
    assert disagreement(power, dense) == pytest.approx(np.median([0.5 / 2.5, 0.0]))


def test_released_figures_stand_beside_the_cells_that_have_them(evaluation, trained, power, dense):
    def published(**changed):
        columns = {**COLUMNS, **changed}
        row = summary_rows(columns, evaluation, trained, power, dense, 1.0)[0]
        return row["published_abs_spearman"]

    assert 0 < published() < 1
    assert 0 < published(depth=8) < 1
    assert 0 < published(width=50) < 1
    assert published(width=6) is None
    assert published(depth=2, width=8) is None
    assert published(variant="other") is None


def test_a_failed_cell_says_why_in_both_tables():
    row = failed_row(COLUMNS, "out of memory")
    assert row["status"] == row["reason"] == "failed: out of memory"
    assert row["cell"] == COLUMNS["cell"]
    assert "estimator" not in row


@pytest.mark.parametrize("columns", [RESULT_COLUMNS, SUMMARY_COLUMNS])
def test_columns_are_named_once(columns):
    assert len(set(columns)) == len(columns)


def test_the_documented_columns_are_there():
    documented = {
        *("dataset", "network", "depth", "width", "variant", "seed", "test_id"),
        *("estimator", "truth", "retrain_params"),
        *("spearman", "pearson", "kendall", "slope", "intercept", "r2"),
        *("sign_agreement", "top_k_overlap", "n"),
        *("top_eigenvalue", "train_accuracy", "test_loss", "null_drift", "seconds", "status"),
    }
    assert documented <= set(RESULT_COLUMNS)

"""Stage `evaluate`: every record against numpy and scipy on the raw files, and what is refused."""

import json
import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats

from ifcheck.artifacts import read_artifact, write_artifact
from ifcheck.errors import ArtifactMismatch, ArtifactUnreadable
from ifcheck.stages.eigen import eigen
from ifcheck.stages.evaluate import evaluate
from ifcheck.stages.influence import influence
from ifcheck.stages.retrain import retrain
from ifcheck.stages.train import train
from tests.stages.conftest import defined

ESTIMATORS = ("objective", "paper")
TRUTHS = ("warm", "newton")
TOP_K = 3


@pytest.fixture(scope="module")
def files(tiny, runs, scored, tmp_path_factory):
    """Files of the l2 run: two influence, two retrain of 12 rows each, one eigen."""
    folder = tmp_path_factory.mktemp("compared")
    for truth in TRUTHS:
        config = tiny({"retrain.truth": truth, "retrain.removals": "top-loss:12"})
        retrain(config, [runs("l2")], folder / f"retrain-{truth}.npz")
    eigen(tiny({"eigen.method": "dense"}), [runs("l2")], folder / "eigen.npz")
    return {
        "influence": [scored("l2", name) for name in ESTIMATORS],
        "retrain": [folder / f"retrain-{truth}.npz" for truth in TRUTHS],
        "eigen": folder / "eigen.npz",
    }


@pytest.fixture(scope="module")
def evaluation(files, tiny, tmp_path_factory):
    """The evaluation of all these files, and the text of its JSON."""
    out = tmp_path_factory.mktemp("evaluation") / "evaluation.json"
    config = tiny({"evaluate.top_k": TOP_K})
    found = evaluate(config, files["influence"], files["retrain"], files["eigen"], out)
    return found, out


@pytest.fixture(scope="module")
def by_hand(files, load_npz):
    """Return the raw numbers of a record: predicted, loss before, after and after nothing."""
    arrays = {path.name: load_npz(path) for path in [*files["influence"], *files["retrain"]]}

    def find(record):
        predicted, true = arrays[record["influence"]], arrays[record["retrain"]]
        s = predicted["seeds"].tolist().index(record["seed"])
        t = predicted["test_ids"][s].tolist().index(record["test_id"])
        ids = predicted["train_ids"].tolist()
        rows = [ids.index(row) for row in true["removed_ids"][s]]
        return (
            predicted["scores"][s, t, rows],
            true["loss_before"][s, t],
            true["loss_after"][s, t],
            true["null_loss_after"][s, t],
        )

    return find


def rewritten(path, target, **arrays):
    """Write a copy of an artifact with some arrays replaced."""
    artifact = read_artifact(path)
    write_artifact(target, artifact.kind, {**artifact.arrays, **arrays}, artifact.meta)
    return target


def test_every_pair_of_files_is_reported_for_every_seed_and_test_point(evaluation):
    found, _ = evaluation
    keys = [(r["influence"], r["retrain"], r["seed"], r["test_id"]) for r in found.records]
    expected = product(
        [f"influence-{name}.npz" for name in ESTIMATORS],
        [f"retrain-{name}.npz" for name in TRUTHS],
        range(4),
        (83, 106),
    )
    assert sorted(keys) == sorted(expected)
    pairs = [(s["influence"], s["retrain"]) for s in found.summaries]
    assert len(set(pairs)) == len(pairs) == 4


def test_correlations_and_line_are_scipys_of_true_on_predicted(evaluation, by_hand):
    for record in evaluation[0].records:
        predicted, before, after, _ = by_hand(record)
        true = after - before
        rank = stats.spearmanr(predicted, true)
        assert record["spearman"] == pytest.approx(rank.statistic, rel=1e-12)
        assert record["spearman_p"] == pytest.approx(rank.pvalue, rel=1e-9)
        assert record["pearson"] == pytest.approx(stats.pearsonr(predicted, true)[0], rel=1e-12)
        assert record["pearson_p"] == pytest.approx(stats.pearsonr(predicted, true)[1], rel=1e-9)
        assert record["kendall"] == pytest.approx(stats.kendalltau(predicted, true)[0], rel=1e-12)
        slope, intercept = np.polyfit(predicted, true, 1)
        assert record["slope"] == pytest.approx(slope, rel=1e-7)
        assert record["intercept"] == pytest.approx(intercept, rel=1e-7, abs=1e-12)
        assert record["n"] == 12


def test_identity_signs_and_overlap_compare_with_the_drift_corrected_change(evaluation, by_hand):
    for record in evaluation[0].records:
        predicted, _, after, null = by_hand(record)
        true = after - null
        errors, spread = ((true - predicted) ** 2).sum(), ((true - true.mean()) ** 2).sum()
        assert record["r2"] == pytest.approx(1 - errors / spread, rel=1e-9)
        signs = np.mean(np.sign(predicted) == np.sign(true))
        assert record["sign_agreement"] == pytest.approx(signs)
        tops = [set(np.argsort(-np.abs(values))[:TOP_K]) for values in (predicted, true)]
        assert record["top_k_overlap"] == pytest.approx(len(tops[0] & tops[1]) / TOP_K)
        assert record["top_k_chance"] == pytest.approx(TOP_K / 12)


def test_records_carry_loss_drift_curvature_and_certificates(evaluation, by_hand, files, load_npz):
    top = load_npz(files["eigen"])["values"][:, 0]
    scores = {path.name: load_npz(path) for path in files["influence"]}
    truths = {path.name: load_npz(path) for path in files["retrain"]}
    for record in evaluation[0].records:
        _, before, after, null = by_hand(record)
        seed, test = record["seed"], (83, 106).index(record["test_id"])
        assert record["test_loss"] == before
        assert record["null_drift"] == pytest.approx(null - before, rel=1e-12)
        assert record["true_change_median"] == np.median(np.abs(after - null))
        assert record["top_eigenvalue"] == top[seed]
        assert record["rel_residual"] == scores[record["influence"]]["rel_residual"][seed, test]
        converged = truths[record["retrain"]]["converged"][seed].mean()
        assert record["converged_share"] == converged
        assert record["status"] == "ok"


def test_intervals_hold_their_estimate_and_are_those_of_the_resamples(evaluation):
    for record in evaluation[0].records:
        for name in ("spearman", "pearson", "slope"):
            low, value, high = (record[name + end] for end in ("_low", "", "_high"))
            assert low < high
            assert low - 0.2 * (high - low) <= value <= high + 0.2 * (high - low), name


def test_a_summary_is_of_its_pairs_records(evaluation):
    found, _ = evaluation
    for summary in found.summaries:
        records = [
            r
            for r in found.records
            if (r["influence"], r["retrain"]) == (summary["influence"], summary["retrain"])
        ]
        values = {name: np.array([r[name] for r in records]) for name in records[0] if name != "n"}
        size = np.abs(values["spearman"])
        half = stats.t.ppf(0.975, len(size) - 1) * stats.sem(size)
        assert summary["n"] == len(records) == 8
        assert summary["undefined"] == 0
        assert summary["abs_spearman_mean"] == pytest.approx(size.mean())
        assert summary["abs_spearman_ci95"] == pytest.approx(half)
        assert summary["spearman_mean"] == pytest.approx(values["spearman"].mean())
        assert summary["spearman_median"] == pytest.approx(np.median(values["spearman"]))
        assert summary["negative_fraction"] == np.mean(values["spearman"] < 0)
        assert summary["abs_pearson_mean"] == pytest.approx(np.abs(values["pearson"]).mean())
        for name in ("slope", "intercept", "r2"):
            assert summary[f"{name}_median"] == pytest.approx(np.median(values[name]))
        for name in ("sign_agreement", "top_k_overlap"):
            assert summary[f"{name}_mean"] == pytest.approx(values[name].mean())
        assert summary["null_drift_median"] == np.median(np.abs(values["null_drift"]))
        assert summary["true_change_median"] == np.median(values["true_change_median"])
        assert summary["rel_residual_max"] == values["rel_residual"].max()
        link = stats.spearmanr(size, values["top_eigenvalue"]).statistic
        assert summary["top_eigenvalue_link"] == pytest.approx(link)
        assert summary["reason"] == ""


def test_the_chance_level_is_that_of_twelve_removals(evaluation):
    """The mean |rho| of unrelated orders, by sampling them."""
    ranks = np.arange(12) - 5.5
    orders = np.random.default_rng(0).permuted(np.tile(ranks, (20_000, 1)), axis=1)
    level = np.abs(orders @ ranks / (ranks @ ranks)).mean()
    for summary in evaluation[0].summaries:
        assert summary["chance_abs_spearman"] == pytest.approx(level, rel=0.03)


def test_a_summary_says_whether_both_use_one_normalisation(evaluation):
    notes = {s["estimator"]: s["normalisation"] for s in evaluation[0].summaries}
    assert notes["objective"] == "both n-1"
    assert notes["paper"].startswith("prediction n, truth n-1")


def test_the_file_holds_what_was_returned_and_the_parents(evaluation, files, digest):
    found, out = evaluation
    written = json.loads(out.read_text())
    assert written["records"] == defined(found.records)
    assert written["summaries"] == defined(found.summaries)
    assert written["gaps"] == defined(found.gaps)
    parents = [*files["influence"], *files["retrain"], files["eigen"]]
    assert written["meta"]["parents"] == {path.name: digest(path) for path in parents}
    assert written["meta"]["config"]["top_k"] == TOP_K
    assert written["meta"]["versions"]["torch"] == torch.__version__


def test_two_files_of_one_name_are_both_named_as_parents(files, tiny, tmp_path, digest):
    other = tmp_path / files["influence"][0].name
    other.write_bytes(files["influence"][1].read_bytes())
    found = evaluate(tiny(), [files["influence"][0], other], files["retrain"][:1])
    parents = [files["influence"][0], other, files["retrain"][0]]
    assert sorted(found.parents.values()) == sorted(map(digest, parents))


def test_a_second_evaluation_is_identical(evaluation, files, tiny):
    config = tiny({"evaluate.top_k": TOP_K})
    again = evaluate(config, files["influence"], files["retrain"], files["eigen"])
    assert defined(again.records) == defined(evaluation[0].records)
    assert defined(again.summaries) == defined(evaluation[0].summaries)


def test_seeds_may_stand_in_another_order_in_each_file(files, evaluation, runs, tiny, tmp_path):
    backwards = sorted((runs("l2") / "checkpoints").iterdir(), reverse=True)
    influence(tiny(), backwards, tmp_path / "influence-objective.npz")
    eigen(tiny({"eigen.method": "dense"}), backwards, tmp_path / "eigen.npz")
    found = evaluate(
        tiny({"evaluate.top_k": TOP_K}),
        [tmp_path / "influence-objective.npz"],
        files["retrain"],
        tmp_path / "eigen.npz",
    )
    keys = ("retrain", "seed", "test_id")
    order = {tuple(r[k] for k in keys): r for r in defined(found.records)}
    records = defined(evaluation[0].records)
    expected = [r for r in records if r["influence"] == "influence-objective.npz"]
    assert [order[tuple(r[k] for k in keys)] for r in expected] == expected


# --- what is undefined --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def refused(tiny, scored, retrained, tmp_path_factory):
    """The evaluation of a truth that was refused, with its file."""
    out = tmp_path_factory.mktemp("refused") / "evaluation.json"
    found = evaluate(
        tiny(), [scored("none", "objective")], [retrained("none", "newton")], None, out
    )
    return found, out


def test_a_refused_truth_leaves_agreement_undefined_with_the_reason(refused):
    for record in refused[0].records:
        assert math.isnan(record["spearman"])
        assert math.isnan(record["slope"])
        assert "not finite" in record["reasons"]["spearman"]
        assert record["status"].startswith("refused: without weight decay")
        assert math.isfinite(record["test_loss"])
    (summary,) = refused[0].summaries
    assert math.isnan(summary["abs_spearman_mean"])
    assert (summary["n"], summary["undefined"]) == (0, 8)
    assert summary["reason"].startswith("refused: without weight decay")


def test_json_holds_null_and_never_nan(refused):
    text = refused[1].read_text()

    def forbid(constant):
        raise AssertionError(f"{constant} is not JSON")

    written = json.loads(text, parse_constant=forbid)
    assert written["records"][0]["spearman"] is None
    assert written["summaries"][0]["abs_spearman_mean"] is None


def test_every_undefined_number_of_a_record_has_its_reason(refused, evaluation, files, tiny):
    constant = evaluate(tiny(), files["influence"][:1], files["retrain"], files["eigen"])
    for record in [*refused[0].records, *constant.records]:
        own = set(record) - {"null_drift", "true_change_median", "top_eigenvalue"}
        # Whose reason stands beside them, or is the record's status.
        own -= {"reliability", "noise_ceiling", "spearman_corrected", "signal"}
        own -= {f"signal_to_{noise}" for noise in ("drift", "replicates", "resolution")}
        assert record["reliability_reason"]
        undefined = {k for k in own if isinstance(record[k], float) and math.isnan(record[k])}
        assert undefined == set(record["reasons"])


def test_constant_predictions_have_no_correlation(files, tiny, tmp_path):
    scores = np.full((4, 2, 148), 0.25)
    flat = rewritten(files["influence"][0], tmp_path / "influence-flat.npz", scores=scores)
    found = evaluate(tiny(), [flat], files["retrain"][:1])
    for record in found.records:
        assert math.isnan(record["spearman"])
        assert record["reasons"]["spearman"] == "constant input: predicted"
        assert record["reasons"]["slope"] == "constant input: predicted"
        assert math.isfinite(record["r2"])
    (summary,) = found.summaries
    assert summary["undefined"] == 8
    assert summary["reason"] == "constant input: predicted"


def test_two_removals_are_too_few_to_correlate(files, scored, tiny, runs, tmp_path):
    config = tiny({"retrain.removals": "top-loss:2", "retrain.epochs": 2})
    retrain(config, [runs("l2")], tmp_path / "retrain-two.npz")
    found = evaluate(tiny(), files["influence"][:1], [tmp_path / "retrain-two.npz"])
    assert {r["reasons"]["spearman"] for r in found.records} == {"2 of the 3 pairs that it takes"}
    assert math.isnan(found.summaries[0]["chance_abs_spearman"])


def test_seeds_that_are_undefined_are_left_out_and_counted(files, tiny, tmp_path, load_npz):
    after = load_npz(files["retrain"][0])["loss_after"].copy()
    after[2, 0, 5] = np.nan
    broken = rewritten(files["retrain"][0], tmp_path / "retrain-broken.npz", loss_after=after)
    found = evaluate(tiny(), files["influence"][:1], [broken])
    clean = evaluate(tiny(), files["influence"][:1], files["retrain"][:1])
    status = {(r["seed"], r["test_id"]): r["status"] for r in found.records}
    assert status.pop((2, 83)) == "failed: a retraining turned non-finite"
    assert set(status.values()) == {"ok"}
    (summary,) = found.summaries
    assert (summary["n"], summary["undefined"]) == (7, 1)
    assert summary["reason"] == "failed: a retraining turned non-finite"
    rest = [abs(r["spearman"]) for r in clean.records if (r["seed"], r["test_id"]) != (2, 83)]
    assert summary["abs_spearman_mean"] == pytest.approx(np.mean(rest))


def test_without_an_eigen_file_the_link_to_curvature_is_undefined(files, tiny):
    found = evaluate(tiny(), files["influence"][:1], files["retrain"][:1])
    assert all(math.isnan(record["top_eigenvalue"]) for record in found.records)
    assert math.isnan(found.summaries[0]["top_eigenvalue_link"])


def test_an_undefined_interval_of_a_summary_has_its_reason(tiny, runs, tmp_path):
    """One seed and one test point have a mean and no interval."""
    train(tiny({"train.seeds": 1, "data.test_points": "ids:83"}), tmp_path / "run")
    sources = [tmp_path / "run"]
    influence(tiny(), sources, tmp_path / "influence.npz")
    retrain(tiny(), sources, tmp_path / "retrain.npz")
    found = evaluate(tiny(), [tmp_path / "influence.npz"], [tmp_path / "retrain.npz"])
    (summary,) = found.summaries
    assert math.isfinite(summary["abs_spearman_mean"])
    assert math.isnan(summary["abs_spearman_ci95"])
    assert "interval" in json.dumps({k: v for k, v in summary.items() if "reason" in k})


# --- what does not belong together --------------------------------------------------------------


@pytest.mark.parametrize("kind", ["influence", "retrain", "eigen"])
def test_files_of_other_checkpoints_are_refused_with_both_names(
    kind, files, scored, retrained, runs, tiny, tmp_path, digest
):
    parts = {"influence": files["influence"], "retrain": files["retrain"], "eigen": files["eigen"]}
    if kind == "eigen":
        stranger = tmp_path / "eigen-none.npz"
        eigen(tiny({"eigen.method": "dense"}), [runs("none")], stranger)
        parts["eigen"] = stranger
    else:
        stranger = {"influence": scored("none", "paper"), "retrain": retrained("none", "warm")}[
            kind
        ]
        parts[kind] = [parts[kind][0], stranger]
    with pytest.raises(ArtifactMismatch) as caught:
        evaluate(tiny(), parts["influence"], parts["retrain"], parts["eigen"])
    message = caught.value.message
    assert message.startswith(f"{stranger.name} was made from checkpoint seed-000.safetensors")
    assert files["influence"][0].name in message
    for variant in ("l2", "none"):
        assert digest(runs(variant) / "checkpoints" / "seed-000.safetensors")[:8] in message


def test_a_file_of_fewer_seeds_is_refused(files, runs, tiny, tmp_path):
    some = sorted((runs("l2") / "checkpoints").iterdir())[:2]
    influence(tiny(), some, tmp_path / "influence-some.npz")
    with pytest.raises(ArtifactMismatch, match=r"seed-002\.safetensors"):
        evaluate(tiny(), [tmp_path / "influence-some.npz"], files["retrain"])


def test_removed_rows_that_were_not_scored_are_refused(files, tiny, tmp_path, load_npz):
    removed = load_npz(files["retrain"][0])["removed_ids"].copy()
    removed[0, 0] = 83
    stranger = rewritten(files["retrain"][0], tmp_path / "retrain-83.npz", removed_ids=removed)
    with pytest.raises(ArtifactMismatch, match=r"retrain-83\.npz removed rows that influence-"):
        evaluate(tiny(), files["influence"], [stranger])


def test_files_on_other_test_points_are_refused(user_model, tiny, tmp_path):
    """A user's own file says nothing of test points, so the two stages can be told different."""
    influence(tiny({"data.test_points": "ids:83"}), [user_model], tmp_path / "influence.npz")
    retrain(tiny({"data.test_points": "ids:106"}), [user_model], tmp_path / "retrain.npz")
    with pytest.raises(ArtifactMismatch):
        evaluate(tiny(), [tmp_path / "influence.npz"], [tmp_path / "retrain.npz"])


def test_files_in_each_others_place_are_refused(files, tiny):
    with pytest.raises(ArtifactUnreadable, match="holds 'retrain'; expected 'influence'"):
        evaluate(tiny(), files["retrain"], files["influence"])


def test_a_users_own_file_goes_through_every_stage(user_model, tiny, evaluation, files, tmp_path):
    """One seed of the run, as a bare state dict: the same agreement as within the run."""
    config = tiny({"variant.name": "l2", "retrain.removals": "top-loss:12"})
    influence(config, [user_model], tmp_path / "influence-objective.npz")
    retrain(config, [user_model], tmp_path / "retrain-warm.npz")
    eigen(tiny({"eigen.method": "dense"}), [user_model], tmp_path / "eigen.npz")
    found = evaluate(
        tiny({"evaluate.top_k": TOP_K}),
        [tmp_path / "influence-objective.npz"],
        [tmp_path / "retrain-warm.npz"],
        tmp_path / "eigen.npz",
    )
    wanted = ("influence-objective.npz", "retrain-warm.npz", 0)
    expected = [
        r for r in evaluation[0].records if (r["influence"], r["retrain"], r["seed"]) == wanted
    ]
    assert defined(found.records) == defined(expected)

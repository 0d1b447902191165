"""What changed between two studies, against scipy on the numbers that were written."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from ifcheck.config import Config, load_config
from ifcheck.stages.compare import compare
from tests.study_files import CELL, PAIR, record, write_study

OTHER = {**CELL, "cell": "iris-mlp-depth2-width5-selu-none", "depth": 2, "variant": "none"}
SPEARMAN_A, SPEARMAN_B = (0.90, 0.85, -0.93, 0.88), (0.995, 0.94, 1.0, 0.97)
SLOPE_A, SLOPE_B = (1.0, 1.2, 0.9, 1.1), (1.1, 1.15, 1.3, 0.8)


@pytest.fixture
def studies(tmp_path):
    """Two studies of the same four seeds: agreement is better in B, the slope is not."""

    def rows(spearman, slope):
        return [
            record(seed, spearman=r, slope=s, null_drift=-0.01 * (seed + 1))
            for seed, r, s in zip((0, 1, 2, 5), spearman, slope, strict=True)
        ]

    a = write_study(tmp_path / "a", rows(SPEARMAN_A, SLOPE_A), epochs=100)
    b = write_study(tmp_path / "b", rows(SPEARMAN_B, SLOPE_B), epochs=200)
    return a, b


def run(a, b, **options):
    return compare(Config(), a, b, **options)


def found(comparison, quantity, **labels):
    (row,) = [
        row
        for row in comparison.rows
        if row["quantity"] == quantity and labels.items() <= row.items()
    ]
    return row


def test_differences_are_those_of_scipy(studies):
    row = found(run(*studies), "|Spearman|")
    a, b = np.abs(SPEARMAN_A), np.abs(SPEARMAN_B)
    expected = stats.ttest_rel(b, a)
    interval = expected.confidence_interval(0.95)
    assert row["first"] == pytest.approx(a.mean())
    assert row["second"] == pytest.approx(b.mean())
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
    assert row["p_value"] == pytest.approx(expected.pvalue)
    assert row["method"] == "paired over seeds"
    assert row["n_first"] == 4


def test_every_quantity_is_compared(studies):
    comparison = run(*studies)
    names = [row["quantity"] for row in comparison.rows]
    assert names == ["|Spearman|", "slope", "|drift|", "top eigenvalue", "train accuracy"]
    drift = found(comparison, "|drift|")
    assert (drift["first"], drift["difference"]) == (pytest.approx(0.03), 0)


def test_p_values_are_adjusted_for_all_rows(studies):
    rows = run(*studies).rows
    tested = [row["p_value"] for row in rows if math.isfinite(row["p_value"])]
    assert len(tested) == 2
    low, high = sorted(tested)
    expected = {low: 2 * low, high: max(2 * low, high)}
    for row in rows:
        if math.isfinite(row["p_value"]):
            assert row["p_holm"] == pytest.approx(min(1, expected[row["p_value"]]))
        else:
            assert math.isnan(row["p_holm"])


def test_what_changed_is_said(studies):
    changed = {row["quantity"]: row["changed"] for row in run(*studies).rows}
    assert changed == {
        "|Spearman|": True,
        "slope": False,
        "|drift|": False,
        "top eigenvalue": False,
        "train accuracy": False,
    }


def test_settings_that_differ_come_with_both_values(studies):
    a, b = studies
    assert run(a, b).settings == ["train.epochs: 200, was 100"]
    assert run(b, a).settings == ["train.epochs: 100, was 200"]
    assert run(a, a).settings == []


def test_the_other_way_round_differences_change_sign(studies):
    there, back = run(*studies), run(*reversed(studies))
    for one, other in zip(there.rows, back.rows, strict=True):
        assert other["difference"] == pytest.approx(-one["difference"])
        assert (other["low"], other["high"]) == pytest.approx((-one["high"], -one["low"]))
        assert (other["first"], other["second"]) == (one["second"], one["first"])
        assert other["changed"] == one["changed"]


def test_a_study_is_the_same_as_itself(studies):
    comparison = run(studies[0], studies[0])
    assert len(comparison.rows) == 5
    for row in comparison.rows:
        assert (row["difference"], row["low"], row["high"]) == (0, 0, 0)
        assert not row["changed"]
    assert comparison.only_first == comparison.only_second == comparison.notes == []


def test_other_seeds_are_compared_by_welch(tmp_path):
    values = {"a": (0.9, 0.8, 0.7), "b": (0.95, 0.85)}
    for name, spearman in values.items():
        rows = [record(seed, spearman=r) for seed, r in enumerate(spearman)]
        write_study(tmp_path / name, rows)
    row = found(run(tmp_path / "a", tmp_path / "b"), "|Spearman|")
    expected = stats.ttest_ind(values["b"], values["a"], equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
    assert (row["method"], row["n_first"], row["n_second"]) == ("Welch", 3, 2)


def test_a_seed_that_failed_in_one_keeps_the_others_paired(tmp_path):
    failed = {**CELL, "seed": 2, "status": "failed: training turned non-finite"}
    write_study(tmp_path / "a", [record(seed, spearman=0.5 + 0.1 * seed) for seed in range(3)])
    write_study(tmp_path / "b", [record(0, spearman=0.6), record(1, spearman=0.8), failed])
    comparison = run(tmp_path / "a", tmp_path / "b")
    row = found(comparison, "|Spearman|")
    assert (row["method"], row["n_first"], row["n_second"]) == ("paired over seeds", 2, 2)
    assert row["first"] == pytest.approx(0.55)
    (note,) = comparison.notes
    assert note.startswith("B has cells or seeds that failed, 1 in all; the first is of iris")
    assert note.endswith("training turned non-finite")


def test_the_confidence_is_the_configured_one(studies):
    config = load_config(None, {}, ("evaluate.confidence=0.5",))
    row = found(compare(config, *studies), "slope")
    expected = stats.ttest_rel(SLOPE_B, SLOPE_A).confidence_interval(0.5)
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))


def test_rounding_is_no_change(tmp_path):
    for name, offset in {"a": 0.0, "b": 1e-14}.items():
        rows = [record(s, spearman=0.9 + offset, null_drift=1e-17 * (1 + s)) for s in range(3)]
        write_study(tmp_path / name, [{**row, "slope": 1 + offset} for row in rows])
    assert not any(row["changed"] for row in run(tmp_path / "a", tmp_path / "b").rows)


@pytest.mark.parametrize(("seeds", "changed"), [(8, True), (2, False)])
def test_the_same_change_on_every_seed_is_one_where_signs_cannot_be_chance(
    tmp_path, seeds, changed
):
    write_study(tmp_path / "a", [record(seed, spearman=1.0) for seed in range(seeds)])
    write_study(tmp_path / "b", [record(seed, spearman=0.5) for seed in range(seeds)])
    row = found(run(tmp_path / "a", tmp_path / "b"), "|Spearman|")
    assert (row["difference"], row["low"], row["high"]) == (-0.5, -0.5, -0.5)
    assert row["p_value"] == 2.0 ** (1 - seeds)
    assert row["changed"] is changed


def test_a_change_of_one_seed_cannot_be_judged(tmp_path):
    write_study(tmp_path / "a", [record(0, spearman=1.0)])
    write_study(tmp_path / "b", [record(0, spearman=0.5)])
    row = found(run(tmp_path / "a", tmp_path / "b"), "|Spearman|")
    assert row["difference"] == -0.5
    assert math.isnan(row["low"])
    assert not row["changed"]
    assert row["reason"] == "one seed has no interval"


def test_drift_is_of_a_truth_and_curvature_of_a_cell(tmp_path):
    rows = [
        record(seed, estimator=estimator, truth=truth)
        for seed in range(2)
        for estimator in ("objective", "paper")
        for truth in ("warm", "newton")
    ]
    write_study(tmp_path / "a", rows)
    names = [row["quantity"] for row in run(tmp_path / "a", tmp_path / "a").rows]
    counts = {name: names.count(name) for name in names}
    assert counts == {
        "|Spearman|": 4,
        "slope": 4,
        "|drift|": 2,
        "top eigenvalue": 1,
        "train accuracy": 1,
    }


def test_a_baseline_has_no_slope_to_compare(tmp_path):
    rows = [record(seed, estimator=name) for seed in range(2) for name in ("paper", "train-loss")]
    write_study(tmp_path / "a", rows)
    slopes = [r for r in run(tmp_path / "a", tmp_path / "a").rows if r["quantity"] == "slope"]
    assert [row["estimator"] for row in slopes] == ["paper"]


def test_groups_are_not_compared_with_single_rows(tmp_path):
    write_study(tmp_path / "a", [record(seed) for seed in range(2)])
    write_study(tmp_path / "b", [record(seed, group_size=5) for seed in range(2)])
    comparison = run(tmp_path / "a", tmp_path / "b")
    assert {row["quantity"] for row in comparison.rows} == {"top eigenvalue", "train accuracy"}
    assert comparison.only_first == [{"cell": CELL["cell"], "comparison": "objective / warm"}]
    assert comparison.only_second[0]["comparison"] == "objective / warm groups of 5"


def test_what_one_lacks_is_listed(tmp_path):
    write_study(tmp_path / "a", [record(0), record(0, **OTHER), record(0, estimator="paper")])
    write_study(tmp_path / "b", [record(0), record(0, truth="scratch", retrain_params="all")])
    comparison = run(tmp_path / "a", tmp_path / "b")
    assert comparison.only_first == [
        {"cell": OTHER["cell"], "comparison": ""},
        {"cell": CELL["cell"], "comparison": "paper / warm"},
    ]
    assert comparison.only_second == [
        {"cell": CELL["cell"], "comparison": "objective / scratch:all"}
    ]


def test_what_is_undefined_in_both_is_left_out_and_in_one_shown(tmp_path):
    refused = {"spearman": "", "slope": "", "null_drift": "", "status": "refused: no"}
    write_study(tmp_path / "a", [record(0, **refused), record(0, **{**OTHER, **refused})])
    write_study(tmp_path / "b", [record(0), record(0, **{**OTHER, **refused})])
    comparison = run(tmp_path / "a", tmp_path / "b")
    row = found(comparison, "|Spearman|")
    assert row["cell"] == CELL["cell"]
    assert math.isnan(row["first"])
    assert row["second"] == 0.9
    assert row["reason"] == "no finite values to compare"


def test_an_interrupted_study_is_compared_and_said_to_be_one(tmp_path):
    write_study(tmp_path / "a", [record(0), record(0, **OTHER)])
    write_study(tmp_path / "b", [record(0)], finished=False)
    comparison = run(tmp_path / "a", tmp_path / "b")
    (note,) = comparison.notes
    assert note.startswith("B was interrupted, or is still running")
    assert "from 1 cells" in note
    assert found(comparison, "|Spearman|")["difference"] == 0


def test_a_column_that_an_older_study_lacks_is_said(tmp_path):
    old = {k: v for k, v in record(0).items() if k not in ("slope", "group_size")}
    write_study(tmp_path / "a", [old])
    write_study(tmp_path / "b", [record(0)])
    comparison = run(tmp_path / "a", tmp_path / "b")
    assert comparison.notes == ["A has no column slope: an older version wrote it."]
    assert "slope" not in {row["quantity"] for row in comparison.rows}
    assert found(comparison, "|Spearman|")["difference"] == 0


def test_verdicts_that_changed_are_listed(tmp_path):
    def verdicts(*words):
        names = ("objective", "paper")
        rows = zip(names, words, strict=True)
        return [{**CELL, **PAIR, "estimator": name, "verdict": word} for name, word in rows]

    rows = [record(0), record(0, estimator="paper")]
    write_study(tmp_path / "a", rows, verdicts=verdicts("trust", "trust"))
    write_study(tmp_path / "b", rows, verdicts=verdicts("trust", "do not"))
    write_study(tmp_path / "c", rows)
    (changed,) = run(tmp_path / "a", tmp_path / "b").verdicts
    assert (changed["estimator"], changed["first"], changed["second"]) == (
        *("paper", "trust"),
        "do not",
    )
    without = run(tmp_path / "a", tmp_path / "c")
    assert without.verdicts == []
    assert without.notes == ["B has no verdicts: an older version wrote it."]
    assert run(tmp_path / "c", tmp_path / "c").notes == []


def test_the_file_holds_what_is_returned(studies, tmp_path):
    comparison = run(*studies, out=tmp_path / "new" / "comparison.json")

    def forbid(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (tmp_path / "new" / "comparison.json").read_text()
    held = json.loads(text, parse_constant=forbid)
    assert held["first"] == str(studies[0])
    assert held["rows"][0]["difference"] == comparison.rows[0]["difference"]
    assert held["rows"][2]["p_value"] is None
    assert held["rows"][2]["reason"]

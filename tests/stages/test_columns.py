"""Tables of agreement, tests and gaps: whose rows they have, and what stands in the caption."""

import math

import pytest

from ifcheck.stages.columns import agreement_tables, study_tables, table_of_gaps, table_of_tests

SUMMARY = {
    "influence": "influence-objective.npz",
    "retrain": "retrain-warm.npz",
    "estimator": "objective",
    "truth": "warm",
    "retrain_params": "head",
    "baseline": False,
    "group_size": 1,
    "abs_spearman_mean": 0.98765,
    "abs_spearman_ci95": 0.0123,
    "spearman_median": 0.99,
    "slope_median": 1.25,
    "r2_median": 0.5,
    "sign_agreement_mean": 0.75,
    "top_k_overlap_mean": 0.9,
    "top_k_chance": 0.25,
    "null_drift_median": 0.001,
    "abs_spearman_low": 0.95,
    "abs_spearman_high": 0.999,
    "chance_p": 0.001,
    "power": 0.8,
    "signal_to_drift_median": 12.0,
    "noise_ceiling_median": math.nan,
    "over_best_baseline": 0.3,
    "over_best_baseline_ci95": 0.1,
    "reason": "",
}
CELL = {
    "cell": "iris-mlp-depth1-width5-selu-l2",
    "network": "mlp",
    "depth": 1,
    "width": 5,
    "variant": "l2",
    "top_eigenvalue_median": 1.5,
    "published_abs_spearman": None,
    "published_abs_spearman_ci95": None,
    "published_top_eigenvalue": None,
}
PUBLISHED = {
    "published_abs_spearman": 0.7,
    "published_abs_spearman_ci95": 0.07,
    "published_top_eigenvalue": 1.52,
}


def shown(table, row=0):
    return dict(zip(table.columns, table.rows[row], strict=True))


def test_an_evaluation_has_agreement_and_controls_by_pair():
    agreement, controls = agreement_tables([SUMMARY])
    assert shown(agreement) == {
        "prediction / truth": "objective / warm",
        "|Spearman|": "0.99±.01",
        "median": "0.99",
        "slope": "1.25",
        "R²": "0.5",
        "signs": "0.75",
        "top-k (chance)": "0.9 (0.25)",
        "drift": "0.001",
    }
    assert shown(controls) == {
        "prediction / truth": "objective / warm",
        "interval": "0.95 to 1",
        "chance p": "0.001",
        "power": "0.8",
        "signal/drift": "12",
        "ceiling": "–",
        "over baseline": "0.30±.10",
    }
    assert agreement.records == controls.records == (SUMMARY,)
    assert "Undefined" not in agreement.caption


def test_a_baseline_has_no_scale():
    row = shown(agreement_tables([{**SUMMARY, "baseline": True}])[0])
    assert (row["slope"], row["R²"], row["signs"]) == ("–", "–", "–")


def test_a_study_says_the_cell_and_has_published_figures_beside():
    first, second = {**SUMMARY, **CELL}, {**SUMMARY, **CELL, **PUBLISHED, "depth": 2}
    agreement, controls = agreement_tables([first, second])
    assert shown(agreement)["variant size"] == "l2 1x5"
    assert (shown(agreement)["publ."], shown(agreement, 1)["publ."]) == ("–", "0.70±.07")
    assert shown(controls, 1)["top eig."] == "1.5"
    assert shown(controls, 1)["publ. top eig."] == "1.52"
    assert "authors' released files" in agreement.caption


def test_without_published_figures_there_is_no_column_for_them():
    agreement, controls = agreement_tables([{**SUMMARY, **CELL}])
    assert not [name for name in (*agreement.columns, *controls.columns) if "publ" in name]
    assert "released" not in agreement.caption


def test_a_verdict_is_shown_where_there_is_one():
    trusted, without = {**SUMMARY, "verdict": "trust"}, SUMMARY
    agreement, _ = agreement_tables([trusted, without])
    assert [row[-1] for row in agreement.rows] == ["trust", "–"]
    assert "verdict" not in agreement_tables([without])[0].columns


def test_why_something_is_undefined_stands_in_the_caption_once():
    undefined = {"abs_spearman_mean": math.nan, "reason": "refused: no optimum"}
    failed = {"cell": "iris-other", "reason": "failed: diverged"}
    rows = [{**SUMMARY, **CELL, **undefined}] * 2
    agreement, controls = agreement_tables([*rows, failed])
    assert agreement.caption.endswith(
        "Undefined: l2, warm: refused: no optimum; iris-other: failed: diverged."
    )
    assert len(agreement.rows) == len(controls.rows) == 2
    (alone, _) = agreement_tables([{**SUMMARY, **undefined}])
    assert "Undefined: objective / warm: refused: no optimum." in alone.caption


def test_groups_are_said():
    assert "groups of 5 rows" in agreement_tables([{**SUMMARY, "group_size": 5}])[0].caption


GAP = {
    "influence": "influence-objective.npz",
    "before": "predicted",
    "after": "pbrf",
    "share": 0.02,
    "spearman_median": 1.0,
    "slope_median": 1.04,
    "error_median": 0.0012,
    "gap_median": 0.5,
}
TEST = {
    "quantity": "|Spearman|",
    "estimator": "objective",
    "truth": "warm",
    "retrain_params": "all",
    "across": "depth",
    "within": "variant l2",
    "test": "one-way ANOVA",
    "statistic": 4.5678,
    "p_value": 0.012345,
    "effect_name": "eta squared",
    "effect_size": 0.123,
    "reason": None,
}


def test_gaps_say_the_cell_in_a_study():
    assert shown(table_of_gaps([GAP]))["step"] == "predicted -> pbrf"
    assert shown(table_of_gaps([GAP]))["share"] == "2%"
    assert shown(table_of_gaps([{**CELL, **GAP}]))["variant size"] == "l2 1x5"


def test_tests_have_their_effect_and_leave_comparisons_of_two_to_the_records():
    tukey = {**TEST, "test": "Tukey HSD 1 - 2", "effect_name": "Hedges' g"}
    eigenvalue = {k: v for k, v in TEST.items() if k not in ("estimator", "truth")}
    table = table_of_tests([TEST, tukey, {**eigenvalue, "quantity": "top eigenvalue"}])
    assert len(table.rows) == 2
    assert len(table.records) == 3
    assert shown(table) == {
        "quantity": "|Spearman|",
        "prediction / truth": "objective / warm:all",
        "across": "depth within variant l2",
        "test": "one-way ANOVA",
        "statistic": "4.57",
        "p": "0.012",
        "effect": "eta squared 0.12",
    }
    assert shown(table, 1)["prediction / truth"] == ""


def test_adjusted_p_values_are_shown_where_there_are_any():
    assert shown(table_of_tests([{**TEST, "p_holm": 0.03}]))["p (Holm)"] == "0.03"
    assert "p (Holm)" not in table_of_tests([TEST]).columns


@pytest.mark.parametrize(
    ("tests", "gaps", "names"),
    [
        ([], [], ["agreement"]),
        ([TEST], [], ["agreement", "tests"]),
        ([TEST], [GAP], ["agreement", "tests", "gaps"]),
    ],
)
def test_a_study_writes_the_tables_that_it_has(tests, gaps, names):
    assert list(study_tables([SUMMARY], tests, gaps)) == names

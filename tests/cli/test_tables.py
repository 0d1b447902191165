"""The tables of `evaluate` and `fragility`: no wider than 100 columns, no number folded."""

import math

import pytest

from ifcheck.cli.tables import (
    show_agreement,
    show_controls,
    show_gaps,
    show_paths,
    show_study,
)
from ifcheck.cli.terminal import MAX_WIDTH
from ifcheck.stages.fragility import Cost, Study
from tests.cli.conftest import STUDY

ESTIMATORS, TRUTHS = ("objective", "paper", "authors"), ("warm", "newton")
WORST = {  # as wide as such numbers get
    "abs_spearman_mean": 0.98765,
    "abs_spearman_ci95": 0.12345,
    "spearman_median": -0.98765,
    "slope_median": -1.2345e-05,
    "r2_median": -123456.7,
    "sign_agreement_mean": 0.98765,
    "top_k_overlap_mean": 0.98765,
    "top_k_chance": 0.25,
    "null_drift_median": 1.2345e-05,
    "true_change_median": 1.2345e-05,
    "chance_abs_spearman": 0.128,
    "top_eigenvalue_median": 1.2345e-05,
    "top_eigenvalue_disagreement": 0.5,
    "published_abs_spearman": 0.98765,
    "reason": "",
    "normalisation": "both n-1",
    "predicted_normalisation": "n-1",
    "true_normalisation": "n-1",
    "group_size": 1,
    "held_out": 0,
    "damping_chosen": None,
    "baseline": False,
    "noise_ceiling_median": 0.98765,
    "abs_spearman_low": 0.98765,
    "abs_spearman_high": 0.98765,
    "chance_p": 1.2345e-05,
    "power": 0.98765,
    "signal_to_drift_median": 1.2345e-05,
    "over_best_baseline": 0.98765,
    "over_best_baseline_ci95": 0.12345,
    "replicates": 1,
    "reliability_low": 2,
}


def summary(variant, depth, width, estimator, truth, **parts):
    return {
        "cell": f"iris-mlp-depth{depth}-width{width}-selu-{variant}",
        "network": "mlp",
        "variant": variant,
        "depth": depth,
        "width": width,
        "estimator": estimator,
        "truth": truth,
        "retrain_params": "head",
        "influence": f"influence-{estimator}.npz",
        "retrain": f"retrain-{truth}.npz",
        **WORST,
        **parts,
    }


@pytest.fixture
def summaries():
    """All six pairs for two cells."""
    return [
        summary(variant, 8, 50, estimator, truth)
        for variant in ("l2-swa", "none")
        for estimator in ESTIMATORS
        for truth in TRUTHS
    ]


def table_lines(shown):
    """Lines of the tables; sentences about them may be longer and wrap where the user likes."""
    return [line for line in shown.splitlines() if line.startswith(" ")]


def test_a_real_study_with_six_pairs_fits_100_columns(succeed, quick, tmp_path):
    shown = succeed(*STUDY, "--out", tmp_path / "study").stdout
    lines = table_lines(shown)
    assert max(map(len, lines)) <= MAX_WIDTH == 100
    for cell in ("none 1x4", "l2 1x4", "none 1x5", "l2 1x5"):
        row, verdicts = [line for line in lines if line.startswith(f" {cell} ")]
        assert len(row.split()) == 2 + 6 + 3, row  # every column on the one line
        assert verdicts.split()[2:] == ["?"] * 6  # of four removals


def test_a_study_ends_with_what_each_stage_took(summaries, capsys, tmp_path):
    costs = {"train": Cost(90.4, 1_500_000_000), "retrain warm:all": Cost(7_200.0, 2_540_000_000)}
    show_study(Study(tmp_path, [], summaries, [], costs))
    lines = [line.split() for line in table_lines(capsys.readouterr().out)]
    assert ["train", "2", "min", "1.5", "GB"] in lines
    assert ["retrain", "warm:all", "2.0", "h", "2.5", "GB"] in lines


def test_the_widest_study_table_fits_100_columns_in_one_line_a_cell(summaries, capsys, tmp_path):
    show_study(Study(tmp_path, [], summaries, []))
    lines = table_lines(capsys.readouterr().out)
    assert max(map(len, lines)) <= 100
    for variant in ("l2-swa", "none"):
        (row,) = [line for line in lines if line.startswith(f" {variant} 8x50 ")]
        assert row.split() == [
            *(variant, "8x50"),
            *["0.99±.12"] * 6,
            *("1.23e-05*", "1.2e-05", "0.99"),
        ]


def test_the_widest_agreement_table_fits_100_columns_in_one_line_a_pair(summaries, capsys):
    show_agreement(summaries[:6])
    lines = table_lines(capsys.readouterr().out)
    assert max(map(len, lines)) <= 100
    for estimator in ESTIMATORS:
        for truth in TRUTHS:
            (row,) = [line for line in lines if line.startswith(f" {estimator} / {truth} ")]
            assert row.split()[3:] == [
                *("0.99±.12", "-0.988", "-1.23e-05", "-1.23e+05"),
                *("0.99", "0.99", "(0.25)", "1.2e-05"),
            ]


def test_groups_and_a_chosen_damping_are_said(summaries, capsys):
    chosen = {"damping": 0.003, "chosen_on": "retrain-random.npz"}
    told = {**summaries[0], "group_size": 5, "held_out": 7, "damping_chosen": chosen}
    show_agreement([told])
    shown = capsys.readouterr()
    assert "groups of 5 rows" in shown.out
    note = " ".join(shown.err.split())
    assert "damping 0.003 was chosen on retrain-random.npz" in note
    assert "up to 7 are among its own and left out" in note


def test_reliability_is_said_where_there_are_replicates(summaries, capsys):
    reliable = {"replicates": 3, "reliability_median": 0.81, "noise_ceiling_median": 0.9}
    show_agreement([summaries[0], {**summaries[1], **reliable}])
    (note,) = " ".join(capsys.readouterr().err.split()).split("note: ")[1:]
    assert "mean of 3 replicates, reliability 0.81, noise ceiling 0.9 (medians)" in note
    assert note.endswith("low or undefined for 2 of the seeds and test points")


def test_the_widest_tables_of_controls_and_gaps_fit_100_columns(summaries, capsys):
    show_controls(summaries[:6])
    gap = {
        "influence": "influence-authors.npz",
        "before": "predicted",
        "after": "scratch",
        "share": -0.98765,
        "spearman_median": -0.98765,
        "slope_median": -1.2345e-05,
        "error_median": 1.2345e-05,
        "gap_median": math.nan,
    }
    show_gaps([gap, {**gap, "share": math.nan}])
    lines = table_lines(capsys.readouterr().out)
    assert max(map(len, lines)) <= 100
    (row,) = [line for line in lines if line.startswith(" objective / newton ")]
    assert row.split()[3:] == [
        *("0.99", "to", "0.99", "1.2e-05", "0.99", "1.2e-05", "0.99", "0.99±.12"),
    ]
    steps = [line.split() for line in lines if "->" in line]
    assert steps[0][4:] == ["-99%", "-0.988", "-1.23e-05", "1.2e-05", "–"]
    assert steps[1][4] == "–"


def test_the_widest_table_along_a_path_fits_100_columns(capsys):
    row = {
        "influence": "influence-newton-step.npz",
        "retrain": "retrain-newton-all.npz",
        "damping": 3e-06,
        "abs_spearman_mean": 0.98765,
        "abs_spearman_ci95": 0.12345,
        "spearman_median": -0.98765,
        "slope_median": -1.2345e-05,
        "rel_residual_max": 1.2345e-12,
        "solved_share": 1.0,
    }
    unsolved = {**row, "damping": 0.0, "abs_spearman_mean": math.nan, "rel_residual_max": math.nan}
    show_paths([row, unsolved])
    lines = table_lines(capsys.readouterr().out)
    assert max(map(len, lines)) <= 100
    expected = ["3e-06", "0.99±.12", "-0.988", "-1.23e-05", "1.2e-12", "100%"]
    assert expected in [line.split() for line in lines]
    assert ["0", "–", "-0.988", "-1.23e-05", "–", "100%"] in [line.split() for line in lines]


def test_the_widest_table_of_tests_fits_100_columns(summaries, capsys, tmp_path):
    tests = [
        {
            "quantity": "|Spearman|",
            "estimator": "objective",
            "truth": "newton",
            "retrain_params": "head",
            "across": "variant",
            "within": "depth 8, width 50",
            "test": "one-way ANOVA",
            "p_value": 1.2345e-112,
            "effect_size": 0.0012345,
        }
    ]
    tests.append({**tests[0], "across": "depth", "within": "variant l2-swa, width 50"})
    show_study(Study(tmp_path, [], summaries, tests))
    lines = table_lines(capsys.readouterr().out)
    assert max(map(len, lines)) <= 100
    rows = [line for line in lines if line.startswith(" |Spearman| objective/newton ")]
    assert len(rows) == 2
    assert all("1.2e-112" in row and "0.0012" in row for row in rows)


def test_the_mark_of_disagreeing_methods_is_explained_only_where_it_is_used(
    summaries, capsys, tmp_path
):
    show_study(Study(tmp_path, [], summaries, []))
    assert "*: power iteration is off the dense eigenvalue" in capsys.readouterr().out
    agreeing = [{**row, "top_eigenvalue_disagreement": 0.01} for row in summaries]
    show_study(Study(tmp_path, [], agreeing, []))
    assert "*" not in capsys.readouterr().out


def test_undefined_numbers_are_dashes_with_a_note(summaries, capsys, tmp_path):
    nan = float("nan")
    undefined = {"abs_spearman_mean": nan, "abs_spearman_ci95": nan, "reason": "refused: no"}
    rows = [{**row, **(undefined if row["truth"] == "newton" else {})} for row in summaries]
    show_study(Study(tmp_path, [], rows, []))
    shown = capsys.readouterr()
    (row,) = [line for line in shown.out.splitlines() if line.startswith(" none 8x50 ")]
    assert row.split()[2:8] == ["0.99±.12", "–"] * 3
    assert "none, newton: refused: no" in shown.err
    assert shown.err.count("none, newton") == 1  # not once for each estimator


def test_a_cell_without_any_agreement_says_so(summaries, capsys, tmp_path):
    nan = float("nan")
    undefined = {"abs_spearman_mean": nan, "abs_spearman_ci95": nan, "reason": "refused: no"}
    show_study(Study(tmp_path, [], [{**row, **undefined} for row in summaries[:6]], []))
    assert "l2-swa 8x50: no agreement could be computed." in capsys.readouterr().out


def test_the_sentence_names_best_and_worst(summaries, capsys, tmp_path):
    rows = [dict(row) for row in summaries[:6]]
    rows[1]["abs_spearman_mean"], rows[4]["abs_spearman_mean"] = 0.999, 0.111
    show_study(Study(tmp_path, [], rows, []))
    sentence = capsys.readouterr().out.splitlines()[-2]
    assert sentence.startswith(
        "l2-swa 8x50: best objective against newton (1), worst authors against warm (0.11)"
    )


def test_whole_networks_are_told_from_heads(summaries, capsys, tmp_path):
    rows = [*summaries[:1], {**summaries[0], "retrain_params": "all"}]
    show_study(Study(tmp_path, [], rows, []))
    assert "warm:all" in capsys.readouterr().out


def test_a_failed_cell_is_noted_below_the_table(summaries, capsys, tmp_path):
    failed = {"cell": "iris-mlp-depth1-width9-selu-none", "reason": "failed: diverged"}
    show_study(Study(tmp_path, [], [*summaries, failed], []))
    shown = capsys.readouterr()
    assert "iris-mlp-depth1-width9-selu-none: failed: diverged" in shown.err
    assert "width9" not in shown.out

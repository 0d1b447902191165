"""The table of agreement by selection: how wide it gets, what it says, and the ways to it."""

import json
import math

import pytest

from ifcheck.cli.strata import show_strata

WORST = {  # as wide as such numbers get
    "abs_spearman_mean": 0.98765,
    "abs_spearman_ci95": 0.12345,
    "chance_abs_spearman": 0.128,
    "slope_median": -1.2345e-05,
    "r2_median": -123456.7,
}


def stratum(**parts):
    return {
        "influence": "influence-gradient-cosine.npz",
        "baseline": False,
        "truth": "scratch",
        "retrain_params": "all",
        "selections": {name: dict(WORST) for name in ("top-loss", "random", "top-score")},
        "first": "top-loss",
        "second": "top-score",
        "difference": 0.4321,
        "low": -0.1234,
        "high": 0.98765,
        **parts,
    }


def test_the_widest_table_fits_100_columns_in_one_line_a_selection(capsys):
    cell = {"cell": "c", "variant": "l2-swa", "depth": 8, "width": 50}
    show_strata([stratum(), stratum(**cell)])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert max(map(len, lines)) <= 100
    assert len(lines) == 3 + 6
    assert lines[3].startswith(" scratch:all ")
    assert lines[4].startswith("   / gradient-cosine ")
    assert lines[3].endswith("0.43 (-0.12 to 0.99)")
    assert lines[4].endswith("top-loss - top-score")
    assert lines[6].startswith(" l2-swa 8x50 scratch:all ")


def test_nothing_is_shown_of_what_is_undefined_everywhere(capsys):
    nothing = dict.fromkeys(WORST, math.nan)
    show_strata([])
    show_strata([stratum(selections={"random": nothing, "ids": nothing})])
    assert capsys.readouterr().out == ""


def test_undefined_differences_are_dashes_and_baselines_have_no_scale(capsys):
    undefined = {"first": "", "second": "", "difference": math.nan, "low": math.nan}
    show_strata([stratum(baseline=True, **undefined)])
    first = capsys.readouterr().out.splitlines()[4].split()
    assert first[-3:] == ["–", "–", "–"]


@pytest.mark.parametrize("shown", [True, False])
def test_evaluate_compares_the_selections_of_its_files(shown, succeed, run_folder, tmp_path):
    out = tmp_path / "retrain-random.npz"
    succeed("retrain", run_folder, "--truth", "newton", "--removals", "random:5", "--out", out)
    truths = ("--retrain", run_folder / "retrain-newton.npz", *(("--retrain", out) * shown))
    files = ("--influence", run_folder / "influence-objective.npz", *truths)
    assert ("what the removed rows were chosen for" in succeed("evaluate", *files).stdout) == shown
    found = json.loads(succeed("evaluate", *files, "--json").stdout)["strata"]
    assert [list(row["selections"]) for row in found] == [["top-loss", "random"]] * shown

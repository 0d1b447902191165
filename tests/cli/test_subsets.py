"""The table of linear datamodeling scores: what it shows, and where it is left out."""

import json
import math

from ifcheck.cli.subsets import show_datamodeling


def summary(**parts):
    return {
        "influence": "influence-gradient-cosine.npz",
        "retrain": "retrain-scratch-groups.npz",
        "lds": 0.98765,
        "lds_low": -0.12345,
        "lds_high": 0.99999,
        "lds_kept_share": 0.93243,
    } | parts


def test_a_pair_has_its_score_with_the_interval_and_what_is_kept(capsys):
    show_datamodeling([summary(), summary(lds=math.nan), summary(lds_low=math.nan)])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert max(map(len, lines)) <= 100
    assert len(lines) == 3 + 2
    assert lines[3].split() == [
        "gradient-cosine",
        "/",
        "scratch-groups",
        "93.2%",
        "0.988",
        "-0.12",
        "to",
        "1",
    ]
    assert lines[4].split()[-1] == "–"


def test_nothing_is_shown_where_no_groups_left_at_random(capsys):
    show_datamodeling([summary(lds=math.nan)])
    assert capsys.readouterr().out == ""


def test_evaluate_shows_the_score_of_random_groups(succeed, run_folder, tmp_path):
    groups = ("--removals", "random:8", "--group-size", "6")
    scores, truth = tmp_path / "influence-groups.npz", tmp_path / "retrain-groups.npz"
    succeed("influence", run_folder, *groups, "--out", scores)
    succeed("retrain", run_folder, "--truth", "newton", *groups, "--out", truth)
    files = ("--influence", scores, "--retrain", truth)
    (found,) = json.loads(succeed("evaluate", *files, "--json").stdout)["summaries"]
    shown = succeed("evaluate", *files).stdout
    assert "linear datamodeling score" in shown
    assert f"{found['lds']:.3g}" in shown

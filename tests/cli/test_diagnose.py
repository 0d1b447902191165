"""`ifcheck diagnose`, and what `--require` makes of verdicts."""

import json

import pytest

from ifcheck.cli.terminal import MAX_WIDTH
from tests.cli.conftest import DIAGNOSE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("diagnosed")


def test_checks_steps_and_verdicts_are_shown_within_the_width(run_folder, succeed, folder):
    shown = succeed("diagnose", run_folder, *DIAGNOSE, "--out", folder / "one").stdout
    assert "can the scores be trusted?" in shown
    for name in ("rank", "stationarity", "noise ceiling", "solver residual", "baselines"):
        assert name in shown
    assert "from prediction to truth" in shown
    assert f"written: {folder / 'one' / 'report.html'}" in shown
    assert "<title>" in (folder / "one" / "report.html").read_text()
    assert (folder / "one" / "figures" / "scatter.svg").is_file()
    tables = [line for line in shown.splitlines() if "─" in line]
    assert tables
    assert max(map(len, tables)) <= MAX_WIDTH


def test_several_runs_are_told_one_after_the_other(run_folder, other_run, succeed, folder, quick):
    arguments = ("diagnose", run_folder, other_run, *DIAGNOSE, "--json", "--out", folder / "two")
    found = json.loads(succeed(*arguments).stdout)
    assert len(found) == 2
    assert all(each["summaries"] for each in found.values())
    assert sorted(path.name for path in (folder / "two").iterdir()) == sorted(
        name.split("/")[0] for name in found
    )


@pytest.mark.parametrize("command", ["diagnose", "evaluate"])
def test_a_verdict_below_what_is_required_exits_with_1(command, commands, invoke, folder, quick):
    out = ("--out", folder / command) if command == "diagnose" else ()
    told = json.loads(invoke(*commands[command], "--json", *out).stdout)
    each = next(iter(told.values())) if command == "diagnose" else told
    verdicts = {s["verdict"] for s in each["summaries"]} - {""}
    assert verdicts == {"cannot tell"}  # of four removals
    asked = (*commands[command], *out)
    assert invoke(*asked, "--require", "ranking").exit_code == 1
    assert invoke(*asked).exit_code == 0


def test_what_is_required_must_be_known(run_folder, refuse, folder):
    message = refuse("diagnose", run_folder, "--require", "everything", "--out", folder / "none")
    assert "verdict.require is 'everything'" in message
    assert not (folder / "none").exists()


def test_a_dry_run_estimates_what_is_missing_and_writes_nothing(
    run_folder, succeed, snapshot, folder, quick
):
    before = snapshot(run_folder)
    asked = ("diagnose", run_folder, *DIAGNOSE, "--out", folder / "dry")
    plan = json.loads(succeed(*asked, "--dry-run", "--json").stdout)
    assert {"start", "newton", "same-class"} <= plan["seconds"].keys()
    assert not (folder / "dry").exists()
    assert snapshot(run_folder) == before
    succeed(*asked)
    after = json.loads(succeed(*asked, "--dry-run", "--json").stdout)
    assert after["seconds"].keys() == {"start"}

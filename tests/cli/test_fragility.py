"""`ifcheck fragility`: sweeps, resuming, the threshold, refusals, Ctrl-C in the middle."""

import csv
import json

import pytest

from ifcheck.config import Config
from ifcheck.errors import Diverged
from ifcheck.stages import fragility as stage
from tests.cli.conftest import STUDY

CELLS = [f"iris-mlp-depth1-width{w}-selu-{v}" for w in (4, 5) for v in ("none", "l2")]
PLAN = ("--print-config", "--json")


@pytest.fixture(scope="module")
def study(succeed, tmp_path_factory):
    """A finished study of four cells. Read only."""
    out = tmp_path_factory.mktemp("study") / "study"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ifcheck.stages.pictures.draw", lambda *_: [])
        patch.setattr("ifcheck.stages.comparisons.tukey", lambda _: [])
        succeed(*STUDY, "--out", out)
    return out


def planned(succeed, *arguments):
    return json.loads(succeed("fragility", *arguments, *PLAN).stdout)


def test_every_size_and_variant_is_a_cell(study):
    assert sorted(p.name for p in (study / "cells").iterdir()) == sorted(CELLS)
    for name in ("results.csv", "summary.csv", "tests.csv", "study.json"):
        assert (study / name).is_file()


@pytest.mark.parametrize(
    ("arguments", "sizes"),
    [
        ((), []),
        (("--width", "5,8,14"), [{"width": "5,8,14"}]),
        (("--depth", "1..8"), [{"depth": "1..8"}]),
        (("--depth", "1,2", "--width", "5"), [{"depth": "1,2", "width": "5"}]),
    ],
)
def test_sizes_are_lists_and_ranges(arguments, sizes, succeed):
    assert planned(succeed, *arguments)["study"]["sizes"] == sizes


def test_every_option_reaches_the_configuration(succeed):
    options = {
        "--dataset": ("iris", "data", "dataset"),
        "--network": ("mlp", "network", "name"),
        "--activation": ("tanh", "network", "activation"),
        "--variant": ("none,l2", "study", "variants"),
        "--seeds": ("2,5", "train", "seeds"),
        "--epochs": (70, "train", "epochs"),
        "--polish": ("head", "train", "polish"),
        "--removals": ("random:7", "retrain", "removals"),
        "--strata": ("top-loss:6,top-score:5", "study", "selections"),
        "--retrain-epochs": (30, "retrain", "epochs"),
        "--replicates": (3, "retrain", "replicates"),
        "--estimator": ("paper,authors", "study", "estimators"),
        "--truth": ("warm,warm:all", "study", "truths"),
        "--test-points": ("random:2", "data", "test_points"),
        "--limit-train": (50, "data", "limit_train"),
        "--min-spearman": (0.5, "evaluate", "min_spearman"),
    }
    lists = {"--variant", "--strata", "--estimator", "--truth"}
    flags = [part for option, (value, *_) in options.items() for part in (option, value)]
    found = planned(succeed, *flags)
    for option, (value, section, name) in options.items():
        expected = value.split(",") if option in lists else value
        expected = [2, 5] if option == "--seeds" else expected
        assert found[section][name] == expected, option


def test_without_options_the_whole_study_of_one_size_is_planned(succeed):
    found = planned(succeed)
    assert found == Config().to_dict()
    assert found["study"]["variants"] is None
    assert found["study"]["estimators"] == ["objective", "paper", "authors"]
    assert found["study"]["truths"] == ["warm", "newton"]


def test_json_holds_summaries_and_tests(study, succeed, quick):
    record = json.loads(succeed(*STUDY, "--out", study, "--json").stdout)
    assert record["out"] == str(study)
    with (study / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [s["cell"] for s in record["summaries"]] == [row["cell"] for row in rows]
    for found, row in zip(record["summaries"], rows, strict=True):
        mean = found["abs_spearman_mean"]
        assert row["abs_spearman_mean"] == ("" if mean is None else str(mean))
        assert (mean is None) == bool(found["reason"])
    assert all(t["p_value"] is not None or t["reason"] for t in record["tests"])


def test_the_same_command_resumes(study, succeed, quick, snapshot):
    def computed():
        return {p: t for p, t in snapshot(study / "cells").items() if p.suffix != ".json"}

    before = {p: t for p, t in computed().items() if p.is_file()}
    succeed(*STUDY, "--out", study)
    assert {p: t for p, t in computed().items() if p.is_file()} == before


def test_another_configuration_is_refused_with_what_differs(study, refuse):
    message = refuse(*STUDY, "--epochs", 21, "--out", study)
    assert f"{study} was made by another configuration" in message
    assert "train.epochs: 21, was 20" in message


def test_the_folder_of_something_else_is_refused(refuse, tmp_path):
    (tmp_path / "thesis.tex").touch()
    assert "not the folder of a study" in refuse(*STUDY, "--out", tmp_path)


@pytest.mark.parametrize("below", ["", "study"])
def test_an_output_at_or_below_a_regular_file_is_refused(below, refuse, tmp_path):
    (tmp_path / "file").write_text("mine")
    refuse(*STUDY, "--out", tmp_path / "file" / below)
    assert (tmp_path / "file").read_text() == "mine"


def test_ctrl_c_keeps_what_was_finished_and_the_next_run_goes_on(
    study, refuse, succeed, quick, tmp_path, monkeypatch
):
    original = stage.train
    calls = []

    def interrupted(config, *arguments):
        calls.append(config)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(config, *arguments)

    out = tmp_path / "study"
    monkeypatch.setattr(stage, "train", interrupted)
    refuse(*STUDY, "--out", out, code=130)
    assert sorted(p.name for p in (out / "cells").iterdir()) == sorted(CELLS[:2])
    monkeypatch.setattr(stage, "train", original)
    succeed(*STUDY, "--out", out)

    def rows(folder):
        with (folder / "results.csv").open(newline="") as file:
            return [{**row, "seconds": ""} for row in csv.DictReader(file)]

    assert rows(out) == rows(study)


def test_a_threshold_that_is_missed_exits_with_1_and_keeps_the_study(invoke, quick, tmp_path):
    arguments = (*STUDY, "--width", 5, "--variant", "l2", "--out", tmp_path / "study")
    result = invoke(*arguments, "--min-spearman", 1.0)
    assert result.exit_code == 1
    assert "|Spearman|" in result.stdout
    assert (tmp_path / "study" / "tests.csv").is_file()


def test_the_threshold_may_change_between_runs(invoke, quick, tmp_path):
    """It decides the exit code, not a number of the study: what was computed still fits."""
    arguments = (*STUDY, "--width", 5, "--variant", "l2", "--out", tmp_path / "study")
    assert invoke(*arguments, "--min-spearman", 1.0).exit_code == 1
    assert invoke(*arguments, "--min-spearman", -1.0).exit_code == 0


def test_an_undefined_pair_misses_the_threshold(invoke, quick, tmp_path):
    arguments = (*STUDY, "--width", 5, "--variant", "none", "--truth", "newton")
    result = invoke(*arguments, "--min-spearman", 0.0, "--out", tmp_path / "study")
    assert result.exit_code == 1


def test_a_failed_cell_is_noted_and_the_study_done(succeed, quick, tmp_path, monkeypatch):
    original = stage.train

    def failing(config, *arguments):
        if config.variant.name == "none":
            raise Diverged("all 2 seeds turned non-finite in training.", remedy="Lower it.")
        return original(config, *arguments)

    monkeypatch.setattr(stage, "train", failing)
    result = succeed(*STUDY, "--width", 5, "--out", tmp_path / "study")
    assert "all 2 seeds turned non-finite in training" in result.stderr
    assert "l2 1x5" in result.stdout
    assert "none 1x5" not in result.stdout


def test_a_study_without_a_finished_cell_exits_with_3(refuse, tmp_path):
    arguments = (*STUDY, "--variant", "l2", "--width", 5, "--set", "train.learning_rate=1.0e+38")
    with pytest.MonkeyPatch.context() as patch:
        # The note about the cell comes before the one error; it is tested above.
        patch.setattr("ifcheck.cli.terminal.show_note", lambda _: None)
        message = refuse(*arguments, "--out", tmp_path / "study", code=3)
    assert "no cell could be finished" in message
    assert (tmp_path / "study" / "results.csv").is_file()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--seeds", "0", "names no seed"),
        ("--depth", "-1", "depth is -1"),
        ("--width", "0", "width is 0"),
        ("--width", "8..5", "names no size"),
        ("--width", "wide", "width is 'wide'"),
        ("--epochs", "0", "train.epochs is 0"),
        ("--retrain-epochs", "0", "retrain.epochs is 0"),
        ("--variant", "l2,l3", "unknown variant 'l3'"),
        ("--estimator", "papre", "Did you mean 'paper'?"),
        ("--truth", "warn", "Did you mean 'warm'?"),
        ("--truth", "warm:layer", "expected head or all"),
        ("--removals", "top-loss:1000", "1000 rows"),
        ("--removals", "nonsense", "expected top-loss:K"),
        ("--test-points", "nonsense", "expected max-loss"),
        ("--min-spearman", "2", "evaluate.min_spearman is 2"),
        ("--limit-test", "3", "--limit-test"),
    ],
)
def test_unusable_values_are_refused_before_anything_is_written(
    option, value, message, refuse, tmp_path
):
    assert message in refuse(*STUDY, option, value, "--out", tmp_path / "study")
    assert not (tmp_path / "study").exists()

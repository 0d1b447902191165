"""Stage `fragility`: tables against the cells' files, resuming, refusals, failing cells."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy import stats

from ifcheck.agreement.statistics import mean_interval
from ifcheck.artifacts import read_artifact
from ifcheck.errors import Diverged, OutputRefused, RunFailed, UnknownName, UnusableInput
from ifcheck.models import initialise
from ifcheck.stages import fragility as stage
from ifcheck.stages import train as training
from ifcheck.stages.eigen import eigen
from ifcheck.stages.evaluate import evaluate
from ifcheck.stages.fragility import fragility
from ifcheck.stages.influence import influence
from ifcheck.stages.retrain import retrain
from ifcheck.stages.tables import plain
from ifcheck.stages.train import train
from tests.report.pages import parse

SWEEP = {
    "study.sizes": [{"depth": 1, "width": "4,5"}],
    "study.variants": "none,l2",
    "train.seeds": 3,
    "evaluate.top_k": 2,
}
CELLS = [f"iris-mlp-depth1-width{w}-selu-{v}" for w in (4, 5) for v in ("none", "l2")]
ESTIMATORS = ("objective", "paper", "authors")
TRUTHS = ("warm", "newton")
ARTIFACTS = {
    "train.npz",
    *(f"influence-{name}.npz" for name in ESTIMATORS),
    *(f"retrain-{name}.npz" for name in TRUTHS),
    "eigen.npz",
    "eigen-dense.npz",
}


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def times_of(folder):
    """Modification times of everything that was computed, by path."""
    found = [p for p in folder.rglob("*") if p.suffix in (".npz", ".safetensors")]
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in found}


def without_seconds(path):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_csv(path)]


@pytest.fixture(scope="module")
def config(tiny):
    return tiny(SWEEP)


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """A finished study of four cells, with its pictures. Read only."""
    out = tmp_path_factory.mktemp("finished") / "study"
    return fragility(config, out)


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished study that a test may damage."""
    shutil.copytree(finished.out, tmp_path / "study")
    return tmp_path / "study"


@pytest.fixture
def no_pictures(monkeypatch):
    """Leave out what takes longest and is tested elsewhere: pictures and tests across cells."""
    monkeypatch.setattr(stage.pictures, "draw", lambda *_: [])
    monkeypatch.setattr(stage.comparisons, "compare_cells", lambda _: [])


# --- what a study leaves behind -----------------------------------------------------------------


def test_every_cell_has_a_folder_that_spells_its_parameters(finished):
    assert sorted(p.name for p in (finished.out / "cells").iterdir()) == sorted(CELLS)


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_holds_checkpoints_and_all_artifacts(cell, finished):
    folder = finished.out / "cells" / cell
    assert {p.name for p in folder.glob("*.npz")} >= ARTIFACTS
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == [
        f"seed-00{seed}.safetensors" for seed in range(3)
    ]
    assert (folder / "evaluation.json").is_file()


def test_nothing_temporary_is_left(finished):
    assert not [p for p in finished.out.rglob("*") if p.name.startswith(".")]


def test_pictures_are_png_and_svg_files(finished):
    files = list((finished.out / "figures").iterdir())
    names = [
        "figure-1-agreement",
        "figure-2-networks",
        "figure-3-top-eigenvalue",
        "figure-4-by-rank",
        "figure-5-retraining",
        "gap-waterfall",
        "heat-map",
        "noise-ceiling",
        "scatter",
        "scatter-2",
    ]
    assert {p.name for p in files} == {f"{n}.{end}" for n in names for end in ("png", "svg")}
    for file in files:
        start = b"\x89PNG" if file.suffix == ".png" else b"<?xml"
        assert file.read_bytes().startswith(start)
        assert len(file.read_bytes()) > 5_000


def test_the_report_shows_every_cell_and_picture(finished):
    page = parse((finished.out / "report.html").read_text(encoding="utf-8"))
    sections = {e.attributes["id"] for e in page.all("section")}
    assert {f"cell-{cell}" for cell in CELLS} <= sections
    assert len(page.all("img")) == len(list((finished.out / "figures").glob("*.svg")))
    assert all(len(e.attributes["alt"]) > 40 for e in page.all("img"))  # how to read it


def test_results_have_a_row_for_every_comparison(finished):
    rows = read_csv(finished.out / "results.csv")
    keys = [
        (r["cell"], r["seed"], r["test_id"], r["estimator"], r["truth"], r["retrain_params"])
        for r in rows
    ]
    assert len(set(keys)) == len(keys) == 4 * 3 * 2 * 3 * 2
    assert {r["cell"] for r in rows} == set(CELLS)


def test_results_follow_from_the_cells_files(finished, load_npz):
    """Spearman, slope, drift, loss, accuracy and curvature, recomputed from the raw arrays."""
    for row in read_csv(finished.out / "results.csv"):
        folder = finished.out / "cells" / row["cell"]
        seed, test = int(row["seed"]), (83, 106).index(int(row["test_id"]))
        scores = load_npz(folder / f"influence-{row['estimator']}.npz")
        truth = load_npz(folder / f"retrain-{row['truth']}.npz")
        trained = load_npz(folder / "train.npz")
        places = [scores["train_ids"].tolist().index(i) for i in truth["removed_ids"][seed]]
        predicted = scores["scores"][seed, test, places]
        before = truth["loss_before"][seed, test]
        true = truth["loss_after"][seed, test] - before
        assert float(row["test_loss"]) == pytest.approx(before, rel=1e-9)
        assert float(row["train_accuracy"]) == trained["train_accuracy"][seed]
        assert float(row["grad_norm"]) == trained["grad_norm"][seed]
        assert float(row["top_eigenvalue"]) == load_npz(folder / "eigen.npz")["values"][seed, 0]
        dense = load_npz(folder / "eigen-dense.npz")["values"][seed, 0]
        assert float(row["top_eigenvalue_dense"]) == dense
        if row["status"] != "ok":
            assert (row["truth"], row["variant"]) == ("newton", "none")
            assert row["spearman"] == row["slope"] == row["null_drift"] == ""
            continue
        rho = stats.spearmanr(predicted, true).statistic
        assert float(row["spearman"]) == pytest.approx(rho, abs=1e-12)
        slope = np.polyfit(predicted, true, 1)[0]
        assert float(row["slope"]) == pytest.approx(slope, rel=1e-6)
        drift = truth["null_loss_after"][seed, test] - before
        assert float(row["null_drift"]) == pytest.approx(drift, rel=1e-9)


def test_rows_name_their_cell(finished):
    for table in ("results.csv", "summary.csv"):
        for row in read_csv(finished.out / table):
            named = (row["dataset"], row["network"], row["activation"])
            assert named == ("iris", "mlp", "selu")
            spelled = f"iris-mlp-depth{row['depth']}-width{row['width']}-selu-{row['variant']}"
            assert row["cell"] == spelled
            assert row["retrain_params"] == "head"


def test_a_refused_truth_is_recorded_with_its_reason(finished):
    for table, column in (("results.csv", "status"), ("summary.csv", "reason")):
        refused = [
            row
            for row in read_csv(finished.out / table)
            if (row["variant"], row["truth"]) == ("none", "newton")
        ]
        assert refused
        for row in refused:
            assert row[column].startswith("refused: without weight decay"), table


def test_summaries_follow_from_the_results(finished):
    results = read_csv(finished.out / "results.csv")
    summaries = read_csv(finished.out / "summary.csv")
    keys = ("cell", "estimator", "truth", "retrain_params")
    assert len(summaries) == 4 * 3 * 2
    for summary in summaries:
        rows = [r for r in results if all(r[k] == summary[k] for k in keys)]
        assert len(rows) == 6
        curvature = {r["seed"]: float(r["top_eigenvalue"]) for r in rows}
        top = mean_interval(list(curvature.values()))
        assert float(summary["top_eigenvalue_mean"]) == pytest.approx(top.mean)
        assert float(summary["top_eigenvalue_ci95"]) == pytest.approx(top.half_width)
        assert float(summary["top_eigenvalue_median"]) == np.median(list(curvature.values()))
        accuracy = {r["seed"]: float(r["train_accuracy"]) for r in rows}
        mean = np.mean(list(accuracy.values()))
        assert float(summary["train_accuracy_mean"]) == pytest.approx(mean)
        assert (summary["seeds"], summary["failed"]) == ("3", "0")
        if summary["reason"]:
            assert summary["abs_spearman_mean"] == ""
            assert summary["undefined"] == "6"
            continue
        size = np.abs([float(r["spearman"]) for r in rows])
        assert summary["undefined"] == "0"
        assert float(summary["abs_spearman_mean"]) == pytest.approx(size.mean())
        half = stats.t.ppf(0.975, 5) * stats.sem(size)
        assert float(summary["abs_spearman_ci95"]) == pytest.approx(half)
        assert float(summary["seconds"]) > 0


def test_the_released_figures_stand_beside_the_cells_that_have_them(finished):
    for row in read_csv(finished.out / "summary.csv"):
        released = row["published_abs_spearman"] != ""
        assert released == (row["width"] == "5"), row["cell"]


def test_tests_follow_from_the_results(finished):
    """One-way ANOVA and Kruskal-Wallis, on each group's seeds averaged over test points."""
    results = [r for r in read_csv(finished.out / "results.csv") if r["status"] == "ok"]
    tests = read_csv(finished.out / "tests.csv")

    def groups(quantity, swept, chosen):
        found = {}
        for row in results:
            if all(row[k] == v for k, v in chosen.items()):
                value = abs(float(row[quantity]))
                found.setdefault(row[swept], {}).setdefault(row["seed"], []).append(value)
        return [[np.mean(v) for v in seeds.values()] for seeds in found.values()]

    checked = 0
    for row in tests:
        if row["test"] not in ("one-way ANOVA", "Kruskal-Wallis"):
            continue
        quantity = {"|Spearman|": "spearman", "top eigenvalue": "top_eigenvalue"}[row["quantity"]]
        chosen = dict(part.split(" ") for part in row["within"].split(", "))
        pair = {k: row[k] for k in ("estimator", "truth", "retrain_params") if row[k]}
        samples = groups(quantity, row["across"], {**chosen, **pair})
        assert list(json.loads(row["groups"]).values()) == [3, 3]
        run = stats.f_oneway if row["test"] == "one-way ANOVA" else stats.kruskal
        expected = run(*samples)
        assert float(row["statistic"]) == pytest.approx(expected.statistic, rel=1e-6, abs=1e-12)
        assert float(row["p_value"]) == pytest.approx(expected.pvalue, rel=1e-6)
        checked += 1
    # 3 estimators against warm: 2 widths in each of 2 variants, 2 variants in each of 2 widths;
    # against newton: widths in l2 alone; top eigenvalue: as warm. Two tests each.
    assert checked == 2 * (3 * 4 + 3 * 1 + 4)


def test_the_returned_rows_are_those_of_the_tables(finished):
    for rows, name in (
        (finished.results, "results.csv"),
        (finished.summaries, "summary.csv"),
        (finished.tests, "tests.csv"),
    ):
        assert len(rows) == len(read_csv(finished.out / name))


def test_undefined_numbers_are_empty_in_every_table(finished):
    for name in ("results.csv", "summary.csv", "tests.csv"):
        text = (finished.out / name).read_text().lower()
        assert ",nan" not in text
        assert ",none," not in text.replace("selu,none,", "")
        assert "inf," not in text


def test_the_stages_one_by_one_give_the_same_arrays(
    finished, tiny, tmp_path, load_npz, assert_identical
):
    cell = finished.out / "cells" / "iris-mlp-depth1-width5-selu-l2"
    config = tiny({"network.width": 5, "variant.name": "l2", "train.seeds": 3})
    train(config, tmp_path)
    for name in ESTIMATORS:
        named = tiny({"influence.estimator": name})
        influence(named, [tmp_path], tmp_path / f"influence-{name}.npz")
    for name in TRUTHS:
        named = tiny({"retrain.truth": name})
        retrain(named, [tmp_path], tmp_path / f"retrain-{name}.npz")
    eigen(tiny(), [tmp_path], tmp_path / "eigen.npz")
    eigen(tiny({"eigen.method": "dense"}), [tmp_path], tmp_path / "eigen-dense.npz")
    for name in sorted(ARTIFACTS):
        assert_identical(load_npz(tmp_path / name), load_npz(cell / name))
    for file in (cell / "checkpoints").iterdir():
        ours = np.frombuffer((tmp_path / "checkpoints" / file.name).read_bytes(), np.uint8)
        theirs = np.frombuffer(file.read_bytes(), np.uint8)
        # The header differs in nothing but what it says of other seeds; the tensors come last.
        assert np.array_equal(ours[-43 * 4 :], theirs[-43 * 4 :])
    found = evaluate(
        tiny({"evaluate.top_k": 2}),
        [tmp_path / f"influence-{name}.npz" for name in ESTIMATORS],
        [tmp_path / f"retrain-{name}.npz" for name in TRUTHS],
        tmp_path / "eigen.npz",
    )
    written = json.loads((cell / "evaluation.json").read_text())
    assert plain(found.records) == written["records"]


# --- resuming -----------------------------------------------------------------------------------


def test_costs_are_those_of_the_artifacts_of_each_stage(finished):
    assert list(finished.costs) == ["train", "influence", "retrain warm", "retrain newton", "eigen"]
    files = {
        "train": "train.npz",
        "influence": "influence-*.npz",
        "retrain warm": "retrain-warm.npz",
        "retrain newton": "retrain-newton.npz",
        "eigen": "eigen*.npz",
    }
    for stage_name, pattern in files.items():
        metas = [read_artifact(path).meta for path in finished.out.glob(f"cells/*/{pattern}")]
        cost = finished.costs[stage_name]
        assert cost.seconds == pytest.approx(sum(meta["seconds"] for meta in metas))
        assert cost.peak_memory_bytes == max(meta["peak_memory_bytes"] for meta in metas)


def test_a_second_run_recomputes_nothing(copied, config, no_pictures, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("a finished stage ran again")

    for name in ("train", "influence", "retrain", "eigen"):
        monkeypatch.setattr(stage, name, refuse)
    tables = {name: (copied / name).read_bytes() for name in ("results.csv", "summary.csv")}
    before = times_of(copied)
    fragility(config, copied)
    assert times_of(copied) == before
    assert {name: (copied / name).read_bytes() for name in tables} == tables


@pytest.mark.parametrize("name", [*sorted(ARTIFACTS - {"train.npz"}), "trajectory.npz"])
def test_deleting_one_artifact_remakes_only_that_one(
    name, copied, finished, config, no_pictures, load_npz, assert_identical
):
    lost = f"cells/iris-mlp-depth1-width4-selu-l2/{name}"
    before = times_of(copied)
    (copied / lost).unlink()
    fragility(config, copied)
    after = times_of(copied)
    assert after.keys() == before.keys()
    assert {path for path in after if after[path] != before[path]} == {lost}
    assert_identical(load_npz(copied / lost), load_npz(finished.out / lost))
    results = without_seconds(copied / "results.csv")
    assert results == without_seconds(finished.out / "results.csv")


@pytest.mark.parametrize("lost", ["train.npz", "checkpoints/seed-001.safetensors"])
def test_deleting_a_part_of_the_training_remakes_the_training_alone(
    lost, copied, finished, config, no_pictures
):
    """The same weights come out, so everything that was made from them still fits."""
    cell = "cells/iris-mlp-depth1-width4-selu-l2"
    before = times_of(copied)
    (copied / cell / lost).unlink()
    fragility(config, copied)
    after = times_of(copied)
    assert {path for path in after if after[path] != before[path]} == {
        f"{cell}/train.npz",
        *(f"{cell}/checkpoints/seed-00{seed}.safetensors" for seed in range(3)),
    }
    results = without_seconds(copied / "results.csv")
    assert results == without_seconds(finished.out / "results.csv")


def flip_a_byte(data):
    return data[:200] + bytes([data[200] ^ 255]) + data[201:]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("influence-paper.npz", lambda data: data[: len(data) // 2]),
        ("influence-paper.npz", lambda data: b""),
        ("retrain-warm.npz", lambda data: b"not an npz file"),
        ("retrain-warm.npz", flip_a_byte),
        ("eigen.npz", lambda data: data[:-1]),
    ],
    ids=["truncated", "empty", "foreign", "a byte flipped", "the last byte lost"],
)
def test_a_damaged_artifact_is_remade(
    name, damage, copied, finished, config, no_pictures, load_npz, assert_identical
):
    path = copied / "cells" / CELLS[0] / name
    path.write_bytes(damage(path.read_bytes()))
    fragility(config, copied)
    assert_identical(load_npz(path), load_npz(finished.out / "cells" / CELLS[0] / name))


def test_a_damaged_checkpoint_is_trained_again(copied, finished, config, no_pictures):
    path = copied / "cells" / CELLS[1] / "checkpoints" / "seed-000.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    fragility(config, copied)
    assert path.read_bytes() == good
    assert without_seconds(copied / "results.csv") == without_seconds(finished.out / "results.csv")


def test_lost_live_weights_are_made_again_where_they_are_needed(tiny, tmp_path, no_pictures):
    flags = {"study.variants": "swa", "train.seeds": 2, "retrain.swa_restart": "live"}
    flags["study.truths"] = "warm:all"
    out = tmp_path / "study"
    fragility(tiny(flags), out)
    expected = without_seconds(out / "results.csv")
    (cell,) = (out / "cells").iterdir()
    (cell / "live" / "seed-001.safetensors").unlink()
    (cell / "retrain-warm-all.npz").unlink()
    fragility(tiny(flags), out)
    assert without_seconds(out / "results.csv") == expected


def test_an_artifact_of_other_checkpoints_is_remade(
    copied, finished, config, no_pictures, load_npz, assert_identical
):
    cells = copied / "cells"
    name = "influence-paper.npz"
    shutil.copy(cells / CELLS[2] / name, cells / CELLS[0] / name)
    fragility(config, copied)
    original = finished.out / "cells" / CELLS[0] / name
    assert_identical(load_npz(cells / CELLS[0] / name), load_npz(original))


def test_a_killed_study_goes_on_to_the_results_of_an_uninterrupted_one(
    config, finished, tmp_path, no_pictures
):
    """SIGKILL after the first cell's first artifact; the rest is made by another process."""
    settings, out = tmp_path / "config.yaml", tmp_path / "study"
    settings.write_text(yaml.safe_dump(config.to_dict()))
    command = [sys.executable, "-m", "ifcheck", "fragility", "--config", settings, "--out", out]
    first = out / "cells" / CELLS[0] / "train.npz"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not first.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, "the study ended before it could be killed"
    assert first.is_file()
    assert not (out / "tests.csv").exists()
    made = times_of(out)
    fragility(config, out)
    kept = times_of(out)
    assert {path: kept[path] for path in made} == made
    for name in ("results.csv", "summary.csv"):
        assert without_seconds(out / name) == without_seconds(finished.out / name)


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        ({"train.epochs": 61}, "train.epochs: 61, was 60"),
        ({"train.seeds": "0,1,3"}, r"train.seeds: \[0, 1, 3\], was \[0, 1, 2\]"),
        ({"study.variants": "l2"}, r"study\.(variants|cells)"),
        ({"retrain.removals": "top-loss:3"}, "retrain.removals: 'top-loss:3', was 'top-loss:4'"),
        ({"network.activation": "tanh"}, "tanh"),
    ],
)
def test_another_configuration_is_refused_with_what_differs(
    flags, difference, finished, tiny, no_pictures
):
    before = times_of(finished.out)
    with pytest.raises(OutputRefused, match=difference) as caught:
        fragility(tiny({**SWEEP, **flags}), finished.out)
    assert caught.value.exit_code == 2
    assert times_of(finished.out) == before


def test_another_version_of_the_code_is_refused(copied, config, no_pictures):
    path = copied / "study.json"
    identity = json.loads(path.read_text())
    path.write_text(json.dumps({**identity, "code": "0123456789abcdef"}))
    with pytest.raises(OutputRefused, match=r"code: '.*', was '0123456789abcdef'"):
        fragility(config, copied)


def test_a_damaged_study_file_is_refused(copied, config, no_pictures):
    (copied / "study.json").write_text('{"train": ')
    with pytest.raises(OutputRefused, match=r"study\.json is damaged"):
        fragility(config, copied)


def test_a_folder_of_something_else_is_refused(config, tmp_path):
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(OutputRefused, match="not the folder of a study"):
        fragility(config, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_empty_folder_is_used(tiny, tmp_path, no_pictures):
    config = tiny({"study.variants": "l2", "train.seeds": 2})
    assert fragility(config, tmp_path).summaries


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"data.dataset": "irsi"}, "unknown dataset 'irsi'"),
        ({"network.name": "mpl"}, "unknown network 'mpl'"),
        ({"study.sizes": [{"widht": 5}]}, "'widht'"),
        ({"study.variants": "l2,l2swa"}, "unknown variant 'l2swa'"),
        ({"study.estimators": "paper,author"}, "unknown estimator 'author'"),
        ({"study.truths": "warm,newtn"}, "unknown truth 'newtn'"),
        ({"eigen.method": "powr"}, "unknown eigenvalue method 'powr'"),
        ({"run.engine": "trch"}, "unknown engine 'trch'"),
    ],
)
def test_unknown_names_are_refused_before_anything_is_written(flags, message, tiny, tmp_path):
    config = tiny({**SWEEP, **flags})
    with pytest.raises(UnknownName, match=message) as caught:
        fragility(config, tmp_path / "study")
    assert "Did you mean" in caught.value.remedy
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"study.sizes": [{"depth": -1}]}, "depth is -1"),
        ({"study.sizes": [{"width": "0"}]}, "width is 0"),
        ({"study.sizes": [{"width": "8..5"}]}, "names no size"),
        ({"study.estimators": "newton-step", "study.variants": "l2,bnn"}, "--step newton"),
        ({"study.truths": "warm:layer"}, "expected head or all"),
        ({"retrain.removals": "nonsense"}, "expected top-loss:K"),
        ({"retrain.removals": "top-loss:1000"}, "1000 rows"),
        ({"retrain.removals": "top-score:1000"}, "1000 rows"),
        ({"data.test_points": "nearest"}, "expected max-loss"),
        ({"run.device": "cuda:99"}, "asks for a GPU"),
    ],
)
def test_unusable_values_are_refused_before_anything_is_written(flags, message, tiny, tmp_path):
    config = tiny({**SWEEP, **flags})
    with pytest.raises(UnusableInput, match=message):
        fragility(config, tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_parts_of_an_estimator_are_not_changed_under_the_names_of_all(tiny, tmp_path):
    with pytest.raises(UnusableInput, match=r"influence\.damping would change every estimator"):
        fragility(tiny({**SWEEP, "influence.damping": 0.1}), tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_rows_can_be_removed_by_the_first_estimators_scores(tiny, tmp_path, no_pictures):
    flags = {"study.variants": "l2", "retrain.removals": "top-score:3"}
    study = fragility(tiny({**SWEEP, **flags, "study.sizes": [{"width": 4}]}), tmp_path / "study")
    (folder,) = (study.out / "cells").iterdir()
    first = study.summaries[0]["influence"]
    with np.load(folder / first) as scored, np.load(folder / "retrain-warm.npz") as truth:
        for seed in range(len(scored["seeds"])):
            sizes = np.abs(scored["scores"][seed]).max(axis=0)
            expected = scored["train_ids"][np.argsort(-sizes, kind="stable")[:3]]
            assert truth["removed_ids"][seed].tolist() == expected.tolist()


# --- cells that fail ----------------------------------------------------------------------------


@pytest.fixture
def diverge_where(monkeypatch):
    """Return a helper that lets training diverge in the cells that a condition names."""

    def install(condition):
        def failing(config, *arguments):
            if condition(config):
                raise Diverged("all 3 seeds turned non-finite in training.", remedy="Lower it.")
            return train(config, *arguments)

        monkeypatch.setattr(stage, "train", failing)

    return install


def test_a_failing_cell_is_recorded_and_the_others_go_on(
    config, finished, tmp_path, diverge_where, no_pictures, recording_reporter
):
    diverge_where(lambda config: config.variant.name == "none")
    found = fragility(config, tmp_path / "study", recording_reporter)
    for table, column in (("results.csv", "status"), ("summary.csv", "reason")):
        rows = read_csv(found.out / table)
        failed = [row for row in rows if row["variant"] == "none"]
        assert [row["cell"] for row in failed] == [CELLS[0], CELLS[2]]
        for row in failed:
            assert row[column] == "failed: all 3 seeds turned non-finite in training."
            assert row["estimator"] == ""
    others = [r for r in without_seconds(found.out / "results.csv") if r["variant"] == "l2"]
    expected = without_seconds(finished.out / "results.csv")
    assert others == [row for row in expected if row["variant"] == "l2"]
    assert [n for n in recording_reporter.notes if n.startswith(f"{CELLS[0]} failed: all 3")]


def test_running_out_of_memory_fails_the_cell_alone(config, tmp_path, monkeypatch, no_pictures):
    def exhausted(config, *arguments, **files):
        if config.network.options["width"] == 5:
            raise MemoryError("cannot allocate")
        return influence(config, *arguments, **files)

    monkeypatch.setattr(stage, "influence", exhausted)
    found = fragility(config, tmp_path / "study")
    assert [r["cell"] for r in found.summaries if "estimator" not in r] == [CELLS[2], CELLS[3]]


def test_a_failed_cell_is_tried_again_by_the_next_run(
    config, finished, tmp_path, diverge_where, no_pictures
):
    diverge_where(lambda config: config.variant.name == "none")
    fragility(config, tmp_path / "study")
    diverge_where(lambda config: False)
    fragility(config, tmp_path / "study")
    results = without_seconds(tmp_path / "study" / "results.csv")
    assert results == without_seconds(finished.out / "results.csv")


def test_the_study_fails_where_no_cell_is_left(config, tmp_path, diverge_where, no_pictures):
    diverge_where(lambda config: True)
    with pytest.raises(RunFailed, match="no cell could be finished") as caught:
        fragility(config, tmp_path / "study")
    assert caught.value.exit_code == 3
    assert "results.csv" in caught.value.remedy
    assert len(read_csv(tmp_path / "study" / "results.csv")) == 4


def test_the_study_goes_on_where_every_cell_of_the_first_size_failed(
    config, tmp_path, diverge_where
):
    """Tables and figures are of the cells that are there, whichever they are."""
    diverge_where(lambda config: config.network.options["width"] == 4)
    found = fragility(config, tmp_path / "study")
    assert {r["width"] for r in found.summaries if "estimator" in r} == {5}
    assert (found.out / "tests.csv").is_file()
    assert (found.out / "figures" / "figure-1-agreement.png").is_file()


def test_a_diverging_seed_is_recorded_and_left_out(
    tiny, tmp_path, monkeypatch, no_pictures, finished
):
    def build(spec, shape, classes, seed, dtype):
        network = initialise(spec, shape, classes, seed, dtype)
        if seed == 0:
            with torch.no_grad():
                network.head.bias.fill_(torch.nan)
        return network

    monkeypatch.setattr(training, "initialise", build)
    config = tiny({**SWEEP, "study.sizes": [{"width": 5}], "study.variants": "l2"})
    found = fragility(config, tmp_path / "study")
    rows = read_csv(found.out / "results.csv")
    (failed,) = [row for row in rows if row["seed"] == "0"]
    assert failed["status"] == "failed: training turned non-finite"
    for summary in read_csv(found.out / "summary.csv"):
        assert (summary["seeds"], summary["failed"]) == ("3", "1")
        assert summary["train_accuracy_mean"] != ""
    others = [row for row in without_seconds(found.out / "results.csv") if row["seed"] != "0"]
    expected = without_seconds(finished.out / "results.csv")
    keep = [r for r in expected if r["cell"] == CELLS[3] and r["seed"] != "0"]
    assert others == keep
    before = times_of(found.out)
    fragility(config, found.out)
    assert times_of(found.out) == before


def test_truths_of_one_name_that_move_other_parameters_stay_apart(tiny, tmp_path, no_pictures):
    flags = {"study.truths": "warm,warm:all", "study.variants": "l2", "train.seeds": 2}
    found = fragility(tiny({**flags, "study.estimators": "objective"}), tmp_path / "study")
    pairs = [(s["truth"], s["retrain_params"]) for s in found.summaries]
    assert pairs == [("warm", "head"), ("warm", "all")]
    (cell,) = (found.out / "cells").iterdir()
    assert {p.name for p in cell.glob("retrain-*.npz")} == {
        "retrain-warm.npz",
        "retrain-warm-all.npz",
    }


def test_a_study_of_refused_truths_alone_still_finishes(tiny, tmp_path):
    """Nothing agrees or disagrees; curvature is measured all the same."""
    flags = {"study.truths": "newton", "study.variants": "none,swa", "train.seeds": 2}
    found = fragility(tiny(flags), tmp_path / "study")
    assert all(row["reason"].startswith("refused") for row in found.summaries)
    assert all(row["top_eigenvalue_mean"] > 0 for row in found.summaries)
    assert (found.out / "figures" / "figure-3-top-eigenvalue.png").is_file()


def test_removals_by_score_are_the_first_estimators_and_the_same_for_every_truth(
    tiny, tmp_path, no_pictures, load_npz
):
    flags = {
        "retrain.removals": "top-score:5",
        "study.estimators": "paper,objective",
        "study.variants": "l2",
        "train.seeds": 2,
    }
    fragility(tiny(flags), tmp_path / "study")
    (cell,) = (tmp_path / "study" / "cells").iterdir()
    scores = load_npz(cell / "influence-paper.npz")
    order = np.argsort(-np.abs(scores["scores"]).max(axis=1), axis=1)[:, :5]
    for truth in TRUTHS:
        removed = load_npz(cell / f"retrain-{truth}.npz")["removed_ids"]
        assert np.array_equal(removed, scores["train_ids"][order])


def test_all_variants_are_studied_where_none_is_named(tiny, tmp_path, no_pictures):
    flags = {"train.seeds": 2, "study.estimators": "objective", "study.truths": "warm"}
    found = fragility(tiny(flags), tmp_path / "study")
    assert [row["variant"] for row in found.summaries] == [
        "none",
        "swa",
        "l2",
        "l2-swa",
        "bnn",
    ]
    assert {(row["depth"], row["width"]) for row in found.summaries} == {(1, 5)}


def test_the_folder_may_be_moved_and_resumed_elsewhere(copied, config, tmp_path, no_pictures):
    shutil.move(copied, Path(tmp_path) / "elsewhere")
    before = times_of(tmp_path / "elsewhere")
    fragility(config, tmp_path / "elsewhere")
    assert times_of(tmp_path / "elsewhere") == before

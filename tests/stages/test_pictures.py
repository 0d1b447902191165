"""What the figures show: the panels that reach the drawing, against the artifacts."""

import numpy as np
import pytest
from scipy import stats

from ifcheck import figures
from ifcheck.artifacts import read_artifact
from ifcheck.stages.eigen import eigen
from ifcheck.stages.evaluate import evaluate
from ifcheck.stages.pictures import CellPictures, draw
from ifcheck.stages.retrain import retrain, with_trajectory

WRITERS = [name for name in figures.__all__ if name[0].islower()]
PAIR = {"retrain_params": "head", "damping": 0.01, "abs_spearman_mean": 0.7}


@pytest.fixture
def panels(monkeypatch):
    """What each figure was asked to show, by the name of its file."""
    shown = {}

    def show(path, found, remark=""):
        shown[path.name] = found
        return f"caption. {remark}".strip()

    for name in WRITERS:
        monkeypatch.setattr(figures, name, show)
    return shown


@pytest.fixture(scope="module")
def cell(tiny, runs, scored, retrained, tmp_path_factory):
    """Return a builder of a cell's pictures; truths such as warm, in the study's order."""
    folder = tmp_path_factory.mktemp("trajectories")

    def build(variant, truths, watched=True, estimators=("objective",), eigen=None):
        trajectory = None
        if watched:
            path = folder / f"{variant}.npz"
            first = runs(variant) / "checkpoints" / "seed-000.safetensors"
            trajectory = retrain(with_trajectory(tiny()), [first], path)
        return CellPictures(
            variant,
            f"cell-{variant}",
            [read_artifact(scored(variant, estimator)) for estimator in estimators],
            [read_artifact(retrained(variant, truth)) for truth in truths],
            trajectory,
            eigen,
        )

    return build


def summary(estimator="objective", truth="warm", cell="cell-l2", **columns):
    files = {"influence": f"influence-{estimator}.npz", "retrain": f"retrain-{truth}.npz"}
    named = {"cell": cell, "variant": "l2", "estimator": estimator, "truth": truth}
    return {**named, **files, **PAIR, "chance_abs_spearman": 0.3, **columns}


def test_figure_4_shows_predicted_and_drift_corrected_changes_of_the_first_seed(
    cell, panels, recording_reporter, tmp_path, load_npz, scored, retrained
):
    draw(tmp_path, [], [cell("l2", ["warm"])], recording_reporter)
    (panel,) = panels["figure-4-by-rank.png"]
    scores, truth = load_npz(scored("l2", "objective")), load_npz(retrained("l2", "warm"))
    places = [scores["train_ids"].tolist().index(i) for i in truth["removed_ids"][0]]
    assert np.array_equal(panel.predicted, scores["scores"][0, 0, places])
    true = truth["loss_after"][0, 0] - truth["null_loss_after"][0, 0]
    assert np.array_equal(panel.true, true)
    assert panel.spearman == pytest.approx(stats.spearmanr(panel.predicted, true).statistic)
    assert panel.title == "l2: objective against warm"


def test_figure_4_is_against_the_last_truth_that_is_defined(
    cell, panels, recording_reporter, tmp_path
):
    cells = [
        cell("l2", ["warm", "newton"]),
        cell("l2", ["newton", "warm"]),
        cell("none", ["newton", "warm"]),
    ]
    draw(tmp_path, [], cells, recording_reporter)
    assert [panel.title for panel in panels["figure-4-by-rank.png"]] == [
        "l2: objective against newton",
        "l2: objective against warm",
        "none: objective against warm",
    ]


def test_where_every_truth_was_refused_figure_4_shows_nothing_true(
    cell, panels, recording_reporter, tmp_path
):
    draw(tmp_path, [], [cell("none", ["newton"])], recording_reporter)
    (panel,) = panels["figure-4-by-rank.png"]
    assert np.isnan(panel.true).all()
    assert np.isnan(panel.spearman)


def test_figure_5_shows_every_removals_loss_along_the_retraining(
    cell, panels, recording_reporter, tmp_path
):
    shown = cell("l2", ["warm"])
    draw(tmp_path, [], [shown, cell("none", ["warm"], watched=False)], recording_reporter)
    (panel,) = panels["figure-5-retraining.png"]
    assert panel.title == "cell-l2"
    assert panel.epochs.tolist() == [0, 25, 30]
    assert panel.losses.shape == (4, 3)
    assert np.array_equal(panel.losses, shown.trajectory["trajectory"][0, 0])
    assert panel.before == shown.trajectory["loss_before"][0, 0]


def test_a_figure_without_content_is_left_out_with_a_note(cell, recording_reporter, tmp_path):
    found = draw(tmp_path, [], [cell("l2", ["newton"], watched=False)], recording_reporter)
    names = ["figure-4-by-rank", "scatter"]
    assert [picture.name for picture in found] == names
    assert all(picture.caption.startswith("How to read: ") for picture in found)
    files = [f"{name}.{ending}" for name in names for ending in ("png", "svg")]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    notes = recording_reporter.notes
    assert [note.partition(" is not drawn: ")[0] for note in notes] == [
        "figure-1-agreement.png",
        "figure-3-top-eigenvalue.png",
        "figure-2-networks.png",
        "heat-map.png",
        "figure-5-retraining.png",
    ]
    assert recording_reporter.done["figures"] == recording_reporter.totals["figures"] == 7


def test_figures_1_to_3_show_the_cells_that_finished(cell, panels, recording_reporter, tmp_path):
    finished = summary("paper", cell="a", network="mlp", depth=1, width=5)
    failed = {"cell": "b", "reason": "failed: diverged"}
    draw(tmp_path, [finished, failed], [cell("l2", ["warm"])], recording_reporter)
    assert panels["figure-1-agreement.png"] == [finished]
    assert panels["figure-2-networks.png"] == [finished]
    assert panels["figure-3-top-eigenvalue.png"] == [finished]
    assert panels["heat-map.png"] == [finished]


def test_networks_without_sizes_are_bars_and_many_sizes_are_not(
    cell, panels, recording_reporter, tmp_path
):
    pictures = [cell("l2", ["warm"])]
    row = summary("paper", cell="a", network="lenet", depth=None, width=None)
    draw(tmp_path, [row], pictures, recording_reporter)
    assert "figure-2-networks.png" in panels
    assert "figure-1-agreement.png" not in panels
    panels.clear()
    rows = [{**row, "network": "mlp", "depth": depth, "width": 5} for depth in range(1, 8)]
    draw(tmp_path, rows, pictures, recording_reporter)
    assert "figure-1-agreement.png" in panels
    assert "figure-2-networks.png" not in panels


# --- of single cells -----------------------------------------------------------------------------


def test_the_scatter_has_every_estimator_and_truth_that_is_defined(
    cell, panels, recording_reporter, tmp_path, load_npz, scored, retrained
):
    pair = cell("l2", ["newton", "warm"], estimators=("objective", "paper"))
    refused = cell("none", ["newton", "warm"])
    draw(tmp_path, [], [pair, refused], recording_reporter)
    titles = [panel.title for panel in panels["scatter.png"]]
    assert titles == [
        "l2: objective against newton",
        "l2: objective against warm",
        "l2: paper against newton",
        "l2: paper against warm",
    ]
    assert [panel.title for panel in panels["scatter-2.png"]] == ["none: objective against warm"]
    shown = panels["scatter.png"][3]
    scores, truth = load_npz(scored("l2", "paper")), load_npz(retrained("l2", "warm"))
    places = [scores["train_ids"].tolist().index(i) for i in truth["removed_ids"][0]]
    assert np.array_equal(shown.predicted, scores["scores"][0, 0, places])
    true = truth["loss_after"][0, 0] - truth["null_loss_after"][0, 0]
    assert np.array_equal(shown.true, true)
    slope, intercept = np.polyfit(shown.predicted, true, 1)
    assert shown.slope == pytest.approx(slope)
    assert shown.intercept == pytest.approx(intercept, abs=1e-12 * np.abs(true).max())
    assert shown.spearman == pytest.approx(stats.spearmanr(shown.predicted, true).statistic)


def test_baselines_have_no_scatter_and_no_bar(cell, panels, recording_reporter, tmp_path):
    shown = cell("l2", ["warm"])
    shown.influences[0].meta["config"]["influence"]["step"] = "gradient-dot"
    rows = [summary(), summary("random", baseline=True)]
    draw(tmp_path, rows, [shown], recording_reporter)
    assert "scatter.png" not in panels
    assert [row["estimator"] for row in panels["noise-ceiling.png"]] == ["objective"]


def test_paths_have_their_pair_and_its_own_damping(cell, panels, recording_reporter, tmp_path):
    rows = [summary(), summary("paper", damping=0.5, abs_spearman_mean=0.2, retrain_params="all")]
    along = {"cell": "cell-l2", "retrain": "retrain-warm.npz", "abs_spearman_mean": 0.4}
    paths = [
        {**along, "influence": f"influence-{name}.npz", "damping": damping}
        for name in ("paper", "objective")
        for damping in (0.0, 1.0)
    ]
    draw(tmp_path, rows, [cell("l2", ["warm"])], recording_reporter, paths)
    found = panels["damping-path.png"]
    wanted = ["estimator", "retrain_params", "damping", "own_damping", "own_abs_spearman"]
    assert [[row[name] for name in wanted] for row in found] == [
        ["paper", "all", 0.0, 0.5, 0.2],
        ["paper", "all", 1.0, 0.5, 0.2],
        ["objective", "head", 0.0, 0.01, 0.7],
        ["objective", "head", 1.0, 0.01, 0.7],
    ]
    assert {row["panel"] for row in found} == {"l2"}
    assert {row["chance_abs_spearman"] for row in found} == {0.3}
    assert {row["abs_spearman_mean"] for row in found} == {0.4}


def test_a_chosen_damping_is_the_estimators_own(cell, panels, recording_reporter, tmp_path):
    rows = [summary(damping_chosen={"damping": 3.0}, damping="auto")]
    path = {"cell": "cell-l2", "influence": "influence-objective.npz"}
    path |= {"retrain": "retrain-warm.npz", "damping": 1.0}
    draw(tmp_path, rows, [cell("l2", ["warm"])], recording_reporter, [path])
    assert panels["damping-path.png"][0]["own_damping"] == 3.0


def test_gaps_are_named_after_cell_and_estimator(cell, panels, recording_reporter, tmp_path):
    step = {"cell": "cell-l2", "influence": "influence-paper.npz", "share": 1.0}
    draw(tmp_path, [summary("paper")], [cell("l2", ["warm"])], recording_reporter, [], [step])
    assert panels["gap-waterfall.png"] == [{**step, "panel": "l2: paper"}]


def test_cells_that_are_not_shown_are_left_out_and_counted(
    cell, panels, recording_reporter, tmp_path
):
    rows = [summary(), summary(cell="large"), summary(cell="larger")]
    path = {"influence": "influence-objective.npz", "retrain": "retrain-warm.npz"}
    paths = [{**path, "cell": name, "damping": 0.0} for name in ("cell-l2", "large")]
    pictures = draw(tmp_path, rows, [cell("l2", ["warm"])], recording_reporter, paths)
    assert [row["cell"] for row in panels["noise-ceiling.png"]] == ["cell-l2"]
    assert [row["cell"] for row in panels["damping-path.png"]] == ["cell-l2"]
    captions = {picture.name: picture.caption for picture in pictures}
    assert "Of 3 cells 2 are of other sizes and not shown." in captions["damping-path"]
    assert "other sizes" not in captions["heat-map"]


def test_more_panels_than_a_page_holds_go_to_further_files(
    cell, panels, recording_reporter, tmp_path
):
    names = [f"estimator-{i}" for i in range(8)]
    rows = [summary(name) for name in names]
    steps = [
        {"cell": "cell-l2", "influence": f"influence-{name}.npz", "after": after}
        for name in names
        for after in ("newton", "warm")
    ]
    pictures = draw(tmp_path, rows, [cell("l2", ["warm"])], recording_reporter, gaps=steps)
    pages = [panels["gap-waterfall.png"], panels["gap-waterfall-2.png"]]
    assert [len(page) for page in pages] == [12, 4]
    assert [row["panel"] for row in pages[1]] == [
        f"l2: {name}" for name in names[6:] for _ in range(2)
    ]
    assert {"gap-waterfall", "gap-waterfall-2"} <= {picture.name for picture in pictures}


def test_the_density_is_the_eigen_files(cell, panels, recording_reporter, tmp_path, tiny, runs):
    source = runs("l2") / "checkpoints" / "seed-000.safetensors"
    plain = eigen(tiny(), [source], tmp_path / "plain.npz")
    draw(tmp_path, [], [cell("l2", ["warm"], eigen=plain)], recording_reporter)
    assert "spectral-density.png" not in panels  # nobody asked for it, and no note says so
    assert "spectral" not in " ".join(recording_reporter.notes)
    dense = eigen(tiny({"eigen.density": True}), [source], tmp_path / "eigen.npz")
    draw(tmp_path, [], [cell("l2", ["warm"], eigen=dense)], recording_reporter)
    (panel,) = panels["spectral-density.png"]
    assert panel.title == "l2"
    assert np.array_equal(panel.grid, dense["density_grid"])
    assert np.array_equal(panel.density, dense["density"])
    assert np.array_equal(panel.error, dense["density_error"])
    assert np.array_equal(panel.values, dense["values"][0])


def test_one_run_without_the_columns_of_a_study_is_drawn_for_real(
    cell, recording_reporter, tmp_path, scored, retrained, tiny
):
    run = cell("l2", ["newton", "warm"], estimators=("objective", "paper"))
    found = evaluate(
        tiny(),
        [scored("l2", name) for name in ("objective", "paper")],
        [retrained("l2", truth) for truth in ("newton", "warm")],
    )
    assert found.gaps
    pictures = draw(tmp_path, found.summaries, [run], recording_reporter, found.paths, found.gaps)
    names = ["figure-4-by-rank", "figure-5-retraining", "scatter", "noise-ceiling", "gap-waterfall"]
    assert [picture.name for picture in pictures] == names
    assert recording_reporter.notes == []
    for name in names:
        assert (tmp_path / f"{name}.png").is_file()
        assert (tmp_path / f"{name}.svg").is_file()

"""What the figures show: the panels that reach the drawing, against the artifacts."""

import numpy as np
import pytest
from scipy import stats

from ifcheck import figures
from ifcheck.artifacts import read_artifact
from ifcheck.stages.pictures import CellPictures, draw
from ifcheck.stages.retrain import retrain, with_trajectory


@pytest.fixture
def panels(monkeypatch):
    """What each figure was asked to show, by the name of its file."""
    shown = {}
    for name in ("figure_1", "figure_2", "figure_3", "figure_4", "figure_5"):
        monkeypatch.setattr(figures, name, lambda path, found: shown.update({path.name: found}))
    return shown


@pytest.fixture(scope="module")
def cell(tiny, runs, scored, retrained, tmp_path_factory):
    """Return a builder of a cell's pictures; truths such as warm, in the study's order."""
    folder = tmp_path_factory.mktemp("trajectories")

    def build(variant, truths, watched=True):
        trajectory = None
        if watched:
            path = folder / f"{variant}.npz"
            first = runs(variant) / "checkpoints" / "seed-000.safetensors"
            trajectory = retrain(with_trajectory(tiny()), [first], path)
        return CellPictures(
            variant,
            f"cell-{variant}",
            read_artifact(scored(variant, "objective")),
            [read_artifact(retrained(variant, truth)) for truth in truths],
            trajectory,
        )

    return build


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
    draw(tmp_path, [], [cell("l2", ["newton"], watched=False)], recording_reporter)
    assert [path.name for path in tmp_path.iterdir()] == ["figure-4-by-rank.png"]
    notes = recording_reporter.notes
    assert [note.partition(" is not drawn: ")[0] for note in notes] == [
        "figure-1-agreement.png",
        "figure-3-top-eigenvalue.png",
        "figure-2-networks.png",
        "figure-5-retraining.png",
    ]
    assert recording_reporter.done["figures"] == recording_reporter.totals["figures"] == 5


def test_figures_1_to_3_show_the_cells_that_finished(cell, panels, recording_reporter, tmp_path):
    finished = {"cell": "a", "estimator": "paper", "network": "mlp", "depth": 1, "width": 5}
    failed = {"cell": "b", "reason": "failed: diverged"}
    draw(tmp_path, [finished, failed], [cell("l2", ["warm"])], recording_reporter)
    assert panels["figure-1-agreement.png"] == [finished]
    assert panels["figure-2-networks.png"] == [finished]
    assert panels["figure-3-top-eigenvalue.png"] == [finished]


def test_networks_without_sizes_are_bars_and_many_sizes_are_not(
    cell, panels, recording_reporter, tmp_path
):
    pictures = [cell("l2", ["warm"])]
    row = {"cell": "a", "estimator": "paper", "network": "lenet", "depth": None, "width": None}
    draw(tmp_path, [row], pictures, recording_reporter)
    assert "figure-2-networks.png" in panels
    assert "figure-1-agreement.png" not in panels
    panels.clear()
    rows = [{**row, "network": "mlp", "depth": depth, "width": 5} for depth in range(1, 8)]
    draw(tmp_path, rows, pictures, recording_reporter)
    assert "figure-1-agreement.png" in panels
    assert "figure-2-networks.png" not in panels

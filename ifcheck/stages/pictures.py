"""What a study's figures show, taken from its artifacts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats

from ifcheck.artifacts import Artifact
from ifcheck.errors import UnusableInput
from ifcheck.stages.changes import changes_of
from ifcheck.stages.removals import predicted_changes
from ifcheck.stages.reporting import Reporter

FEW_NETWORKS = 6  # whose bars have room beside each other


@dataclass(frozen=True)
class CellPictures:
    """The artifacts of one cell that figures 4 and 5 are drawn from."""

    label: str  # what titles call it
    cell: str
    influence: Artifact
    retrains: list[Artifact]
    trajectory: Artifact | None


def recorded(retrains: Sequence[Artifact]) -> Artifact | None:
    """Return the first retraining that has test losses along the way, if one has."""
    return next((retrain for retrain in retrains if "trajectory" in retrain.arrays), None)


def draw(
    folder: Path, summaries: list[dict[str, Any]], cells: list[CellPictures], reporter: Reporter
) -> None:
    """Draw figures 1 to 5 of the paper as PNG into `folder`.

    Figures 1 and 3 are of networks that have a depth and a width, figure 2 of few networks.
    Figures 4 and 5 show the first test point of the first seed of each of `cells`; figure 4
    against the last truth that is defined there. A figure for which no number is defined is left
    out, with a note.
    """
    # Drawing takes a second to import, and no other stage needs it.
    from ifcheck import figures

    rows = [row for row in summaries if "estimator" in row]
    ranks = [_rank_panel(cell) for cell in cells]
    trajectories = [_trajectory_panel(c.cell, c.trajectory) for c in cells if c.trajectory]
    sizes = {tuple(row.get(name) for name in ("network", "depth", "width")) for row in rows}
    drawings: list[tuple[str, Callable[[Path, Any], None], Any]] = []
    if all(depth and width for _, depth, width in sizes):
        drawings.append(("figure-1-agreement.png", figures.figure_1, rows))
        drawings.append(("figure-3-top-eigenvalue.png", figures.figure_3, rows))
    if len(sizes) <= FEW_NETWORKS:
        drawings.append(("figure-2-networks.png", figures.figure_2, rows))
    drawings.append(("figure-4-by-rank.png", figures.figure_4, ranks))
    drawings.append(("figure-5-retraining.png", figures.figure_5, trajectories))
    progress = reporter.step("figures", len(drawings))
    for name, drawing, content in drawings:
        try:
            drawing(folder / name, content)
        except UnusableInput as error:
            reporter.note(f"{name} is not drawn: {error.message}")
        progress(1)


def _rank_panel(cell: CellPictures) -> Any:
    from ifcheck import figures

    retrain = next((r for r in reversed(cell.retrains) if not r.meta["reasons"]), cell.retrains[0])
    predictions, kept = predicted_changes(cell.influence, retrain, 0, 0)
    predicted = predictions[0]
    true = changes_of(retrain).drift_corrected[0, 0, kept]
    estimator = cell.influence.meta["config"]["influence"]["estimator"]
    truth = retrain.meta["config"]["retrain"]["truth"]
    return figures.RankPanel(
        title=f"{cell.label}: {estimator} against {truth}",
        predicted=predicted,
        true=true,
        spearman=float(stats.spearmanr(predicted, true).statistic),
    )


def _trajectory_panel(name: str, trajectory: Artifact) -> Any:
    from ifcheck import figures

    return figures.TrajectoryPanel(
        title=name,
        epochs=trajectory["trajectory_epoch"],
        losses=trajectory["trajectory"][0, 0],
        before=float(trajectory["loss_before"][0, 0]),
    )

"""Another finished study, whose cells are drawn beside those of this one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ifcheck.artifacts import read_artifact
from ifcheck.config import Config, config_from_dict
from ifcheck.errors import ArtifactUnreadable
from ifcheck.stages.cells import (
    TRAJECTORY_NAME,
    Cell,
    cells_of,
    influence_name,
    is_finished,
    of_first_size,
    retrain_name,
)
from ifcheck.stages.pictures import CellPictures, recorded
from ifcheck.stages.resume import identity_of


def finished_cells(folder: Path) -> list[CellPictures]:
    """Return what figures 4 and 5 show of a study: its cells of the first finished size.

    Raises: ArtifactUnreadable where `folder` holds no study or none of these cells is finished.
    """
    identity = identity_of(folder)
    sections = {field.name for field in dataclasses.fields(Config)}
    cells = cells_of(config_from_dict({k: v for k, v in identity.items() if k in sections}))
    finished = [cell for cell in cells if is_finished(cell, folder)]
    if not finished:
        raise ArtifactUnreadable(
            f"{folder} has no finished cell.",
            remedy="Finish that study: the same command goes on where it stopped.",
        )
    return [_pictures(cell, folder / "cells" / cell.id) for cell in of_first_size(finished)]


def _pictures(cell: Cell, folder: Path) -> CellPictures:
    study, alone = cell.config.study, folder / f"{TRAJECTORY_NAME}.npz"
    paths = [folder / f"{retrain_name(text)}.npz" for text in study.truths]
    retrains = [read_artifact(path, "retrain") for path in paths]
    trajectory = recorded(retrains)
    if trajectory is None and alone.is_file():
        trajectory = read_artifact(alone, "retrain")
    names = [f"{influence_name(name)}.npz" for name in study.estimators]
    influences = [read_artifact(folder / name, "influence") for name in names]
    eigen = read_artifact(folder / "eigen.npz", "eigen")
    return CellPictures(label(cell), cell.id, influences, retrains, trajectory, eigen)


def label(cell: Cell) -> str:
    """Return what tells a cell from those of other data sets and networks."""
    return " ".join([cell.config.data.dataset, cell.config.network.name, cell.config.variant.name])

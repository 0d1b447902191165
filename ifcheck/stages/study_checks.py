"""What a study refuses before anything of it is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ifcheck.config import Config, replace_section
from ifcheck.errors import UnusableInput
from ifcheck.scores import Estimator
from ifcheck.stages.cells import Cell, cells_of
from ifcheck.stages.influence import check_estimator
from ifcheck.stages.retrain import check_retraining, why_no_replicates, with_truth
from ifcheck.stages.selections import check_selections, further_retrainings
from ifcheck.stages.setup import make_setup
from ifcheck.stages.train import network_layout

ESTIMATOR_PARTS = tuple(field.name for field in dataclasses.fields(Estimator))


def check_study(config: Config) -> list[Cell]:
    """Return the cells, with every name and option of the study known to be usable.

    Raises: UnknownName, UnusableInput, before anything is computed or written.
    """
    given = [
        part
        for part in ESTIMATOR_PARTS
        if getattr(config.influence, part) is not None
        # Which leave the estimators' own scores as they are.
        and part != "damping_path"
        and (part, config.influence.damping) != ("damping", "path")
    ]
    if given:
        raise UnusableInput(
            f"influence.{given[0]} would change every estimator of the study, under their names.",
            remedy="Leave it out, or score with `ifcheck influence` on a cell's folder.",
        )
    check_selections(config)
    cells = cells_of(config)
    for cell in cells:
        for name in config.study.estimators:
            part = replace_section(cell.config, "influence", estimator=name)
            setup = make_setup(part)
            layout = network_layout(setup)
            check_estimator(setup, layout)
        if config.eigen.top > layout.size:
            raise UnusableInput(
                f"eigen.top is {config.eigen.top}; {cell.id} has {layout.size} parameters.",
                remedy=f"Ask for at most {layout.size} eigenvalues.",
            )
        for text in config.study.truths:
            check_retraining(make_setup(with_truth(cell.config, text)), with_scores=True)
        for own in further_retrainings(cell.config).values():
            check_retraining(make_setup(own), with_scores=True)
    alone = once_only(cells)
    if len(alone) == len(config.study.truths):
        raise UnusableInput(
            f"--replicates {config.retrain.replicates} would repeat equal results: {alone[0]}",
            remedy="Leave --replicates out, or add --truth scratch.",
        )
    return cells


def once_only(cells: Sequence[Cell]) -> list[str]:
    """Say of each truth that is found once, though replicates were asked for, why.

    Cells differ in size and variant alone, which decides nothing about it.
    """
    config = cells[0].config
    found = []
    for text in config.study.truths:
        own = with_truth(config, text)
        if own.retrain.replicates < config.retrain.replicates:
            found.append(f"{text} has no replicates: {why_no_replicates(make_setup(own))}.")
    return found

"""The cells of a study: every size with every variant, each a configuration of its own."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ifcheck.config import Choice, Config, parse_integers
from ifcheck.errors import UnusableInput
from ifcheck.models import NETWORKS
from ifcheck.variants import VARIANTS

FINISHED_FILE = "evaluation.json"  # the last that is written into a cell's folder
TRAJECTORY_NAME = "trajectory"  # of a retraining of one seed for figure 5, without `.npz`


@dataclass(frozen=True)
class Cell:
    """One network and variant, with the configuration that its stages run under."""

    id: str  # spells the parameters; the name of the cell's folder
    config: Config
    options: dict[str, Any]  # of the network, defaults spelled out

    @property
    def columns(self) -> dict[str, Any]:
        """Return the columns that say which cell a row of a table belongs to."""
        return {
            "cell": self.id,
            "dataset": self.config.data.dataset,
            "network": self.config.network.name,
            "depth": self.options.get("depth"),
            "width": self.options.get("width"),
            "activation": self.options.get("activation"),
            "variant": self.config.variant.name,
        }


def influence_name(estimator: str) -> str:
    """Return the name of a cell's scores by an estimator, without `.npz`."""
    return f"influence-{estimator}"


def retrain_name(truth: str) -> str:
    """Return the name of a cell's retraining for a truth such as `warm:all`, without `.npz`."""
    return f"retrain-{truth.replace(':', '-')}"


def cells_of(config: Config) -> list[Cell]:
    """Return the cells of a study, sizes in the order given, variants within a size.

    Raises: UnknownName, UnusableInput.
    """
    variants = config.study.variants or tuple(VARIANTS)
    cells = [_cell(config, size, variant) for size in _sizes(config) for variant in variants]
    unique = {cell.id: cell for cell in cells}
    return list(unique.values())


def is_finished(cell: Cell, study: Path) -> bool:
    """Return whether a cell of the study in this folder has all its files."""
    return (study / "cells" / cell.id / FINISHED_FILE).is_file()


def of_first_size(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells of the first one's size: those that figures 4 and 5 show."""
    return [cell for cell in cells if cell.options == cells[0].options]


def _sizes(config: Config) -> list[dict[str, Any]]:
    """Return the network options of each size; a sweep crosses the values it lists."""
    if not config.study.sizes:
        return [dict(config.network.options)]
    sizes = []
    for sweep in config.study.sizes:
        values = [_values(option, value) for option, value in sweep.items()]
        for combination in itertools.product(*values):
            sizes.append({**config.network.options, **dict(zip(sweep, combination, strict=True))})
    return sizes


def _values(option: str, value: Any) -> tuple[Any, ...]:
    """Read 5, [5, 8], `5,8` or `1..8` as several values; other text as one."""
    values: tuple[Any, ...]
    if isinstance(value, (list, tuple)):
        values = tuple(value)
    else:
        try:
            values = parse_integers(value)
        except ValueError:
            return (value,)
    if not values:
        raise UnusableInput(
            f"study.sizes: {option} is {value!r}, which names no size.",
            remedy="A range such as 1..8 goes upwards and includes both ends.",
        )
    return values


def _cell(config: Config, options: Mapping[str, Any], variant: str) -> Cell:
    """Build the configuration of one cell; options of other variants do not carry over."""
    network = config.network.name
    own = config.study.variant_options.get(variant, {})
    if config.variant.name == variant:
        own = config.variant.options
    NETWORKS.create(network, options)
    VARIANTS.create(variant, own)
    spelled = NETWORKS.options(network) | dict(options)
    parts = [
        str(value) if isinstance(value, str) else f"{name}{value}"
        for name, value in spelled.items()
    ]
    return Cell(
        id="-".join([config.data.dataset, network, *parts, variant]),
        config=dataclasses.replace(
            config, network=Choice(network, dict(options)), variant=Choice(variant, own)
        ),
        options=spelled,
    )

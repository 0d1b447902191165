"""The authors' released figures: found for their cells, and for no other."""

import csv
import math
from collections import Counter
from pathlib import Path

import pytest

import ifcheck
from ifcheck.config import load_config
from ifcheck.stages.cells import cells_of
from ifcheck.stages.published import published_figures

ROOT = Path(__file__).parents[2]
NOTHING = {
    "published_abs_spearman": None,
    "published_abs_spearman_ci95": None,
    "published_top_eigenvalue": None,
}


def released() -> list[dict[str, str]]:
    with (Path(ifcheck.__file__).parent / "published.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def iris_columns(variant: str, depth: int = 1, width: int = 5, activation: str = "selu") -> dict:
    return {
        "dataset": "iris",
        "network": "mlp",
        "variant": variant,
        "depth": depth,
        "width": width,
        "activation": activation,
    }


@pytest.mark.parametrize(
    ("columns", "spearman", "half_width", "eigenvalue"),
    [
        (iris_columns("none"), 0.2238, 0.04954, 4.187e-05),
        (iris_columns("l2"), 0.7027, 0.069, 1.525),
        (iris_columns("l2-swa", depth=8), 0.3151, 0.05366, 44.41),
        (iris_columns("swa", width=50), 0.2778, 0.04614, 5.784e-06),
        (iris_columns("bnn", depth=3, activation="tanh"), 0.5054, 0.02474, -2.043),
    ],
)
def test_figures_of_known_cells(columns, spearman, half_width, eigenvalue):
    assert published_figures(columns) == {
        "published_abs_spearman": spearman,
        "published_abs_spearman_ci95": half_width,
        "published_top_eigenvalue": eigenvalue,
    }


@pytest.mark.parametrize(
    "row",
    [row for row in released() if row["dataset"] == "iris"],
    ids=lambda row: "-".join([row["study"], row["size"], row["variant"]]),
)
def test_every_released_row_of_iris_is_found_by_its_cell(row):
    size = {"depth": 1, "width": 5} | {row["study"]: int(row["size"])}
    found = published_figures(iris_columns(row["variant"], **size, activation=row["activation"]))
    assert found == {
        "published_abs_spearman": float(row["abs_spearman_mean"]),
        "published_abs_spearman_ci95": float(row["abs_spearman_ci95"]),
        "published_top_eigenvalue": float(row["top_eigenvalue_median"]),
    }


@pytest.mark.parametrize(
    "changed",
    [
        {"depth": 2},
        {"width": 14},
        {"depth": 3, "width": 8},
        {"depth": 50},
        {"activation": "tanh"},
        {"activation": None},
        {"variant": "l3"},
        {"variant": "bnn"},
        {"network": "cnn"},
        {"dataset": "digits"},
        {"depth": None, "width": None},
    ],
    ids=repr,
)
def test_cell_that_was_not_released_has_no_figures(changed):
    assert published_figures({**iris_columns("l2"), **changed}) == NOTHING


def test_network_without_a_size_is_found_and_its_missing_figure_is_none():
    columns = {"depth": None, "width": None, "activation": None, "variant": "l2"}
    found = published_figures({"dataset": "mnist", "network": "lenet", **columns})
    assert found == {
        "published_abs_spearman": 0.1107,
        "published_abs_spearman_ci95": 0.02565,
        "published_top_eigenvalue": None,
    }


def test_seven_sizes_of_the_study_are_released_for_each_variant():
    config = load_config(ROOT / "configs" / "iris-authors.yaml")
    cells = [cell for cell in cells_of(config) if published_figures(cell.columns) != NOTHING]
    count = Counter(cell.config.variant.name for cell in cells)
    assert all(count[variant] == 7 for variant in ("none", "swa", "l2", "l2-swa"))


def test_released_rows_are_unambiguous_and_plausible():
    rows = released()
    keys = [(r["dataset"], r["network"], r["study"], r["size"], r["variant"]) for r in rows]
    assert len(set(keys)) == len(keys) == 39
    assert ("iris", "mlp", "width", "5", "l2") not in keys  # held once, under depth 1
    for row in rows:
        assert 0 < float(row["abs_spearman_mean"]) < 1
        assert math.isfinite(float(row["abs_spearman_ci95"]))
        assert float(row["abs_spearman_mean"]) >= abs(float(row["spearman_mean"])) - 1e-9


def test_groups_have_no_released_figures():
    assert published_figures(iris_columns("l2"), group_size=1) != NOTHING
    assert published_figures(iris_columns("l2"), group_size=5) == NOTHING

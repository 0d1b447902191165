"""Tests across the cells of a study: do sizes or variants differ, does curvature matter?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifcheck.agreement.statistics import (
    TestResult,
    friedman,
    kruskal_wallis,
    one_way_anova,
    rank_correlation,
    tukey,
)

COLUMNS = (
    "quantity",
    "estimator",
    "truth",
    "retrain_params",
    "across",
    "within",
    "test",
    "statistic",
    "p_value",
    "effect_name",
    "effect_size",
    "low",
    "high",
    "groups",
    "reason",
)
SWEPT = ("depth", "width")
QUANTITIES = {"abs_spearman": "|Spearman|", "top_eigenvalue": "top eigenvalue"}

Rows = list[dict[str, Any]]
Groups = dict[str, dict[int, float]]  # group name -> seed -> value


def compare_cells(results: Rows) -> Rows:
    """Return one row per test, from the rows of `results.csv`.

    For |Spearman| of each (estimator, truth) and for the top eigenvalue: one-way ANOVA and
    Kruskal-Wallis across the sizes of each sweep within a variant, and across variants within
    a size; there also Friedman's test, since variants share seeds, and Tukey's comparisons.
    Then, within each cell, the correlation of |Spearman| with the top eigenvalue over seeds.
    """
    usable = [_with_absolute(row) for row in results if row.get("status") == "ok"]
    tests: Rows = []
    for pair, rows in _grouped(usable, ("estimator", "truth", "retrain_params")).items():
        labels = dict(zip(("estimator", "truth", "retrain_params"), pair, strict=True))
        tests += _all_groupings(rows, "abs_spearman", labels)
        tests += _links(rows, labels)
    measured = [row for row in results if not row["status"].startswith("failed")]
    return tests + _all_groupings(measured, "top_eigenvalue", {})


def _with_absolute(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "abs_spearman": abs(row["spearman"])}


def _all_groupings(rows: Rows, quantity: str, labels: Mapping[str, Any]) -> Rows:
    tests: Rows = []
    for swept in SWEPT:
        fixed = ("variant", *(name for name in SWEPT if name != swept))
        for key, part in _grouped(rows, fixed).items():
            groups = _by_seed(part, quantity, (swept,))
            tests += _tests(groups, quantity, labels, swept, _describe(fixed, key), paired=False)
    for key, part in _grouped(rows, SWEPT).items():
        groups = _by_seed(part, quantity, ("variant",))
        tests += _tests(groups, quantity, labels, "variant", _describe(SWEPT, key), paired=True)
    return tests


def _tests(
    groups: Groups,
    quantity: str,
    labels: Mapping[str, Any],
    across: str,
    within: str,
    paired: bool,
) -> Rows:
    """Return the tests of one grouping; a single group is nothing to compare."""
    if len(groups) < 2:
        return []
    shared = {"quantity": QUANTITIES[quantity], **labels, "across": across, "within": within}
    samples = {name: np.array(list(values.values())) for name, values in groups.items()}
    found = [one_way_anova(samples), kruskal_wallis(samples)]
    if paired and len(groups) > 2:
        found.append(friedman(_aligned(groups)))
    comparisons = [
        {
            **shared,
            "test": f"Tukey HSD {c.first} - {c.second}",
            "statistic": c.difference,
            "low": c.low,
            "high": c.high,
            "p_value": c.p_value,
            "reason": c.reason,
        }
        for c in tukey(samples)
    ]
    return [{**shared, **_record(result)} for result in found] + comparisons


def _links(rows: Rows, labels: Mapping[str, Any]) -> Rows:
    """Return, for each cell, whether seeds of larger curvature agree better or worse."""
    tests = []
    for (cell,), part in _grouped(rows, ("cell",)).items():
        result = rank_correlation(_column(part, "abs_spearman"), _column(part, "top_eigenvalue"))
        tests.append(
            {
                "quantity": "|Spearman| with top eigenvalue",
                **labels,
                "across": "seeds",
                "within": cell,
                **_record(result),
            }
        )
    return tests


def _record(result: TestResult) -> dict[str, Any]:
    return {
        "test": result.name,
        "statistic": result.statistic,
        "p_value": result.p_value,
        "effect_name": result.effect_name,
        "effect_size": result.effect_size,
        "groups": json.dumps(result.group_sizes),
        "reason": result.reason,
    }


def _grouped(rows: Iterable[dict[str, Any]], names: tuple[str, ...]) -> dict[tuple[Any, ...], Rows]:
    groups: dict[tuple[Any, ...], Rows] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def _by_seed(rows: Rows, quantity: str, names: tuple[str, ...]) -> Groups:
    """Return each group's value by seed, averaged over test points."""
    groups: Groups = {}
    for key, part in _grouped(rows, names).items():
        seeds = _grouped(part, ("seed",))
        values = {seed: _mean(_column(same, quantity)) for (seed,), same in seeds.items()}
        groups[" ".join(map(str, key))] = values
    return groups


def _aligned(groups: Groups) -> dict[str, NDArray[np.float64]]:
    """Return the groups' values for the seeds that all of them have, in one order."""
    common = sorted(set.intersection(*(set(values) for values in groups.values())))
    return {name: np.array([values[s] for s in common]) for name, values in groups.items()}


def _column(rows: Rows, name: str) -> NDArray[np.float64]:
    return np.array([row[name] for row in rows], dtype=float)


def _mean(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def _describe(names: tuple[str, ...], key: tuple[Any, ...]) -> str:
    pairs = zip(names, key, strict=True)
    return ", ".join(f"{name} {value}" for name, value in pairs if value is not None)

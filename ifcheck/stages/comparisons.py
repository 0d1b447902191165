"""Tests across the cells of a study: do sizes or variants differ, does curvature matter?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifcheck.agreement.factorial import EFFECTS, split_plot_anova, two_way_anova
from ifcheck.agreement.permutation import split_plot_permutation
from ifcheck.agreement.statistics import (
    TestResult,
    friedman,
    holm,
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
    "df",
    "df_error",
    "p_value",
    "p_holm",
    "effect_name",
    "effect_size",
    "low",
    "high",
    "groups",
    "family",
    "reason",
)
SWEPT = ("depth", "width")
TUKEY = "Tukey HSD"
QUANTITIES = {"abs_spearman": "|Spearman|", "top_eigenvalue": "top eigenvalue"}

Rows = list[dict[str, Any]]
Groups = dict[str, dict[int, float]]  # group name -> seed -> value


def compare_cells(results: Rows) -> Rows:
    """Return one row per test, from the rows of `results.csv`.

    For |Spearman| of each (estimator, truth) and for the top eigenvalue: one-way ANOVA and
    Kruskal-Wallis across the sizes of each sweep within a variant, and across variants within
    a size; there also Friedman's test, since variants share seeds, and Tukey's comparisons.
    Over each sweep, size and variant at once: the two-way ANOVA, and the split-plot tests that
    respect shared seeds. Then, within each cell, the correlation of |Spearman| with the top
    eigenvalue over seeds. `p_holm` is corrected for the other tests of the same `family`.
    """
    usable = [_with_absolute(row) for row in results if row.get("status") == "ok"]
    tests: Rows = []
    for pair, rows in _grouped(usable, ("estimator", "truth", "retrain_params")).items():
        labels = dict(zip(("estimator", "truth", "retrain_params"), pair, strict=True))
        tests += _all_groupings(rows, "abs_spearman", labels)
        tests += _links(rows, labels)
    measured = [row for row in results if not row["status"].startswith("failed")]
    return _corrected(tests + _all_groupings(measured, "top_eigenvalue", {}))


def _corrected(tests: Rows) -> Rows:
    """Return the tests with their families, and with p-values corrected within these.

    A family is what answers one question: does this factor matter to this quantity, by this kind of
    test? Each estimator, truth, variant and size that the table asks it of is one more chance of a
    false answer. Other kinds of test answer it again from the same numbers: a reader takes one.
    """
    named = [{**test, "family": _family(test)} for test in tests]
    adjusted: dict[int, float] = {}
    for family in dict.fromkeys(test["family"] for test in named):
        places = [place for place, test in enumerate(named) if test["family"] == family]
        p_values = holm([named[place]["p_value"] for place in places]).tolist()
        adjusted |= dict(zip(places, p_values, strict=True))
    return [{**test, "p_holm": adjusted[place]} for place, test in enumerate(named)]


def _family(test: Mapping[str, Any]) -> str:
    kind = TUKEY if test["test"].startswith(TUKEY) else test["test"]
    return f"{test['quantity']}, {kind} across {test['across']}"


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
    for swept in SWEPT:
        tests += _both_factors(rows, quantity, labels, swept)
    return tests


def _both_factors(rows: Rows, quantity: str, labels: Mapping[str, Any], swept: str) -> Rows:
    """Return the tests of size and variant at once, where a sweep has several of both."""
    tests: Rows = []
    fixed = tuple(name for name in SWEPT if name != swept)
    across = dict(zip(EFFECTS, (swept, "variant", f"variant x {swept}"), strict=True))
    for key, part in _grouped(rows, fixed).items():
        cells = {
            (str(size), variant): _of_seeds(cell, quantity)
            for (size, variant), cell in _grouped(part, (swept, "variant")).items()
        }
        if min(len({cell[place] for cell in cells}) for place in (0, 1)) < 2:
            continue
        within = ", ".join(filter(None, [f"{swept} sweep", _describe(fixed, key)]))
        shared = {"quantity": QUANTITIES[quantity], **labels, "within": within}
        tests += [
            {**shared, "across": across[effect], **_record(result)}
            for test in (two_way_anova, split_plot_anova, split_plot_permutation)
            for effect, result in test(cells).items()
        ]
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
            "test": f"{TUKEY} {c.first} - {c.second}",
            "statistic": c.difference,
            "effect_name": "Hedges' g",
            "effect_size": c.effect_size,
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
        "df": result.df,
        "df_error": result.df_error,
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
    """Return each group's value by seed."""
    return {
        " ".join(map(str, key)): _of_seeds(part, quantity)
        for key, part in _grouped(rows, names).items()
    }


def _of_seeds(rows: Rows, quantity: str) -> dict[int, float]:
    """Return the value of each seed, averaged over test points: these are no seeds of their own."""
    seeds = _grouped(rows, ("seed",))
    return {seed: _mean(_column(same, quantity)) for (seed,), same in seeds.items()}


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

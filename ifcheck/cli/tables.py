"""The tables that evaluate and fragility end with; each fits 100 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ifcheck.cli import terminal
from ifcheck.stages.columns import AGREEMENT, CONTROLS, GAPS, PAIR, filled
from ifcheck.stages.fragility import Cost, Study
from ifcheck.stages.reporting import duration
from ifcheck.stages.wording import UNDEFINED, cell_name, interval, number, pair_name

Row = Mapping[str, Any]

DISAGREEMENT_SHOWN = 0.05  # power iteration off by more than this is marked in the table


def show_agreement(summaries: Sequence[Row]) -> None:
    """Show one row per pair of an influence file and a retrain file."""
    sizes = sorted({s["group_size"] for s in summaries} - {1})
    groups = f", groups of {' and '.join(map(str, sizes))} rows" if sizes else ""
    title = f"agreement of predicted and true changes{groups}"
    terminal.show_table(title, *filled(summaries, {**PAIR, **AGREEMENT}))
    for summary in summaries:
        _show_remarks(pair_name(summary), summary)


def show_controls(summaries: Sequence[Row]) -> None:
    """Show what each agreement is to be held against."""
    terminal.show_table("controls", *filled(summaries, {**PAIR, **CONTROLS}))


def show_gaps(gaps: Sequence[Row]) -> None:
    """Show by which steps each prediction comes to the last truth, and what each step costs."""
    if not gaps:
        return
    title = "the way from prediction to truth: shares of the gap, medians"
    terminal.show_table(title, *filled(gaps, GAPS))


def show_paths(paths: Sequence[Row]) -> None:
    """Show a table for each pair whose scores have a path of dampings."""
    pairs: dict[str, list[Row]] = {}
    for row in paths:
        pairs.setdefault(pair_name(row), []).append(row)
    for name, rows in pairs.items():
        terminal.show_table(
            f"{name} along the damping",
            ["damping", "|Spearman|", "median", "slope", "residual, at most", "solved"],
            [
                [
                    f"{row['damping']:g}",
                    interval(row["abs_spearman_mean"], row["abs_spearman_ci95"]),
                    number(row["spearman_median"]),
                    number(row["slope_median"]),
                    number(row["rel_residual_max"], 2),
                    f"{row['solved_share']:.0%}",
                ]
                for row in rows
            ],
        )


def _show_remarks(name: str, summary: Row) -> None:
    chosen = summary["damping_chosen"]
    if chosen:
        left_out = summary["held_out"]
        told = f"; of these removals up to {left_out} are among its own and left out"
        terminal.show_note(
            f"{name}: damping {chosen['damping']:g} was chosen on {chosen['chosen_on']}"
            f"{told if left_out else ''}"
        )
    if summary["replicates"] > 1:
        terminal.show_note(
            f"{name}: mean of {summary['replicates']} replicates, reliability "
            f"{number(summary['reliability_median'])}, noise ceiling "
            f"{number(summary['noise_ceiling_median'])} (medians); low or undefined for "
            f"{summary['reliability_low']} of the seeds and test points"
        )
    if summary["reason"]:
        terminal.show_note(f"{name}: {summary['reason']}")
    elif (
        not summary["baseline"]
        and summary["predicted_normalisation"] != summary["true_normalisation"]
    ):
        terminal.show_note(f"{name}: {summary['normalisation']}")


def show_study(study: Study) -> None:
    """Show the agreement of every cell, the tests across cells, and what they say."""
    rows = [row for row in study.summaries if "estimator" in row]
    pairs = list(dict.fromkeys(_pair(row) for row in rows))
    cells: dict[str, list[Row]] = {}
    for row in rows:
        cells.setdefault(row["cell"], []).append(row)
    terminal.show_table(
        "|Spearman| of predicted and true changes: mean ± 95% interval over seeds",
        ["variant size", *(_pair_header(pair) for pair in pairs), "top eig.", "drift", "publ."],
        [_study_row(found, pairs) for found in cells.values()],
        dense=True,
    )
    _show_legend(rows)
    _show_tests(study.tests)
    for row in study.summaries:
        if "estimator" not in row:
            terminal.show_note(f"{row['cell']}: {row['reason']}")
    for sentence in dict.fromkeys(_refusals(rows)):
        terminal.show_note(sentence)
    for found in cells.values():
        terminal.stdout().print(_reading(found), soft_wrap=True)
    if study.costs:
        _show_costs(study.costs)
    if study.paths:
        terminal.stdout().print(
            f"agreement along dampings: {study.out / 'paths.csv'}", soft_wrap=True
        )
    terminal.stdout().print(f"written: {study.out}", soft_wrap=True)


def _show_costs(costs: Mapping[str, Cost]) -> None:
    rows = [
        [stage, duration(cost.seconds), f"{cost.peak_memory_bytes / 1e9:.1f} GB"]
        for stage, cost in costs.items()
    ]
    terminal.show_table("cost", ["stage", "time", "memory, at most until then"], rows)


def _pair(row: Row) -> tuple[str, str, str]:
    return row["estimator"], row["truth"], row["retrain_params"]


def header(row: Row) -> str:
    """Return the head of a pair's column, in two lines."""
    return _pair_header(_pair(row))


def _pair_header(pair: tuple[str, str, str]) -> str:
    estimator, truth, params = pair
    return f"{estimator}\n{truth}" + ("" if params == "head" else f":{params}")


def _study_row(found: Sequence[Row], pairs: Sequence[tuple[str, str, str]]) -> list[str]:
    by_pair = {_pair(row): row for row in found}
    first = found[0]
    agreements = [
        interval(by_pair[pair]["abs_spearman_mean"], by_pair[pair]["abs_spearman_ci95"])
        if pair in by_pair
        else UNDEFINED
        for pair in pairs
    ]
    return [
        cell_name(first),
        *agreements,
        number(first["top_eigenvalue_median"]) + ("*" if _methods_disagree(first) else ""),
        number(first["null_drift_median"], 2),
        number(first["published_abs_spearman"], 2),
    ]


def _methods_disagree(row: Row) -> bool:
    difference = row["top_eigenvalue_disagreement"]
    return difference is not None and difference > DISAGREEMENT_SHOWN


def _show_legend(rows: Sequence[Row]) -> None:
    chance = number(rows[0]["chance_abs_spearman"], 2)
    lines = [
        f"size: depth x width; chance level of |Spearman|: {chance}; "
        "drift: median change of the test loss when nothing is removed",
        "top eig.: median over seeds; publ.: |Spearman| of the authors' released files "
        "(estimator authors, whole network retrained)",
    ]
    if any(_methods_disagree(row) for row in rows):
        lines.append(
            f"*: power iteration is off the dense eigenvalue by more than "
            f"{DISAGREEMENT_SHOWN:.0%} on the median seed"
        )
    for line in lines:
        terminal.stdout().print(line, style="dim", soft_wrap=True)


def _show_tests(tests: Sequence[Row]) -> None:
    shown = [t for t in tests if t["test"] in ("one-way ANOVA", "Friedman")]
    rows = [
        [
            _test_name(test),
            f"{test['across']} within {test['within']}",
            test["test"],
            number(test["p_value"], 2),
            f"{number(test['effect_size'], 2)}",
        ]
        for test in shown
    ]
    if rows:
        columns = ["quantity", "across", "test", "p", "effect"]
        terminal.show_table(
            "do sizes or variants differ? (effect: eta squared, Kendall's W)",
            columns,
            rows,
        )


def _test_name(test: Row) -> str:
    if "estimator" not in test:
        return str(test["quantity"])
    return f"{test['quantity']} {test['estimator']}/{test['truth']}"


def _refusals(rows: Sequence[Row]) -> list[str]:
    return [f"{row['variant']}, {row['truth']}: {row['reason']}" for row in rows if row["reason"]]


def _reading(found: Sequence[Row]) -> str:
    """Return one sentence on what a cell's numbers say."""
    first = found[0]
    name = cell_name(first)
    usable = [
        row
        for row in found
        if row["abs_spearman_mean"] == row["abs_spearman_mean"] and not row["baseline"]
    ]
    if not usable:
        return f"{name}: no agreement could be computed."
    best = max(usable, key=lambda row: row["abs_spearman_mean"])
    worst = min(usable, key=lambda row: row["abs_spearman_mean"])
    # Some truths cannot drift by what they are; the one that does most is told of.
    most = max(usable, key=lambda row: row["null_drift_median"])
    drift, change = most["null_drift_median"], most["true_change_median"]
    size = first["group_size"]
    what = "a row" if size == 1 else f"{size} rows"
    return (
        f"{name}: best {best['estimator']} against {best['truth']} "
        f"({number(best['abs_spearman_mean'], 2)}), worst {worst['estimator']} against "
        f"{worst['truth']} ({number(worst['abs_spearman_mean'], 2)}); removing nothing moves "
        f"the test loss by {number(drift, 2)}, removing {what} by {number(change, 2)} nats."
    )

"""What the tables of agreement, controls, gaps and tests show, each column defined once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ifcheck.stages.exports import Table
from ifcheck.stages.wording import (
    UNDEFINED,
    between,
    cell_name,
    interval,
    number,
    pair_name,
    prediction_name,
    share,
    truth_name,
)

Row = Mapping[str, Any]
Columns = Mapping[str, Callable[[Row], str]]  # header -> what a row shows under it

PAIR: Columns = {"prediction / truth": pair_name}
AGREEMENT: Columns = {
    "|Spearman|": lambda row: interval(row["abs_spearman_mean"], row["abs_spearman_ci95"]),
    "median": lambda row: number(row["spearman_median"]),
    # A baseline has no scale of its own.
    "slope": lambda row: UNDEFINED if row["baseline"] else number(row["slope_median"]),
    "R²": lambda row: UNDEFINED if row["baseline"] else number(row["r2_median"]),
    "signs": lambda row: UNDEFINED if row["baseline"] else number(row["sign_agreement_mean"], 2),
    "top-k (chance)": lambda row: (
        f"{number(row['top_k_overlap_mean'], 2)} ({number(row['top_k_chance'], 2)})"
    ),
    "drift": lambda row: number(row["null_drift_median"], 2),
}
CONTROLS: Columns = {
    "interval": lambda row: between(row["abs_spearman_low"], row["abs_spearman_high"]),
    "chance p": lambda row: number(row["chance_p"], 2),
    "power": lambda row: number(row["power"], 2),
    "signal/drift": lambda row: number(row["signal_to_drift_median"], 2),
    "ceiling": lambda row: number(row["noise_ceiling_median"], 2),
    "over baseline": lambda row: interval(
        row["over_best_baseline"], row["over_best_baseline_ci95"]
    ),
}
GAPS: Columns = {
    "prediction": prediction_name,
    "step": lambda row: f"{row['before']} -> {row['after']}",
    "share": lambda row: share(row["share"]),
    "Spearman": lambda row: number(row["spearman_median"]),
    "slope": lambda row: number(row["slope_median"]),
    "error, nats": lambda row: number(row["error_median"], 2),
    "whole gap": lambda row: number(row["gap_median"], 2),
}
CELL: Columns = {"variant size": cell_name}
PUBLISHED: Columns = {
    "publ.": lambda row: interval(
        row["published_abs_spearman"], row["published_abs_spearman_ci95"]
    ),
}
CURVATURE: Columns = {"top eig.": lambda row: number(row["top_eigenvalue_median"])}
PUBLISHED_CURVATURE: Columns = {
    "publ. top eig.": lambda row: number(row["published_top_eigenvalue"])
}
VERDICT: Columns = {"verdict": lambda row: str(row.get("verdict") or UNDEFINED)}
TESTS: Columns = {
    "quantity": lambda row: str(row["quantity"]),
    "prediction / truth": lambda row: _tested_pair(row),
    "across": lambda row: f"{row['across']} within {row['within']}",
    "test": lambda row: str(row["test"]),
    "statistic": lambda row: number(row["statistic"]),
    "p": lambda row: number(row["p_value"], 2),
    "effect": lambda row: f"{row['effect_name']} {number(row['effect_size'], 2)}",
}
HOLM: Columns = {"p (Holm)": lambda row: number(row["p_holm"], 2)}


def filled(rows: Sequence[Row], columns: Columns) -> tuple[list[str], list[list[str]]]:
    """Return headers, and what each row shows under them."""
    return list(columns), [[show(row) for show in columns.values()] for row in rows]


def table_of(caption: str, rows: Sequence[Row], columns: Columns, records: Sequence[Row]) -> Table:
    """Return rows as a table, with the records that stand behind it in full precision."""
    header, cells = filled(rows, columns)
    return Table(caption, tuple(header), tuple(map(tuple, cells)), tuple(records))


def agreement_tables(summaries: Sequence[Row]) -> list[Table]:
    """Return the pairs' agreement and controls, of an evaluation or of a whole study.

    A study's rows say which cell they are of, and have the authors' released figures beside
    them where there are any. Cells that failed have no pairs, and are named in the caption.
    """
    rows = [row for row in summaries if "estimator" in row]
    agreement, controls = {**PAIR, **AGREEMENT}, {**PAIR, **CONTROLS}
    told = "Controls of each agreement."
    if any("cell" in row for row in rows):
        published = _any_published(rows)
        agreement = {**CELL, **agreement, **(PUBLISHED if published else {})}
        controls = {**CELL, **controls, **CURVATURE, **(PUBLISHED_CURVATURE if published else {})}
        told = "Controls of each agreement, and the largest eigenvalue of the data's Hessian."
    if any("verdict" in row for row in rows):
        agreement |= VERDICT
    return [
        table_of(_agreement_caption(summaries), rows, agreement, summaries),
        table_of(told, rows, controls, summaries),
    ]


def study_tables(
    summaries: Sequence[Row], tests: Sequence[Row], gaps: Sequence[Row]
) -> dict[str, list[Table]]:
    """Return what a study writes into its folder `tables`, by the name of the file."""
    found = {"agreement": agreement_tables(summaries)}
    found |= {"tests": [table_of_tests(tests)]} if tests else {}
    return found | ({"gaps": [table_of_gaps(gaps)]} if gaps else {})


def table_of_gaps(gaps: Sequence[Row]) -> Table:
    """Return the steps from each prediction to the last truth; a study's say of which cell."""
    who = CELL if gaps and "cell" in gaps[0] else {}
    caption = "The way from prediction to truth: shares of the gap, and medians."
    return table_of(caption, gaps, {**who, **GAPS}, gaps)


def table_of_tests(tests: Sequence[Row]) -> Table:
    """Return the tests across cells; comparisons of two groups are in the CSV file alone."""
    rows = [test for test in tests if not test["test"].startswith("Tukey")]
    why = dict.fromkeys(f"{row['test']}: {row['reason']}" for row in rows if row.get("reason"))
    caption = _with_reasons("Do sizes or variants differ?", why)
    columns = {**TESTS, **(HOLM if any("p_holm" in row for row in rows) else {})}
    return table_of(caption, rows, columns, tests)


def _any_published(rows: Sequence[Row]) -> bool:
    return any(row.get("published_abs_spearman") is not None for row in rows)


def _agreement_caption(summaries: Sequence[Row]) -> str:
    rows = [row for row in summaries if "estimator" in row]
    sizes = sorted({row["group_size"] for row in rows} - {1})
    groups = f", groups of {' and '.join(map(str, sizes))} rows" if sizes else ""
    caption = f"Agreement of predicted and true changes{groups}: mean ± 95% interval over seeds."
    if _any_published(rows):
        caption += (
            " publ.: of the authors' released files (estimator authors, whole network retrained)."
        )
    return _with_reasons(caption, dict.fromkeys(_reasons(summaries)))


def _reasons(summaries: Sequence[Row]) -> list[str]:
    """Say of each truth and cell why it has no agreement."""
    found = []
    for row in summaries:
        if "estimator" not in row:
            found.append(f"{row['cell']}: {row['reason']}")
        elif row["reason"]:
            name = f"{row['variant']}, {row['truth']}" if "cell" in row else pair_name(row)
            found.append(f"{name}: {row['reason']}")
    return found


def _with_reasons(caption: str, reasons: Mapping[str, None]) -> str:
    return f"{caption} Undefined: {'; '.join(reasons)}." if reasons else caption


def _tested_pair(row: Row) -> str:
    return f"{row['estimator']} / {truth_name(row)}" if row.get("estimator") else ""

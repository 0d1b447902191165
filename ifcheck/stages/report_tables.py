"""The tables of a report, from the rows that evaluate and fragility find."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ifcheck.report import Cell, Column, Number, Table, between, interval, number, share
from ifcheck.stages import wording
from ifcheck.stages.controls import DETECTABLE

Row = Mapping[str, Any]

PAIRWISE = "Tukey"  # what comparisons of two groups at a time are called; they are many

POWER = f"power at {DETECTABLE}"

GLOSSARY = {
    "cell": "One network, of one size, with one way of training (the variant), under all seeds.",
    "prediction": "The estimator whose scores say how a test loss changes if a row leaves.",
    "truth": "How that change was found: by what kind of retraining without the row.",
    "|Spearman|": "Absolute rank correlation of predicted and true changes over the removals: mean "
    "over seeds and test points, ± 95% interval. 1 is a perfect ranking, in either direction.",
    "median": "Median of the signed rank correlation. Negative: the ranking is upside down.",
    "slope": "True nats for each predicted nat, by least squares; median. 1 is ideal.",
    "R²": "Share of the true changes' variance that the predictions explain as they stand, without "
    "a fitted line; median. 1 is ideal; negative is worse than predicting the mean.",
    "signs": "Share of removals whose predicted and true change have the same sign; mean.",
    "top-k": "Share of the k largest true changes that are among the k largest predicted; mean.",
    "top-k chance": "What unrelated rankings share of the k largest.",
    "drift": "How far retraining with nothing removed moves the test loss, in nats; median.",
    "change": "Size of the true changes, less the drift, in nats; median.",
    "chance level": "The |Spearman| of unrelated rankings of as many removals.",
    "interval": "Of the mean |Spearman|, from resampled seeds, test points and removals; 95% "
    "unless evaluate.confidence says otherwise.",
    "chance p": "Share of shuffled predictions whose mean |Spearman| is as large.",
    POWER: "Chance that these removals and seeds tell such a true correlation from none.",
    "signal/drift": "Spread of the true changes over the removals, in drifts; median.",
    "signal/replicates": "The same spread, over that of other seeds' retraining; median.",
    "signal/resolution": "The same spread, over the smallest step of the floating type; median.",
    "ceiling": "The correlation that a perfect prediction would have with truths as noisy as "
    "these; median. It takes replicates.",
    "best baseline": "The cheap score, such as the row's own loss, that ranks this truth best.",
    "over baseline": "How far |Spearman| is above that of the best baseline, ± 95% interval.",
    "published": "The figure of the authors' released files: estimator `authors`, the whole "
    "network retrained, 25 rows removed.",
    "top eigenvalue": "Largest eigenvalue of the Hessian, the curvature; median over seeds.",
    "share": "Part of the gap between prediction and last truth that a step accounts for. Shares "
    "add to 100%; a negative one leads back.",
    "error": "Size of a step, in nats; median.",
    "whole gap": "Size of all steps together, in nats; median.",
    "damping": "What was added to the diagonal of the Hessian, in nats per squared parameter.",
    "residual, at most": "Largest relative residual of the solves: how far they are from exact.",
    "solved": "Share of solves that converged.",
    "statistic": "What the test computes: F, H, chi squared, a difference or a correlation.",
    "p": "Chance of a statistic as extreme if groups did not differ.",
    "p, Holm": "The same, corrected for the other tests that ask the same question.",
    "effect": "Size of the difference or link, on the scale that the table names; 0 is none.",
    "from": "Lower end of the interval of a difference.",
    "to": "Upper end of the interval of a difference.",
    "undefined": "A number that cannot be computed is shown as –, with a note below its table.",
}


@dataclass(frozen=True)
class Entry:
    """One column: its title, which the glossary explains, and its cell for a row."""

    title: str
    cell: Callable[[Row], Cell]
    is_optional: bool = False  # left out where no row has a value
    is_numeric: bool = True

    @property
    def column(self) -> Column:
        """Return the head of the column."""
        return Column(self.title, GLOSSARY.get(self.title, ""), self.is_numeric)


def text(title: str, content: Callable[[Row], Cell]) -> Entry:
    """Return a column of words; it is left out where all rows are silent."""
    return Entry(title, content, is_optional=True, is_numeric=False)


def pair_name(row: Row) -> str:
    """Return prediction and truth by their files' names, or by their own where files are unnamed.

    Names of files tell apart what the same estimator predicts with other options.
    """
    if "influence" in row and "retrain" in row:
        return wording.pair_name(row)
    return f"{row['estimator']} / {wording.truth_name(row)}"


def rows_table(caption: str, entries: Sequence[Entry], rows: Sequence[Row]) -> Table:
    """Return the entries of each row; optional ones that no row has stay out."""
    cells = {entry: [entry.cell(row) for row in rows] for entry in entries}
    shown = {
        entry.column: found
        for entry, found in cells.items()
        if not entry.is_optional or any(map(_is_defined, found))
    }
    return Table(caption, list(shown), list(zip(*shown.values(), strict=True)))


def _is_defined(cell: Cell) -> bool:
    return cell.value is not None if isinstance(cell, Number) else cell != ""


# --- entries of summary rows ------------------------------------------------------------------


def _reason(row: Row) -> str:
    return str(row.get("reason") or "")


def _scale(name: str, digits: int = 3) -> Callable[[Row], Cell]:
    """Return the cell of a number that a baseline, which has no scale of its own, lacks."""

    def cell(row: Row) -> Cell:
        if row.get("baseline"):
            return number(None, "a baseline has no scale of its own")
        return number(row.get(name), _reason(row), digits)

    return cell


def _plain(name: str, digits: int = 3) -> Callable[[Row], Cell]:
    return lambda row: number(row.get(name), _reason(row), digits)


def _of_replicates(name: str) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        once = (row.get("replicates") or 1) < 2
        why = "no replicates: each removal was retrained once" if once else "replicates are equal"
        return number(row.get(name), _reason(row) or why, 2)

    return cell


def _over_baseline(row: Row) -> Cell:
    why = "no baseline was scored"
    if row.get("baseline"):
        why = "a baseline itself"
    elif row.get("best_baseline"):
        why = _reason(row)
    mean, half_width = row.get("over_best_baseline"), row.get("over_best_baseline_ci95")
    return interval(mean, half_width, why)


def _published(row: Row) -> Cell:
    return interval(
        row.get("published_abs_spearman"), row.get("published_abs_spearman_ci95"), UNPUBLISHED
    )


UNPUBLISHED = "the authors released no figure for this cell"

PAIR = text("prediction / truth", pair_name)
ABSOLUTE = Entry(
    "|Spearman|",
    lambda row: interval(row.get("abs_spearman_mean"), row.get("abs_spearman_ci95"), _reason(row)),
)
MEDIAN = Entry("median", _plain("spearman_median"))
DRIFT = Entry("drift", _plain("null_drift_median", 2))

BESIDE_PUBLISHED = (
    ABSOLUTE,
    Entry("published", _published, is_optional=True),
    Entry("chance level", _plain("chance_abs_spearman", 2)),
    MEDIAN,
    DRIFT,
    Entry("top eigenvalue", _plain("top_eigenvalue_median"), is_optional=True),
    Entry(
        "published top eigenvalue",
        lambda row: number(row.get("published_top_eigenvalue"), UNPUBLISHED),
        is_optional=True,
    ),
)
AGREEMENT = (
    ABSOLUTE,
    MEDIAN,
    Entry("slope", _scale("slope_median")),
    Entry("R²", _scale("r2_median")),
    Entry("signs", _scale("sign_agreement_mean", 2)),
    Entry("top-k", _plain("top_k_overlap_mean", 2)),
    Entry("top-k chance", _plain("top_k_chance", 2)),
    DRIFT,
    Entry("change", _plain("true_change_median", 2)),
)
CONTROLS = (
    Entry(
        "interval",
        lambda row: between(
            row.get("abs_spearman_low"),
            row.get("abs_spearman_high"),
            str(row.get("abs_spearman_interval_reason") or _reason(row)),
        ),
    ),
    Entry("chance p", _plain("chance_p", 2)),
    Entry(POWER, _plain("power", 2)),
    Entry("signal/drift", _plain("signal_to_drift_median", 2)),
    Entry("signal/replicates", _of_replicates("signal_to_replicates_median")),
    Entry("signal/resolution", _plain("signal_to_resolution_median", 2)),
    Entry("ceiling", _of_replicates("noise_ceiling_median")),
    Entry("over baseline", _over_baseline),
)


# --- entries of other rows --------------------------------------------------------------------


def gaps_tables(gaps: Sequence[Row]) -> list[Table]:
    """Return by which steps each prediction comes to the last truth; nothing for no steps."""
    if not gaps:
        return []
    entries = [
        text("prediction", wording.prediction_name),
        text("step", lambda row: f"{row['before']} → {row['after']}"),
        Entry("share", lambda row: share(row["share"], "prediction and last truth are equal")),
        MEDIAN,
        Entry("slope", _plain("slope_median")),
        Entry("error", _plain("error_median", 2)),
        Entry("whole gap", _plain("gap_median", 2)),
        text("what it says", lambda row: str(row.get("sentence") or "")),
    ]
    return [rows_table("The way from prediction to truth, step by step", entries, gaps)]


def paths_tables(paths: Sequence[Row]) -> list[Table]:
    """Return how predictions agree along their path of dampings; nothing without paths."""
    if not paths:
        return []
    entries = [
        PAIR,
        Entry("damping", _plain("damping")),
        ABSOLUTE,
        MEDIAN,
        Entry("slope", _plain("slope_median")),
        Entry("residual, at most", _plain("rel_residual_max", 2)),
        Entry("solved", lambda row: share(row.get("solved_share"))),
    ]
    return [rows_table("Agreement along the damping", entries, paths)]


def tests_tables(tests: Sequence[Row]) -> list[Table]:
    """Return the tests across cells, comparisons of two groups in a table of their own."""
    overall = [row for row in tests if not row["test"].startswith(PAIRWISE)]
    pairwise = [row for row in tests if row["test"].startswith(PAIRWISE)]
    captions = {
        "Do sizes or variants differ, and does curvature matter?": overall,
        "Which two groups differ: Tukey's comparisons": pairwise,
    }
    return [_tests_table(caption, rows) for caption, rows in captions.items() if rows]


def _tests_table(caption: str, tests: Sequence[Row]) -> Table:
    entries = [
        text("quantity", lambda row: str(row["quantity"])),
        text("prediction / truth", lambda row: pair_name(row) if "estimator" in row else ""),
        text("across", lambda row: str(row["across"])),
        text("within", lambda row: str(row["within"])),
        text("test", lambda row: str(row["test"])),
        Entry("statistic", _plain("statistic")),
        Entry("p", _plain("p_value", 2)),
        Entry("p, Holm", _plain("p_holm", 2), is_optional=True),
        Entry("effect", _plain("effect_size", 2), is_optional=True),
        text("scale", lambda row: str(row.get("effect_name") or "")),
        Entry("from", _plain("low", 2), is_optional=True),
        Entry("to", _plain("high", 2), is_optional=True),
    ]
    return rows_table(caption, entries, tests)

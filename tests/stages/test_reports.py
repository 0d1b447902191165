"""The report of a study: what it says of made-up rows, and whether it fits screen and paper."""

import datetime
import json
import math

import pytest

from ifcheck import provenance
from ifcheck.config import load_config
from ifcheck.report import Badge, Link, Number, render
from ifcheck.stages.fragility import Study
from ifcheck.stages.pictures import Picture
from ifcheck.stages.reports import REPORT_FILE, Drawn, study_report, write_study
from tests.browser import chromium
from tests.report.pages import parse
from tests.report.samples import SVG

MADE = datetime.datetime(2026, 11, 28, tzinfo=datetime.UTC)
VERDICTS = ("trust", "ranking only", "do not trust", "cannot tell")
PAPER = 680  # CSS pixels between the margins of A4


def cell_columns(depth, variant):
    return {
        "cell": f"iris-mlp-depth{depth}-width5-selu-{variant}",
        "dataset": "iris",
        "network": "mlp",
        "depth": depth,
        "width": 5,
        "activation": "selu",
        "variant": variant,
    }


def summary(estimator="objective", truth="warm", **others):
    """A row of `summary.csv` without its cell, with the numbers that a report shows."""
    return {
        "influence": f"influence-{estimator}.npz",
        "retrain": f"retrain-{truth}.npz",
        "estimator": estimator,
        "truth": truth,
        "retrain_params": "head",
        "baseline": False,
        "abs_spearman_mean": 0.61,
        "abs_spearman_ci95": 0.07,
        "spearman_median": 0.58,
        "slope_median": 1.2,
        "r2_median": 0.4,
        "sign_agreement_mean": 0.8,
        "top_k_overlap_mean": 0.7,
        "top_k_chance": 0.25,
        "chance_abs_spearman": 0.13,
        "null_drift_median": 0.002,
        "true_change_median": 0.01,
        "abs_spearman_low": 0.5,
        "abs_spearman_high": 0.7,
        "abs_spearman_interval_reason": "",
        "chance_p": 0.001,
        "power": 0.9,
        "signal_to_drift_median": math.inf,
        "signal_to_replicates_median": math.nan,
        "signal_to_resolution_median": 1e6,
        "noise_ceiling_median": math.nan,
        "replicates": 1,
        "best_baseline": "",
        "over_best_baseline": math.nan,
        "over_best_baseline_ci95": math.nan,
        "reason": "",
        **others,
    }


def judged(verdict, checks=()):
    return {"verdict": verdict, "verdict_reason": f"Because {verdict}.", "checks": list(checks)}


CHECKS = [
    {
        "name": "above chance",
        "outcome": "pass",
        "value": 0.001,
        "expected": "below 0.05",
        "sentence": "It ranks better than chance.",
    },
    {
        "name": "noise",
        "outcome": "unknown",
        "value": None,
        "expected": "above 0.5",
        "sentence": "Nothing was repeated.",
    },
]
GAP = {
    "influence": "influence-objective.npz",
    "before": "predicted",
    "after": "warm",
    "share": 0.4,
    "spearman_median": 0.5,
    "slope_median": 1.1,
    "error_median": 0.02,
    "gap_median": 0.05,
    "n": 3,
}
ANOVA = {
    "quantity": "|Spearman|",
    "estimator": "objective",
    "truth": "warm",
    "retrain_params": "head",
    "across": "depth",
    "within": "variant l2, width 5",
    "test": "one-way ANOVA",
    "statistic": 5.5,
    "p_value": 0.02,
    "p_holm": 0.06,
    "effect_name": "eta squared",
    "effect_size": 0.4,
    "reason": None,
}
TUKEY = {
    **ANOVA,
    "test": "Tukey HSD 1 - 3",
    "effect_name": "",
    "effect_size": None,
    "low": -0.1,
    "high": 0.2,
}


@pytest.fixture(scope="module")
def config():
    return load_config(None, {})


@pytest.fixture(scope="module")
def rows():
    """Four cells, each with two estimators and a baseline; one more that failed."""
    found = []
    for place, (depth, variant) in enumerate([(1, "none"), (1, "l2"), (3, "none"), (3, "l2")]):
        columns = cell_columns(depth, variant)
        found += [
            {**columns, **summary(), **judged(VERDICTS[place], CHECKS)},
            {**columns, **summary("paper"), **judged("do not trust")},
            {**columns, **summary("train-loss", baseline=True)},
        ]
    return [*found, {**cell_columns(5, "l2"), "reason": "failed: it diverged"}]


@pytest.fixture(scope="module")
def report(rows, config):
    gaps = [{**rows[0], **GAP, "sentence": "Forty percent."}]
    return study_report(rows, config, tests=[ANOVA, TUKEY], gaps=gaps, made=MADE)


def section(report, name):
    return next(section for section in report.sections if section.id == name)


def titles(report):
    return [section.title for section in report.sections]


def entry(table, row, title):
    """The cell of a table under a title."""
    return table.rows[row][[column.title for column in table.columns].index(title)]


# --- the order of things ----------------------------------------------------------------------


def test_verdicts_come_first_then_numbers_then_cells_then_what_made_it(report):
    assert titles(report) == [
        "Verdicts",
        "Agreement and controls",
        "Tests across cells",
        "depth 1, none",
        "depth 1, l2",
        "depth 3, none",
        "depth 3, l2",
        "depth 5, l2",
        "What the words mean",
        "What made this",
    ]
    assert report.title == "Can influence functions be trusted? iris, 5 cells"


def test_parts_that_were_not_found_are_left_out(config):
    bare = study_report([{**cell_columns(1, "l2"), **summary()}], config, made=MADE)
    assert titles(bare) == [
        "iris-mlp-depth1-width5-selu-l2",
        "What the words mean",
        "What made this",
    ]


# --- verdicts ---------------------------------------------------------------------------------


def test_every_judged_prediction_has_its_verdict_and_leads_to_its_cell(report):
    (table,) = section(report, "verdicts").tables
    assert len(table.rows) == 8
    assert table.rows[0] == (
        Link("depth 1, none", "cell-iris-mlp-depth1-width5-selu-none"),
        "objective / warm",
        Badge("trust", "good"),
        "Because trust.",
    )
    assert [row[2].tone for row in table.rows[::2]] == ["good", "warn", "bad", "unknown"]
    known = {section.id for section in report.sections}
    assert {row[0].section for row in table.rows} <= known


def test_verdicts_are_counted(report):
    assert section(report, "verdicts").badges == [
        Badge("trust: 1", "good"),
        Badge("ranking only: 1", "warn"),
        Badge("do not trust: 5", "bad"),
        Badge("cannot tell: 1", "unknown"),
    ]


def test_a_cell_tells_the_checks_of_its_verdicts(report):
    first, second = section(report, "cell-iris-mlp-depth1-width5-selu-none").findings
    assert (first.title, first.badge.text, first.sentence) == (
        "objective / warm",
        "trust",
        "Because trust.",
    )
    assert [(c.name, c.outcome, c.found.text) for c in first.checks] == [
        ("above chance", "pass", "0.001"),
        ("noise", "unknown", "–"),
    ]
    assert second.checks == []


# --- numbers ----------------------------------------------------------------------------------


def test_published_figures_stand_beside_ours_where_there_are_any(rows, config, report):
    agreement = section(report, "agreement").tables[0]
    assert "published" not in [column.title for column in agreement.columns]
    released = [{**row, "published_abs_spearman": None} for row in rows]
    released[0] |= {"published_abs_spearman": 0.224, "published_abs_spearman_ci95": 0.05}
    agreement = section(study_report(released, config), "agreement").tables[0]
    assert entry(agreement, 0, "|Spearman|").text == "0.61 ± 0.07"
    assert entry(agreement, 0, "published").text == "0.22 ± 0.05"
    assert entry(agreement, 1, "published").reason == "the authors released no figure for this cell"


def test_each_undefined_number_says_why(report):
    controls = section(report, "agreement").tables[1]
    for title, reason in {
        "signal/replicates": "no replicates: each removal was retrained once",
        "ceiling": "no replicates: each removal was retrained once",
        "over baseline": "no baseline was scored",
    }.items():
        assert entry(controls, 0, title) == Number(None, "–", reason)
    assert entry(controls, 2, "over baseline").reason == "a baseline itself"
    agreement = section(report, "cell-iris-mlp-depth1-width5-selu-none").tables[0]
    for title in ("slope", "R²", "signs"):
        assert entry(agreement, 2, title).reason == "a baseline has no scale of its own"
        assert entry(agreement, 0, title).value is not None


def test_a_refused_truth_gives_its_reason_everywhere(config):
    undefined = dict.fromkeys(("abs_spearman_mean", "slope_median", "chance_p"), math.nan)
    row = {**cell_columns(1, "l2"), **summary(**undefined, reason="refused: not convex")}
    agreement, controls = section(
        study_report([row], config), "cell-iris-mlp-depth1-width5-selu-l2"
    ).tables
    for table, title in ((agreement, "|Spearman|"), (agreement, "slope"), (controls, "chance p")):
        assert entry(table, 0, title) == Number(None, "–", "refused: not convex")


def test_a_signal_without_any_drift_is_infinite(report):
    controls = section(report, "agreement").tables[1]
    assert entry(controls, 0, "signal/drift") == Number(math.inf, "∞")


def test_tests_of_two_groups_have_a_table_of_their_own(report):
    overall, pairwise = section(report, "tests").tables
    assert entry(overall, 0, "p") == Number(0.02, "0.02")
    assert entry(overall, 0, "p, Holm") == Number(0.06, "0.06")
    assert entry(overall, 0, "effect").value == 0.4
    assert [column.title for column in overall.columns][-1] == "scale"
    assert entry(overall, 0, "scale") == "eta squared"
    assert [column.title for column in pairwise.columns][-2:] == ["from", "to"]
    assert (entry(pairwise, 0, "from").value, entry(pairwise, 0, "to").value) == (-0.1, 0.2)


def test_steps_of_the_gap_stand_in_their_cell_with_what_they_say(report, rows, config):
    table = section(report, "cell-iris-mlp-depth1-width5-selu-none").tables[1]
    assert entry(table, 0, "step") == "predicted → warm"
    assert entry(table, 0, "share") == Number(0.4, "40%")
    assert entry(table, 0, "what it says") == "Forty percent."
    assert len(section(report, "cell-iris-mlp-depth1-width5-selu-l2").tables) == 1
    silent = study_report(rows, config, gaps=[{**rows[0], **GAP}])
    table = section(silent, "cell-iris-mlp-depth1-width5-selu-none").tables[1]
    assert "what it says" not in [column.title for column in table.columns]


def test_agreement_along_dampings_stands_in_its_cell(rows, config):
    along = {"damping": 0.01, "rel_residual_max": 1e-9, "solved_share": 1.0}
    found = study_report(rows, config, paths=[{**rows[3], **along}])
    table = section(found, "cell-iris-mlp-depth1-width5-selu-l2").tables[1]
    assert entry(table, 0, "damping").value == 0.01
    assert entry(table, 0, "solved").text == "100%"


def test_every_head_of_numbers_is_explained(rows, config):
    found = study_report(
        [{**row, "published_abs_spearman": 0.2} for row in rows],
        config,
        tests=[ANOVA, TUKEY],
        gaps=[{**rows[0], **GAP}],
        paths=[{**rows[3], "damping": 0.01}],
    )
    columns = [c for part in found.sections for table in part.tables for c in table.columns]
    assert len(columns) > 80
    assert {c.title for c in columns if c.is_numeric and not c.hint} == set()


# --- cells ------------------------------------------------------------------------------------


def test_a_cell_that_failed_says_why(report):
    failed = section(report, "cell-iris-mlp-depth5-width5-selu-l2")
    assert failed.badges == [Badge("failed", "bad")]
    assert failed.paragraphs[-1] == "failed: it diverged"
    assert failed.tables == []


def test_cells_are_called_by_what_tells_them_apart(rows, config):
    same_depth = [row for row in rows if row["depth"] == 1]
    assert titles(study_report(same_depth, config))[2:4] == ["none", "l2"]
    twice = [{**row, "cell": f"cell {i}"} for i, row in enumerate(rows[:2])]
    assert titles(study_report(twice, config))[2:4] == ["cell 0", "cell 1"]


def test_one_run_needs_no_cell(config):
    rows = [summary(**judged("trust", CHECKS)), summary("paper", **judged("cannot tell"))]
    found = study_report(rows, config, title="One run", gaps=[GAP], made=MADE)
    assert found.title == "One run"
    assert titles(found)[:2] == ["Verdicts", "this run"]
    own = found.sections[1]
    assert [table.caption for table in own.tables] == [
        "Agreement of predicted and true changes",
        "Controls",
        "The way from prediction to truth, step by step",
    ]
    parse(render(found))


def test_rows_as_the_csv_file_has_them_name_their_pair():
    row = summary("paper", "warm", retrain_params="all")
    del row["influence"], row["retrain"]
    found = study_report([{**row, **judged("trust")}], load_config(None, {}))
    assert section(found, "verdicts").tables[0].rows[0][0] == "paper / warm:all"


# --- pictures and origin ----------------------------------------------------------------------


def test_pictures_stand_with_their_cell_or_with_the_study(rows, config, tmp_path):
    (tmp_path / "a.svg").write_bytes(SVG)
    given = [
        Drawn("Of all", tmp_path / "a.svg", "How to read it."),
        Drawn("Of one", tmp_path / "a.svg", "", rows[0]["cell"]),
    ]
    found = study_report(rows, config, pictures=given)
    (ours,) = section(found, "figures").pictures
    assert (ours.title, ours.caption, ours.content) == ("Of all", "How to read it.", SVG)
    (own,) = section(found, "cell-iris-mlp-depth1-width5-selu-none").pictures
    assert own.title == "Of one"


def test_the_report_says_what_made_it(report, config):
    text = json.dumps(config.to_dict(), sort_keys=True)
    for part in (
        provenance.versions()["ifcheck"],
        provenance.code_revision(),
        "2026-11-28",
        provenance.text_digest(text)[:16],
    ):
        assert part in report.made_by
    ((title, folded),) = section(report, "made-by").folded
    assert title == "configuration"
    assert "dataset: iris" in folded


def test_a_study_writes_its_report_beside_its_tables(rows, config, tmp_path):
    (tmp_path / "figures").mkdir()
    for name in ("heat-map", "figure-1-agreement"):
        (tmp_path / "figures" / f"{name}.svg").write_bytes(SVG)
    study = Study(tmp_path, [], rows, [ANOVA])
    write_study(study, config, [Picture("heat-map", "Fields."), Picture("figure-1-agreement", "")])
    page = parse((tmp_path / REPORT_FILE).read_text(encoding="utf-8"))
    assert [e.attributes["alt"] for e in page.all("img")] == [
        "Heat map. Fields.",
        "Figure 1: agreement.",
    ]
    assert "depth 3, none" in [e.text for e in page.all("a")]


def test_a_hostile_cell_stays_text(rows, config):
    name = "<script>alert(1)</script> & co"
    page = parse(render(study_report([{**row, "cell": name} for row in rows[:3]], config)))
    assert len(page.all("script")) == 1
    assert [e.text for e in page.all("h2")][1].startswith(name)


def test_equal_findings_give_equal_pages(rows, config):
    pages = [render(study_report(rows, config, made=MADE)) for _ in range(2)]
    assert pages[0] == pages[1]
    later = MADE + datetime.timedelta(days=1)
    assert render(study_report(rows, config, made=later)) != pages[0]


# --- in a browser -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def page(report, tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / REPORT_FILE
    path.write_text(render(report), encoding="utf-8")
    return path


def test_the_tables_of_a_study_fit_screen_phone_and_paper(browser, page):
    browser.console()
    for width, medium in ((1280, ""), (360, ""), (PAPER, "print")):
        browser.open(page, width)
        browser.emulate(width, media=medium)
        assert browser.script("return document.documentElement.scrollWidth") <= width, medium
        tables = browser.script(
            "return [...document.querySelectorAll('table')].map((t) => t.offsetWidth)"
        )
        assert len(tables) == 10
        if width > 360:
            assert max(tables) <= width
    assert browser.console() == []

"""Tests across cells, from hand-made rows of results, against scipy."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.multitest import multipletests

from ifcheck.stages.comparisons import COLUMNS, compare_cells

PAIR = {"estimator": "objective", "truth": "warm", "retrain_params": "head"}
SEEDS = 6


def row(width, variant, seed, spearman, top, **parts):
    return {
        "cell": f"w{width}-{variant}",
        "depth": 1,
        "width": width,
        "variant": variant,
        "seed": seed,
        "test_id": 83,
        **PAIR,
        "spearman": spearman,
        "top_eigenvalue": top,
        "status": "ok",
        **parts,
    }


@pytest.fixture
def table():
    """Two widths, three variants, six seeds: |Spearman| and eigenvalue by (width, variant)."""
    random = np.random.default_rng(1)
    values = {
        (width, variant): (random.uniform(0.2, 0.9, SEEDS), random.uniform(1, 5, SEEDS))
        for width in (5, 8)
        for variant in ("none", "swa", "l2")
    }
    rows = [
        row(width, variant, seed, (-1) ** seed * rho, top)
        for (width, variant), columns in values.items()
        for seed, (rho, top) in enumerate(zip(*columns, strict=True))
    ]
    return values, rows


@pytest.fixture
def compare(monkeypatch):
    """The comparison without Tukey's and permutations, which take long and have own tests."""
    monkeypatch.setattr("ifcheck.stages.comparisons.tukey", lambda _: [])
    monkeypatch.setattr("ifcheck.stages.comparisons.split_plot_permutation", lambda _: {})
    return compare_cells


def find(tests, **wanted):
    (found,) = [t for t in tests if all(t.get(k) == v for k, v in wanted.items())]
    return found


def test_sizes_are_compared_within_each_variant(table, compare):
    values, rows = table
    tests = compare(rows)
    for variant in ("none", "swa", "l2"):
        where = {"across": "width", "within": f"variant {variant}, depth 1"}
        samples = [values[width, variant][0] for width in (5, 8)]
        for name, run in (("one-way ANOVA", stats.f_oneway), ("Kruskal-Wallis", stats.kruskal)):
            found = find(tests, quantity="|Spearman|", test=name, **where)
            expected = run(*samples)
            assert found["statistic"] == pytest.approx(expected.statistic)
            assert found["p_value"] == pytest.approx(expected.pvalue)
            assert json.loads(found["groups"]) == {"5": SEEDS, "8": SEEDS}
            assert {k: found[k] for k in PAIR} == PAIR


def test_variants_are_compared_within_each_size_also_seed_by_seed(table, compare):
    values, rows = table
    tests = compare(rows)
    for width in (5, 8):
        where = {"across": "variant", "within": f"depth 1, width {width}"}
        samples = [values[width, variant][1] for variant in ("none", "swa", "l2")]
        for name, run in (
            ("one-way ANOVA", stats.f_oneway),
            ("Kruskal-Wallis", stats.kruskal),
            ("Friedman", stats.friedmanchisquare),
        ):
            found = find(tests, quantity="top eigenvalue", test=name, **where)
            assert found["statistic"] == pytest.approx(run(*samples).statistic)
            assert found["p_value"] == pytest.approx(run(*samples).pvalue)


def test_every_two_variants_are_compared_by_tukey(table):
    values, rows = table
    tests = compare_cells(rows)
    samples = [values[5, variant][0] for variant in ("none", "swa", "l2")]
    expected = stats.tukey_hsd(*samples)
    interval = expected.confidence_interval(0.95)
    where = {"quantity": "|Spearman|", "across": "variant", "within": "depth 1, width 5"}
    for i, j, name in ((0, 1, "none - swa"), (0, 2, "none - l2"), (1, 2, "swa - l2")):
        found = find(tests, test=f"Tukey HSD {name}", **where)
        assert found["statistic"] == pytest.approx(samples[i].mean() - samples[j].mean())
        assert found["p_value"] == pytest.approx(expected.pvalue[i, j])
        assert found["low"] == pytest.approx(interval.low[i, j])
        assert found["high"] == pytest.approx(interval.high[i, j])


def test_agreement_is_linked_to_curvature_within_each_cell(table, compare):
    values, rows = table
    tests = compare(rows)
    for (width, variant), (size, top) in values.items():
        found = find(tests, across="seeds", within=f"w{width}-{variant}")
        assert found["quantity"] == "|Spearman| with top eigenvalue"
        assert found["statistic"] == pytest.approx(stats.spearmanr(size, top).statistic)


def test_test_points_of_one_seed_count_once(table, compare):
    """Two test points are no two independent seeds: their mean is one value."""
    rows = [r for r in table[1] if r["variant"] == "none"]
    doubled = rows + [{**r, "test_id": 7, "spearman": r["spearman"] / 2} for r in rows]
    where = {"quantity": "|Spearman|", "test": "one-way ANOVA", "across": "width"}
    once, twice = (find(compare(part), **where) for part in (rows, doubled))
    assert json.loads(twice["groups"]) == {"5": SEEDS, "8": SEEDS}
    assert twice["p_value"] == pytest.approx(once["p_value"])


def test_estimators_and_truths_are_compared_apart(table, compare):
    _, rows = table
    other = [{**r, "estimator": "paper", "spearman": 0.5} for r in rows]
    tests = compare(rows + other)
    sizes = [t for t in tests if t["across"] == "width" and t["test"] == "one-way ANOVA"]
    named = {t["estimator"] for t in sizes if t["quantity"] == "|Spearman|"}
    assert named == {"objective", "paper"}
    constant = [t for t in sizes if t.get("estimator") == "paper"]
    assert all(math.isnan(t["p_value"]) and t["reason"] for t in constant)
    curvature = [t for t in sizes if t["quantity"] == "top eigenvalue"]
    assert len(curvature) == 3  # once for each variant, whatever the estimators


def test_rows_that_failed_are_left_out(table, compare):
    rows = [r for r in table[1] if r["width"] == 5]
    failed = [
        {"cell": "w9-none", "depth": 1, "width": 9, "variant": "none", "status": "failed: no"},
        row(5, "none", 99, math.nan, math.nan, status="failed: training turned non-finite"),
    ]
    assert repr(compare(rows + failed)) == repr(compare(rows))


def test_curvature_is_compared_also_where_the_truth_was_refused(table, compare):
    """Without weight decay newton has no answer, but the Hessian has its eigenvalue."""
    values, rows = table
    refused = [
        {**r, "truth": "newton", "spearman": math.nan, "status": "refused: no weight decay"}
        if r["variant"] != "l2"
        else {**r, "truth": "newton"}
        for r in rows
    ]
    found = find(
        compare(refused),
        quantity="top eigenvalue",
        test="one-way ANOVA",
        within="depth 1, width 5",
    )
    assert json.loads(found["groups"]) == dict.fromkeys(["none", "swa", "l2"], SEEDS)
    expected = stats.f_oneway(*(values[5, name][1] for name in ("none", "swa", "l2")))
    assert found["p_value"] == pytest.approx(expected.pvalue)


def two_way_frame(values):
    return pd.DataFrame(
        [
            {"width": width, "variant": variant, "seed": seed, "value": value}
            for (width, variant), columns in values.items()
            for seed, value in enumerate(columns[1])
        ]
    )


def test_sizes_and_variants_are_tested_at_once(table, compare):
    values, rows = table
    tests = compare(rows)
    fit = ols("value ~ C(width) * C(variant)", two_way_frame(values)).fit()
    expected = anova_lm(fit, typ=2)
    where = {
        "quantity": "top eigenvalue",
        "test": "two-way ANOVA",
        "within": "width sweep, depth 1",
    }
    for across, term in (
        ("width", "C(width)"),
        ("variant", "C(variant)"),
        ("variant x width", "C(width):C(variant)"),
    ):
        found = find(tests, across=across, **where)
        assert found["statistic"] == pytest.approx(expected.loc[term, "F"])
        assert (found["df"], found["df_error"]) == (expected.loc[term, "df"], 30)
        assert found["effect_name"] == "partial omega squared"
    assert json.loads(found["groups"])["5 none"] == SEEDS


def test_seeds_of_a_size_are_blocks_of_the_split_plot(table, compare):
    values, rows = table
    sums = [sum(values[width, v][1] for v in ("none", "swa", "l2")) for width in (5, 8)]
    expected = stats.f_oneway(*sums)
    found = find(compare(rows), quantity="top eigenvalue", test="split-plot ANOVA", across="width")
    assert found["statistic"] == pytest.approx(expected.statistic)
    assert found["p_value"] == pytest.approx(expected.pvalue)


def test_both_sweeps_are_tested_apart(table):
    _, rows = table
    deeper = [{**r, "depth": 3, "cell": f"d3-{r['variant']}"} for r in rows if r["width"] == 5]
    for row in deeper:
        row["top_eigenvalue"] = row["top_eigenvalue"] ** 2
    tests = compare_cells(rows + deeper)
    for test in ("two-way ANOVA", "split-plot ANOVA", "split-plot permutation"):
        found = {
            (t["across"], t["within"])
            for t in tests
            if t["test"] == test and t["quantity"] == "top eigenvalue"
        }
        assert found == {
            (across.format(size), f"{size} sweep, {other}")
            for size, other in (("depth", "width 5"), ("width", "depth 1"))
            for across in ("{}", "variant", "variant x {}")
        }


def test_a_factor_of_one_level_has_no_second_one_beside_it(table, compare):
    _, rows = table
    for part in ([r for r in rows if r["width"] == 5], [r for r in rows if r["variant"] == "l2"]):
        assert "two-way ANOVA" not in {t["test"] for t in compare(part)}


def test_p_values_are_corrected_for_the_tests_that_ask_the_same(table, compare):
    _, rows = table
    tests = compare(rows)
    family = [
        t
        for t in tests
        if (t["quantity"], t["test"], t["across"]) == ("|Spearman|", "one-way ANOVA", "width")
    ]
    assert len(family) == 3  # once for each variant
    assert {t["family"] for t in family} == {"|Spearman|, one-way ANOVA across width"}
    assert sum(t["family"] == family[0]["family"] for t in tests) == 3
    expected = multipletests([t["p_value"] for t in family], method="holm")[1]
    assert [t["p_holm"] for t in family] == pytest.approx(expected)


def test_undefined_tests_do_not_count_in_their_family(table, compare):
    _, rows = table
    constant = [{**r, "spearman": 0.5} if r["variant"] == "swa" else r for r in rows]
    family = [
        t for t in compare(constant) if t["family"] == "|Spearman|, one-way ANOVA across width"
    ]
    undefined = [t for t in family if t["reason"]]
    assert len(undefined) == 1
    assert math.isnan(undefined[0]["p_holm"])
    defined = [t for t in family if not t["reason"]]
    expected = multipletests([t["p_value"] for t in defined], method="holm")[1]
    assert [t["p_holm"] for t in defined] == pytest.approx(expected)


def test_all_of_tukeys_comparisons_are_one_family(table):
    tests = compare_cells(table[1])
    tukey = [t for t in tests if t["test"].startswith("Tukey") and t["across"] == "variant"]
    assert {t["family"] for t in tukey if t["quantity"] == "|Spearman|"} == {
        "|Spearman|, Tukey HSD across variant"
    }
    assert all(t["effect_name"] == "Hedges' g" for t in tukey)
    assert all(t["effect_size"] * t["statistic"] > 0 for t in tukey)


def test_an_undefined_seed_is_left_out_of_its_group(table, compare):
    values, rows = table
    rows[0] = {**rows[0], "spearman": math.nan}
    found = find(
        compare(rows),
        quantity="|Spearman|",
        test="one-way ANOVA",
        within="variant none, depth 1",
    )
    assert json.loads(found["groups"]) == {"5": SEEDS - 1, "8": SEEDS}
    expected = stats.f_oneway(values[5, "none"][0][1:], values[8, "none"][0])
    assert found["p_value"] == pytest.approx(expected.pvalue)


def test_two_variants_are_too_few_for_friedman(table, compare):
    _, rows = table
    tests = compare([r for r in rows if r["variant"] != "swa"])
    assert "Friedman" not in {t["test"] for t in tests}
    assert "one-way ANOVA" in {t["test"] for t in tests}


def test_one_cell_has_nothing_to_compare_but_its_seeds(table, compare):
    _, rows = table
    tests = compare([r for r in rows if r["cell"] == "w5-l2"])
    assert [t["across"] for t in tests] == ["seeds"]


def test_no_rows_give_no_tests(compare):
    assert compare([]) == []


def test_every_field_has_its_column(table):
    for test in compare_cells(table[1]):
        assert set(test) <= set(COLUMNS)


def test_an_undefined_test_says_why(table, compare):
    _, rows = table
    one = [r for r in rows if r["seed"] == 0]
    for test in compare(one):
        assert math.isnan(test["p_value"])
        assert test["reason"]

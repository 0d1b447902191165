"""Tests across cells, from hand-made rows of results, against scipy."""

import json
import math

import numpy as np
import pytest
from scipy import stats

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
    """The comparison without Tukey's, which takes a second and is tested on its own."""
    monkeypatch.setattr("ifcheck.stages.comparisons.tukey", lambda _: [])
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

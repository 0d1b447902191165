"""The damping path: values at their dampings, 0 apart, the estimator's own one ringed."""

import itertools
import math

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer

from ifcheck.errors import UnusableInput
from ifcheck.figures import damping_path
from ifcheck.figures.damping import draw_damping_path
from tests.figures.reading import caption_of, legend_of, require_legible, ticks_of, title_of

DAMPINGS = (0.0, 1e-6, 1e-4, 0.01, 1.0)


def path_rows(panels=("l2",), estimators=("objective",), truths=("warm",), **columns):
    random = np.random.default_rng(0)
    return [
        {
            "panel": panel,
            "estimator": estimator,
            "truth": truth,
            "retrain_params": "head",
            "damping": damping,
            "abs_spearman_mean": float(random.uniform(0.3, 0.9)),
            "abs_spearman_ci95": 0.05,
            "own_damping": 0.01,
            "own_abs_spearman": 0.7,
            "chance_abs_spearman": 0.128,
            **columns,
        }
        for panel, estimator, truth, damping in itertools.product(
            panels, estimators, truths, DAMPINGS
        )
    ]


def bars_of(axes):
    return [c for c in axes.containers if isinstance(c, ErrorbarContainer)]


def ring_of(axes):
    (ring,) = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
    return ring.get_xdata()[0], ring.get_ydata()[0]


def test_values_stand_at_powers_of_ten_and_zero_apart():
    rows = path_rows()
    axes = draw_damping_path(rows).axes[0]
    zero, positive = (container.lines[0] for container in bars_of(axes))
    assert zero.get_ydata().tolist() == [rows[0]["abs_spearman_mean"]]
    assert positive.get_ydata().tolist() == [row["abs_spearman_mean"] for row in rows[1:]]
    assert positive.get_xdata() == pytest.approx([-6, -4, -2, 0])
    (x,) = zero.get_xdata()
    assert x < -6.5
    places = dict(zip(ticks_of(axes), axes.get_xticks(), strict=True))
    assert places["0"] == x
    assert places["0.01"] == -2
    assert axes.get_xlim()[0] < x


def test_intervals_are_those_of_the_rows():
    rows = path_rows()
    _, positive = bars_of(draw_damping_path(rows).axes[0])
    for segment, row in zip(positive.lines[2][0].get_segments(), rows[1:], strict=True):
        middle, half = row["abs_spearman_mean"], row["abs_spearman_ci95"]
        assert segment[:, 1] == pytest.approx([middle - half, middle + half])


def test_the_estimators_own_damping_is_ringed_wherever_it_is():
    rows = path_rows()
    assert ring_of(draw_damping_path(rows).axes[0]) == pytest.approx((-2, 0.7))
    between = [{**row, "own_damping": 0.001} for row in rows]
    assert ring_of(draw_damping_path(between).axes[0])[0] == pytest.approx(-3)
    none = [{**row, "own_damping": 0.0} for row in rows]
    axes = draw_damping_path(none).axes[0]
    assert ring_of(axes)[0] == axes.get_xticks()[0]
    unknown = draw_damping_path([{**row, "own_damping": None} for row in rows])
    assert "own damping" not in " ".join(legend_of(unknown))


def test_each_estimator_has_a_line_of_its_own_look():
    axes = draw_damping_path(path_rows(estimators=("paper", "objective", "authors"))).axes[0]
    lines = [container.lines[0] for container in bars_of(axes)]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 3
    places = {round(float(line.get_xdata()[-1]), 6) for line in lines}
    assert len(places) == 6  # side by side, so that intervals do not hide each other


def test_each_truth_has_a_column_and_each_cell_a_row():
    rows = path_rows(("none", "l2"), truths=("newton", "warm"))
    for row in rows:
        if (row["panel"], row["truth"]) == ("none", "newton"):
            row["abs_spearman_mean"] = math.nan
    figure = draw_damping_path(rows)
    spots = {
        title_of(axes): (
            axes.get_subplotspec().rowspan.start,
            axes.get_subplotspec().colspan.start,
            axes.get_ylabel(),
        )
        for axes in figure.axes
    }
    assert spots == {
        "none truth warm": (0, 1, "|Spearman|"),
        "l2 truth newton": (1, 0, "|Spearman|"),
        "l2 truth warm": (1, 1, ""),
    }
    assert "5 of 20 dampings have no value" in caption_of(figure)


def test_truths_that_move_other_parameters_are_named():
    figure = draw_damping_path(path_rows(retrain_params="all", panels=("",)))
    assert title_of(figure.axes[0]) == "truth warm (all)"


def test_no_interval_is_claimed_where_there_is_none():
    assert "bars are 95% intervals" in caption_of(draw_damping_path(path_rows()))
    without = draw_damping_path(path_rows(abs_spearman_ci95=None))
    assert "interval" not in caption_of(without)


def test_a_path_of_one_damping_is_drawn():
    assert len(draw_damping_path(path_rows()[:1]).axes) == 1


def test_nothing_to_draw_is_refused(tmp_path):
    rows = path_rows(abs_spearman_mean=None)
    with pytest.raises(UnusableInput, match="none of the 5 dampings has an agreement") as caught:
        damping_path(tmp_path / "damping.png", rows)
    assert "influence.damping=path" in caught.value.remedy
    with pytest.raises(UnusableInput, match="does not name its pair"):
        damping_path(tmp_path / "damping.png", [{"damping": 0.1}])
    assert list(tmp_path.iterdir()) == []


def test_both_files_and_the_remark(tmp_path):
    caption = damping_path(tmp_path / "damping.png", path_rows(), "A remark.")
    assert caption.endswith(". A remark.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damping.png", "damping.svg"]


@pytest.mark.parametrize(
    ("panels", "truths"),
    [(("l2",), ("warm",)), (("a", "b", "c", "d"), ("pbrf", "newton", "warm", "scratch"))],
)
def test_texts_are_legible(panels, truths):
    rows = path_rows(panels, ("objective", "paper", "authors"), truths)
    require_legible(draw_damping_path(rows))

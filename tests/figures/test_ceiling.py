"""Noise ceilings: bars, intervals, ceilings and corrected values as the rows have them."""

import itertools
import math

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.container import BarContainer, ErrorbarContainer

from ifcheck.errors import UnusableInput
from ifcheck.figures import noise_ceiling
from ifcheck.figures.ceiling import draw_ceilings
from tests.figures.reading import caption_of, legend_of, require_legible, ticks_of, title_of


def ceiling_rows(panels=("l2",), estimators=("objective",), truths=("warm", "scratch"), **columns):
    random = np.random.default_rng(0)
    rows = []
    for panel, estimator, truth in itertools.product(panels, estimators, truths):
        value = float(random.uniform(0.3, 0.9))
        rows.append(
            {
                "panel": panel,
                "estimator": estimator,
                "truth": truth,
                "retrain_params": "all" if truth == "scratch" else "head",
                "abs_spearman_mean": value,
                "abs_spearman_low": value - 0.1,
                "abs_spearman_high": value + 0.05,
                "noise_ceiling_median": 0.8 if truth == "scratch" else None,
                "abs_spearman_corrected_mean": value / 0.8 if truth == "scratch" else None,
                "chance_abs_spearman": 0.128,
                **columns,
            }
        )
    return rows


def test_bars_and_their_intervals():
    rows = ceiling_rows()
    axes = draw_ceilings(rows).axes[0]
    (bars,) = [c for c in axes.containers if isinstance(c, BarContainer)]
    assert [bar.get_height() for bar in bars] == [row["abs_spearman_mean"] for row in rows]
    assert ticks_of(axes) == ["warm", "scratch (all)"]
    (intervals,) = [c for c in axes.containers if isinstance(c, ErrorbarContainer)]
    for segment, row in zip(intervals.lines[2][0].get_segments(), rows, strict=True):
        ends = [row["abs_spearman_low"], row["abs_spearman_high"]]
        assert segment[:, 1] == pytest.approx(ends)


def marks(figure):
    axes = figure.axes[0]
    thick = [c for c in axes.collections if isinstance(c, LineCollection)]
    drawn = [segment for c in thick for segment in c.get_segments() if len(segment)]
    levels = [segment[0, 1] for segment in drawn if segment[0, 1] == segment[1, 1]]
    diamonds = [line for line in axes.lines if line.get_marker() == "D"]
    return levels, [y for line in diamonds for y in line.get_ydata()]


def test_the_ceiling_and_what_is_corrected_stand_where_they_exist():
    rows = ceiling_rows()
    figure = draw_ceilings(rows)
    levels, corrected = marks(figure)
    assert levels == [0.8]
    wanted = rows[1]["abs_spearman_corrected_mean"]
    assert [value for value in corrected if math.isfinite(value)] == [wanted]
    assert legend_of(figure) == [
        "objective",
        "noise ceiling",
        "corrected for noise",
        "expected by chance",
    ]
    assert "no prediction can be expected above a thick line" in caption_of(figure)


def test_without_replicates_no_ceiling_is_claimed():
    figure = draw_ceilings(ceiling_rows(truths=("warm",)))
    assert legend_of(figure) == ["objective", "expected by chance"]
    assert "none of them has a noise ceiling" in caption_of(figure)
    assert "thick line" not in caption_of(figure)


def test_a_corrected_value_above_one_is_seen():
    figure = draw_ceilings(ceiling_rows(abs_spearman_corrected_mean=1.3))
    assert figure.axes[0].get_ylim()[1] > 1.3


def test_a_bar_without_an_interval_has_none():
    rows = ceiling_rows(abs_spearman_low=None, abs_spearman_high=None)
    axes = draw_ceilings(rows).axes[0]
    (intervals,) = [c for c in axes.containers if isinstance(c, ErrorbarContainer)]
    assert not any(len(segment) for segment in intervals.lines[2][0].get_segments())


def test_estimators_stand_side_by_side_in_their_own_look():
    rows = ceiling_rows(estimators=("objective", "paper", "authors"))
    bars = [c[0] for c in draw_ceilings(rows).axes[0].containers if isinstance(c, BarContainer)]
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in bars}) == 3
    for one, other in itertools.pairwise(bars):
        assert one.get_x() + one.get_width() <= other.get_x()


def test_missing_bars_are_counted():
    rows = ceiling_rows(("none", "l2"))
    rows[0]["abs_spearman_mean"] = None
    figure = draw_ceilings(rows)
    assert [title_of(axes) for axes in figure.axes] == ["none", "l2"]
    assert ticks_of(figure.axes[0]) == ["scratch (all)"]
    assert "1 of 4 bars have no value" in caption_of(figure)


def test_nothing_to_draw_is_refused(tmp_path):
    with pytest.raises(UnusableInput, match="none of the 2 bars has a value") as caught:
        noise_ceiling(tmp_path / "ceiling.png", ceiling_rows(abs_spearman_mean=None))
    assert caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_both_files_and_the_remark(tmp_path):
    caption = noise_ceiling(tmp_path / "ceiling.png", ceiling_rows(), "A remark.")
    assert caption.endswith(". A remark.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ceiling.png", "ceiling.svg"]


@pytest.mark.parametrize("panels", [("l2",), tuple("abcdef")])
def test_texts_are_legible(panels):
    rows = ceiling_rows(
        panels, ("objective", "paper", "authors"), ("pbrf", "newton", "warm", "scratch")
    )
    require_legible(draw_ceilings(rows))

"""The gap waterfall: bars pile up to the whole, a step back goes down, each says its share."""

import math

import pytest
from matplotlib.container import BarContainer

from ifcheck.errors import UnusableInput
from ifcheck.figures import gap_waterfall
from ifcheck.figures.waterfall import draw_waterfall
from tests.figures.reading import caption_of, legend_of, require_legible, ticks_of, title_of

CHAIN = ("predicted", "pbrf", "newton", "warm", "scratch")


def gap_rows(*shares, panel="l2: paper", **columns):
    return [
        {
            "panel": panel,
            "before": before,
            "after": after,
            "share": share,
            "spearman_median": 0.93,
            "gap_median": 0.0343,
            **columns,
        }
        for before, after, share in zip(CHAIN, CHAIN[1:], shares, strict=False)
    ]


def bars(axes):
    """(bottom, top, colour) of each bar."""
    boxes = [bar for c in axes.containers if isinstance(c, BarContainer) for bar in c]
    ends = [sorted([bar.get_y(), bar.get_y() + bar.get_height()]) for bar in boxes]
    return [(*end, bar.get_facecolor()) for end, bar in zip(ends, boxes, strict=True)]


def test_shares_pile_up_to_the_whole():
    axes = draw_waterfall(gap_rows(0.2, 0.5, 0.3)).axes[0]
    found = bars(axes)
    assert [low for low, _, _ in found] == pytest.approx([0, 0.2, 0.7, 0])
    assert [high for _, high, _ in found] == pytest.approx([0.2, 0.7, 1.0, 1.0])
    assert ticks_of(axes) == [
        "predicted\nto pbrf",
        "pbrf\nto newton",
        "newton\nto warm",
        "whole\ngap",
    ]


def test_a_step_back_goes_down_and_looks_different():
    figure = draw_waterfall(gap_rows(0.8, -0.3, 0.5))
    up, down, _, _ = bars(figure.axes[0])
    assert down[:2] == pytest.approx((0.5, 0.8))
    assert down[2] != up[2]
    boxes = [bar for c in figure.axes[0].containers for bar in c]
    assert boxes[1].get_hatch()
    assert not boxes[0].get_hatch()
    assert "takes back from it" in legend_of(figure)
    assert "takes back from it" not in legend_of(draw_waterfall(gap_rows(0.4, 0.6)))


def test_bars_say_their_share_and_their_rank_correlation():
    rows = gap_rows(0.2, 0.8)
    rows[1]["spearman_median"] = math.nan
    axes = draw_waterfall(rows).axes[0]
    assert [text.get_text() for text in axes.texts] == ["20%\nrho 0.93", "80%\nrho undefined"]
    assert title_of(axes) == "l2: paper whole gap 0.034 nats"


def test_labels_of_bars_under_zero_are_below_them():
    axes = draw_waterfall(gap_rows(-0.4, 0.2, 1.2)).axes[0]
    first, second, third = axes.texts
    assert first.xy[1] == pytest.approx(-0.4)
    assert second.xy[1] == pytest.approx(-0.4)
    assert third.xy[1] == pytest.approx(1.0)
    assert [text.get_va() for text in (first, second, third)] == ["top", "top", "bottom"]
    assert axes.get_ylim()[0] < -0.4


def test_the_caption_explains_the_truths_that_are_there():
    caption = caption_of(draw_waterfall(gap_rows(0.5, 0.5)))
    assert "pbrf: the loss is not its quadratic model" in caption
    assert "another basin" not in caption


def test_a_prediction_without_shares_is_left_out_and_counted():
    rows = [*gap_rows(math.nan, math.nan, panel="none: paper"), *gap_rows(0.5, 0.5)]
    figure = draw_waterfall(rows)
    assert [title_of(axes) for axes in figure.axes] == ["l2: paper whole gap 0.034 nats"]
    assert "1 of 2 have no shares" in caption_of(figure)


def test_nothing_to_draw_is_refused(tmp_path):
    with pytest.raises(UnusableInput, match="none of the 1 predictions has a gap") as caught:
        gap_waterfall(tmp_path / "gap.png", gap_rows(math.nan))
    assert "--truth" in caught.value.remedy
    with pytest.raises(UnusableInput, match="does not name its step"):
        gap_waterfall(tmp_path / "gap.png", [{"share": 1.0}])
    assert list(tmp_path.iterdir()) == []


def test_both_files_and_the_remark(tmp_path):
    caption = gap_waterfall(tmp_path / "gap.png", gap_rows(0.5, 0.5), "A remark.")
    assert caption.endswith(". A remark.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gap.png", "gap.svg"]


@pytest.mark.parametrize("count", [1, 6])
def test_texts_are_legible(count):
    chains = [(0.3, -0.2, 0.4, 0.5), (-0.3, 0.2, 0.9, 0.2), (1.4, -0.2, -0.3, 0.1)]
    rows = [row for i in range(count) for row in gap_rows(*chains[i % 3], panel=f"cell {i}: paper")]
    require_legible(draw_waterfall(rows))

"""The scatter: circles where the changes are, both lines where they belong, nothing invented."""

import math

import numpy as np
import pytest

from ifcheck.errors import UnusableInput
from ifcheck.figures import ScatterPanel, scatter
from ifcheck.figures.scatter import draw_scatter
from tests.figures.reading import caption_of, legend_of, lines_of, require_legible, title_of

PREDICTED, TRUE = np.array([-1.0, 0.0, 2.0]), np.array([-3.0, 0.5, 6.0])


def panel(predicted=PREDICTED, true=TRUE, spearman=0.5, slope=3.0, intercept=0.25):
    return ScatterPanel("l2: paper against warm", predicted, true, spearman, slope, intercept)


def panels(count):
    random = np.random.default_rng(0)
    scales = 10.0 ** random.integers(-6, 3, size=(count, 2))
    return [
        panel(a * random.normal(size=40), b * random.normal(size=40), slope=b / a)
        for a, b in scales
    ]


def test_circles_stand_at_predicted_and_true():
    axes = draw_scatter([panel()]).axes[0]
    (circles,) = lines_of(axes, "one removal")
    assert circles.get_xdata().tolist() == PREDICTED.tolist()
    assert circles.get_ydata().tolist() == TRUE.tolist()
    assert axes.get_xlabel() == "predicted change (nats)"
    assert axes.get_ylabel() == "true change (nats)"
    assert title_of(axes) == "l2: paper against warm Spearman 0.50, slope 3"


def test_the_fitted_line_goes_from_the_smallest_to_the_largest_prediction():
    axes = draw_scatter([panel()]).axes[0]
    (fitted,) = lines_of(axes, "least-squares line")
    assert fitted.get_xdata().tolist() == [-1.0, 2.0]
    assert fitted.get_ydata().tolist() == [0.25 - 3.0, 0.25 + 6.0]


def test_the_identity_goes_through_equal_changes():
    axes = draw_scatter([panel()]).axes[0]
    (identity,) = lines_of(axes, "identity: predicted = true")
    at = axes.transData.inverted().transform(
        identity.get_transform().transform(identity.get_path().vertices)
    )
    assert at[:, 0] == pytest.approx(at[:, 1])
    assert at[0, 0] != at[1, 0]
    (fitted,) = lines_of(axes, "least-squares line")
    assert identity.get_linestyle() != fitted.get_linestyle()  # told apart without colour


def test_all_circles_are_within_the_axes():
    for axes, shown in zip(draw_scatter(panels(5)).axes, panels(5), strict=True):
        (low, high), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        assert low < shown.predicted.min() <= shown.predicted.max() < high
        assert bottom < shown.true.min() <= shown.true.max() < top


def test_equal_changes_have_no_line_but_a_place():
    constant = panel(np.zeros(3), np.full(3, 0.5), math.nan, math.nan, math.nan)
    axes = draw_scatter([constant]).axes[0]
    assert lines_of(axes, "least-squares line") == []
    assert title_of(axes).endswith("Spearman undefined, slope undefined")
    assert axes.get_ylim()[0] < 0.5 < axes.get_ylim()[1]


def test_what_has_no_change_is_left_out_and_counted():
    nothing = panel(true=np.full(3, np.nan))
    gap = panel(true=np.array([-3.0, np.nan, 6.0]))
    figure = draw_scatter([nothing, gap])
    (axes,) = figure.axes
    assert lines_of(axes, "one removal")[0].get_xdata().tolist() == [-1.0, 2.0]
    assert "1 of 3 removals lack a change" in caption_of(figure)
    assert "1 of 2 pairs have no true change" in caption_of(figure)
    assert "lack" not in caption_of(draw_scatter([panel()]))


def test_nothing_to_draw_is_refused(tmp_path):
    with pytest.raises(UnusableInput, match="none of the 1 panels has anything to draw") as caught:
        scatter(tmp_path / "scatter.png", [panel(true=np.full(3, np.nan))])
    assert caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_unequal_arrays_are_refused():
    with pytest.raises(UnusableInput, match=r"predicted has shape \(3,\), true \(2,\)"):
        panel(true=np.zeros(2))


def test_both_files_and_the_remark(tmp_path):
    caption = scatter(tmp_path / "scatter.png", [panel()], "Two others are not shown.")
    assert caption.startswith("How to read: a circle is one removal")
    assert caption.endswith(". Two others are not shown.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scatter.png", "scatter.svg"]


@pytest.mark.parametrize("count", [1, 4, 12])
def test_texts_are_legible(count):
    figure = draw_scatter(panels(count))
    require_legible(figure)
    assert legend_of(figure) == [
        "one removal",
        "identity: predicted = true",
        "least-squares line",
    ]

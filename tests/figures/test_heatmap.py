"""The heat map: each cell in its place, with its number, its colour and its verdict."""

import itertools
import math

import matplotlib
import numpy as np
import pytest

from ifcheck.errors import UnusableInput
from ifcheck.figures import heat_map
from ifcheck.figures.heatmap import MARKS, draw_heat_map
from tests.figures.reading import caption_of, require_legible, ticks_of, title_of

SIZES = [(1, 5), (3, 5), (1, 50)]


def heat_rows(sizes=SIZES, variants=("none", "l2"), pairs=(("objective", "warm"),), **columns):
    random = np.random.default_rng(0)
    return [
        {
            "dataset": "iris",
            "network": "mlp",
            "depth": depth,
            "width": width,
            "variant": variant,
            "estimator": estimator,
            "truth": truth,
            "retrain_params": "head",
            "abs_spearman_mean": float(random.uniform(0, 1)),
            **columns,
        }
        for (depth, width), variant, (estimator, truth) in itertools.product(sizes, variants, pairs)
    ]


def panels_of(figure):
    return [axes for axes in figure.axes if title_of(axes)]  # the others are the colours


def texts_at(axes):
    return {text.get_position(): text.get_text() for text in axes.texts}


def test_colours_and_numbers_are_in_the_place_of_their_cell():
    rows = heat_rows()
    (axes,) = panels_of(draw_heat_map(rows))
    shown = np.asarray(axes.images[0].get_array())
    assert shown.shape == (2, 3)
    assert ticks_of(axes) == ["1 × 5", "3 × 5", "1 × 50"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["none", "l2"]
    for row in rows:
        place = SIZES.index((row["depth"], row["width"])), ["none", "l2"].index(row["variant"])
        assert shown[place[1], place[0]] == row["abs_spearman_mean"]
        assert texts_at(axes)[place] == f"{row['abs_spearman_mean']:.2f}"


def test_colours_go_from_zero_to_one_whatever_the_values():
    (axes,) = panels_of(draw_heat_map(heat_rows(abs_spearman_mean=0.4)))
    assert axes.images[0].get_clim() == (0, 1)


def test_each_pair_has_a_panel():
    rows = heat_rows(pairs=(("objective", "warm"), ("paper", "newton")))
    titles = [title_of(axes) for axes in panels_of(draw_heat_map(rows))]
    assert titles == ["estimator objective, truth warm", "estimator paper, truth newton"]


def test_verdicts_are_marked_and_the_marks_explained():
    rows = heat_rows(variants=("none",))
    for row, verdict in zip(rows, ("trust", "do not trust", ""), strict=True):
        row["verdict"] = verdict
    figure = draw_heat_map(rows)
    told = [text.get_text().split() for text in panels_of(figure)[0].texts]
    assert [parts[1:] for parts in told] == [["T"], ["N"], []]
    assert "(T = trust, N = do not trust)" in caption_of(figure)
    assert "verdict" not in caption_of(draw_heat_map(heat_rows()))
    assert len(set(MARKS.values())) == 4


def test_an_undefined_cell_is_told_from_a_low_one():
    rows = heat_rows()
    rows[0]["abs_spearman_mean"] = None
    figure = draw_heat_map(rows)
    (axes,) = panels_of(figure)
    assert texts_at(axes)[0, 0] == "–"
    assert math.isnan(np.ma.filled(axes.images[0].get_array(), np.nan)[0, 0])
    assert "1 of 6 cells have no value" in caption_of(figure)


@pytest.mark.parametrize("value", np.linspace(0, 1, 21).tolist())
def test_numbers_are_readable_on_every_colour(value):
    (axes,) = panels_of(draw_heat_map(heat_rows(abs_spearman_mean=value)))
    below = np.array(axes.images[0].to_rgba(np.array([[value]]), norm=True))[0, 0, :3]
    # WCAG 2: the ratio of relative luminances, 4.5 at least for small text.
    linear = np.where(below <= 0.04045, below / 12.92, ((below + 0.055) / 1.055) ** 2.4)
    background = linear @ (0.2126, 0.7152, 0.0722)
    text = {"white": 1.0, "black": 0.0}[axes.texts[0].get_color()]
    light, dark = max(background, text), min(background, text)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_colours_rise_in_lightness():
    shades = matplotlib.colormaps[
        panels_of(draw_heat_map(heat_rows()))[0].images[0].get_cmap().name
    ](np.linspace(0, 1, 50))[:, :3]
    assert (np.diff(shades @ (0.2126, 0.7152, 0.0722)) > 0).all()


def test_networks_without_sizes_have_their_name_in_the_row():
    rows = heat_rows([(None, None)], ("l2",), network="lenet") + heat_rows([(1, 128)], ("l2",))
    (axes,) = panels_of(draw_heat_map(rows))
    assert [text.get_text() for text in axes.get_yticklabels()] == ["lenet l2", "mlp l2"]
    assert ticks_of(axes) == ["", "1 × 128"]


def test_unusable_rows_are_refused(tmp_path):
    with pytest.raises(UnusableInput, match="none of the 6 cells has a value") as caught:
        heat_map(tmp_path / "heat.png", heat_rows(abs_spearman_mean=None))
    assert caught.value.remedy
    with pytest.raises(UnusableInput, match="does not name its variant"):
        heat_map(tmp_path / "heat.png", [{"estimator": "paper", "truth": "warm"}])
    assert list(tmp_path.iterdir()) == []


def test_both_files(tmp_path):
    caption = heat_map(tmp_path / "heat.png", heat_rows())
    assert caption.startswith("How to read: the brighter a cell")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["heat.png", "heat.svg"]


@pytest.mark.parametrize(
    ("sizes", "pairs"),
    [
        ([(1, 5)], [("objective", "warm")]),
        ([(1, 5), (3, 5)], list(itertools.product(["objective", "paper"], ["warm", "newton"]))),
        (
            [(d, 5) for d in range(1, 9)] + [(1, w) for w in (8, 14, 20, 30, 40, 50)],
            [("objective", "warm"), ("paper", "newton")],
        ),
    ],
    ids=["one size", "few sizes", "iris"],
)
def test_texts_are_legible(sizes, pairs):
    variants = ("none", "swa", "l2", "l2-swa", "bnn")
    require_legible(draw_heat_map(heat_rows(sizes, variants, pairs, verdict="ranking only")))

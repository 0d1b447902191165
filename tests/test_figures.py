"""The pictures: what is drawn equals what is given, nothing overlaps, files appear whole."""

import itertools
import math
import re
import struct
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer

from ifcheck.errors import OutputRefused, RunFailed, UnusableInput
from ifcheck.figures import (
    RankPanel,
    TrajectoryPanel,
    figure_1,
    figure_2,
    figure_3,
    figure_4,
    figure_5,
)
from ifcheck.figures.bars import draw_bars
from ifcheck.figures.canvas import BAND, DPI, GREY, LOOKS, looks
from ifcheck.figures.removals import draw_ranks, draw_trajectories
from ifcheck.figures.sweeps import draw_agreement, draw_eigenvalues
from tests.figures.reading import caption_of, legend_of, require_legible, ticks_of, title_of

FIVE = ["none", "swa", "l2", "l2-swa", "bnn"]
SIX = list(itertools.product(["objective", "paper", "authors"], ["warm", "newton"]))
ONE_SIZE = [(1, 5)]
IRIS_SIZES = [(depth, 5) for depth in range(1, 9)] + [(1, w) for w in (8, 14, 20, 30, 40, 50)]
CHANCE = 0.128
EDGE = 1e-3  # an edge is found among 2001 points of a panel's height
PNG = b"\x89PNG\r\n\x1a\n"


def study(sizes, variants, pairs=(("objective", "newton"),), **columns):
    """Rows of a study with values that differ between all cells and pairs."""
    random = np.random.default_rng(0)
    rows = []
    for (depth, width), variant in itertools.product(sizes, variants):
        eigenvalue = float(random.uniform(1, 30))
        for estimator, truth in pairs:
            rows.append(
                {
                    "dataset": "iris",
                    "network": "mlp",
                    "depth": depth,
                    "width": width,
                    "variant": variant,
                    "estimator": estimator,
                    "truth": truth,
                    "retrain_params": "head",
                    "abs_spearman_mean": float(random.uniform(0.1, 0.9)),
                    "abs_spearman_ci95": float(random.uniform(0.01, 0.1)),
                    "published_abs_spearman": float(random.uniform(0.2, 0.8)),
                    "published_abs_spearman_ci95": 0.05,
                    "chance_abs_spearman": CHANCE,
                    "top_eigenvalue_mean": eigenvalue,
                    "top_eigenvalue_ci95": eigenvalue / 5,
                    "published_top_eigenvalue": None,
                    "seeds": 50,
                    "failed": 0,
                    **columns,
                }
            )
    return rows


def rank_panels(count, removals=40):
    random = np.random.default_rng(1)
    return [
        RankPanel(f"cell {i}", random.normal(size=removals), random.normal(size=removals), 0.85)
        for i in range(count)
    ]


def trajectory_panels(count):
    random = np.random.default_rng(2)
    epochs = np.arange(0, 7501, 25)
    return [
        TrajectoryPanel(f"cell {i}", epochs, 1 + random.normal(size=(6, len(epochs))), 1.0)
        for i in range(count)
    ]


def drawn(axes, label):
    """x, y and the half-width of each bar of an errorbar container, shape (sizes,) each."""
    container = next(
        c for c in axes.containers if isinstance(c, ErrorbarContainer) and c.get_label() == label
    )
    line, _, bars = container.lines
    ends = [path.vertices[:, 1] for path in bars[0].get_paths()]
    return line.get_xdata(), line.get_ydata(), np.array([(high - low) / 2 for low, high in ends])


def bands_of(axes):
    """The grey bands of published values."""
    shades = [c for c in axes.collections if isinstance(c, PolyCollection)]
    return [shade for shade in shades if to_hex(shade.get_facecolor()[0]) == BAND.lower()]


def edges_of(band, at):
    """The lower and upper edge of a band at a place."""
    (path,) = [p for p in band.get_paths() if p.get_extents().x0 < at < p.get_extents().x1]
    low, high = path.get_extents().y0, path.get_extents().y1
    inside = [y for y in np.linspace(low, high, 2001)[1:-1] if path.contains_point((at, y))]
    return min(inside), max(inside)


def labels(axes):
    return [container.get_label() for container in axes.containers]


def picture_size(path):
    """Width and height of a PNG file in pixels, from its header."""
    head = path.read_bytes()[:24]
    assert head.startswith(PNG)
    return struct.unpack(">II", head[16:24])


# --- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "content"),
    [
        (figure_1, study(ONE_SIZE, FIVE[:4], SIX[-2:])),
        (figure_2, study(ONE_SIZE, FIVE[:4], SIX[-2:])),
        (figure_3, study(ONE_SIZE, FIVE[:4], SIX[-2:])),
        (figure_4, rank_panels(2)),
        (figure_5, trajectory_panels(2)),
    ],
)
def test_a_png_and_an_svg_are_written_and_nothing_else(tmp_path, write, content):
    path = tmp_path / "new" / "figure.png"
    caption = write(path, content)
    assert caption.startswith("How to read: ")
    assert picture_size(path)[0] == 10 * DPI
    files = sorted(path.parent.iterdir())
    assert [file.name for file in files] == ["figure.png", "figure.svg"]
    before = [file.read_bytes() for file in files]
    write(path, content)
    assert [file.read_bytes() for file in files] == before  # the same input gives the same bytes


def test_an_svg_holds_its_texts_as_texts_and_no_date(tmp_path):
    caption = figure_1(tmp_path / "figure.png", study(ONE_SIZE, FIVE[:4], SIX[-2:]))
    root = ElementTree.parse(tmp_path / "figure.svg").getroot()
    texts = list(root.iter("{http://www.w3.org/2000/svg}text"))
    told = " ".join("".join(text.itertext()) for text in texts)
    assert " ".join(caption.split()) in told
    assert "estimator authors, truth warm" in told
    assert all("sans-serif" in text.get("style") for text in texts)
    assert not [node for node in root.iter() if node.tag.endswith("}date")]


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    figure_4(path, rank_panels(1))
    files = sorted(tmp_path.iterdir())
    before = [file.read_bytes() for file in files]

    def full_disk(self, target, **options):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full_disk)
    with pytest.raises(RunFailed, match="No space left on device"):
        figure_4(path, rank_panels(2))
    assert sorted(tmp_path.iterdir()) == files
    assert [file.read_bytes() for file in files] == before


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputRefused, match="cannot write"):
        figure_4(tmp_path / "taken" / "figure.png", rank_panels(1))


def test_pyplot_stays_out(tmp_path):
    program = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from ifcheck.figures import RankPanel, figure_4\n"
        "figure_4(Path(sys.argv[1]), [RankPanel('a', np.ones(3), np.ones(3), 1.0)])\n"
        "print(sorted({'matplotlib.pyplot'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "figure.png")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("write", [figure_1, figure_2, figure_3, figure_4, figure_5])
def test_empty_input_is_refused_and_writes_nothing(tmp_path, write):
    with pytest.raises(UnusableInput, match="draw") as caught:
        write(tmp_path / "figure.png", [])
    assert caught.value.remedy
    assert list(tmp_path.iterdir()) == []


# --- layout ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "figure",
    [
        lambda: draw_agreement(study(ONE_SIZE, FIVE[:4], SIX)),
        lambda: draw_agreement(study(IRIS_SIZES, [*FIVE, "sam"], SIX)),
        lambda: draw_eigenvalues(study(IRIS_SIZES, FIVE)),
        lambda: draw_eigenvalues(study(IRIS_SIZES, FIVE, published_top_eigenvalue=-1e-6)),
        lambda: draw_bars(study([(1, w) for w in (8, 16, 32, 64, 128)], FIVE, SIX)),
        lambda: draw_bars(study(ONE_SIZE, ["l2"], SIX[:1])),
        lambda: draw_ranks(rank_panels(8)),
        lambda: draw_trajectories(trajectory_panels(5)),
    ],
    ids=["one size", "iris", "log", "symlog", "bars", "one bar", "ranks", "trajectories"],
)
def test_texts_are_legible_and_do_not_overlap(figure):
    require_legible(figure())


def test_variants_differ_in_colour_marker_and_line():
    many = looks([*FIVE, *"abcdefghij"])
    known = [many[name] for name in FIVE]
    assert list(many)[:5] == FIVE
    for field in ("color", "marker", "line", "hatch"):
        assert len({str(getattr(look, field)) for look in known}) == 5
    assert len({str(look) for look in many.values()}) == 15
    assert looks(["bnn", "none"]) == {"none": LOOKS["none"], "bnn": LOOKS["bnn"]}


# --- figure 1 --------------------------------------------------------------------------------


def test_agreement_equals_the_rows():
    rows = study(IRIS_SIZES, FIVE, SIX[:2])
    figure = draw_agreement(rows)
    assert [title_of(axes) for axes in figure.axes] == [
        "estimator objective, truth warm: width 5 constant",
        "estimator objective, truth warm: depth 1 constant",
        "estimator objective, truth newton: width 5 constant",
        "estimator objective, truth newton: depth 1 constant",
    ]
    for axes, truth in zip(figure.axes, ["warm", "warm", "newton", "newton"], strict=True):
        by_depth = "width 5" in title_of(axes)
        assert axes.get_xlabel() == ("depth" if by_depth else "width")
        held, value = ("width", 5) if by_depth else ("depth", 1)
        on_axes = [r for r in rows if r["truth"] == truth and r[held] == value]
        for variant in FIVE:
            mine = [r for r in on_axes if r["variant"] == variant]
            x, y, halves = drawn(axes, variant)
            assert [ticks_of(axes)[round(i)] for i in x] == [
                str(r["depth" if by_depth else "width"]) for r in mine
            ]
            np.testing.assert_allclose(y, [r["abs_spearman_mean"] for r in mine])
            np.testing.assert_allclose(halves, [r["abs_spearman_ci95"] for r in mine])
        assert axes.get_ylim() == (0, 1)


def test_variants_stand_side_by_side():
    axes = draw_agreement(study(IRIS_SIZES, FIVE)).axes[0]
    positions = np.sort(np.concatenate([drawn(axes, variant)[0] for variant in FIVE]))
    assert np.diff(positions).min() > 0.1
    assert (np.abs(positions - np.round(positions)) < 0.5).all()


def test_undefined_points_are_left_out_and_counted():
    rows = study([(1, 5), (2, 5), (3, 5)], ["none", "l2"])
    rows[2] |= {"abs_spearman_mean": None, "abs_spearman_ci95": None}  # depth 2, none
    rows[5] |= {"abs_spearman_mean": math.nan, "abs_spearman_ci95": math.nan}  # depth 3, l2
    rows[1] |= {"abs_spearman_ci95": None}  # a single seed: a mean without an interval
    figure = draw_agreement(rows)
    _, y, halves = drawn(figure.axes[0], "none")
    np.testing.assert_array_equal(np.isnan(y), [False, True, False])
    assert y[2] == rows[4]["abs_spearman_mean"]
    _, y, halves = drawn(figure.axes[0], "l2")
    np.testing.assert_array_equal(np.isnan(y), [False, False, True])
    np.testing.assert_array_equal(np.isnan(halves), [True, False, True])
    assert "2 of 6 cells have no value" in caption_of(figure)


def test_a_complete_study_counts_nothing_missing():
    caption = caption_of(draw_agreement(study(IRIS_SIZES, ["l2"])))
    assert "no value" not in caption
    assert "other sizes" not in caption
    assert "95% intervals over 50 seeds" in caption


def test_sizes_of_neither_sweep_are_counted():
    rows = study([(1, 5), (2, 5), (3, 5), (1, 8), (2, 8)], ["l2"])
    figure = draw_agreement(rows)
    assert [ticks_of(axes) for axes in figure.axes] == [["1", "2", "3"], ["5", "8"]]
    assert "1 of 5 cells are of other sizes" in caption_of(figure)


def test_chance_is_a_dashed_line_and_in_the_legend():
    figure = draw_agreement(study(ONE_SIZE, FIVE, SIX[:1]))
    levels = [line for line in figure.axes[0].lines if list(line.get_xdata()) == [0, 1]]
    assert [line.get_ydata()[0] for line in levels] == [CHANCE]
    assert levels[0].get_linestyle() == "--"
    assert "expected by chance" in legend_of(figure)
    without = draw_agreement(study(ONE_SIZE, FIVE, chance_abs_spearman=None))
    assert "chance" not in " ".join([*legend_of(without), caption_of(without)])


def test_published_values_are_shown_with_the_estimator_they_are_of():
    rows = study([(1, 5), (2, 5)], ["none", "l2"], [("objective", "warm"), ("authors", "warm")])
    figure = draw_agreement(rows)
    plain, authors = figure.axes
    assert bands_of(plain) == []
    assert len(bands_of(authors)) == 2
    for band, variant in zip(bands_of(authors), ["none", "l2"], strict=True):
        mine = [r for r in rows if r["estimator"] == "authors" and r["variant"] == variant]
        for row, at in zip(mine, drawn(authors, variant)[0], strict=True):
            low, high = edges_of(band, at)
            assert low == pytest.approx(row["published_abs_spearman"] - 0.05, abs=EDGE)
            assert high == pytest.approx(row["published_abs_spearman"] + 0.05, abs=EDGE)
    assert legend_of(figure) == ["none", "l2", "published", "expected by chance"]
    assert "published values are means with 95% intervals" in caption_of(figure)


def test_a_published_line_is_in_its_variants_style_and_passes_over_sizes_without_one():
    rows = study([(1, 5), (2, 5), (3, 5)], ["l2"], [("authors", "warm")])
    rows[1]["published_abs_spearman"] = None
    axes = draw_agreement(rows).axes[0]
    (line,) = [line for line in axes.lines if line.get_color() == GREY]
    assert line.get_linestyle() == LOOKS["l2"].line
    at = drawn(axes, "l2")[0]
    ends = [rows[0]["published_abs_spearman"], rows[2]["published_abs_spearman"]]
    assert np.interp(at, line.get_xdata(), line.get_ydata()).tolist() == pytest.approx(
        [ends[0], np.mean(ends), ends[1]]
    )


def test_a_single_size_has_a_band_as_wide_as_its_variants_room():
    axes = draw_agreement(study(ONE_SIZE, FIVE, [("authors", "warm")])).axes[0]
    extents = sorted((b.get_paths()[0].get_extents() for b in bands_of(axes)), key=lambda e: e.x0)
    assert len(extents) == 5
    for one, other in itertools.pairwise(extents):
        assert one.width > 0.1
        assert one.x1 == pytest.approx(other.x0)


def test_no_published_value_no_legend_entry():
    rows = study(ONE_SIZE, ["l2"], SIX, published_abs_spearman=None)
    assert "published" not in legend_of(draw_agreement(rows))


def test_one_size_fills_a_grid_of_single_panels():
    figure = draw_agreement(study(ONE_SIZE, FIVE[:4], SIX))
    assert [title_of(axes) for axes in figure.axes] == [f"estimator {e}, truth {t}" for e, t in SIX]
    assert all(ticks_of(axes) == ["depth 1, width 5"] for axes in figure.axes)
    assert figure.axes[0].get_subplotspec().get_gridspec().get_geometry() == (2, 3)
    assert figure.legends[0].get_title().get_text() == "iris, mlp"


def test_a_study_of_one_cell(tmp_path):
    rows = study(ONE_SIZE, ["l2"], abs_spearman_ci95=None, seeds=1)
    figure = draw_agreement(rows)
    assert drawn(figure.axes[0], "l2")[1].tolist() == [rows[0]["abs_spearman_mean"]]
    assert "no value has an interval" in caption_of(figure)
    figure_1(tmp_path / "1.png", rows)
    figure_3(tmp_path / "3.png", rows)


@pytest.mark.parametrize(
    ("sizes", "ticks"),
    [
        ([(1, 5), (2, 5), (4, 5)], ["1", "2", "4"]),
        ([(1, 8), (1, 32), (1, 128)], ["8", "32", "128"]),
    ],
)
def test_one_sweep_has_one_panel(sizes, ticks):
    figure = draw_agreement(study(sizes, ["l2"]))
    assert [ticks_of(axes) for axes in figure.axes] == [ticks]


def test_sizes_without_anything_in_common_are_spelled_out():
    figure = draw_agreement(study([(1, 5), (2, 8)], ["l2"]))
    assert ticks_of(figure.axes[0]) == ["1 × 5", "2 × 8"]
    assert figure.axes[0].get_xlabel() == "depth × width"


def test_what_differs_between_panels_is_named():
    rows = study(ONE_SIZE, ["l2"]) + study([(1, 8)], ["l2"], network="fc", retrain_params="all")
    titles = [title_of(axes) for axes in draw_agreement(rows).axes]
    assert titles == [
        "network mlp, retrain params head, estimator objective, truth newton",
        "network fc, retrain params all, estimator objective, truth newton",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"abs_spearman_mean": None}, "none of the 1 cells has a value of 'abs_spearman_mean'"),
        ({"depth": None}, "does not name its cell"),
        ({"abs_spearman_mean": "high"}, "'abs_spearman_mean' is 'high'; expected a number"),
    ],
)
def test_unusable_rows_are_refused(change, message):
    with pytest.raises(UnusableInput, match=re.escape(message)) as caught:
        draw_agreement(study(ONE_SIZE, ["l2"], **change))
    assert caught.value.remedy


def test_a_row_without_its_estimator_is_refused():
    rows = [{k: v for k, v in row.items() if k != "truth"} for row in study(ONE_SIZE, ["l2"])]
    with pytest.raises(UnusableInput, match="KeyError\\('truth'\\)"):
        draw_agreement(rows)


def test_rows_that_contradict_each_other_are_refused():
    rows = study(ONE_SIZE, ["l2"], abs_spearman_mean=0.5)
    rows += study(ONE_SIZE, ["l2"], abs_spearman_mean=0.6)
    with pytest.raises(UnusableInput, match=r"0\.5 and 0\.6 in two rows of one cell"):
        draw_agreement(rows)


# --- figure 3 --------------------------------------------------------------------------------


def test_eigenvalues_are_drawn_once_for_each_cell():
    rows = study(IRIS_SIZES, ["l2", "bnn"], SIX)
    rows[0] |= {"top_eigenvalue_mean": None}  # the other rows of its cell still have the value
    figure = draw_eigenvalues(rows)
    assert [title_of(axes) for axes in figure.axes] == ["width 5 constant", "depth 1 constant"]
    assert all(labels(axes) == ["l2", "bnn"] for axes in figure.axes)
    mine = {r["depth"]: r for r in rows if r["width"] == 5 and r["variant"] == "l2"}
    _, y, halves = drawn(figure.axes[0], "l2")
    np.testing.assert_allclose(y, [r["top_eigenvalue_mean"] for r in mine.values()])
    np.testing.assert_allclose(halves, [r["top_eigenvalue_ci95"] for r in mine.values()])
    assert {axes.get_yscale() for axes in figure.axes} == {"log"}
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert "no value" not in caption_of(figure)


@pytest.mark.parametrize(
    "values", [(-31.9, 20.0, 1e-6), (0.0, 3.0, 5.0), (0.0, 1e-9, 1e-12), (0.0, 0.0, 0.0)]
)
def test_eigenvalues_that_are_not_positive_get_a_symmetric_axis(values):
    rows = study([(1, 5), (2, 5), (3, 5)], ["l2"], top_eigenvalue_ci95=None)
    for row, value in zip(rows, values, strict=True):
        row["top_eigenvalue_mean"] = value
    axes = draw_eigenvalues(rows).axes[0]
    assert axes.get_yscale() == "symlog"
    low, high = axes.get_ylim()
    assert low < min(values) <= max(values) < high
    ends = axes.transAxes.inverted().transform(axes.transData.transform([(0, 0), (0, max(values))]))
    assert ends[1, 1] - ends[0, 1] > 0.3 or not any(values)  # the values fill the axis
    assert len(axes.get_yticks()) < 20


def test_an_interval_that_reaches_below_zero_stays_on_the_log_axis(tmp_path):
    rows = study([(1, 5), (2, 5)], ["l2"], top_eigenvalue_ci95=100.0)
    axes = draw_eigenvalues(rows).axes[0]
    values = [row["top_eigenvalue_mean"] for row in rows]
    assert axes.get_yscale() == "log"
    assert axes.get_ylim() == pytest.approx((min(values) / 2, (max(values) + 100) * 2))
    figure_3(tmp_path / "3.png", rows)


def test_published_eigenvalues_are_lines_and_named_medians():
    rows = study(ONE_SIZE, ["l2"], published_top_eigenvalue=1.5)
    figure = draw_eigenvalues(rows)
    (line,) = [line for line in figure.axes[0].lines if line.get_color() == GREY]
    assert set(line.get_ydata()) == {1.5}
    assert "published values are medians" in caption_of(figure)
    assert "published" in legend_of(figure)


# --- figure 4 --------------------------------------------------------------------------------


def test_changes_stand_by_falling_prediction():
    predicted, true = np.array([0.1, -3.0, 2.0, -0.5]), np.array([1.0, 2.0, 3.0, 4.0])
    axes = draw_ranks([RankPanel("cell", predicted, true, -0.254)]).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["predicted"].get_xdata().tolist() == [1, 2, 3, 4]
    assert lines["predicted"].get_ydata().tolist() == [-3.0, 2.0, -0.5, 0.1]
    assert lines["true (drift-corrected)"].get_ydata().tolist() == [2.0, 3.0, 4.0, 1.0]
    assert len({line.get_marker() for line in lines.values()}) == len(lines)
    assert title_of(axes) == "cell Spearman -0.25"


def test_removals_without_both_changes_are_left_out_and_counted():
    predicted, true = np.array([1.0, np.nan, 3.0, 4.0]), np.array([1.0, 2.0, np.inf, 4.0])
    figure = draw_ranks([RankPanel("cell", predicted, true, math.nan), *rank_panels(1, 4)])
    first = figure.axes[0].lines[0]
    assert first.get_ydata().tolist() == [4.0, 1.0]
    assert "2 of 8 removals without both changes left out" in caption_of(figure)
    assert title_of(figure.axes[0]) == "cell Spearman undefined"


@pytest.mark.parametrize(("count", "grid"), [(1, (1, 1)), (3, (1, 3)), (4, (2, 2)), (8, (3, 3))])
def test_panels_fill_at_most_three_columns(count, grid):
    for figure in (draw_ranks(rank_panels(count)), draw_trajectories(trajectory_panels(count))):
        assert len(figure.axes) == count
        assert figure.axes[0].get_subplotspec().get_gridspec().get_geometry() == grid


def test_panels_without_any_value_are_refused():
    nothing = np.full(3, np.nan)
    with pytest.raises(UnusableInput, match="no panel has anything to draw"):
        draw_ranks([RankPanel("cell", nothing, nothing, math.nan)])
    with pytest.raises(UnusableInput, match="no panel has anything to draw"):
        draw_trajectories([TrajectoryPanel("cell", np.arange(3), nothing[None], 1.0)])


def test_panels_whose_arrays_do_not_fit_are_refused():
    with pytest.raises(UnusableInput, match=r"predicted has shape \(3,\), true \(2,\)"):
        RankPanel("cell", np.ones(3), np.ones(2), 1.0)
    with pytest.raises(UnusableInput, match=r"epochs has shape \(3,\), losses \(3, 2\)"):
        TrajectoryPanel("cell", np.ones(3), np.ones((3, 2)), 1.0)


# --- figure 5 --------------------------------------------------------------------------------


def test_trajectories_count_from_before_the_removal():
    epochs = np.array([0, 100, 7500])
    losses = np.array([[1.0, 1.5, 2.0], [1.0, 0.5, np.inf]])
    figure = draw_trajectories([TrajectoryPanel("cell", epochs, losses, 1.0)])
    axes = figure.axes[0]
    up, down = axes.lines[:2]
    assert up.get_xdata().tolist() == [0, 100, 7500]
    assert up.get_ydata().tolist() == [0.0, 0.5, 1.0]
    np.testing.assert_array_equal(down.get_ydata(), [0.0, -0.5, np.nan])
    assert up.get_alpha() < 1
    assert "1 of 2 lines are not finite throughout" in caption_of(figure)


def test_the_first_quarter_of_retraining_takes_half_of_the_axis():
    axes = draw_trajectories(trajectory_panels(1)).axes[0]
    ends = axes.transData.transform([(0, 0), (7500 / 4, 0), (7500, 0)])[:, 0]
    assert (ends[1] - ends[0]) / (ends[2] - ends[0]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("last", "ticks"),
    [(7500, [0, 500, 2000, 4000, 7000]), (2000, [0, 100, 500, 1000, 2000]), (1, [0, 1])],
)
def test_epochs_are_marked_at_round_numbers(last, ticks):
    epochs = np.array([0, last])
    panel = TrajectoryPanel("cell", epochs, np.array([[1.0, 2.0]]), 1.0)
    assert draw_trajectories([panel]).axes[0].get_xticks().tolist() == ticks


# --- figure 2 ------------------------------------------------------------------------------------


def networks_of_images(**columns):
    pairs = [("objective", "warm"), ("authors", "warm")]
    rows = study([(1, 128)], ["l2", "bnn"], pairs, network="fc")
    rows += study([(None, None)], ["l2"], pairs, network="lenet")
    return [{**row, **columns} for row in rows]


def test_bars_are_as_high_as_the_rows_say():
    rows = networks_of_images()
    figure = draw_bars(rows)
    assert [axes.get_title().replace("\n", " ") for axes in figure.axes] == [
        "estimator objective, truth warm",
        "estimator authors, truth warm",
    ]
    for axes, estimator in zip(figure.axes, ["objective", "authors"], strict=True):
        assert [t.get_text() for t in axes.get_xticklabels()] == ["fc\n1 × 128", "lenet"]
        own = [row for row in rows if row["estimator"] == estimator]
        for variant, container in zip(["l2", "bnn"], bars_of(axes), strict=True):
            mine = [row for row in own if row["variant"] == variant]
            heights = [bar.get_height() for bar in container]
            assert heights == [row["abs_spearman_mean"] for row in mine]
            places = [round(bar.get_x() + bar.get_width() / 2) for bar in container]
            assert places == [0, 1][: len(mine)]


def bars_of(axes):
    return [c for c in axes.containers if isinstance(c, BarContainer)]


def test_intervals_of_bars_are_those_of_the_rows():
    rows = networks_of_images()
    axes = draw_bars(rows).axes[0]
    intervals = next(c for c in axes.containers if isinstance(c, ErrorbarContainer))
    low, high = intervals[2][0].get_segments()[0][:, 1]
    assert low == pytest.approx(rows[0]["abs_spearman_mean"] - rows[0]["abs_spearman_ci95"])
    assert high == pytest.approx(rows[0]["abs_spearman_mean"] + rows[0]["abs_spearman_ci95"])


def test_published_bands_over_bars_are_of_the_authors_estimator_alone():
    rows = networks_of_images()
    figure = draw_bars(rows)
    plain, authors = figure.axes
    assert bands_of(plain) == []
    own = [row for row in rows if row["estimator"] == "authors"]
    for variant, container, band in zip(
        ["l2", "bnn"], bars_of(authors), bands_of(authors), strict=True
    ):
        mine = [row for row in own if row["variant"] == variant]
        assert len(band.get_paths()) == len(mine)  # not joined from network to network
        for bar, row in zip(container, mine, strict=True):
            low, high = edges_of(band, bar.get_x() + bar.get_width() / 2)
            assert low == pytest.approx(row["published_abs_spearman"] - 0.05, abs=EDGE)
            assert high == pytest.approx(row["published_abs_spearman"] + 0.05, abs=EDGE)
    assert legend_of(figure) == ["l2", "bnn", "expected by chance", "published"]
    assert "a grey band is the published mean" in caption_of(figure)
    without = networks_of_images(published_abs_spearman=None)
    assert "published" not in " ".join(
        [*legend_of(draw_bars(without)), caption_of(draw_bars(without))]
    )


def test_bars_without_any_value_are_refused():
    with pytest.raises(UnusableInput, match="none of the 6 bars has a value"):
        draw_bars(networks_of_images(abs_spearman_mean=math.nan))
    with pytest.raises(UnusableInput, match="does not name its bar"):
        draw_bars([{"network": "fc"}])


def test_missing_bars_are_counted():
    rows = networks_of_images()
    rows[0]["abs_spearman_mean"] = None
    assert "1 of 6 have no value" in draw_bars(rows).get_supxlabel().replace("\n", " ")

"""The spectral density: lines as given, marks at the eigenvalues, zero where it is."""

import numpy as np
import pytest

from ifcheck.errors import UnusableInput
from ifcheck.figures import SpectrumPanel, spectral_density
from ifcheck.figures.spectrum import MOST_OTHERS, draw_spectra
from tests.figures.reading import caption_of, legend_of, lines_of, require_legible, title_of

GRID = np.linspace(-1.0, 9.0, 200)


def density(*centres):
    return np.mean([np.exp(-0.5 * ((GRID - c) / 0.1) ** 2) for c in centres], axis=0)


def panel(title="l2", networks=1, error=0.1):
    curves = np.array([density(0.0, 8.0 - place) for place in range(networks)])
    return SpectrumPanel(title, GRID, curves, error * curves, np.array([8.0, -0.5]))


def test_the_first_network_stands_out_and_the_others_are_behind():
    figure = draw_spectra([panel(networks=3)])
    (axes,) = figure.axes
    (first,) = lines_of(axes, "first seed")
    others = lines_of(axes, "other seeds")
    assert len(others) == 2
    np.testing.assert_array_equal(first.get_xdata(), GRID)
    np.testing.assert_array_equal(first.get_ydata(), panel(networks=3).density[0])
    np.testing.assert_array_equal(others[1].get_ydata(), panel(networks=3).density[2])
    assert first.get_zorder() > others[0].get_zorder()
    assert axes.get_yscale() == "log"
    assert axes.get_xscale() == "linear"
    assert "networks of other seeds" in caption_of(figure)
    assert "other" not in " ".join(legend_of(draw_spectra([panel()])))


def test_of_many_networks_the_first_are_shown():
    figure = draw_spectra([panel(networks=30)])
    assert len(lines_of(figure.axes[0], "other seeds")) == MOST_OTHERS
    assert f"other seeds, the first {MOST_OTHERS} of them" in caption_of(figure)
    assert "of them" not in caption_of(draw_spectra([panel(networks=1 + MOST_OTHERS)]))


def test_eigenvalues_and_zero_are_marked():
    axes = draw_spectra([panel()]).axes[0]
    (top,) = lines_of(axes, "largest eigenvalues (first seed)")
    assert top.get_xdata().tolist() == [8.0, -0.5]
    (zero,) = lines_of(axes, "zero")
    assert list(zero.get_xdata()) == [0, 0]
    low, high = axes.get_ylim()
    assert (low < top.get_ydata()).all()
    assert (top.get_ydata() < high).all()


def test_the_band_is_a_standard_error_wide():
    (band,) = draw_spectra([panel(error=0.2)]).axes[0].collections
    extent = band.get_paths()[0].get_extents()
    assert extent.y1 == pytest.approx(1.2 * panel().density[0].max())


def test_a_single_probe_has_no_band():
    figure = draw_spectra([panel(error=np.nan)])
    assert "standard error" not in " ".join([caption_of(figure), *legend_of(figure)])


def test_a_panel_without_a_density_is_left_out():
    nothing = SpectrumPanel("none", GRID, np.full((1, 200), np.nan), np.zeros((1, 200)), np.ones(1))
    figure = draw_spectra([nothing, panel()])
    assert [title_of(axes) for axes in figure.axes] == ["l2"]
    assert "1 of 2 cells have no density" in caption_of(figure)


def test_nothing_to_draw_is_refused(tmp_path):
    with pytest.raises(UnusableInput, match="none of the 0 panels") as caught:
        spectral_density(tmp_path / "density.png", [])
    assert "eigen.density=true" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(UnusableInput, match=r"grid has shape \(200,\), density \(1, 3\)"):
        SpectrumPanel("l2", GRID, np.zeros((1, 3)), np.zeros((1, 3)), np.ones(1))


def test_both_files_and_the_remark(tmp_path):
    caption = spectral_density(tmp_path / "density.png", [panel()], "A remark.")
    assert caption.endswith(". A remark.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["density.png", "density.svg"]


@pytest.mark.parametrize("count", [1, 6])
def test_texts_are_legible(count):
    require_legible(draw_spectra([panel(f"cell {i}", 3) for i in range(count)]))

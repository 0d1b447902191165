"""The pictures of a study or a run, as PNG and SVG files; `matplotlib.pyplot` is never imported.

Figures 1 to 5 follow those of Epifano et al., "Revisiting the fragility of influence functions".
Each function writes both files and returns the sentence on how to read the picture.
"""

from ifcheck.figures.bars import figure_2
from ifcheck.figures.ceiling import noise_ceiling
from ifcheck.figures.damping import damping_path
from ifcheck.figures.heatmap import heat_map
from ifcheck.figures.removals import RankPanel, TrajectoryPanel, figure_4, figure_5
from ifcheck.figures.scatter import ScatterPanel, scatter
from ifcheck.figures.spectrum import SpectrumPanel, spectral_density
from ifcheck.figures.sweeps import figure_1, figure_3
from ifcheck.figures.waterfall import gap_waterfall

__all__ = [
    "RankPanel",
    "ScatterPanel",
    "SpectrumPanel",
    "TrajectoryPanel",
    "damping_path",
    "figure_1",
    "figure_2",
    "figure_3",
    "figure_4",
    "figure_5",
    "gap_waterfall",
    "heat_map",
    "noise_ceiling",
    "scatter",
    "spectral_density",
]

"""The pictures of a study, written as PNG files; `matplotlib.pyplot` is never imported.

Numbers follow the figures of Epifano et al., "Revisiting the fragility of influence functions".
"""

from ifcheck.figures.bars import figure_2
from ifcheck.figures.removals import RankPanel, TrajectoryPanel, figure_4, figure_5
from ifcheck.figures.sweeps import figure_1, figure_3

__all__ = [
    "RankPanel",
    "TrajectoryPanel",
    "figure_1",
    "figure_2",
    "figure_3",
    "figure_4",
    "figure_5",
]

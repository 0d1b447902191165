"""The engine says that it is being compiled: where it is, and once for each type."""

import logging
from typing import NamedTuple

import numpy as np
import pytest

pytest.importorskip("numba")
from numba import njit

from ifcheck.engines.compiled import notice


class Models(NamedTuple):
    """As the engine's, as far as the notice looks."""

    parameters: np.ndarray


class Plain(NamedTuple):
    """A kind of network."""

    size: int


class Bayesian(NamedTuple):
    """Another."""

    size: int


def test_each_compilation_is_told_once_with_its_type(monkeypatch, caplog):
    engine = njit(lambda network, rows, models: models.parameters.size)
    other = njit(lambda x: x + 1)
    monkeypatch.setattr(notice, "advance", engine)
    monkeypatch.setattr(notice, "Models", Models)
    monkeypatch.setattr(notice, "BayesianPerceptron", Bayesian)
    with caplog.at_level(logging.INFO, logger="ifcheck"):
        for _ in range(2):
            other(1)
            engine(Plain(0), 0, Models(np.zeros((2, 3), np.float32)))
        assert [r.getMessage() for r in caplog.records] == [
            "compiling the numba engine for plain networks, float32: some 15 seconds, once."
        ]
        engine(Bayesian(0), 0, Models(np.zeros((2, 3))))
    assert "for Bayesian networks, float64" in caplog.records[1].getMessage()
    assert len(caplog.records) == 2

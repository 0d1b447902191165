"""Tells that the engine is being compiled, which takes a while and happens once."""

from __future__ import annotations

import logging
from typing import Any

from numba.core import event

from ifcheck.engines.compiled.bayesian import BayesianPerceptron
from ifcheck.engines.compiled.descent import Models, advance

LOGGER = logging.getLogger(__name__)


class _Compilation(event.Listener):  # type: ignore[misc]  # numba has no types
    """Hears of everything that numba compiles, but not of what it finds in its cache."""

    def on_start(self, event: Any) -> None:
        if event.data["dispatcher"] is advance:
            (models,) = (a for a in event.data["args"] if _is_models(a))
            dtype = models.types[Models._fields.index("parameters")].dtype
            kind = "Bayesian" if _class_of(event.data["args"][0]) is BayesianPerceptron else "plain"
            LOGGER.info(
                "compiling the numba engine for %s networks, %s: some 15 seconds, once.",
                kind,
                dtype,
            )

    def on_end(self, event: Any) -> None:
        """The work that follows says enough."""


def _is_models(argument: Any) -> bool:
    return _class_of(argument) is Models


def _class_of(argument: Any) -> type | None:
    """Return the class of an argument that numba takes for a NamedTuple."""
    found: type | None = getattr(argument, "instance_class", None)
    return found


def announce_compilation() -> None:
    """Log a line before the engine is compiled for a type, from now on."""
    event.register("numba:compile", _Compilation())

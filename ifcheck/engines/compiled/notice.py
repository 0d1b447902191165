"""Tells that the engine is being compiled, which takes a while and happens once."""

from __future__ import annotations

import logging
from typing import Any

from numba.core import event

from ifcheck.engines.compiled.descent import Models, advance

LOGGER = logging.getLogger(__name__)


class _Compilation(event.Listener):  # type: ignore[misc]  # numba has no types
    """Hears of everything that numba compiles, but not of what it finds in its cache."""

    def on_start(self, event: Any) -> None:
        if event.data["dispatcher"] is advance:
            (models,) = (a for a in event.data["args"] if _is_models(a))
            dtype = models.types[Models._fields.index("parameters")].dtype
            LOGGER.info("compiling the numba engine for %s: some 15 seconds, once.", dtype)

    def on_end(self, event: Any) -> None:
        """The work that follows says enough."""


def _is_models(argument: Any) -> bool:
    return getattr(argument, "instance_class", None) is Models


def announce_compilation() -> None:
    """Log a line before the engine is compiled for a type, from now on."""
    event.register("numba:compile", _Compilation())

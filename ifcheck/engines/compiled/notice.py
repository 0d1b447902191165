"""Tells that the engine is being compiled, which takes a while and happens once."""

from __future__ import annotations

import logging
from typing import Any

from numba.core import event

from ifcheck.engines.compiled.descent import advance

LOGGER = logging.getLogger(__name__)


class _Compilation(event.Listener):  # type: ignore[misc]  # numba has no types
    """Hears of everything that numba compiles, but not of what it finds in its cache."""

    def on_start(self, event: Any) -> None:
        if event.data["dispatcher"] is advance:
            dtype = event.data["args"][2].types[0].dtype  # of the models' parameters
            LOGGER.info("compiling the numba engine for %s: some 15 seconds, once.", dtype)

    def on_end(self, event: Any) -> None:
        """The work that follows says enough."""


def announce_compilation() -> None:
    """Log a line before the engine is compiled for a type, from now on."""
    event.register("numba:compile", _Compilation())

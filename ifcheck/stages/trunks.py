"""The start that several trainings have in common, done once: `none` and `swa`, say.

Variants that differ in weight averaging alone train alike until averaging starts, which is three
quarters of the way.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from ifcheck.engines import Engine, Fit, Progress, Recipe, Task
from ifcheck.stages.setup import Setup


class Trunks:
    """How long planned trainings go the same way, and where the last such way ended."""

    def __init__(self, planned: Iterable[Setup] = ()) -> None:
        """`planned` are the trainings to come, those that start alike one after the other."""
        recipes = defaultdict(list)
        for setup in planned:
            recipes[_key(setup)].append(setup.recipe)
        self._epochs = {key: _shared_epochs(alike) for key, alike in recipes.items()}
        self._last: tuple[str, Fit] | None = None

    def fit(self, setup: Setup, engine: Engine, task: Task, progress: Progress) -> Fit:
        """Train as `engine.fit` does, bit for bit, from where a training alike has been."""
        key, recipe = _key(setup), setup.recipe
        epochs = self._epochs.get(key, 0)
        if epochs == 0:
            return engine.fit(task, recipe, progress)
        if self._last is not None and self._last[0] == key:
            trunk = self._last[1]
            progress(task.models * epochs)
        else:
            trunk = engine.fit(task, replace(recipe, epochs=epochs, averaging=None), progress)
            self._last = (key, trunk)
        return engine.fit(task, recipe, progress, after=trunk)


def _key(setup: Setup) -> str:
    """Return text that is the same for trainings that start alike."""
    recipe = replace(setup.recipe, averaging=None)
    config = setup.config
    return repr((config.data, setup.spec, config.train, config.run, setup.objective, recipe))


def _shared_epochs(recipes: list[Recipe]) -> int:
    """Return the epochs before the first of several trainings starts averaging; else 0."""
    starts = [r.averaging.start for r in recipes if r.averaging is not None]
    if len(recipes) < 2 or not starts:
        return 0
    return min(recipes[0].epochs, math.floor(min(starts)) + 1)

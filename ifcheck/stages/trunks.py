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
    """How long planned trainings go the same way, and where those ways ended."""

    def __init__(self, planned: Iterable[Setup] = ()) -> None:
        """`planned` are the trainings to come, in any order."""
        recipes = defaultdict(list)
        for setup in planned:
            recipes[_key(setup)].append(setup.recipe)
        self._epochs = {key: _shared_epochs(alike) for key, alike in recipes.items()}
        self._users = {key: len(alike) for key, alike in recipes.items()}
        self._ends: dict[str, Fit] = {}  # kept until the last planned training has gone on

    @property
    def spared_epochs(self) -> int:
        """How many epochs of the planned trainings need no training of their own."""
        return sum(epochs * (self._users[key] - 1) for key, epochs in self._epochs.items())

    def fit(self, setup: Setup, engine: Engine, task: Task, progress: Progress) -> Fit:
        """Train as `engine.fit` does, bit for bit, from where a training alike has been."""
        key, recipe = _key(setup), setup.recipe
        epochs = self._epochs.get(key, 0)
        if epochs == 0:
            return engine.fit(task, recipe, progress)
        if key in self._ends:
            progress(task.models * epochs)
        else:
            start = replace(recipe, epochs=epochs, averaging=None)
            self._ends[key] = engine.fit(task, start, progress)
        end = self._ends[key]
        self._users[key] -= 1
        if self._users[key] <= 0:
            del self._ends[key]
        return engine.fit(task, recipe, progress, after=end)


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
    return max(0, min(recipes[0].epochs, math.floor(min(starts)) + 1))

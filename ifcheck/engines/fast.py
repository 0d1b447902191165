"""The numba engine, where numba is installed: the fastest for small networks on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import ClassVar

from torch import nn

from ifcheck.engines.base import ENGINES, Fit, Progress, Recipe, Task, silent
from ifcheck.engines.structure import is_structured
from ifcheck.objective import Objective


@ENGINES.register("numba")
@dataclass(frozen=True)
class NumbaEngine:
    """Compiled by numba, `pip install 'ifcheck[fast]'`: MLPs and heads, also Bayesian, on CPUs.

    In full batches, by Adam as it is and without early stop.
    """

    rank: ClassVar[int] = 0

    def supports(self, network: nn.Module, objective: Objective, recipe: Recipe) -> bool:
        plain = recipe.batch_size is None and recipe.early_stop is None and not recipe.amsgrad
        known = plain and is_structured(network, objective)
        on_cpu = all(parameter.device.type == "cpu" for parameter in network.parameters())
        return known and on_cpu and _numba_works()

    def fit(
        self,
        task: Task,
        recipe: Recipe,
        progress: Progress = silent,
        after: Fit | None = None,
    ) -> Fit:
        # Numba takes a second to import, and other engines do without it.
        from ifcheck.engines.compiled import Descent

        return Descent(task, recipe, after).run(progress)


def _numba_works() -> bool:
    """Return whether numba is there and can be imported beside the other packages."""
    if find_spec("numba") is None:
        return False
    try:
        from ifcheck.engines import compiled  # noqa: F401
    except ImportError:  # numba refuses, say, a numpy that is newer than it knows
        return False
    return True

"""The numba engine, where numba is installed: the fastest for small networks on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import ClassVar

from torch import nn

from ifcheck.engines.base import ENGINES, Fit, Progress, Recipe, Task, silent
from ifcheck.models import MLP
from ifcheck.objective import Objective


@ENGINES.register("numba")
@dataclass(frozen=True)
class NumbaEngine:
    """Compiled by numba (extra `fast`): MLPs and linear heads on the CPU, the fastest engine."""

    rank: ClassVar[int] = 0

    def supports(self, network: nn.Module, objective: Objective) -> bool:
        known = type(network) in (MLP, nn.Linear) and type(objective) is Objective
        on_cpu = all(parameter.device.type == "cpu" for parameter in network.parameters())
        return known and on_cpu and find_spec("numba") is not None

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

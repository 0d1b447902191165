"""What all stages have in common: the threads they run on, and how they fail."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

import torch

from ifcheck.config import Config
from ifcheck.engines.threads import torch_threads
from ifcheck.errors import Diverged, RunFailed

P = ParamSpec("P")
T = TypeVar("T")


def stage(
    function: Callable[Concatenate[Config, P], T],
) -> Callable[Concatenate[Config, P], T]:
    """Run a stage on the configured threads, and let what torch raises fail with a remedy.

    Running out of memory becomes RunFailed, a matrix that cannot be decomposed Diverged; other
    errors of torch's are faults of the code and pass through.
    """

    @functools.wraps(function)
    def run(config: Config, /, *arguments: P.args, **options: P.kwargs) -> T:
        try:
            with torch_threads(config.run.threads or torch.get_num_threads()):
                return function(config, *arguments, **options)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise Diverged(
                f"a matrix could not be decomposed: {_first_line(error)}",
                remedy="The network may have diverged: train with a smaller learning rate.",
            ) from error
        except (MemoryError, RuntimeError) as error:
            if not _is_shortage(error):
                raise
            raise RunFailed(
                f"out of memory: {_first_line(error)}",
                remedy="Use fewer seeds, removals or rows; --dry-run tells what is needed.",
            ) from error

    return run


def _is_shortage(error: Exception) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return "can't allocate memory" in str(error)  # torch's allocator on the CPU


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)

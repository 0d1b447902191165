"""Training many independent models at once; importing this package registers the engines."""

from ifcheck.engines.base import (
    ENGINES,
    Averaging,
    Engine,
    Fit,
    Progress,
    Recipe,
    State,
    Task,
    select_engine,
    silent,
)
from ifcheck.engines.batched import Assessment, assess
from ifcheck.engines.fast import NumbaEngine
from ifcheck.engines.pool import run_each

__all__ = [
    "ENGINES",
    "Assessment",
    "Averaging",
    "Engine",
    "Fit",
    "NumbaEngine",
    "Progress",
    "Recipe",
    "State",
    "Task",
    "assess",
    "run_each",
    "select_engine",
    "silent",
]

"""Training many independent models at once; importing this package registers the engines."""

from ifcheck.engines import batched as _batched  # noqa: F401 (registers itself)
from ifcheck.engines.base import (
    ENGINES,
    Averaging,
    Engine,
    Fit,
    Progress,
    Recipe,
    Task,
    select_engine,
    silent,
)

__all__ = [
    "ENGINES",
    "Averaging",
    "Engine",
    "Fit",
    "Progress",
    "Recipe",
    "Task",
    "select_engine",
    "silent",
]

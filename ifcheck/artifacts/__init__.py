"""Files that ifcheck writes and reads: checkpoints and typed `.npz` artifacts."""

from ifcheck.artifacts.arrays import Artifact, read_artifact, write_artifact
from ifcheck.artifacts.caches import CACHE_VARIABLE, cache_folder
from ifcheck.artifacts.checkpoint import (
    Checkpoint,
    read_checkpoint,
    trained_network,
    write_checkpoint,
)
from ifcheck.artifacts.files import atomic_write, find_checkpoints, require_free, write_text

__all__ = [
    "CACHE_VARIABLE",
    "Artifact",
    "Checkpoint",
    "atomic_write",
    "cache_folder",
    "find_checkpoints",
    "read_artifact",
    "read_checkpoint",
    "require_free",
    "trained_network",
    "write_artifact",
    "write_checkpoint",
    "write_text",
]

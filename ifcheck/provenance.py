"""Where numbers come from: digests of files and arrays, versions, named random seeds."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import platform
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import ifcheck

RECORDED_PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "pyhessian", "safetensors")


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def array_digest(arrays: Iterable[NDArray[np.generic]]) -> str:
    """Return one SHA-256 of the types, shapes and bytes of several arrays, in their order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def text_digest(text: str) -> str:
    """Return the SHA-256 of text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def named_seed(seed: int, *names: str | int) -> int:
    """Return the 63-bit seed of one purpose, such as ("init",) or ("bootstrap", 3).

    Purposes get unrelated streams from one user-visible seed, so that drawing more numbers
    for one of them never shifts another.
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def replicate_seed(seed: int, replicate: int) -> int:
    """Return the seed of a replicate: the user's own for replicate 0, else a 63-bit one.

    It does not depend on how many replicates there are, and is no small number that another
    network of the same study could have.
    """
    return seed if replicate == 0 else named_seed(seed, "replicate", replicate)


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python, ifcheck and the packages that numbers depend on."""
    found = {"python": platform.python_version(), "ifcheck": ifcheck.__version__}
    for name in RECORDED_PACKAGES:
        found[name] = importlib.metadata.version(name)
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found["numba"] = importlib.metadata.version("numba")  # an extra
    return found


@cache
def code_revision() -> str:
    """Return a digest of ifcheck's own source files: the revision, also where git is absent."""
    root = Path(ifcheck.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]

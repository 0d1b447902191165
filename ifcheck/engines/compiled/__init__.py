"""The numba engine. Importing this package needs numba and takes a second: import it late."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numba

from ifcheck.artifacts import cache_folder
from ifcheck.engines import optimiser


def _sources_digest() -> str:
    """Return a digest of everything that is compiled.

    Numba sees an edit of the file that a compiled function stands in, but none of what it calls.
    """
    files = [*sorted(Path(__file__).parent.glob("*.py")), Path(optimiser.__file__)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


# Numba notes the folder where a function is decorated; other users of numba keep theirs.
_former, numba.config.CACHE_DIR = (
    numba.config.CACHE_DIR,
    str(cache_folder() / "numba" / _sources_digest()),
)
try:
    from ifcheck.engines.compiled.run import Descent
finally:
    numba.config.CACHE_DIR = _former

__all__ = ["Descent"]

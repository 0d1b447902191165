"""The numba engine. Importing this package needs numba and takes a second: import it late."""

from __future__ import annotations

import atexit
import hashlib
import inspect
import shutil
import tempfile
from pathlib import Path

import numba

from ifcheck.artifacts import cache_folder
from ifcheck.engines import optimiser
from ifcheck.models import moments
from ifcheck.objective import variational

CONSTANTS = (optimiser, moments, variational)  # whose numbers are compiled in


def _sources_digest() -> str:
    """Return a digest of everything that is compiled.

    Numba sees an edit of the file that a compiled function stands in, but none of what it calls.
    """
    files = sorted(Path(__file__).parent.glob("*.py"))
    files += [Path(inspect.getfile(module)) for module in CONSTANTS]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _cache_folder() -> str:
    """Return a folder for what is compiled: the user's, or where that is closed a passing one."""
    folder = cache_folder() / "numba" / _sources_digest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        passing = tempfile.mkdtemp(prefix="ifcheck-numba-")
        atexit.register(shutil.rmtree, passing, ignore_errors=True)
        return passing
    return str(folder)


# Numba notes the folder where a function is decorated; other users of numba keep theirs.
_former, numba.config.CACHE_DIR = numba.config.CACHE_DIR, _cache_folder()
try:
    from ifcheck.engines.compiled.notice import announce_compilation
    from ifcheck.engines.compiled.run import Descent
finally:
    numba.config.CACHE_DIR = _former
announce_compilation()

__all__ = ["Descent"]

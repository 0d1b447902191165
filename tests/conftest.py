"""What every test runs under: a cache folder of the session's own."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

# Kept under a name that ifcheck does not read: the workers of pytest-xdist inherit it.
KEPT = "IFCHECK_TESTS_DATA_DIR"
if "IFCHECK_DATA_DIR" in os.environ:
    os.environ[KEPT] = os.environ.pop("IFCHECK_DATA_DIR")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the user's cache untouched and their data folder unseen; subprocesses inherit both.

    Before any test module is imported: what numba compiles is cached where the variable points.
    """
    folder = tempfile.mkdtemp(prefix="ifcheck-tests-")
    os.environ["IFCHECK_CACHE_DIR"] = folder
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.fixture(scope="session")
def data_dir() -> str:
    """The folder of real data that `IFCHECK_DATA_DIR` named when the tests were started."""
    kept = os.environ.get(KEPT)
    if kept is None or not Path(kept).is_dir():
        pytest.skip("IFCHECK_DATA_DIR names no folder of real data")
    return str(Path(kept).resolve())

"""What every test runs under: a cache folder of the session's own."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

DATA = os.environ.pop("IFCHECK_DATA_DIR", None)


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
    if DATA is None or not Path(DATA).is_dir():
        pytest.skip("IFCHECK_DATA_DIR names no folder of real data")
    return str(Path(DATA).resolve())

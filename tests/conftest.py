"""What every test runs under: a cache folder of the session's own."""

import os
import shutil
import tempfile

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Keep the user's cache untouched and their data folder unseen; subprocesses inherit both.

    Before any test module is imported: what numba compiles is cached where the variable points.
    """
    folder = tempfile.mkdtemp(prefix="ifcheck-tests-")
    os.environ["IFCHECK_CACHE_DIR"] = folder
    os.environ.pop("IFCHECK_DATA_DIR", None)
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))

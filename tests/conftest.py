"""What every test runs under: a cache folder of the session's own."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache untouched and their data folder unseen; subprocesses inherit both."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IFCHECK_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("IFCHECK_DATA_DIR", raising=False)
        yield

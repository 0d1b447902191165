"""Where results are kept that are the same for every run: the user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "IFCHECK_CACHE_DIR"


def cache_folder() -> Path:
    """Return the folder that `IFCHECK_CACHE_DIR` names, or the platform's for caches."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("ifcheck"))

"""Files that authors publish: found in the user's folders, or downloaded into the cache once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pooch

from ifcheck.artifacts import cache_folder
from ifcheck.datasets.base import Step, unwatched
from ifcheck.errors import UnusableInput

RETRIES = 2  # of each address, after a pause
TIMEOUT_SECONDS = 30.0  # without an answer
CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Download:
    """What is published under one or several addresses."""

    name: str  # of the file that comes over the network
    md5: str  # of that file
    urls: tuple[str, ...]  # each holds the same
    members: tuple[str, ...] = ()  # if it is an archive: what of it is used


@dataclass(frozen=True)
class Library:
    """Where the files of one data set may lie."""

    dataset: str
    folders: tuple[str, ...]  # inside a folder of data, by custom
    data_dir: str | None  # the user's folder of data

    def find(self, name: str) -> Path | None:
        """Return where a file lies, compressed or not: the user's folder first, then the cache.

        Raises: UnusableInput where the user's folder does not exist.
        """
        places = [self.cache] if self.data_dir is None else [self._given(), self.cache]
        for place in places:
            for folder in (place, *(place / inside for inside in self.folders)):
                for candidate in (folder / name, folder / name.removesuffix(".gz")):
                    if candidate.is_file():
                        return candidate
        return None

    def require(self, name: str, download: Download, step: Step = unwatched) -> Path:
        """Return where a file lies, after downloading it if it is nowhere.

        Raises: UnusableInput where that fails; what was there is left as it was.
        """
        found = self.find(name)
        if found is None:
            self._fetch(name, download, step)
            found = self.find(name)
        if found is None:
            raise UnusableInput(
                f"{download.name} was downloaded but holds no {name}.",
                remedy=f"Put {name} into {self._looked_in}.",
            )
        return found

    @property
    def cache(self) -> Path:
        """The folder that downloads go to."""
        return cache_folder() / "data" / self.dataset

    @property
    def _looked_in(self) -> str:
        return str(self.cache) if self.data_dir is None else f"{self.data_dir} and {self.cache}"

    def _given(self) -> Path:
        folder = Path(self.data_dir or ".")
        if not folder.is_dir():
            raise UnusableInput(
                f"--data-dir {folder} is no folder.",
                remedy="Give a folder that exists, or leave it out to download what is missing.",
            )
        return folder

    def _fetch(self, name: str, download: Download, step: Step) -> None:
        pooch.get_logger().setLevel("WARNING")
        progress = _Progress(f"downloading {download.name}", step)
        downloader = pooch.HTTPDownloader(
            progressbar=progress, chunk_size=CHUNK_BYTES, timeout=TIMEOUT_SECONDS
        )
        processor = pooch.Untar(list(download.members), ".") if download.members else None
        failures: list[str] = []
        for url in download.urls:
            files = pooch.create(
                self.cache,
                base_url="",
                registry={download.name: f"md5:{download.md5}"},
                urls={download.name: url},
                retry_if_failed=RETRIES,
            )
            try:
                files.fetch(download.name, processor=processor, downloader=downloader)
                return
            except (ValueError, OSError) as error:  # a wrong checksum; the network's are OSErrors
                failures.append(f"{url}: {_reason(error)}")
        raise UnusableInput(
            f"{name} is not in {self._looked_in}, and could not be downloaded: "
            f"{'; '.join(failures)}.",
            remedy=f"Put {name} into a folder and give it with --data-dir.",
        )


class _Progress:
    """What pooch tells of a download, passed on."""

    def __init__(self, label: str, step: Step) -> None:
        self._label, self._step = label, step
        self._total = self._done = 0
        self._report = unwatched(label, 0)

    @property
    def total(self) -> int:
        """How many bytes there are; set by pooch when an attempt begins."""
        return self._total

    @total.setter
    def total(self, size: int) -> None:
        self._total, self._done = size, 0
        self._report = self._step(self._label, size)

    def update(self, size: int) -> None:
        """Count bytes, of which pooch counts the last chunk as a whole one."""
        size = min(size, self._total - self._done)
        self._done += size
        self._report(size)

    def reset(self) -> None:
        """Forget nothing: pooch fills the bar anew at the end, and it is full."""

    def close(self) -> None:
        """Do nothing: the display knows when a step is done."""


def _reason(error: Exception) -> str:
    """Return the first line of a message, or the cause that it names in its last brackets."""
    line = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
    cause = re.search(r"Caused by .*?: (.+?)['\"]?\)*$", line)
    return cause[1] if cause else line

"""Files: where they are looked for, and how they are downloaded, from a server of the tests."""

import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator

import pytest

from ifcheck.datasets.files import Download, Library
from ifcheck.errors import UnusableInput

CONTENT = bytes(range(256)) * 1000


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` by path; a path fails as often as `failures` says first."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.failures: dict[str, int] = {}
        self.requests: list[str] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = self.path
        self.server.requests.append(path)
        failing = self.server.failures.get(path, 0)
        self.server.failures[path] = failing - 1
        found = self.server.files.get(path)
        if failing > 0 or found is None:
            self.send_error(503 if failing > 0 else 404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(found)))
        self.end_headers()
        self.wfile.write(found)

    def log_message(self, *arguments: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.files["/data.bin"] = CONTENT
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IFCHECK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between two attempts


def download(*urls: str, content: bytes = CONTENT, **options) -> Download:
    return Download("data.bin", hashlib.md5(content).hexdigest(), urls, **options)


def library(data_dir=None, folders=("things",)) -> Library:
    return Library("things", folders, None if data_dir is None else str(data_dir))


# --- finding -----------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [".", "things", "a/b"])
@pytest.mark.parametrize("name", ["x.bin.gz", "x.bin"])
def test_a_file_is_found_in_every_custom_place_compressed_or_not(tmp_path, inside, name):
    path = tmp_path / "mine" / inside / name
    path.parent.mkdir(parents=True)
    path.touch()
    found = library(tmp_path / "mine", ("things", "a/b")).find("x.bin.gz")
    assert found is not None
    assert found.resolve() == path.resolve()


def test_the_user_s_folder_comes_before_the_cache(tmp_path):
    mine, cache = tmp_path / "mine", library().cache
    for folder in (mine, cache):
        folder.mkdir(parents=True)
        (folder / "x.bin").touch()
    assert library(mine).find("x.bin") == mine / "x.bin"
    assert library().find("x.bin") == cache / "x.bin"
    (mine / "x.bin").unlink()
    assert library(mine).find("x.bin") == cache / "x.bin"
    assert library(mine).find("y.bin") is None


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UnusableInput, match=r"--data-dir .*nowhere is no folder"):
        library(tmp_path / "nowhere").find("x.bin")


# --- downloading ---------------------------------------------------------------------------------


def test_a_missing_file_is_downloaded_once_and_progress_adds_up(server):
    steps, done = [], []

    def step(label, total):
        steps.append((label, total))
        return done.append

    for _ in range(2):
        path = library().require("data.bin", download(server.url("/data.bin")), step)
        assert path.read_bytes() == CONTENT
    assert server.requests == ["/data.bin"]
    assert steps == [("downloading data.bin", len(CONTENT))]
    assert sum(done) == len(CONTENT)


def test_a_file_that_is_there_is_not_downloaded(tmp_path, server):
    (tmp_path / "data.bin").write_bytes(b"mine")
    path = library(tmp_path).require("data.bin", download(server.url("/data.bin")))
    assert path.read_bytes() == b"mine"
    assert server.requests == []


def test_a_failed_attempt_is_repeated(server):
    server.failures["/data.bin"] = 2
    path = library().require("data.bin", download(server.url("/data.bin")))
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_another_address_is_tried(server):
    addresses = (server.url("/gone.bin"), server.url("/data.bin"))
    assert library().require("data.bin", download(*addresses)).read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing_and_says_so(server):
    other = download(server.url("/data.bin"), content=b"other")
    with pytest.raises(UnusableInput, match=r"data.bin is not in .*could not be downloaded") as e:
        library().require("data.bin", other)
    assert "hash" in e.value.message
    assert "--data-dir" in e.value.remedy
    assert [p for p in library().cache.rglob("*") if p.is_file()] == []


def test_a_failure_names_the_file_the_folders_and_the_reason(tmp_path, server):
    with pytest.raises(UnusableInput) as error:
        library(tmp_path).require("data.bin", download(server.url("/gone.bin")))
    message = error.value.message
    assert message.startswith(f"data.bin is not in {tmp_path} and {library().cache}")
    assert "404" in message
    assert "\n" not in message


def test_a_server_that_does_not_answer_is_named_with_the_cause(server):
    nobody = "http://127.0.0.1:9/data.bin"  # the discard port, on which nothing listens
    with pytest.raises(UnusableInput, match=f"{nobody}: .*[Rr]efused"):
        library().require("data.bin", download(nobody))


def test_members_of_an_archive_are_unpacked(server):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name in ("folder/a.bin", "folder/b.bin", "folder/unused.txt"):
            entry = tarfile.TarInfo(name)
            entry.size = 3
            archive.addfile(entry, io.BytesIO(name[-5:-2].encode()))
    server.files["/data.bin"] = packed.getvalue()
    source = download(
        server.url("/data.bin"),
        content=packed.getvalue(),
        members=("folder/a.bin", "folder/b.bin"),
    )
    shelf = library(folders=("folder",))
    assert shelf.require("b.bin", source).read_bytes() == b"b.b"
    assert shelf.require("a.bin", source).read_bytes() == b"a.b"
    assert server.requests == ["/data.bin"]
    assert not list(shelf.cache.rglob("unused.txt"))
    with pytest.raises(UnusableInput, match=r"data.bin was downloaded but holds no c.bin"):
        shelf.require("c.bin", source)

"""The folder of caches: the user's choice, else the platform's."""

from pathlib import Path

from ifcheck.artifacts import CACHE_VARIABLE, cache_folder, caches


def test_the_variable_names_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"


def test_the_platform_names_it_otherwise(monkeypatch):
    monkeypatch.setattr(caches.platformdirs, "user_cache_dir", lambda name: f"/caches/{name}")
    for unset in (
        lambda: monkeypatch.delenv(CACHE_VARIABLE),
        lambda: monkeypatch.setenv(CACHE_VARIABLE, ""),
    ):
        unset()
        assert cache_folder() == Path("/caches/ifcheck")

"""The command line in this process, and a tiny run with all its files, made once by commands."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ifcheck.cli.app import app
from tests.benchmarks import sequential_loop as loop
from tests.study_files import record, write_study

TINY_RUN = ("--seeds", "2", "--epochs", "40", "--test-points", "ids:83")
TINY_RETRAIN = ("--removals", "top-loss:4", "--epochs", "20")
STUDY = (
    *("fragility", "--dataset", "iris", "--width", "4,5", "--variant", "none,l2"),
    *("--seeds", "2", "--epochs", "20", "--test-points", "ids:83"),
    *("--removals", "top-loss:4", "--retrain-epochs", "10"),
    *("--set", "evaluate.bootstrap_samples=0"),
)

DIAGNOSE = (
    *("--estimator", "objective,same-class", "--truth", "newton,warm"),
    *("--removals", "top-loss:4", "--set", "retrain.epochs=20"),
    *("--set", "evaluate.bootstrap_samples=50"),
)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """One torch thread: for models this small more are slower, and much so on a busy machine."""
    with loop.one_thread():
        yield


@pytest.fixture(scope="session")
def invoke() -> Callable:
    """Return a runner of a command; stdout and stderr stay apart, crashes are raised."""

    def run(*arguments: object):
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture(scope="session")
def succeed(invoke) -> Callable:
    """Return a runner that expects exit code 0."""

    def run(*arguments: object):
        result = invoke(*arguments)
        assert result.exit_code == 0, result.output
        return result

    return run


@pytest.fixture(scope="session")
def refuse(invoke) -> Callable:
    """Return a runner that expects one error with a remedy, no traceback, nothing on stdout."""

    def run(*arguments: object, code: int = 2) -> str:
        result = invoke(*arguments)
        assert result.exit_code == code, result.output
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        lines = result.stderr.splitlines()
        assert [line.split(" ")[0] for line in lines] == ["error:", "remedy:"], result.stderr
        assert all(len(line.split(" ", 1)[1]) > 10 for line in lines)
        return result.stderr

    return run


@pytest.fixture(scope="session")
def run_folder(succeed, tmp_path_factory) -> Path:
    """A run of two seeds with every kind of artifact in it. Read only."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    succeed("train", *TINY_RUN, "--variant", "l2", "--out", folder)
    for name in ("objective", "paper", "authors"):
        out = folder / f"influence-{name}.npz"
        succeed("influence", folder, "--estimator", name, "--out", out)
    out = folder / "retrain-warm.npz"
    succeed("retrain", folder, "--truth", "warm", *TINY_RETRAIN, "--out", out)
    like = f"like:{out}"
    out = folder / "retrain-newton.npz"
    succeed("retrain", folder, "--truth", "newton", "--removals", like, "--out", out)
    succeed("eigen", folder, "--out", folder / "eigen.npz")
    return folder


@pytest.fixture(scope="session")
def other_run(succeed, tmp_path_factory) -> Path:
    """A run of variant none. Read only."""
    folder = tmp_path_factory.mktemp("cli-other") / "run"
    succeed("train", *TINY_RUN, "--variant", "none", "--out", folder)
    return folder


@pytest.fixture(scope="session")
def two_studies(tmp_path_factory) -> tuple[Path, Path]:
    """The folders of two small studies, agreement better in the second. Read only."""
    folder = tmp_path_factory.mktemp("two-studies")
    before = [record(seed, spearman=0.5 + 0.01 * seed) for seed in range(4)]
    after = [record(seed, spearman=0.7 + 0.012 * seed) for seed in range(4)]
    return (
        write_study(folder / "before", before, epochs=100),
        write_study(folder / "after", after, epochs=200),
    )


@pytest.fixture
def commands(run_folder, two_studies) -> dict[str, tuple]:
    """A call of each command that works, without `--out`."""
    influence = ("--influence", run_folder / "influence-paper.npz")
    retrain = ("--retrain", run_folder / "retrain-warm.npz")
    return {
        "train": ("train", *TINY_RUN),
        "influence": ("influence", run_folder),
        "retrain": ("retrain", run_folder, *TINY_RETRAIN),
        "eigen": ("eigen", run_folder),
        "evaluate": ("evaluate", *influence, *retrain),
        "fragility": (*STUDY, "--variant", "l2", "--width", "5"),
        "diagnose": (*("diagnose", run_folder), *DIAGNOSE),
        "inspect": ("inspect", run_folder / "train.npz"),
        "compare": ("compare", *two_studies),
    }


@pytest.fixture
def quick(monkeypatch) -> None:
    """Leave out what takes a study longest and is tested elsewhere: pictures, Tukey's tests."""
    monkeypatch.setattr("ifcheck.stages.pictures.draw", lambda *_: [])
    monkeypatch.setattr("ifcheck.stages.comparisons.tukey", lambda _: [])


@pytest.fixture
def snapshot() -> Callable[[Path], dict]:
    """Return a reader of what lies below a folder: modification times by path."""

    def read(folder: Path) -> dict:
        return {p: p.stat().st_mtime_ns for p in sorted(folder.rglob("*"))}

    return read


@pytest.fixture
def elsewhere(monkeypatch, tmp_path) -> Iterator[Path]:
    """An empty working folder, in which a forgotten default output would be seen."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    with contextlib.chdir(folder):
        yield folder

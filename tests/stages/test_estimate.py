"""Dry runs: extrapolation against a fake clock, and estimates of the real stages."""

import pytest

from ifcheck.artifacts import find_checkpoints
from ifcheck.stages import estimate as stage
from ifcheck.stages.estimate import (
    estimate_eigenvalues,
    estimate_influence,
    estimate_retraining,
    estimate_study,
    estimate_training,
)
from ifcheck.stages.influence import influence
from ifcheck.stages.retrain import retrain
from ifcheck.stages.train import train


class Clock:
    """Stands still unless a fake stage moves it."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(stage, "time", found)
    return found


@pytest.fixture
def somewhere(monkeypatch, tmp_path):
    """An empty working folder that is also the folder of temporary files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stage.tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left_in(folder):
    """Names of what is there, the folder apart that torch's compiler keeps for itself."""
    return [path.name for path in folder.iterdir() if not path.name.startswith("torchinductor")]


@pytest.mark.parametrize("epochs", [7, 40, 240, 1_000, 60_000])
def test_training_time_grows_with_the_epochs_beside_a_fixed_part(epochs, clock, monkeypatch, tiny):
    def costly(config, out):
        clock.now += 0.5 + 0.002 * config.train.epochs
        (out / "train.npz").write_bytes(b"x" * 1234)

    monkeypatch.setattr(stage, "train", costly)
    found = estimate_training(tiny({"train.epochs": epochs}))
    assert found.seconds["train"] == pytest.approx(0.5 + 0.002 * epochs)
    assert found.total_seconds == pytest.approx(sum(found.seconds.values()))
    assert found.disk_bytes == 1234


def test_what_torch_loads_once_is_not_taken_for_training_time(clock, monkeypatch, tiny):
    calls = []

    def costly(config, out):
        calls.append(config.train.epochs)
        clock.now += (30.0 if len(calls) == 1 else 0.0) + 0.001 * config.train.epochs

    monkeypatch.setattr(stage, "train", costly)
    found = estimate_training(tiny({"train.epochs": 10_000}))
    assert found.seconds["train"] == pytest.approx(10.0)
    assert sum(calls) < 1_500  # a dry run is short


def test_samples_are_longer_where_an_epoch_takes_no_time(clock, monkeypatch, tiny):
    """A difference of milliseconds says nothing beside the noise of a run."""
    noise = iter([0.0, 0.03, *[0.0] * 9])

    def quick(config, out):
        clock.now += 1.0 + next(noise) + 0.00004 * config.train.epochs

    monkeypatch.setattr(stage, "train", quick)
    found = estimate_training(tiny({"train.epochs": 60_000}))
    assert found.seconds["train"] == pytest.approx(1.0 + 2.4, rel=0.1)


def test_a_faster_long_sample_never_gives_negative_time(clock, monkeypatch, tiny):
    def noisy(config, out):
        clock.now += 1.0 / config.train.epochs

    monkeypatch.setattr(stage, "train", noisy)
    assert estimate_training(tiny({"train.epochs": 60_000})).seconds["train"] >= 0


@pytest.mark.parametrize("estimator", [estimate_influence, estimate_eigenvalues])
def test_scoring_time_and_disk_grow_with_the_seeds(estimator, clock, monkeypatch, tiny, tmp_path):
    def costly(config, sources, out, *_files):
        clock.now += 0.25 * len(sources)
        out.write_bytes(b"x" * 100 * len(sources))

    for name in ("influence", "eigen"):
        monkeypatch.setattr(stage, name, costly)
    for seed in range(10):
        (tmp_path / f"seed-{seed:03d}.safetensors").touch()
    found = estimator(tiny(), [tmp_path])
    (seconds,) = [v for k, v in found.seconds.items() if k != "start"]
    assert seconds == pytest.approx(2.5)
    assert found.disk_bytes == pytest.approx(1000)


def test_estimated_disk_is_what_the_stages_write(tiny, runs, somewhere):
    def written(path):
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        return sum(file.stat().st_size for file in files)

    train(tiny(), somewhere / "run")
    assert estimate_training(tiny()).disk_bytes == pytest.approx(
        written(somewhere / "run"), rel=0.02
    )
    influence(tiny(), [runs("l2")], somewhere / "influence.npz")
    assert estimate_influence(tiny(), [runs("l2")]).disk_bytes == pytest.approx(
        written(somewhere / "influence.npz"), rel=0.02
    )
    retrain(tiny(), [runs("l2")], somewhere / "retrain.npz")
    assert estimate_retraining(tiny(), [runs("l2")]).disk_bytes == pytest.approx(
        written(somewhere / "retrain.npz"), rel=0.02
    )


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("train", lambda config, run: estimate_training(config)),
        ("influence", lambda config, run: estimate_influence(config, [run])),
        ("retrain", lambda config, run: estimate_retraining(config, [run])),
        ("eigen", lambda config, run: estimate_eigenvalues(config, [run])),
    ],
)
def test_an_estimate_writes_nothing_and_names_its_step(name, run, tiny, runs, somewhere):
    found = run(tiny(), runs("l2"))
    assert left_in(somewhere) == []
    assert set(found.seconds) == {"start", name}
    assert all(seconds > 0 for seconds in found.seconds.values())
    assert found.memory_bytes > 50 << 20  # torch alone
    assert found.disk_bytes > 1_000


def test_a_study_is_estimated_step_by_step(tiny, somewhere):
    one = tiny({"study.variants": "l2", "train.seeds": 2})
    four = tiny({"study.variants": "none,l2", "study.sizes": [{"width": "4,5"}], "train.seeds": 2})
    small, large = estimate_study(one), estimate_study(four)
    assert left_in(somewhere) == []
    steps = {"train", "influence", "retrain warm", "retrain newton", "eigen", "evaluate"}
    assert steps | {"start", "figures"} == set(small.seconds) == set(large.seconds)
    pictures = stage.PICTURE_BYTES  # drawn once a study
    cells = small.disk_bytes - pictures
    assert large.disk_bytes - pictures == pytest.approx(4 * cells, rel=0.1)


def test_a_studys_time_counts_every_cell_seed_and_file(clock, monkeypatch, tiny):
    """Four cells of ten seeds, from fakes that cost so much an epoch, a seed or a file."""

    def fake_train(config, out):
        clock.now += 0.01 * config.train.epochs
        (out / "checkpoints").mkdir(exist_ok=True)
        for seed in config.train.seeds:
            (out / "checkpoints" / f"seed-{seed:03d}.safetensors").touch()

    def fake_retrain(config, sources, out, _reporter, _explicit, _scores, epochs):
        clock.now += 0.002 * epochs

    def by_seed(seconds):
        def fake(config, sources, out, *_files):
            seeds = len(find_checkpoints(sources))
            clock.now += seconds * seeds
            out.write_text(str(seeds))

        return fake

    def fake_evaluate(config, influence_files, retrain_files, *_):
        for path in influence_files:
            clock.now += 0.1 * len(retrain_files) * int(path.read_text())

    for name, fake in (
        ("train", fake_train),
        ("retrain", fake_retrain),
        ("influence", by_seed(0.5)),
        ("eigen", by_seed(0.25)),
        ("evaluate", fake_evaluate),
    ):
        monkeypatch.setattr(stage, name, fake)
    flags = {
        "study.variants": "none,l2",
        "study.sizes": [{"width": "4,5"}],
        "train.seeds": 10,
        "train.epochs": 1000,
        "retrain.epochs": 500,
    }
    found = estimate_study(tiny(flags)).seconds
    assert found["train"] == pytest.approx(4 * 10)
    assert found["influence"] == pytest.approx(4 * 3 * 10 * 0.5)
    assert found["retrain warm"] == pytest.approx(4 * 1)
    assert found["retrain newton"] == pytest.approx(4 * 1)
    assert found["eigen"] == pytest.approx(4 * 2 * 10 * 0.25)
    assert found["evaluate"] == pytest.approx(4 * 3 * 2 * 10 * 0.1)


def test_as_plain_values_an_estimate_is_whole(tiny):
    found = estimate_training(tiny({"train.epochs": 10}))
    plain = found.to_dict()
    assert plain["total_seconds"] == pytest.approx(sum(plain["seconds"].values()))
    assert plain["memory_bytes"] > 0
    assert plain["disk_bytes"] == found.disk_bytes

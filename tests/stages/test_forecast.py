"""What a study is said to take before it runs: the arithmetic, and pieces that are really timed."""

from types import SimpleNamespace

import pytest
import torch

from ifcheck.artifacts import read_artifact
from ifcheck.memory import peak_memory_bytes
from ifcheck.stages import forecast as stage
from ifcheck.stages.cells import cells_of
from ifcheck.stages.forecast import Forecast, forecast
from ifcheck.stages.fragility import fragility
from ifcheck.stages.reporting import Silent, duration

RATES = {  # seconds per row
    "training": 1.0,
    "features": 3.0,
    "head_hessian": 100.0,
    "hessian_product": 1_000.0,
    "multiplication": 0.5,
}
SMALL = {
    "data.dataset": "digits",
    "data.limit_train": 50,
    "network": {"name": "fc", "width": 4},
    "train.seeds": 3,
    "train.epochs": 7,
    "retrain.epochs": 5,
    "retrain.removals": "top-loss:2",
    "study.estimators": ["objective", "paper"],
    "study.truths": ["warm", "newton"],
    "study.variants": ["l2"],
    "study.sizes": [],
}


@pytest.fixture
def heavy(monkeypatch):
    monkeypatch.setattr(stage, "HEAVY", 0.0)


@pytest.fixture
def rates(monkeypatch):
    for name, value in RATES.items():
        monkeypatch.setattr(stage._Sample, name, lambda self, value=value: value)
    monkeypatch.setattr(  # 20 once, and 10 for each epoch
        stage._Sample, "retraining", lambda self, config, removals, epochs: 20 + 10 * epochs
    )


@pytest.fixture
def look_ahead(tiny):
    """Return a helper that forecasts a study with some settings replaced."""

    def look(**settings):
        changed = {name.replace("__", "."): value for name, value in settings.items()}
        return forecast(cells_of(tiny({**SMALL, **changed})), Silent())

    return look


def test_pieces_are_multiplied_by_rows_epochs_and_seeds(heavy, rates, look_ahead):
    head = 10 * (4 + 1)
    assert look_ahead().seconds == {
        "train": 3 * 7 * 50,
        "influence": 3 * 2 * (50 * (3 + 100) + 12 * 0.5 * head**3),
        "retrain warm": 3 * 50 * (20 + 10 * 5),
        "retrain newton": 3 * 50 * (3 + 3 * 5 * 100),
        "eigen": 3 * 50 * 100 * 1_000,
    }


@pytest.mark.parametrize(("removals", "count"), [("top-loss:2", 2), ("ids:7", 1), ("ids:1,9,4", 3)])
def test_hessians_of_newton_are_shared_where_they_would_take_long(
    removals, count, heavy, rates, look_ahead, monkeypatch
):
    def hessians(variant):
        found = look_ahead(study__variants=[variant], retrain__removals=removals)
        return (found.seconds["retrain newton"] / (3 * 50) - 3) / 100

    assert hessians("l2") == hessians("bnn") == pytest.approx(5 * (count + 1))
    monkeypatch.setattr(stage, "SHARED_WORK", 0.0)
    assert hessians("l2") == pytest.approx(5)
    assert hessians("bnn") == pytest.approx(5 + count + 1)


def test_every_eigenvalue_counts(heavy, rates, look_ahead):
    assert look_ahead(eigen__top=4).seconds["eigen"] == 4 * look_ahead().seconds["eigen"]
    dense = look_ahead(eigen__method="dense").seconds["eigen"]
    assert dense == 3 * 50 * (64 * 4 + 4 + 4 * 10 + 10) * 1_000


def test_cells_add_up(heavy, rates, look_ahead):
    both = look_ahead(study__variants=["l2", "bnn"])
    assert both.seconds["train"] == 2 * look_ahead().seconds["train"]


def test_small_networks_are_not_told_of(look_ahead):
    assert look_ahead() is None


def test_training_again_counts_its_own_epochs_and_replicates(heavy, rates, look_ahead):
    truths = {"study__truths": ["warm", "scratch"], "retrain__replicates": 2}
    found = look_ahead(**truths, train__epochs=40).seconds
    assert found["retrain warm"] == 3 * 50 * (20 + 10 * 5)
    assert found["retrain scratch"] == 3 * 50 * (20 + 10 * 40) * 2


def test_further_selections_count_their_own_removals(heavy, rates, look_ahead):
    found = look_ahead(study__selections=["random:7"]).seconds
    assert found["retrain newton-random"] == 3 * 50 * (3 + 8 * 5 * 100)
    assert found["retrain warm-random"] == found["retrain warm"]  # epochs, for a fake clock


def test_pieces_of_every_stage_are_timed(heavy, look_ahead):
    found = look_ahead(study__variants=["l2", "bnn"])
    assert set(found.seconds) == {"train", "influence", "retrain warm", "retrain newton", "eigen"}
    assert sum(found.seconds.values()) > 0  # one of them may drown in what the machine does else


def test_a_piece_that_is_done_once_is_not_counted_as_often_as_there_are_rows(monkeypatch):
    """A fake clock: 5 s for every call, and 0.01 s for each row."""
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(stage, "time", clock)
    dataset = SimpleNamespace(train_rows=lambda _: 1_000)
    setup = SimpleNamespace(dataset=dataset, device=torch.device("cpu"))

    def work(rows):
        clock.now += 5 + 0.01 * rows

    assert stage._Sample(setup, None)._per_row(work) == pytest.approx(0.01)


def test_memory_is_what_a_cell_holds(heavy, rates, look_ahead, monkeypatch):
    monkeypatch.setattr(stage, "peak_memory_bytes", lambda: 1_000)
    parameters, head, rows = 64 * 400 + 400 + 400 * 10 + 10, 401 * 10, 50
    inputs = 2 * rows * 64 * 8
    dense = 5 * head**2 * 8
    wide = look_ahead(network={"name": "fc", "width": 400})
    assert dense > 7 * 3 * parameters * 4  # what training holds
    assert wide.memory_bytes == 1_000 + inputs + dense
    inputs, newton = 2 * 1_500 * 64 * 8, 64 * 1_500 * 3 * 8
    assert look_ahead(data__limit_train=1_500).memory_bytes == 1_000 + inputs + newton
    monkeypatch.setattr(stage, "WORK_PER_ROW", 0)
    features = 1_500 * 5 * 8
    many = {"data__limit_train": 1_500, "train__seeds": 30}
    assert look_ahead(**many).memory_bytes == 1_000 + inputs + 3 * 30 * features
    monkeypatch.setattr(stage, "LARGEST_IN_MEMORY", 4 * features)
    assert look_ahead(**many).memory_bytes == 1_000 + inputs + 3 * 4 * features


def test_a_study_says_it_once_and_finished_cells_count_no_more(heavy, rates, tiny, tmp_path):
    config = tiny({**SMALL, "train.seeds": 1, "evaluate.bootstrap_samples": 0})
    notes = []
    reporter = SimpleNamespace(step=Silent().step, note=notes.append)
    fragility(config, tmp_path / "study", reporter)
    assert [note.startswith("this takes at most about") for note in notes].count(True) == 1
    notes.clear()
    fragility(config, tmp_path / "study", reporter)
    assert not [note for note in notes if note.startswith("this takes")]


def test_it_is_said_in_units_that_fit():
    assert [duration(s) for s in (0.1, 59, 61, 3_599, 5_400)] == [
        "1 s",
        "59 s",
        "1 min",
        "60 min",
        "1.5 h",
    ]
    text = str(Forecast({"train": 90.0, "eigen": 3.0}, 2.5e9))
    assert "at most about 2 min (train 2 min, eigen 3 s) and 2.5 GB" in text


def test_artifacts_record_the_memory_their_process_took(tiny, tmp_path):
    fragility(tiny({**SMALL, "train.seeds": 1, "evaluate.bootstrap_samples": 0}), tmp_path / "s")
    for path in (tmp_path / "s").rglob("*.npz"):
        meta = read_artifact(path).meta
        assert 10e6 < meta["peak_memory_bytes"] <= peak_memory_bytes()
        assert meta["peak_device_bytes"] == 0

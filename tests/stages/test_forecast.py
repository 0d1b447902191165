"""What a study is said to take before it runs: the arithmetic, and pieces that are really timed."""

import pytest

from ifcheck.artifacts import read_artifact
from ifcheck.cli.plans import duration, spoken
from ifcheck.memory import peak_memory_bytes
from ifcheck.stages import forecast as stage
from ifcheck.stages.forecast import Forecast, forecast_study
from ifcheck.stages.fragility import fragility

RATES = {  # seconds per row
    "training": 1.0,
    "retraining": 10.0,
    "head_hessian": 100.0,
    "hessian_product": 1_000.0,
    "multiplication": 0.0,
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
        monkeypatch.setattr(stage._Sample, name, lambda self, *_, value=value: value)


def test_pieces_are_multiplied_by_rows_epochs_and_seeds(heavy, rates, tiny, tmp_path):
    found = forecast_study(tiny(SMALL), tmp_path)
    assert found.seconds == {
        "train": 3 * 7 * 50,
        "influence": 3 * 2 * 50 * 100,
        "retrain warm": 3 * 5 * 50 * 10,
        "retrain newton": 3 * 50 * 3 * 100,
        "eigen": 3 * 50 * 100 * 1_000,
    }
    assert found.total_seconds == sum(found.seconds.values())


def test_a_bayesian_head_forms_a_hessian_for_each_removal(heavy, rates, tiny, tmp_path):
    found = forecast_study(tiny({**SMALL, "study.variants": ["bnn"]}), tmp_path)
    assert found.seconds["retrain newton"] == 3 * 50 * (3 + 2 + 1) * 100


def test_cells_add_up_and_finished_ones_count_no_more(heavy, rates, tiny, tmp_path):
    one, both = ["l2"], ["l2", "bnn"]
    single = forecast_study(tiny({**SMALL, "study.variants": one}), tmp_path)
    double = forecast_study(tiny({**SMALL, "study.variants": both}), tmp_path)
    assert double.seconds["train"] == 2 * single.seconds["train"]
    short = {**SMALL, "train.seeds": 1, "evaluate.bootstrap_samples": 0}
    fragility(tiny(short), tmp_path / "study")
    assert forecast_study(tiny(short), tmp_path / "study") is None


def test_small_networks_are_not_told_of(tiny, tmp_path):
    assert forecast_study(tiny(SMALL), tmp_path) is None


def test_pieces_of_every_stage_are_timed(heavy, tiny, tmp_path):
    found = forecast_study(tiny({**SMALL, "study.variants": ["l2", "bnn"]}), tmp_path)
    assert set(found.seconds) == {"train", "influence", "retrain warm", "retrain newton", "eigen"}
    assert all(seconds > 0 for seconds in found.seconds.values())
    assert found.memory_bytes >= peak_memory_bytes() / 2


def test_larger_heads_and_more_rows_take_more_memory(heavy, rates, tiny, tmp_path):
    def memory(**settings):
        changed = {**SMALL, **{name.replace("__", "."): v for name, v in settings.items()}}
        return forecast_study(tiny(changed), tmp_path).memory_bytes

    assert memory(data__limit_train=1_000) > memory(data__limit_train=50)
    assert memory(network={"name": "fc", "width": 400}) > memory() + 8 * 4_010**2


def test_it_is_said_in_units_that_fit():
    assert [duration(s) for s in (0.1, 59, 61, 3_599, 5_400)] == [
        "1 s",
        "59 s",
        "1 min",
        "60 min",
        "1.5 h",
    ]
    text = spoken(Forecast({"train": 90.0, "eigen": 3.0}, 2.5e9))
    assert "at most about 2 min (train 2 min, eigen 3 s) and 2.5 GB" in text


def test_artifacts_record_the_memory_their_process_took(tiny, tmp_path):
    fragility(tiny({**SMALL, "train.seeds": 1, "evaluate.bootstrap_samples": 0}), tmp_path / "s")
    for path in (tmp_path / "s").rglob("*.npz"):
        meta = read_artifact(path).meta
        assert 10e6 < meta["peak_memory_bytes"] <= peak_memory_bytes()
        assert meta["peak_device_bytes"] == 0

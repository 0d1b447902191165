"""Trainings that start alike: the start is trained once, and no number changes by it."""

from collections.abc import Callable

import pytest

from ifcheck.stages.setup import make_setup
from ifcheck.stages.train import train
from ifcheck.stages.trunks import Trunks

VARIANTS = ("none", "swa", "l2", "l2-swa")


@pytest.fixture
def trained_epochs(monkeypatch) -> list[int]:
    """The epochs that an engine was asked for, training by training."""
    asked: list[int] = []

    def counting(fit: Callable) -> Callable:
        def count(self, task, recipe, progress=None, after=None):
            asked.append(recipe.epochs - (0 if after is None else after.state.epoch))
            return fit(self, task, recipe, progress, after)

        return count

    from ifcheck.engines import NumbaEngine
    from ifcheck.engines.batched import TorchEngine

    for engine in (NumbaEngine, TorchEngine):
        monkeypatch.setattr(engine, "fit", counting(engine.fit))
    return asked


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_all_four_variants_train_two_starts(engine, tiny, tmp_path, load_npz, trained_epochs):
    """60 epochs of which 46 come before averaging; the same arrays as each variant alone."""
    configs = {v: tiny({"variant.name": v, "run.engine": engine}) for v in VARIANTS}
    trunks = Trunks(make_setup(config) for config in configs.values())
    for variant, config in configs.items():
        train(config, tmp_path / variant, trunks=trunks)
    assert trained_epochs == [46, 14, 14, 46, 14, 14]
    for variant, config in configs.items():
        train(config, tmp_path / f"{variant}-alone")
        one, other = (
            load_npz(tmp_path / name / "train.npz") for name in (variant, f"{variant}-alone")
        )
        for name, value in other.items():
            assert value.tobytes() == one[name].tobytes(), name
        alone = tmp_path / f"{variant}-alone" / "checkpoints"
        for path in alone.iterdir():
            assert (
                path.read_bytes() == (tmp_path / variant / "checkpoints" / path.name).read_bytes()
            )


def test_trainings_that_start_alike_need_not_stand_together(tiny, tmp_path, trained_epochs):
    configs = [tiny({"variant.name": v}) for v in ("none", "l2", "swa", "l2-swa")]
    trunks = Trunks(make_setup(config) for config in configs)
    for index, config in enumerate(configs):
        train(config, tmp_path / str(index), trunks=trunks)
    assert trained_epochs == [46, 14, 46, 14, 14, 14]


@pytest.mark.parametrize(
    ("flags", "epochs"),
    [
        ([{"variant.name": "l2"}], [60]),
        ([{"variant.name": "l2"}, {"variant.name": "none"}], [60, 60]),
        ([{"variant.name": "l2-swa"}], [60]),
        (
            [{"variant.name": "l2"}, {"variant.name": "l2-swa", "variant.weight_decay": 0.1}],
            [60, 60],
        ),
        ([{"variant.name": "l2"}, {"variant.name": "l2-swa", "network.width": 8}], [60, 60]),
        ([{"variant.name": "l2"}, {"variant.name": "l2-swa", "train.seeds": (1, 2)}], [60, 60]),
    ],
    ids=["one", "two objectives", "one averaged", "weight decay", "network", "seeds"],
)
def test_trainings_that_start_otherwise_share_nothing(
    flags, epochs, tiny, tmp_path, trained_epochs
):
    configs = [tiny(part) for part in flags]
    trunks = Trunks(make_setup(config) for config in configs)
    for index, config in enumerate(configs):
        train(config, tmp_path / str(index), trunks=trunks)
    assert trained_epochs == epochs


def test_progress_reaches_the_announced_total_with_a_shared_start(
    tiny, tmp_path, recording_reporter
):
    configs = [tiny({"variant.name": variant}) for variant in ("l2", "l2-swa")]
    trunks = Trunks(make_setup(config) for config in configs)
    for index, config in enumerate(configs):
        train(config, tmp_path / str(index), recording_reporter, trunks)
        assert recording_reporter.done == recording_reporter.totals

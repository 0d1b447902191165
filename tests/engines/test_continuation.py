"""Going on from another fit, and standing still at the floor of the learning rate: every engine."""

from dataclasses import replace

import pytest
import torch

from ifcheck.engines import Fit, Recipe, Task
from ifcheck.engines.batched import TorchEngine
from ifcheck.variants import averaged
from tests.benchmarks import sequential_loop as loop
from tests.engines.conftest import ENGINES, as_loop_model, head_task, mlp_task, networks

FIELDS = ("parameters", "live", "learning_rate", "recorded_epochs", "losses", "probe_losses")
TASKS = pytest.mark.parametrize(
    "task",
    [mlp_task(3), mlp_task(2, depth=2, dtype=torch.float32), head_task(2, 2)],
    ids=["networks", "deep networks in float32", "heads"],
)
QUICK = Recipe(40, learning_rate=0.05, patience=1, record_every=6)


def check_equal(fit: Fit, other: Fit) -> None:
    for field in FIELDS:
        assert torch.equal(getattr(fit, field), getattr(other, field)), field


@ENGINES
@TASKS
@pytest.mark.parametrize("averaging", [False, True], ids=["plain", "swa"])
@pytest.mark.parametrize("done", [0, 1, 12, 31])
def test_going_on_is_as_if_it_had_never_stopped(engine, task: Task, averaging, done):
    """Bit for bit, with all that was recorded; averaging may begin where the other ended."""
    recipe = averaged(QUICK) if averaging else QUICK
    before = engine.fit(task, replace(QUICK, epochs=done))
    reports: list[int] = []
    check_equal(engine.fit(task, recipe, reports.append, after=before), engine.fit(task, recipe))
    assert sum(reports) == task.models * (40 - done)


@ENGINES
def test_a_fit_can_be_gone_on_from_twice(engine):
    task = mlp_task(3)
    before = engine.fit(task, replace(QUICK, epochs=20))
    first = engine.fit(task, QUICK, after=before)
    engine.fit(task, averaged(QUICK), after=before)
    check_equal(engine.fit(task, QUICK, after=before), first)


@ENGINES
@pytest.mark.parametrize(("done", "recipe"), [(41, QUICK), (32, averaged(QUICK))])
def test_a_fit_that_is_past_the_recipe_is_refused(engine, done, recipe):
    """Past its end, or past the start of its averaging at 75%."""
    task = mlp_task(2, rows=8)
    before = engine.fit(task, replace(QUICK, epochs=done))
    with pytest.raises(ValueError, match=f"{done} epochs is past epoch {done - 1}"):
        engine.fit(task, recipe, after=before)


# --- standing still at the floor -------------------------------------------------------------

FALLING = Recipe(60, learning_rate=0.05, patience=1, record_every=1)


def epochs_above_the_floor(task: Task) -> list[int]:
    """After how many epochs of the sequential loop each network's rate is as low as it gets."""
    counts = []
    for model, network in enumerate(networks(task.models, 1, 5, torch.float64)):
        run = loop.train(
            as_loop_model(network),
            task.inputs[0],
            task.targets,
            weights=task.weights[model],
            epochs=FALLING.epochs,
            weight_decay=task.objective.weight_decay,
            learning_rate=FALLING.learning_rate,
            patience=FALLING.patience,
            record=True,
        )
        above = [rate - 0.1 * rate > 1e-8 for rate in run.learning_rates]
        counts.append(sum(above))
        assert above == sorted(above, reverse=True)
    return counts


@ENGINES
def test_a_model_stands_still_from_the_epoch_at_which_its_rate_is_at_the_floor(engine):
    task = mlp_task(3)
    counts = epochs_above_the_floor(task)
    assert 0 < min(counts) < FALLING.epochs <= max(counts)  # one never gets there
    fit = engine.fit(task, replace(FALLING, stop_at_floor=True))
    for model, count in enumerate(counts):
        stopped = engine.fit(task, replace(FALLING, epochs=count))
        for name in ("parameters", "mean", "square", "rates"):
            one, other = getattr(fit.state, name)[model], getattr(stopped.state, name)[model]
            assert torch.equal(one, other), name
        losses = fit.losses[model]
        assert len(losses) == FALLING.epochs + 1
        assert torch.equal(losses[:count], stopped.losses[model, :count])
        # the last loss is a sum of 149 terms in another order
        assert (losses[count:] - losses[count]).abs().max() <= 1e-14
        assert fit.probe_losses.shape[-1] == FALLING.epochs + 1


@ENGINES
def test_progress_counts_the_epochs_that_a_model_stood_still(engine):
    reports: list[int] = []
    engine.fit(mlp_task(3), replace(FALLING, stop_at_floor=True), reports.append)
    assert sum(reports) == 3 * FALLING.epochs


@ENGINES
def test_averaging_wakes_the_models_that_stood_still(engine):
    """They average over the last quarter, which starts from where they stood."""
    task, recipe = mlp_task(3), averaged(replace(FALLING, stop_at_floor=True))
    fit = engine.fit(task, recipe)
    start = int(recipe.averaging.start) + 1
    stood = engine.fit(task, replace(FALLING, epochs=start, stop_at_floor=True))
    assert torch.equal(fit.losses[:, :start], stood.losses[:, :start])
    assert (fit.live != stood.live).any(dim=1).all()
    going_on = engine.fit(task, recipe, after=stood)
    check_equal(going_on, fit)
    reference = TorchEngine().fit(task, recipe)
    torch.testing.assert_close(fit.parameters, reference.parameters, rtol=0, atol=1e-11)

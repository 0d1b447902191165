"""Adam, schedules and averaging of many models against torch's own, one model at a time."""

import math
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import SWALR, AveragedModel

from ifcheck.engines import Averaging, Recipe, State
from ifcheck.engines.optimiser import Adam, Average, Plateau, PlateauThenAnneal, schedule_for
from ifcheck.variants import averaged


def start(recipe: Recipe, models: int) -> State:
    """Where the descent of models begins whose parameters do not matter."""
    return State.initial(torch.zeros(models, 1), recipe)


def torch_optimiser(rate: float) -> torch.optim.Optimizer:
    """An optimiser whose only purpose is to hold a learning rate."""
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    return torch.optim.SGD([parameter], lr=rate)


def torch_rates(losses: list[float], recipe: Recipe) -> list[float]:
    """Rates after each epoch of the standard loop: ReduceLROnPlateau, later SWALR."""
    optimiser = torch_optimiser(recipe.learning_rate)
    plateau = ReduceLROnPlateau(
        optimiser, factor=recipe.factor, patience=recipe.patience, threshold=recipe.threshold
    )
    averaging = recipe.averaging
    if averaging is not None:
        swa = SWALR(optimiser, averaging.learning_rate, averaging.anneal_epochs, "cos")
    rates = []
    with warnings.catch_warnings():
        # nothing is optimised here, so torch warns that the schedule steps first
        warnings.filterwarnings("ignore", message="Detected call of", category=UserWarning)
        for epoch, loss in enumerate(losses):
            if averaging is not None and epoch > averaging.start:
                swa.step()
            else:
                plateau.step(loss)
            rates.append(optimiser.param_groups[0]["lr"])
    return rates


def batched_rates(losses: list[list[float]], recipe: Recipe) -> list[list[float]]:
    """The same from ifcheck's schedule, for the losses of several models. Shape: losses'."""
    schedule = schedule_for(recipe, start(recipe, len(losses)))
    rates = []
    for epoch, column in enumerate(zip(*losses, strict=True)):
        schedule.step(epoch, torch.tensor(column, dtype=torch.float64))
        rates.append(schedule.rates.tolist())
    return [list(row) for row in zip(*rates, strict=True)]


def noisy_descent(seed: int, epochs: int) -> list[float]:
    """A loss that falls, with noise that hides improvements more and more."""
    generator = torch.Generator().manual_seed(seed)
    noise = 0.02 * torch.rand(epochs, generator=generator, dtype=torch.float64)
    return (1 / (1 + torch.arange(epochs) / 10) + noise).tolist()


# --- the plateau schedule --------------------------------------------------------------------

THRESHOLD = 1e-4
LOSSES = {
    "constant": [0.7] * 60,
    "falling": [1.0 - 0.01 * i for i in range(60)],
    "rising": [1.0 + 0.01 * i for i in range(60)],
    "just enough better each time": [(1 - 1.01 * THRESHOLD) ** i for i in range(60)],
    "just not better each time": [(1 - 0.4 * THRESHOLD) ** i for i in range(60)],
    "exactly at the threshold": [1.0, 1.0 - THRESHOLD] * 30,
    "one good epoch in four": [1.0 - 0.01 * (i // 4) for i in range(60)],
    "first nan": [math.nan, *[0.5] * 59],
    "late nan": [0.5, 0.4, *[math.nan] * 58],
    "nan and back": [0.5, math.nan, 0.4, math.nan, math.nan, math.nan, math.nan, 0.3] * 7,
    "inf": [math.inf] * 60,
    "inf and back": [math.inf, math.inf, 3.0, 2.0, math.inf, 1.0] * 10,
    "minus inf": [1.0, -math.inf, *[-5.0] * 58],
    "zero": [0.0] * 60,
    "negative constant": [-2.0] * 60,
    "negative and falling": [-1.0 - 0.1 * i for i in range(60)],
    "through zero": [1.0 - 0.04 * i for i in range(60)],
    "denormal": [5e-324 * (60 - i) for i in range(60)],
    "noisy": noisy_descent(0, 60),
}


@pytest.mark.parametrize("patience", [0, 1, 3])
@pytest.mark.parametrize("losses", LOSSES.values(), ids=LOSSES)
def test_plateau_gives_torch_s_rates(losses, patience):
    recipe = Recipe(len(losses), patience=patience, threshold=THRESHOLD)
    assert batched_rates([losses], recipe) == [torch_rates(losses, recipe)]


@pytest.mark.parametrize("factor", [0.1, 0.5, 0.97])
@pytest.mark.parametrize("rate", [1.0, 1e-3, 2e-8, 1.12e-8, 1.11e-8, 5e-9])
def test_plateau_stops_where_torch_does_at_the_floor(rate, factor):
    """Decays by less than 1e-8 are ignored, so the rate stands still just above it."""
    losses = [1.0] * 700
    recipe = Recipe(700, learning_rate=rate, patience=0, factor=factor)
    (rates,) = batched_rates([losses], recipe)
    assert rates == torch_rates(losses, recipe)
    assert rates[-1] - factor * rates[-1] <= 1e-8


@pytest.mark.parametrize("threshold", [0.0, 1e-4, 0.1])
def test_plateau_keeps_each_model_apart(threshold):
    """All the sequences at once, in two orders: each model's rates are its own."""
    losses = [row[:56] for row in LOSSES.values()]
    losses += [noisy_descent(seed, 56) for seed in range(1, 6)]
    recipe = Recipe(56, patience=2, threshold=threshold)
    alone = [torch_rates(row, recipe) for row in losses]
    assert batched_rates(losses, recipe) == alone
    assert batched_rates(losses[::-1], recipe) == alone[::-1]
    assert len({tuple(rates) for rates in alone}) > 5


def test_plateau_reads_float32_losses_as_torch_reads_their_items():
    losses = torch.tensor(noisy_descent(3, 200), dtype=torch.float32)
    recipe = Recipe(200, patience=2)
    plateau = Plateau(recipe, start(recipe, 1))
    rates = []
    for epoch, loss in enumerate(losses):
        plateau.step(epoch, loss[None])
        rates.append(plateau.rates.item())
    assert rates == torch_rates([loss.item() for loss in losses], recipe)


# --- the plateau schedule, then annealing ----------------------------------------------------


def test_a_recipe_without_averaging_never_anneals():
    plain = Recipe(10)
    assert isinstance(schedule_for(plain, start(plain, 1)), Plateau)
    assert isinstance(schedule_for(averaged(plain), start(plain, 1)), PlateauThenAnneal)


@pytest.mark.parametrize("patience", [0, 4])
@pytest.mark.parametrize("epochs", [1, 4, 5, 8, 9, 10, 11, 40, 100, 1000])
def test_annealing_gives_torch_s_rates(epochs, patience):
    """Bit for bit; 4 epochs average nothing, and below 10 the annealing takes no epoch."""
    losses = [noisy_descent(seed, epochs) for seed in range(4)] + [[0.5] * epochs]
    recipe = averaged(Recipe(epochs, patience=patience))
    assert batched_rates(losses, recipe) == [torch_rates(row, recipe) for row in losses]


@pytest.mark.parametrize("rate", [1e-2, 1e-3, 1e-8])
@pytest.mark.parametrize("target", [1e-3, 0.05])
@pytest.mark.parametrize("anneal_epochs", [1, 2, 7, 30])
def test_annealing_from_and_to_other_rates(rate, target, anneal_epochs):
    averaging = Averaging(start=9, anneal_epochs=anneal_epochs, learning_rate=target)
    recipe = Recipe(50, learning_rate=rate, patience=1, averaging=averaging)
    losses = noisy_descent(0, 50)
    (rates,) = batched_rates([losses], recipe)
    assert rates == torch_rates(losses, recipe)
    assert rates[-1] == target


def test_the_plateau_does_not_lower_the_rate_while_annealing():
    averaging = Averaging(start=10, anneal_epochs=5)
    (rates,) = batched_rates([[1.0] * 60], Recipe(60, patience=0, averaging=averaging))
    assert rates[10] < 1e-7
    assert rates[15:] == [1e-3] * 45


# --- Adam ------------------------------------------------------------------------------------


def gradients(models: int, params: int, dtype: torch.dtype, steps: int) -> Tensor:
    """Gradients of very different sizes, some exactly zero. Shape: (steps, models, params)."""
    generator = torch.Generator().manual_seed(0)
    shape = (steps, models, params)
    sizes = torch.logspace(-12, 3, params, dtype=torch.float64)
    values = sizes * torch.randn(shape, generator=generator, dtype=torch.float64)
    values[torch.rand(shape, generator=generator) < 0.1] = 0.0
    values[:, 0, 0] = 0.0
    return values.to(dtype)


@pytest.mark.parametrize("weight_decay", [0.0, 0.005])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adam_is_torch_s_bit_for_bit(dtype, weight_decay):
    """Gradients of all sizes; rates that grow, so that late steps are not lost to rounding."""
    models, params, steps = 2, 250, 1_500
    given = gradients(models, params, dtype, steps)
    start = torch.randn(models, params, generator=torch.Generator().manual_seed(1)).to(dtype)
    rates = torch.logspace(-8, 0, steps, dtype=torch.float64)[:, None] * torch.tensor([1, 0.3])
    ours = start.clone()
    adam = Adam(ours, weight_decay)
    theirs = [nn.Parameter(row.clone()) for row in start]
    optimisers = [torch.optim.Adam([p], weight_decay=weight_decay) for p in theirs]
    for step in range(steps):
        adam.step(given[step].clone(), rates[step])
        for model, optimiser in enumerate(optimisers):
            theirs[model].grad = given[step, model].clone()
            optimiser.param_groups[0]["lr"] = rates[step, model].item()
            optimiser.step()
        different = (ours != torch.stack([p.detach() for p in theirs])).sum().item()
        assert not different, f"{different} values differ after {step + 1} steps"
    assert not torch.equal(ours, start)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_stays_in_its_model(bad):
    given = gradients(3, 5, torch.float64, 20)
    poisoned = given.clone()
    poisoned[4, 1, 2] = bad
    results = []
    for series in (given, poisoned):
        parameters = torch.ones(3, 5, dtype=torch.float64)
        adam = Adam(parameters, 0.005)
        for gradient in series:
            adam.step(gradient.clone(), torch.full((3,), 1e-3, dtype=torch.float64))
        results.append(parameters)
    clean, disturbed = results
    assert disturbed[1, 2].isnan()
    assert torch.equal(clean[[0, 2]], disturbed[[0, 2]])


def test_the_first_step_of_adam_is_its_rate_against_the_sign():
    parameters = torch.zeros(2, 2, dtype=torch.float64)
    rates = torch.tensor([0.1, 0.2], dtype=torch.float64)
    Adam(parameters, 0.0).step(torch.tensor([[3.0, -4.0], [1.0, 0.0]]).double(), rates)
    expected = torch.tensor([[-0.1, 0.1], [-0.2, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(parameters, expected, rtol=1e-8, atol=0)


# --- averaging -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_average_is_torch_s_averaged_model(dtype):
    """The same weights enter after each epoch; torch averages one model at a time."""
    models, epochs, start = 3, 400, 99.0
    generator = torch.Generator().manual_seed(0)
    series = torch.randn(epochs, models, 30, generator=generator, dtype=torch.float64).to(dtype)
    average = Average(Averaging(start, anneal_epochs=1))
    modules = [nn.Linear(5, 5).to(dtype) for _ in range(models)]
    references = [AveragedModel(module) for module in modules]
    for epoch, weights in enumerate(series):
        average.update(epoch, weights.clone())
        for module, reference, row in zip(modules, references, weights, strict=True):
            nn.utils.vector_to_parameters(row, module.parameters())
            if epoch > start:
                reference.update_parameters(module)
    expected = torch.stack(
        [nn.utils.parameters_to_vector(r.module.parameters()).detach() for r in references]
    )
    assert references[0].n_averaged == 300
    ulp = torch.finfo(dtype).eps
    torch.testing.assert_close(average.value, expected, rtol=ulp, atol=ulp)
    mean = series[100:].double().mean(0)
    torch.testing.assert_close(average.value.double(), mean, rtol=0, atol=300 * ulp)


def test_average_leaves_out_the_epoch_it_starts_from():
    """Epochs greater than `start` enter: of 8, with 0.75 of them over, only the last."""
    average = Average(averaged(Recipe(8)).averaging)
    for epoch in range(7):
        average.update(epoch, torch.full((1, 2), float(epoch)))
    assert average.value is None
    average.update(7, torch.full((1, 2), 7.0))
    assert average.value.tolist() == [[7.0, 7.0]]


def test_average_is_not_moved_by_the_weights_it_was_given():
    average = Average(Averaging(-1.0, anneal_epochs=1))
    weights = torch.ones(1, 2)
    average.update(0, weights)
    weights.fill_(5.0)
    assert average.value.tolist() == [[1.0, 1.0]]


def test_no_averaging_averages_nothing():
    average = Average(None)
    average.update(10**6, torch.ones(1, 2))
    assert average.value is None

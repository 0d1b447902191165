"""Adam, schedules and averaging, alone and in whole blocks of epochs, against torch's own."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import SWALR, AveragedModel

pytest.importorskip("numba")
from ifcheck.engines.compiled.descent import (
    AVERAGED,
    BAD_EPOCHS,
    BEST,
    RATE,
    Block,
    Models,
    Rows,
    Settings,
    adam,
    advance,
    anneal,
    at_floor,
    enter_average,
    plateau,
)
from ifcheck.engines.compiled.functions import X86
from ifcheck.engines.compiled.layers import ACTIVATIONS
from ifcheck.engines.compiled.perceptron import Perceptron

TYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
SETTINGS = Settings(
    weight_decay=0.005,
    patience=3.0,
    factor=0.1,
    threshold=1e-4,
    averaging_start=math.inf,
    averaging_rate=0.005,
    stop_at_floor=False,
    frozen=False,
    record_every=1,
)


def schedule(rate: float) -> np.ndarray:
    """A model's schedule at the start."""
    return np.array([rate, math.inf, 0.0, 0.0])


@pytest.fixture(autouse=True)
def schedules_without_steps():
    """Schedules are also tested without an optimiser's steps, about which torch warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected call of", category=UserWarning)
        yield


def torch_optimiser(rate: float) -> torch.optim.Optimizer:
    """An optimiser whose only purpose is to hold a learning rate."""
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)


def torch_plateau(optimiser: torch.optim.Optimizer, settings: Settings) -> ReduceLROnPlateau:
    return ReduceLROnPlateau(
        optimiser,
        factor=settings.factor,
        patience=int(settings.patience),
        threshold=settings.threshold,
    )


# --- Adam ------------------------------------------------------------------------------------

STEPS = 400
STEP_ERROR = 2.0  # eps; 1.4 was measured, of a sum, a square root, a quotient and a difference


def gradients(dtype) -> np.ndarray:
    """Gradients of very different sizes, some exactly zero. Shape: (steps, params)."""
    generator = np.random.default_rng(0)
    given = np.logspace(-12, 3, 67) * generator.standard_normal((STEPS, 67))
    given[generator.uniform(size=given.shape) < 0.1] = 0.0
    given[:, 0] = 0.0
    return given.astype(dtype)


class TorchAdam:
    """torch.optim.Adam on flat parameters whose gradients are given."""

    def __init__(self, start: np.ndarray, weight_decay: float) -> None:
        self.parameter = nn.Parameter(torch.from_numpy(start.copy()))
        self.optimiser = torch.optim.Adam([self.parameter], weight_decay=weight_decay)

    def step(self, gradient: np.ndarray, rate: float) -> None:
        self.parameter.grad = torch.from_numpy(gradient.copy())
        self.optimiser.param_groups[0]["lr"] = rate
        self.optimiser.step()

    @property
    def values(self) -> list[np.ndarray]:
        """Parameters and moments, as copies."""
        state = self.optimiser.state[self.parameter]
        zeros = torch.zeros_like(self.parameter)
        tensors = (self.parameter, state.get("exp_avg", zeros), state.get("exp_avg_sq", zeros))
        return [tensor.detach().numpy().copy() for tensor in tensors]


def adam_step(values, gradient, weight_decay: float, rate: float, step: int) -> None:
    """Our step number `step`, from 1, in place."""
    parameters, mean, square = values
    size, root = rate / (1 - 0.9**step), math.sqrt(1 - 0.999**step)
    adam(parameters, gradient, mean, square, weight_decay, size, root)


@TYPES
@pytest.mark.parametrize("weight_decay", [0.0, 0.005])
def test_every_step_of_adam_is_torch_s_to_rounding(weight_decay, dtype):
    """Each from where torch stands, so that a difference is of one step.

    The bounds are in eps of the numbers that a step adds, since these may cancel.
    """
    start = np.random.default_rng(1).standard_normal(67).astype(dtype)
    theirs, eps = TorchAdam(start, weight_decay), np.finfo(dtype).eps
    for step, gradient in enumerate(gradients(dtype), start=1):
        rate = 10.0 ** (-8 * (1 - step / STEPS))
        ours = theirs.values
        parameters, mean, _ = (np.abs(values) for values in ours)
        adam_step(ours, gradient, weight_decay, rate, step)
        theirs.step(gradient, rate)
        added = np.abs(gradient) + weight_decay * parameters
        size = rate / (1 - 0.9**step)
        expected = theirs.values
        divisor = np.sqrt(expected[2] / (1 - 0.999**step)) + 1e-8
        bounds = (
            parameters + size * (mean + added) / divisor,
            mean + added,
            expected[2] + 0.001 * added**2,
        )
        for mine, exact, bound in zip(ours, expected, bounds, strict=True):
            assert (np.abs(mine - exact) <= STEP_ERROR * eps * bound).all()
    assert not np.array_equal(theirs.values[0], start)


@pytest.mark.parametrize("weight_decay", [0.0, 0.005])
def test_adam_s_whole_trajectory_is_torch_s(weight_decay):
    """To 4 eps of 1 and the parameter after 400 steps; 2 were measured: Adam forgets errors."""
    start, rate = np.random.default_rng(1).standard_normal(67), 0.01
    theirs = TorchAdam(start, weight_decay)
    ours = theirs.values
    for step, gradient in enumerate(gradients(np.float64), start=1):
        adam_step(ours, gradient, weight_decay, rate, step)
        theirs.step(gradient, rate)
    bound = 4 * np.finfo(np.float64).eps
    np.testing.assert_allclose(ours[0], theirs.values[0], rtol=bound, atol=bound)
    assert not np.array_equal(ours[0], start)


@TYPES
def test_the_first_step_of_adam_is_its_rate_against_the_sign(dtype):
    values = [np.zeros(4, dtype) for _ in range(3)]
    adam_step(values, np.array([3, -4e-3, 0, 5e5], dtype), 0.0, 0.1, 1)
    # the gradient's size enters by Adam's epsilon of 1e-8 alone, 2.5e-6 of the smallest
    np.testing.assert_allclose(values[0], [-0.1, 0.1, 0.0, -0.1], rtol=3e-6, atol=0)


# --- the plateau schedule --------------------------------------------------------------------

SPECIAL = [math.nan, math.inf, -math.inf, 0.0, 5e-324, -1.0]


def random_losses(seed: int, epochs: int) -> list[float]:
    """A noisy descent in steps, so that losses repeat, with what is not finite in between."""
    generator = np.random.default_rng(seed)
    falling = np.round(1 / (1 + np.arange(epochs) / 10) + 0.1 * generator.uniform(size=epochs), 2)
    special = generator.uniform(size=epochs) < [0.0, 0.05, 0.3][seed % 3]
    # what is never beaten again must not come first in every sequence
    chosen = generator.choice(SPECIAL[: 2 + 2 * (seed % 3)], size=epochs)
    return np.where(special, chosen, falling).tolist()


@pytest.mark.parametrize("threshold", [0.0, 1e-4, 0.1])
@pytest.mark.parametrize("factor", [0.1, 0.5, 0.97])
@pytest.mark.parametrize("patience", [0, 1, 4])
def test_plateau_is_torch_s_bit_for_bit(patience, factor, threshold):
    """Rate, best loss and bad epochs after each of 150 epochs, for 12 random sequences."""
    settings = SETTINGS._replace(patience=float(patience), factor=factor, threshold=threshold)
    for seed in range(12):
        rate = [1.0, 1e-3, 2e-8][seed % 3]
        ours, optimiser = schedule(rate), torch_optimiser(rate)
        theirs = torch_plateau(optimiser, settings)
        for loss in random_losses(seed, 150):
            plateau(ours, loss, settings)
            theirs.step(loss)
            expected = [optimiser.param_groups[0]["lr"], theirs.best, theirs.num_bad_epochs, 0]
            assert ours.tolist() == expected


def lowers(rate: float, factor: float) -> bool:
    """Whether ReduceLROnPlateau lowers this rate when its patience is exhausted."""
    optimiser = torch_optimiser(rate)
    ReduceLROnPlateau(optimiser, factor=factor, patience=0).step(math.inf)
    return optimiser.param_groups[0]["lr"] != rate


@pytest.mark.parametrize("factor", [0.1, 0.3, 0.5, 0.97])
def test_the_floor_is_where_torch_does_not_lower_the_rate(factor):
    """Up to the last bit: the rates are neighbours of the one whose decay is 1e-8."""
    rate = 1e-8 / (1 - factor)
    for _ in range(20):
        rate = math.nextafter(rate, 0.0)
    found = []
    for _ in range(40):
        found.append(at_floor(schedule(rate), factor))
        assert found[-1] == (not lowers(rate, factor))
        rate = math.nextafter(rate, 1.0)
    assert found[0]
    assert not found[-1]


# --- annealing and averaging -----------------------------------------------------------------


def shares(anneal_epochs: int, steps: int) -> np.ndarray:
    """Of the way to the averaging rate before and after each step of SWALR. Shape: (steps, 2)."""
    way = [min(1.0, step / max(1, anneal_epochs)) for step in range(steps + 1)]
    done = [(1 - math.cos(math.pi * share)) / 2 for share in way]
    return np.array([done[:-1], done[1:]]).T


@pytest.mark.parametrize("rate", [1e-2, 1e-3, 1e-8])
@pytest.mark.parametrize("target", [1e-3, 0.05])
@pytest.mark.parametrize("anneal_epochs", [0, 1, 2, 7, 30])
def test_annealing_gives_torch_s_rates_bit_for_bit(anneal_epochs, target, rate):
    ours, optimiser = schedule(rate), torch_optimiser(rate)
    swa = SWALR(optimiser, target, anneal_epochs, "cos")
    for before, after in shares(anneal_epochs, 40):
        anneal(ours, before, after, target)
        swa.step()
        assert ours.tolist() == [optimiser.param_groups[0]["lr"], math.inf, 0, 0]
    assert ours[RATE] == target


@TYPES
def test_the_average_is_torch_s_averaged_model(dtype):
    """And the mean, within an eps of 1, the size of the weights; half of that was measured."""
    series = np.random.default_rng(0).standard_normal((300, 67)).astype(dtype)
    average, ours = np.zeros(67, dtype), schedule(1e-3)
    holder = nn.ParameterList([torch.zeros(67, dtype=torch.from_numpy(series).dtype)])
    theirs = AveragedModel(holder)
    for weights in series:
        enter_average(average, weights, ours)
        nn.utils.vector_to_parameters(torch.from_numpy(weights), holder.parameters())
        theirs.update_parameters(holder)
    (expected,) = theirs.module.parameters()
    eps = np.finfo(dtype).eps
    assert np.abs(average - expected.detach().numpy()).max() <= eps
    assert np.abs(average - series.astype(np.longdouble).mean(0)).max() <= eps
    assert ours.tolist() == [1e-3, math.inf, 0, 300]


@TYPES
def test_the_first_weights_are_the_average(dtype):
    weights, average = np.array([0.1, -3e7, 0.0], dtype), np.zeros(3, dtype)
    enter_average(average, weights, schedule(1e-3))
    np.testing.assert_array_equal(average, weights)


# --- whole blocks ----------------------------------------------------------------------------

SIZES = (4, 5, 3)
USED, SPARE = 43, 5  # parameters of that network, and columns that belong to no layer
GROUP = [0, 1, 1, 0]  # whose inputs each of four models sees
MODELS, ROWS = len(GROUP), 37
ANNEAL_EPOCHS = 5
# Float64 and 60 epochs of parameters near 1: 2.4e-15 was measured.
TRAJECTORY = 1e-14


class Training:
    """Four models on two sets of rows, which every call of `run` takes through some epochs."""

    def __init__(self, dtype=np.float64, activation: str = "selu", rate: float = 0.01) -> None:
        generator = np.random.default_rng(0)
        self.activation = activation
        self.targets = generator.integers(0, 3, ROWS)
        weights = generator.uniform(0.2, 1, (MODELS, ROWS))
        weights[:, ::5] = 0.0
        self.rows = Rows(
            inputs=generator.standard_normal((2, 4, ROWS)).astype(dtype),
            group=np.array(GROUP),
            labels=np.eye(3, dtype=dtype)[:, self.targets].copy(),
            weights=(weights / weights.sum(1, keepdims=True)).astype(dtype),
        )
        start = np.zeros((MODELS, USED + SPARE))
        start[:, :USED] = 0.7 * generator.standard_normal((MODELS, USED))
        self.models = Models(
            parameters=start.astype(dtype),
            mean=np.zeros_like(start, dtype),
            square=np.zeros_like(start, dtype),
            average=np.zeros_like(start, dtype),
            schedule=np.array([schedule(rate)] * MODELS),
        )
        self.row_losses = np.full((MODELS, ROWS), np.nan, dtype)

    def copy(self) -> "Training":
        return copy.deepcopy(self)

    def run(
        self,
        settings: Settings,
        first: int,
        last: int,
        rates: np.ndarray | None = None,
        models: tuple[int, int] = (0, MODELS),
    ) -> np.ndarray:
        """Run the epochs first..last-1; return what was recorded (models, records), else NaN."""
        steps = np.arange(first + 1, last + 1)
        table = np.zeros((last - first, 2))
        if last > settings.averaging_start:
            start = int(settings.averaging_start) + 1  # the first that is averaged
            annealed = shares(ANNEAL_EPOCHS, last - start)
            table[max(0, start - first) :] = annealed[max(0, first - start) :]
        corrections = np.stack([1 - 0.9**steps, np.sqrt(1 - 0.999**steps)], axis=1)
        losses = np.full((MODELS, (last - 1) // settings.record_every + 1), np.nan)
        advance(
            Perceptron(np.array(SIZES), np.array([0, 25]), ACTIVATIONS[self.activation]),
            self.rows,
            self.models,
            settings,
            Block(first, corrections, table, np.zeros((MODELS, 0)) if rates is None else rates),
            losses,
            self.row_losses,
            *models,
        )
        return losses

    def plain_row_losses(self, model: int) -> torch.Tensor:
        """Each row's loss now, in torch. Shape: (rows,)."""
        return torch_row_losses(self, model, torch.from_numpy(self.models.parameters[model]))

    def plain_losses(self) -> list[float]:
        """The weighted loss of every model now."""
        return [
            float(torch.from_numpy(self.rows.weights[model]) @ self.plain_row_losses(model))
            for model in range(MODELS)
        ]


def torch_row_losses(training: Training, model: int, flat: torch.Tensor) -> torch.Tensor:
    """Each row's loss in nats at these parameters (columns,), in torch. Shape: (rows,)."""
    activate = {"selu": functional.selu, "tanh": torch.tanh, "relu": torch.relu}
    rows = training.rows
    inputs = torch.from_numpy(rows.inputs[rows.group[model]]).T
    W, a, V, b = flat[:USED].split([20, 5, 15, 3])
    hidden = activate[training.activation](functional.linear(inputs, W.view(5, 4), a))
    logits = functional.linear(hidden, V.view(3, 5), b)
    return functional.cross_entropy(logits, torch.from_numpy(training.targets), reduction="none")


def check_same(one: Training, other: Training, models=slice(None)) -> None:
    """The same bits of all that is known of these models, also where they are NaN."""
    for values, others in zip(
        (*one.models, one.row_losses), (*other.models, other.row_losses), strict=True
    ):
        np.testing.assert_array_equal(values[models], others[models])


class TorchTraining:
    """One of the models in torch: autograd, Adam, ReduceLROnPlateau, SWALR, AveragedModel.

    It goes on from where the model stands after `epochs` without averaging.
    """

    def __init__(self, training: Training, model: int, settings: Settings, epochs: int = 0) -> None:
        self.training, self.model, self.settings = training, model, settings
        flat, mean, square, _ = (torch.tensor(values[model]) for values in training.models[:4])
        self.module = nn.ParameterList([flat])
        self.optimiser = torch.optim.Adam(
            self.module.parameters(),
            lr=float(training.models.schedule[model, RATE]),
            weight_decay=settings.weight_decay,
        )
        self.optimiser.state[self.module[0]] = {
            "step": torch.tensor(float(epochs)),
            "exp_avg": mean,
            "exp_avg_sq": square,
        }
        self.plateau = torch_plateau(self.optimiser, settings)
        self.average = AveragedModel(self.module)
        self.swa: SWALR | None = None
        self.losses: list[float] = []

    def run(self, first: int, last: int) -> None:
        weights = torch.from_numpy(self.training.rows.weights[self.model])
        for epoch in range(first, last):
            self.optimiser.zero_grad()
            loss = weights @ torch_row_losses(self.training, self.model, self.module[0])
            loss.backward()
            self.losses.append(loss.item())
            self.optimiser.step()
            if epoch <= self.settings.averaging_start:
                self.plateau.step(loss.item())
                continue
            self.average.update_parameters(self.module)
            if self.swa is None:
                target = self.settings.averaging_rate
                self.swa = SWALR(self.optimiser, target, ANNEAL_EPOCHS, "cos")
            self.swa.step()

    @property
    def rate(self) -> float:
        return float(self.optimiser.param_groups[0]["lr"])

    @property
    def values(self) -> list[np.ndarray]:
        """Parameters, moments and average, as a row of `Models` holds them."""
        state = self.optimiser.state[self.module[0]]
        (average,) = self.average.module.parameters()
        tensors = (self.module[0], state["exp_avg"], state["exp_avg_sq"], average)
        return [tensor.detach().numpy() for tensor in tensors]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_epochs_are_torch_s(activation):
    """Descent while the plateau lowers the rate, then annealing and average."""
    settings = SETTINGS._replace(patience=1.0, factor=0.5, threshold=0.03, averaging_start=40.0)
    start = Training(activation=activation)
    lowered, ours = start.copy(), start.copy()
    lowered.run(settings, 0, 41)
    losses = ours.run(settings, 0, 60)
    for model in range(MODELS):
        theirs = TorchTraining(start, model, settings)
        theirs.run(0, 41)
        assert lowered.models.schedule[model, RATE] == theirs.rate
        theirs.run(41, 60)
        np.testing.assert_allclose(losses[model], theirs.losses, rtol=0, atol=TRAJECTORY)
        for mine, exact in zip(ours.models[:4], theirs.values, strict=True):
            np.testing.assert_allclose(mine[model], exact, rtol=0, atol=TRAJECTORY)
        plateau = theirs.plateau
        expected = [theirs.rate, plateau.best, plateau.num_bad_epochs, 19]
        np.testing.assert_allclose(ours.models.schedule[model], expected, rtol=0, atol=TRAJECTORY)
    assert (lowered.models.schedule[:, RATE] < 0.01).any()


def test_columns_that_belong_to_no_layer_stay_zero():
    training = Training()
    training.run(SETTINGS._replace(averaging_start=5.0), 0, 10)
    for values in training.models[:4]:
        assert (values[:, USED:] == 0).all()
        assert (values[:, :USED] != 0).all()


@TYPES
def test_blocks_of_any_length_give_the_same_bits(dtype):
    settings = SETTINGS._replace(patience=1.0, threshold=0.01, averaging_start=12.5)
    whole, parts = Training(dtype), Training(dtype)
    whole.run(settings, 0, 20)
    for first, last in ((0, 1), (1, 12), (12, 14), (14, 20)):
        parts.run(settings, first, last)
    check_same(whole, parts)


@TYPES
def test_only_the_models_that_are_asked_for_run(dtype):
    start, whole = Training(dtype), Training(dtype)
    some, settings = start.copy(), SETTINGS._replace(averaging_start=5.0)
    whole_losses = whole.run(settings, 0, 10)
    losses = some.run(settings, 0, 10, models=(1, 3))
    check_same(some, whole, slice(1, 3))
    check_same(some, start, [0, 3])
    np.testing.assert_array_equal(losses[1:3], whole_losses[1:3])
    assert np.isnan(losses[[0, 3]]).all()


def test_rates_that_are_given_take_the_schedule_s_place():
    """A rate of zero moves no parameter, but moments; another moves them as torch's Adam."""
    start, ours = Training(), Training()
    rates = np.linspace(0, 0.02, 10) * np.array([[0.0], [1.0], [2.0], [-1.0]])
    ours.run(SETTINGS, 3, 13, rates=rates)
    np.testing.assert_array_equal(ours.models.parameters[0], start.models.parameters[0])
    assert (ours.models.mean[:, :USED] != 0).all()
    for model in range(MODELS):
        theirs = TorchTraining(start, model, SETTINGS, epochs=3)
        for index, rate in enumerate(rates[model]):
            theirs.optimiser.param_groups[0]["lr"] = rate
            theirs.run(3 + index, 4 + index)
        for mine, exact in zip(ours.models[:3], theirs.values[:3], strict=True):
            np.testing.assert_allclose(mine[model], exact, rtol=0, atol=TRAJECTORY)


# --- what is recorded ------------------------------------------------------------------------


def test_a_recorded_loss_is_the_one_before_its_epoch():
    """At every multiple of 7, in its column, from a first epoch that is none."""
    settings = SETTINGS._replace(record_every=7)
    whole, stepped = Training(), Training()
    losses = whole.run(settings, 3, 40)
    for epoch in range(3, 40):
        before = stepped.plain_losses()
        recorded = stepped.run(settings, epoch, epoch + 1)
        column, due = epoch // 7, epoch % 7 == 0
        assert np.isfinite(recorded).sum() == MODELS * due
        if due:
            np.testing.assert_allclose(losses[:, column], before, rtol=0, atol=TRAJECTORY)
            np.testing.assert_array_equal(recorded[:, column], losses[:, column])
    assert np.isnan(losses[:, 0]).all()
    check_same(whole, stepped)


@pytest.mark.parametrize("stop", [False, True], ids=["runs on", "stops"])
def test_recording_changes_no_number(stop):
    """Not even where nobody else listens: at the floor of the rate and while averaging."""
    settings = SETTINGS._replace(
        patience=0.0, threshold=0.5, averaging_start=20.0, stop_at_floor=stop
    )
    recording, silent = Training(), Training()
    recording.run(settings, 1, 30)
    silent.run(settings._replace(record_every=1000), 1, 30)
    for values, others in zip(recording.models, silent.models, strict=True):
        np.testing.assert_array_equal(values, others)
    assert (recording.row_losses != silent.row_losses).any()  # of the last epoch, and older


@pytest.mark.parametrize("averaging_start", [math.inf, 5.0], ids=["descending", "averaging"])
def test_frozen_models_are_evaluated_and_not_moved(averaging_start):
    settings = SETTINGS._replace(averaging_start=averaging_start)
    training = Training()
    training.run(settings, 0, 10)
    before = training.copy()
    losses = training.run(settings._replace(frozen=True), 10, 13)
    for values, former in zip(training.models, before.models, strict=True):
        np.testing.assert_array_equal(values, former)
    for model, loss in enumerate(training.plain_losses()):
        np.testing.assert_allclose(losses[model, 10:], loss, rtol=0, atol=TRAJECTORY)
        rows = training.plain_row_losses(model)  # also those of weight zero
        np.testing.assert_allclose(training.row_losses[model], rows, rtol=0, atol=TRAJECTORY)
    assert np.isnan(losses[:, :10]).all()


# --- models that stop ------------------------------------------------------------------------

# A loss is better only if it is halved, so that nearly every epoch lowers the rate.
FREE = SETTINGS._replace(patience=0.0, threshold=0.5)
STOPPING = FREE._replace(stop_at_floor=True)
RATES = [1e-8, 1e-6, 1e-2, 0.3]  # the first is at its floor from the start


def with_rates() -> Training:
    training = Training()
    training.models.schedule[:, RATE] = RATES
    return training


def floor_epoch(losses, rate: float) -> int:
    """The first epoch at which torch's schedule, told these losses, would not lower its rate."""
    optimiser = torch_optimiser(rate)
    theirs = torch_plateau(optimiser, FREE)
    for epoch, loss in enumerate(losses):
        if not lowers(optimiser.param_groups[0]["lr"], FREE.factor):
            return epoch
        theirs.step(loss)
    raise AssertionError(f"after {len(losses)} epochs the rate can still be lowered")


def test_a_model_stops_at_the_epoch_at_which_its_rate_cannot_fall_any_more():
    """Parameters, moments and schedule stand as that epoch found them, to the last bit."""
    free, stopped = with_rates(), with_rates()
    losses = free.run(FREE, 0, 30)
    recorded = stopped.run(STOPPING, 0, 30)
    epochs = [floor_epoch(row, rate) for row, rate in zip(losses, RATES, strict=True)]
    assert len({*epochs}) == MODELS
    for model, epoch in enumerate(epochs):
        then = with_rates()
        then.run(FREE, 0, epoch)
        for values, expected in zip(stopped.models, then.models, strict=True):
            np.testing.assert_array_equal(values[model], expected[model])
        assert (free.models.parameters[model] != stopped.models.parameters[model]).any()
        np.testing.assert_array_equal(recorded[model, : epoch + 1], losses[model, : epoch + 1])
        assert (recorded[model, epoch:] == recorded[model, epoch]).all()


def test_a_model_that_stands_still_goes_on_when_averaging_starts():
    """With the epoch's own corrections of Adam's moments, and from the floor of its rate."""
    settings = STOPPING._replace(averaging_start=20.0)
    still, ours = with_rates(), with_rates()
    still.run(settings, 0, 21)
    ours.run(settings, 0, 40)
    for model in range(MODELS):
        theirs = TorchTraining(still, model, settings, epochs=21)
        theirs.run(21, 40)
        for mine, exact in zip(ours.models[:4], theirs.values, strict=True):
            np.testing.assert_allclose(mine[model], exact, rtol=0, atol=TRAJECTORY)
        assert ours.models.schedule[model, RATE] == theirs.rate == settings.averaging_rate
        assert ours.models.schedule[model, AVERAGED] == 19
        for column in (BEST, BAD_EPOCHS):
            assert ours.models.schedule[model, column] == still.models.schedule[model, column]


# --- what is not finite, and what is nearly zero ---------------------------------------------


@TYPES
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_model_that_is_not_finite_stays_so_and_disturbs_no_other(bad, activation, dtype):
    """Whichever its parameter: of the first layer's weights and biases, and of the last's."""
    settings = SETTINGS._replace(averaging_start=8.0)
    clean = Training(dtype, activation)
    clean_losses = clean.run(settings, 0, 16)
    for parameter in (0, 19, 20, 24, 25, 39, 40, 42):
        spoiled = Training(dtype, activation)
        spoiled.models.parameters[1, parameter] = bad
        losses = spoiled.run(settings, 0, 16)
        check_same(spoiled, clean, [0, 2, 3])
        np.testing.assert_array_equal(losses[[0, 2, 3]], clean_losses[[0, 2, 3]])
        assert not np.isfinite(spoiled.models.parameters[1]).all()
        assert not np.isfinite(spoiled.models.average[1]).all()
        assert not np.isfinite(losses[1, 1:]).any()


@pytest.mark.parametrize("patience", [0.0, 3.0])
def test_the_plateau_takes_a_loss_that_is_nan_as_torch_does(patience):
    """It is no improvement, so the rate falls until it is at its floor."""
    settings = SETTINGS._replace(patience=patience)
    training = Training()
    training.models.parameters[1, 0] = math.nan
    losses = training.run(settings, 0, 40)
    optimiser = torch_optimiser(0.01)
    theirs = torch_plateau(optimiser, settings)
    for loss in losses[1].tolist():
        theirs.step(loss)
    assert training.models.schedule[1, RATE] == optimiser.param_groups[0]["lr"] < 2e-8
    assert training.models.schedule[1, BEST] == theirs.best == math.inf


@pytest.mark.skipif(not X86, reason="other processors are left as they are")
@TYPES
def test_a_moment_that_is_denormal_is_zero(dtype):
    """A model without rows that count, whose moments would fade through all denormal numbers."""
    start = Training(dtype)
    start.rows.weights[:] = 0.0
    for moment in start.models[1:3]:
        moment[:] = np.finfo(dtype).tiny / 2
    fading = start.copy()
    fading.run(SETTINGS._replace(weight_decay=0.0), 0, 1)
    for moment in fading.models[1:3]:
        assert not moment.view(np.uint8).any()
    np.testing.assert_array_equal(fading.models.parameters, start.models.parameters)

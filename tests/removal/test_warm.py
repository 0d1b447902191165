"""Warm retraining against a sequential torch loop in float64, one removal at a time."""

import copy
import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from ifcheck import memory
from ifcheck.engines import Averaging, Recipe
from ifcheck.errors import UnusableInput
from ifcheck.models import Network
from ifcheck.removal import TRUTHS, RemovalProblem, Truth
from ifcheck.removal import warm as warm_module
from ifcheck.removal.warm import STATIONARY_GRADIENT
from tests import oracles
from tests.benchmarks import sequential_loop as loop
from tests.curvature import mlp_loss

SIZES, HEAD = (3, 4, 3), slice(16, 31)
EPOCHS = 200
# Both loops differ by rounding alone, measured 3e-15; away from an optimum it does not grow.
CLOSE = {"rtol": 0, "atol": 1e-12}


def warm(problem: RemovalProblem) -> Truth:
    return TRUTHS.create("warm").remove(problem)


class SequentialRun(NamedTuple):
    """One network retrained by the sequential loop."""

    s: int  # which network
    k: int  # which removal, from 1; 0 is the null run
    weights: torch.Tensor  # (rows,)
    live: loop.MLP  # where the optimiser stands
    result: loop.MLP  # the average where there is one


def flat_of(network: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(network.parameters()).detach().clone()


def sequential_copy(flat: torch.Tensor) -> loop.MLP:
    """A network for the loop with these parameters."""
    model = loop.make_mlp(SIZES[0], SIZES[1], 1, SIZES[2], "tanh").double()
    nn.utils.vector_to_parameters(flat.clone(), model.parameters())
    return model


def start_of(problem: RemovalProblem, s: int) -> torch.Tensor:
    """Where retraining of one network starts: what moves may start from the live weights."""
    flat, moved = flat_of(problem.networks[s]), HEAD if problem.params == "head" else slice(None)
    if problem.live is not None:
        flat[moved] = problem.live[s, moved]
    return flat


def sequential_runs(problem: RemovalProblem, epochs: int | None = None) -> Iterator[SequentialRun]:
    """Retrain one model at a time, as a researcher would."""
    rows, recipe = len(problem.train[1]), problem.recipe
    for s in range(len(problem.networks)):
        for k, removed in enumerate([None, *problem.removed[s].tolist()]):
            weights = torch.ones(rows, dtype=torch.float64)
            if removed is not None:
                weights[removed] = 0
            weights /= weights.sum() if problem.normalisation == "n-1" else rows
            model = sequential_copy(start_of(problem, s))
            run = loop.train(
                model,
                *problem.train,
                epochs=recipe.epochs if epochs is None else epochs,
                weights=weights,
                weight_decay=problem.objective.weight_decay,
                learning_rate=recipe.learning_rate,
                patience=recipe.patience,
                averaging=recipe.averaging is not None,
                parameters=model.head.parameters() if problem.params == "head" else None,
            )
            result = model if run.averaged is None else run.averaged
            yield SequentialRun(s, k, weights, live=model, result=result)


def losses_of(truth: Truth, run: SequentialRun) -> torch.Tensor:
    """The test losses that the truth has for a run. Shape: (tests,)."""
    if run.k == 0:
        return truth.null_loss_after[run.s]
    return truth.loss_after[run.s, :, run.k - 1]


def assert_same_end(truth: Truth, run: SequentialRun, problem: RemovalProblem) -> None:
    expected = loop.row_losses(run.result, *problem.test)
    assert_allclose(losses_of(truth, run), expected, **CLOSE)
    norm = objective_gradient_norm(run.result, problem, run.weights)
    assert truth.gradient_norm[run.s, run.k].item() == pytest.approx(norm, rel=1e-6, abs=1e-9)


def features_of(flat: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """What the head sees of a network with these parameters."""
    W, b = oracles.split_theta(flat[: HEAD.start], SIZES[0])
    return np.tanh(inputs @ W.T + b)


def objective_gradient_norm(model: loop.MLP, problem: RemovalProblem, weights) -> float:
    """Of what retraining descends, by the head's oracle or by finite differences."""
    flat, decay = flat_of(model).numpy(), problem.objective.weight_decay
    inputs, targets = (tensor.numpy() for tensor in problem.train)
    if problem.params == "head":
        rows = features_of(flat, inputs), targets, weights.numpy(), decay
        gradient = oracles.head_gradient(flat[HEAD], *rows)
    else:

        def objective(theta):
            data = mlp_loss(theta, SIZES, "tanh", inputs, targets, weights.numpy())
            return data + decay / 2 * theta @ theta

        gradient = oracles.finite_difference_gradient(objective, flat)
    return float(np.linalg.norm(gradient))


# --- against the sequential loop -----------------------------------------------------------


@pytest.mark.parametrize("params", ["head", "all"])
@pytest.mark.parametrize("normalisation", ["n", "n-1"])
def test_losses_and_gradients_are_those_of_the_sequential_loop(make_problem, params, normalisation):
    problem = make_problem(params=params, normalisation=normalisation)
    truth = warm(problem)
    assert truth.loss_after.shape == (2, 2, 3)
    for run in sequential_runs(problem):
        assert_same_end(truth, run, problem)


@pytest.mark.parametrize("params", ["head", "all"])
@pytest.mark.parametrize("normalisation", ["n", "n-1"])
def test_groups_leave_together(make_problem, params, normalisation):
    groups = torch.tensor([[[0, 7, 12], [5, 6, 1]], [[19, 3, 7], [2, 0, 11]]])
    problem = make_problem(params=params, normalisation=normalisation, removed=groups)
    truth = warm(problem)
    assert truth.loss_after.shape == (2, 2, 2)
    for run in sequential_runs(problem):
        assert_same_end(truth, run, problem)


@pytest.mark.parametrize("params", ["head", "all"])
def test_without_weight_decay(make_problem, params):
    problem = make_problem(params=params, weight_decay=0)
    truth = warm(problem)
    for run in sequential_runs(problem):
        assert_same_end(truth, run, problem)
    assert truth.reasons == ()


def test_live_restart_averages_again(make_problem):
    averaging = Averaging(loop.AVERAGING_START * EPOCHS, int(loop.ANNEALING_SHARE * EPOCHS))
    recipe = Recipe(EPOCHS, learning_rate=1e-2, averaging=averaging, record_every=100)
    problem = make_problem(params="all", recipe=recipe)
    live = torch.stack([flat_of(network) for network in problem.networks])
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(live.shape, generator=generator, dtype=torch.float64)
    problem = dataclasses.replace(problem, live=live + 0.3 * noise)
    truth = warm(problem)
    for run in sequential_runs(problem):
        assert_same_end(truth, run, problem)
        if run.k:  # the curve is that of the live weights, which end elsewhere
            end = loop.row_losses(run.live, *problem.test)
            assert_allclose(truth.trajectory[run.s, :, run.k - 1, -1], end, **CLOSE)
            assert (end - losses_of(truth, run)).abs().max() > 1e-6
    for s in range(2):
        before = loop.row_losses(sequential_copy(start_of(problem, s)), *problem.test)
        assert_allclose(truth.trajectory[s, :, 1, 0], before, **CLOSE)


# --- the curve of losses during retraining -------------------------------------------------


@pytest.mark.parametrize("params", ["head", "all"])
def test_trajectory_starts_before_the_first_step_and_ends_at_the_result(make_problem, params):
    recipe = Recipe(epochs=EPOCHS, learning_rate=1e-2, patience=5, record_every=50)
    problem = make_problem(params=params, recipe=recipe)
    truth = warm(problem)
    assert truth.trajectory_epochs.tolist() == [0, 50, 100, 150, 200]
    assert truth.trajectory.shape == (2, 2, 3, 5)
    assert truth.trajectory.dtype == torch.float64
    assert_allclose(truth.trajectory[..., -1], truth.loss_after, **CLOSE)
    for s, network in enumerate(problem.networks):
        before = loop.row_losses(sequential_copy(flat_of(network)), *problem.test)
        for k in range(3):
            assert_allclose(truth.trajectory[s, :, k, 0], before, **CLOSE)
    # no schedule looks ahead: half way stands who trains half as long
    for run in sequential_runs(problem, epochs=100):
        if run.k:
            expected = loop.row_losses(run.live, *problem.test)
            assert_allclose(truth.trajectory[run.s, :, run.k - 1, 2], expected, **CLOSE)


def test_no_trajectory_unless_asked_for(make_problem):
    truth = warm(make_problem())
    assert truth.trajectory is None
    assert truth.trajectory_epochs is None


# --- certificates --------------------------------------------------------------------------


def test_short_retraining_has_not_converged(make_problem):
    truth = warm(make_problem())
    assert truth.gradient_norm.shape == (2, 4)
    assert (truth.gradient_norm > STATIONARY_GRADIENT).all()
    assert truth.converged.tolist() == [[False] * 3] * 2


def test_start_that_is_the_optimum_of_every_removal_has_converged(make_problem):
    # the rows are twins of one: without one of them the mean is the same. The rate is minute, as
    # Adam multiplies a vanishing gradient by rate / epsilon and leaves any optimum at first.
    problem = make_problem(recipe=Recipe(epochs=50, learning_rate=1e-11))
    train = tuple(tensor[:1].repeat_interleave(20, 0) for tensor in problem.train)
    networks = [copy.deepcopy(network) for network in problem.networks]
    for network in networks:
        features = features_of(flat_of(network).numpy(), train[0].numpy())
        rows = features, train[1].numpy(), np.full(20, 1 / 20), problem.objective.weight_decay
        theta = torch.from_numpy(oracles.head_optimum(*rows, classes=SIZES[-1]))
        nn.utils.vector_to_parameters(theta, network.head.parameters())
    truth = warm(dataclasses.replace(problem, networks=networks, train=train))
    assert truth.converged.tolist() == [[True] * 3] * 2
    assert (truth.gradient_norm <= STATIONARY_GRADIENT).all()
    change = truth.loss_after - truth.null_loss_after[..., None]
    assert change.abs().max() < 1e-9


def test_long_retraining_reaches_the_exact_optimum(make_problem):
    problem = make_problem(weight_decay=0.05, recipe=Recipe(4000, 1e-2, patience=500))
    truth, exact = warm(problem), TRUTHS.create("newton").remove(problem)
    assert truth.converged.all()
    assert_allclose(truth.loss_after, exact.loss_after, rtol=0, atol=1e-6)
    assert_allclose(truth.null_loss_after, exact.null_loss_after, rtol=0, atol=1e-6)


def test_progress_reports_what_it_costs(make_problem):
    problem, method, reported = make_problem(), TRUTHS.create("warm"), []
    method.remove(problem, reported.append)
    assert sum(reported) == method.cost(problem) == 2 * 4 * EPOCHS


@pytest.mark.parametrize("params", ["head", "all"])
def test_networks_do_not_move(make_problem, params):
    problem = make_problem(params=params)
    before = [flat_of(network).clone() for network in problem.networks]
    warm(problem)
    for network, flat in zip(problem.networks, before, strict=True):
        assert torch.equal(flat_of(network), flat)
        assert all(p.grad is None for p in network.parameters())


# --- engines and precision -----------------------------------------------------------------


@pytest.mark.parametrize("params", ["head", "all"])
def test_generic_engine_finds_the_same_truth(make_problem, params):
    problem = make_problem(params=params)
    generic = warm(dataclasses.replace(problem, engine="vmap"))
    truth = warm(problem)
    assert_allclose(generic.loss_after, truth.loss_after, **CLOSE)
    assert_allclose(generic.null_loss_after, truth.null_loss_after, **CLOSE)


class Sigmoid(Network):
    """A network that the structured engine does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(SIZES[0], SIZES[1]), nn.Sigmoid())
        self.head = nn.Linear(SIZES[1], SIZES[2])

    def features(self, inputs):
        return self.body(inputs)


def test_a_network_that_no_structured_engine_knows_is_retrained(make_problem):
    torch.manual_seed(0)
    network = Sigmoid().double()
    removed = torch.tensor([[[4]]])
    problem = make_problem(networks=[network], removed=removed, params="all")
    model = loop.MLP(copy.deepcopy(network.body), copy.deepcopy(network.head))
    kept = torch.arange(len(problem.train[1])) != 4
    rows = (tensor[kept] for tensor in problem.train)
    loop.train(model, *rows, epochs=EPOCHS, weight_decay=0.01, learning_rate=1e-2, patience=5)
    expected = loop.row_losses(model, *problem.test)
    truth = warm(problem)
    assert_allclose(truth.loss_after[0, :, 0], expected, **CLOSE)
    assert truth.engine == "vmap"


def test_an_engine_that_does_not_fit_is_refused(make_problem):
    problem = make_problem(networks=[Sigmoid().double()], params="all", engine="torch")
    problem = dataclasses.replace(problem, removed=torch.tensor([[[4]]]))
    with pytest.raises(UnusableInput, match="cannot train Sigmoid"):
        warm(problem)


def test_single_precision_is_trained_in_single_and_judged_in_double(make_problem):
    problem = make_problem(params="all")
    exact = warm(problem)
    networks = [copy.deepcopy(network).float() for network in problem.networks]
    truth = warm(dataclasses.replace(problem, networks=networks))
    assert truth.loss_after.dtype == truth.gradient_norm.dtype == torch.float64
    assert_allclose(truth.loss_after, exact.loss_after, atol=1e-3)
    assert (truth.loss_after != exact.loss_after).any()


def test_mean_of_no_rows_spares_the_null_run(make_problem):
    problem = make_problem(removed=torch.zeros(2, 1, 1, dtype=torch.int64))
    one = dataclasses.replace(problem, train=tuple(tensor[:1] for tensor in problem.train))
    truth = warm(one)
    assert truth.loss_after.isnan().all()
    assert not truth.converged.any()
    keeping = warm(dataclasses.replace(one, normalisation="n"))
    assert_allclose(truth.null_loss_after, keeping.null_loss_after, **CLOSE)


def test_truth_does_not_depend_on_how_many_networks_features_are_there_together(
    make_problem, monkeypatch
):
    recipe = Recipe(epochs=60, learning_rate=1e-2, patience=5, record_every=20)
    problem = make_problem(recipe=recipe, seeds=(0, 1))
    together = warm(problem)
    asked = []
    evaluate = warm_module.evaluate
    monkeypatch.setattr(memory, "LARGEST_IN_MEMORY", 1)
    monkeypatch.setattr(
        warm_module, "evaluate", lambda *given: asked.append(len(given[1])) or evaluate(*given)
    )
    alone = warm(problem)
    rows, tests = len(problem.train[1]), len(problem.test[1])
    assert asked == [1, rows, tests, rows, tests]  # one network's after the other's
    for item in dataclasses.fields(Truth):
        expected, found = getattr(together, item.name), getattr(alone, item.name)
        if isinstance(expected, torch.Tensor):
            assert torch.equal(found, expected), item.name
        else:
            assert found == expected

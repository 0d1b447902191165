"""Bayesian networks in the engines: differences, the sequential loop, and no one's company."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import distributions, nn

from ifcheck.engines import Recipe, Task, assess
from ifcheck.engines.batched import TorchEngine, VmapEngine
from ifcheck.engines.generic_kernel import GenericKernel
from ifcheck.engines.padding import pad_rows
from ifcheck.engines.structure import Structure, is_structured, structure_of
from ifcheck.engines.variational_kernel import VariationalKernel
from ifcheck.models import VariationalNetwork, VariationalSpec, initialise
from ifcheck.models.mlp import MLPSpec
from ifcheck.models.moments import RHO
from ifcheck.models.variational import VariationalHead
from ifcheck.objective import Objective, VariationalObjective, weights_without
from ifcheck.params import Layout, stack_modules
from ifcheck.variants import averaged
from tests import oracles
from tests.benchmarks import bayesian_loop, sequential_loop
from tests.engines.conftest import CLASSES, DESCENTS, ENGINES, random_weights
from tests.networks import LeNet

ROWS = 149
OBJECTIVE = VariationalObjective(rows=ROWS)
REMOVED = (5, 77, 120)  # one row of each class
ACTIVATIONS = pytest.mark.parametrize("activation", ["selu", "tanh", "relu"])


def networks(models: int, depth: int, width: int = 5, activation: str = "tanh", rho=-5.0, spread=0):
    spec = VariationalSpec(MLPSpec(depth, width, activation), rho=rho, rho_spread=spread)
    return [initialise(spec, (4,), CLASSES, seed, torch.float64) for seed in range(models)]


def network_task(started, iris, removed=REMOVED, dtype=torch.float64) -> Task:
    """One network for each removed row."""
    rows = torch.tensor(removed)[:, None]
    return Task(
        network=started[0],
        objective=OBJECTIVE,
        parameters=stack_modules(started).to(dtype),
        inputs=iris[0][None].to(dtype),
        targets=iris[1],
        weights=weights_without(ROWS, rows, "n", dtype),
        probe_inputs=iris[2][None].to(dtype),
        probe_targets=iris[3],
    )


def head_task(started, iris, removals: int = 2, dtype=torch.float64) -> Task:
    """Heads of each network on the moments below them, a row removed from each."""
    heads = [network.head for network in started]
    with torch.no_grad():
        features = torch.stack([network.features(iris[0]) for network in started])
        tests = torch.stack([network.features(iris[2]) for network in started])
    rows = torch.arange(removals * len(heads))[:, None] * 7
    return Task(
        network=heads[0],
        objective=OBJECTIVE,
        parameters=stack_modules(heads).repeat_interleave(removals, dim=0).to(dtype),
        inputs=features.to(dtype),
        targets=iris[1],
        weights=weights_without(ROWS, rows, "n", dtype),
        probe_inputs=tests.to(dtype),
        probe_targets=iris[3],
    )


# --- structure -------------------------------------------------------------------------------


def test_which_bayesian_networks_are_known_by_heart():
    (network,) = networks(1, 3, 7, "relu")
    assert structure_of(network) == Structure((4, 7, 7, 7, 3), "relu", bayesian=True)
    assert structure_of(network.head) == Structure((7, 3), None, bayesian=True, packed=True)
    assert is_structured(network, OBJECTIVE)
    for other in (
        replace(OBJECTIVE, likelihood="expected"),
        replace(OBJECTIVE, jacobian="full"),
        Objective(),
    ):
        assert not is_structured(network, other)
    network.body[1] = torch.nn.Identity()
    assert structure_of(network) is None


# --- gradients -------------------------------------------------------------------------------


@ACTIVATIONS
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("kind", ["network", "head"])
def test_gradients_by_hand_are_autograd_s(iris, activation, depth, kind):
    started = networks(3, depth, 4, activation, rho=-2.0, spread=3.0)
    task = network_task(started, iris) if kind == "network" else head_task(started, iris)
    unequal = random_weights(task.models, ROWS, torch.Generator().manual_seed(0))
    task = replace(task, weights=unequal)
    generic, structured = GenericKernel(task), VariationalKernel(pad_rows(task))
    losses, gradient = generic.differentiate()
    found, own = (values.clone() for values in structured.differentiate())
    torch.testing.assert_close(found, losses, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(structured.to_flat(own), gradient, rtol=1e-12, atol=1e-13)
    assert torch.equal(structured.gradient(), own)
    torch.testing.assert_close(structured.probe()[:, :1], generic.probe(), rtol=1e-12, atol=1e-13)


def test_loss_and_gradient_of_a_head_are_differences_of_a_plain_objective(iris):
    task = head_task(networks(2, 1, 3, rho=-1.0), iris)
    losses, _ = VariationalKernel(pad_rows(task)).differentiate()
    features, targets = task.inputs[1].numpy(), task.targets.numpy()
    weights, start = task.weights[3].numpy(), task.parameters[3].numpy()

    def objective(theta: np.ndarray) -> float:
        data = oracles.bayesian_head_loss(theta, features, targets, weights)
        return data + oracles.kl_to_standard_normal(theta) / ROWS

    assert losses[3].item() == pytest.approx(objective(start), rel=1e-12)
    kernel = VariationalKernel(task)
    expected = oracles.finite_difference_gradient(objective, start)
    found = kernel.to_flat(kernel.differentiate()[1])[3].numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)


def test_assessment_is_of_the_whole_objective(iris):
    task = head_task(networks(2, 1, 3), iris)
    assessment = assess(task, task.parameters)
    _, gradient = GenericKernel(task).differentiate()
    torch.testing.assert_close(assessment.gradient_norm, gradient.norm(dim=1), rtol=1e-12, atol=0)


# --- the sequential loop ---------------------------------------------------------------------


def as_loop_model(network, depth: int, activation: str) -> bayesian_loop.BayesianMLP:
    width = network.head.in_features
    model = bayesian_loop.make_bayesian_mlp(4, width, depth, CLASSES, activation).double()
    model.load_state_dict(network.state_dict())
    return model


def looped(models, iris, rows, epochs: int, whole: bool = True):
    """Train each model in place, on the table from which its row was deleted."""
    inputs, targets, *_ = iris
    runs = []
    for model, row in zip(models, rows, strict=True):
        kept = torch.arange(len(targets)) != row
        runs.append(
            sequential_loop.train(
                model,
                inputs[kept],
                targets[kept],
                epochs=epochs,
                parameters=None if whole else model.head.parameters(),
                criterion=bayesian_loop.criterion(ROWS, whole=whole),
                record=True,
            )
        )
    return runs


@pytest.mark.parametrize(("depth", "epochs"), [(1, 1_000), (3, 300)])
@ACTIVATIONS
@DESCENTS
def test_training_is_the_loop_s(iris, descent, activation, depth, epochs):
    started = networks(2, depth, 5, activation)
    models = [as_loop_model(network, depth, activation) for network in started]
    runs = looped(models, iris, REMOVED[:2], epochs)
    task = network_task(started, iris, REMOVED[:2])
    fit = descent(task, Recipe(epochs, record_every=1), [run.learning_rates for run in runs])
    expected = torch.tensor([run.losses for run in runs], dtype=torch.float64)
    torch.testing.assert_close(fit.losses[:, :-1], expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(fit.live, stack_modules(models), rtol=0, atol=1e-10)


@DESCENTS
def test_fine_tuned_heads_are_the_loop_s(iris, descent):
    (network,) = networks(1, 1)
    base = as_loop_model(network, 1, "tanh")
    looped([base], iris, [REMOVED[0]], 300)
    network.load_state_dict(base.state_dict())
    rows, epochs = [0, 7], 2_000
    models = [copy.deepcopy(base) for _ in rows]
    runs = looped(models, iris, rows, epochs, whole=False)
    task = head_task([network], iris)
    fit = descent(task, Recipe(epochs), [run.learning_rates for run in runs])
    heads = stack_modules([model.head for model in models])
    torch.testing.assert_close(fit.live, heads, rtol=0, atol=1e-12)


def gaussian_divergence(network: nn.Module) -> torch.Tensor:
    """KL of all weights and biases to N(0, 1), by torch.distributions."""
    total = torch.zeros((), dtype=torch.float64)
    values = dict(network.named_parameters())
    for name, rho in values.items():
        if name.endswith(RHO):
            scale = nn.functional.softplus(rho).sqrt()
            posterior = distributions.Normal(values[name.removesuffix(RHO)], scale)
            total += distributions.kl_divergence(posterior, distributions.Normal(0.0, 1.0)).sum()
    return total


def test_a_convolutional_network_is_trained_as_a_loop_does():
    """Layer by layer it is checked by sampling; here its batched gradients and its objective."""
    generator = torch.Generator().manual_seed(0)
    rows, epochs, removed = 12, 40, (3, 8)
    images = torch.randn(rows, 1, 8, 8, generator=generator, dtype=torch.float64)
    targets = torch.randint(CLASSES, (rows,), generator=generator)
    started = []
    for seed in range(2):
        torch.manual_seed(seed)
        started.append(VariationalNetwork(LeNet().double()))
    task = Task(
        network=started[0],
        objective=VariationalObjective(rows=rows),
        parameters=stack_modules(started),
        inputs=images[None],
        targets=targets,
        weights=weights_without(rows, torch.tensor(removed)[:, None], "n"),
    )
    fit = VmapEngine().fit(task, Recipe(epochs, learning_rate=0.01))
    for network, row in zip(started, removed, strict=True):
        kept = torch.arange(rows) != row
        optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
        for _ in range(epochs):
            optimiser.zero_grad()
            logits = network(images[kept]).unbind(1)
            data = bayesian_loop.row_losses(logits, targets[kept], OBJECTIVE.noise).sum()
            ((data + gaussian_divergence(network)) / rows).backward()
            optimiser.step()
    torch.testing.assert_close(fit.parameters, stack_modules(started), rtol=0, atol=1e-10)


# --- schedules, company, types ----------------------------------------------------------------


@ENGINES
@pytest.mark.parametrize("averaging", [False, True], ids=["plain", "swa"])
@pytest.mark.parametrize("kind", ["network", "head"])
def test_every_engine_does_what_vmap_does(iris, engine, averaging, kind):
    started = networks(2, 2, 4, "selu")
    task = (
        network_task(started, iris, REMOVED[:2]) if kind == "network" else head_task(started, iris)
    )
    plain = Recipe(60, learning_rate=0.05, patience=1, factor=0.5, record_every=7)
    recipe = averaged(plain) if averaging else plain
    fit, expected = engine.fit(task, recipe), VmapEngine().fit(task, recipe)
    assert engine.supports(task.network, task.objective, Recipe(1))
    assert torch.equal(fit.recorded_epochs, expected.recorded_epochs)
    for field in ("parameters", "live", "learning_rate", "losses", "probe_losses"):
        one, other = getattr(fit, field), getattr(expected, field)
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@ENGINES
@ACTIVATIONS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("kind", ["network", "head"])
def test_a_seed_s_bits_do_not_depend_on_its_company(iris, engine, activation, dtype, kind):
    if isinstance(engine, VmapEngine):
        pytest.skip("only structured engines promise it")
    started = networks(3, 2, 5, activation)
    make_task = network_task if kind == "network" else head_task
    task = make_task(started, iris, dtype=dtype)
    recipe = averaged(Recipe(40, learning_rate=0.01, patience=3, record_every=10))
    together, size = engine.fit(task, recipe), task.models // 3
    for seed in range(3):
        models = slice(seed * size, (seed + 1) * size)
        alone = engine.fit(task.part(models.start, models.stop), recipe)
        for field in ("parameters", "live", "losses", "probe_losses"):
            assert torch.equal(getattr(alone, field), getattr(together, field)[models]), field


@ENGINES
@pytest.mark.parametrize("kind", ["network", "head"])
def test_going_on_is_as_if_it_had_never_stopped(iris, engine, kind):
    started = networks(2, 1, 4)
    task = network_task(started, iris, (5, 77)) if kind == "network" else head_task(started, iris)
    plain = Recipe(40, learning_rate=0.05, patience=1, record_every=6)
    for recipe in (plain, averaged(plain)):
        before = engine.fit(task, replace(plain, epochs=12))
        whole, parts = engine.fit(task, recipe), engine.fit(task, recipe, after=before)
        for field in ("parameters", "live", "losses", "probe_losses"):
            assert torch.equal(getattr(parts, field), getattr(whole, field)), field


@ENGINES
def test_a_model_stands_still_at_the_floor(iris, engine):
    """Under a schedule that wants the loss halved in every epoch: after eight of them."""
    task = network_task(networks(3, 1), iris)
    falling = Recipe(30, learning_rate=0.05, patience=0, threshold=0.5, record_every=1)
    fit = engine.fit(task, replace(falling, stop_at_floor=True))
    moving = engine.fit(task, replace(falling, epochs=8))
    assert (fit.learning_rate < 1e-8).all()
    assert torch.equal(fit.live, moving.live)
    assert (fit.losses[:, 8:] - fit.losses[:, 8:9]).abs().max() <= 1e-13
    assert (fit.losses[:, 1] != fit.losses[:, 0]).all()


@ENGINES
def test_a_model_that_is_not_finite_disturbs_no_other(iris, engine):
    task = network_task(networks(3, 1), iris)
    spoiled = task.parameters.clone()
    spoiled[1] = torch.nan
    sound = engine.fit(task, Recipe(20))
    fit = engine.fit(replace(task, parameters=spoiled), Recipe(20))
    assert not fit.live[1].isfinite().any()
    for model in (0, 2):
        torch.testing.assert_close(fit.live[model], sound.live[model], rtol=0, atol=1e-14)


def test_training_reaches_an_optimum_in_float32(iris):
    """The loss never turns negative, so the rate falls to its floor, and few rows are missed."""
    task = network_task(networks(3, 1), iris, dtype=torch.float32)
    fit = TorchEngine().fit(task, Recipe(4_000, patience=20, learning_rate=0.01))
    assert (fit.losses[:, -1] > 0).all()
    assert (fit.learning_rate < 1e-7).all()
    network = initialise(VariationalSpec(MLPSpec(1, 5, "tanh")), (4,), CLASSES, 0, torch.float32)
    for flat in fit.parameters:
        torch.nn.utils.vector_to_parameters(flat, network.parameters())
        predicted = OBJECTIVE.predictions(network(iris[0].float()))
        assert (predicted == iris[1]).double().mean() > 0.95


def test_layouts_agree_on_what_a_head_is(iris):
    (network,) = networks(1, 2)
    assert isinstance(network.head, VariationalHead)
    names = [name.removeprefix("head.") for name in Layout.of(network).names[-4:]]
    assert tuple(names) == Layout.of(network.head).names

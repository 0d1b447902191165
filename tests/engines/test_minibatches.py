"""Mini-batches, AMSGrad, early stop and dropout, against a loop that knows one model at a time."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ifcheck import provenance
from ifcheck.engines import NumbaEngine, Recipe, Task
from ifcheck.engines.batched import TorchEngine, VmapEngine
from ifcheck.engines.batches import batches_of
from ifcheck.engines.generic_kernel import GenericKernel
from ifcheck.models import Network, VariationalSpec, initialise
from ifcheck.models.mlp import MLPSpec
from ifcheck.objective import Objective, VariationalObjective, weights_without
from ifcheck.params import Layout, load_flat, stack_modules
from tests.networks import LeNet

EXACT = 1e-11
CLASSES = 3
ROWS = 47
PLAIN = Objective(0.005)
BAYES = VariationalObjective(rows=ROWS)
RECIPES = {
    "batches": Recipe(12, batch_size=10),
    "last batch of one": Recipe(9, batch_size=23),
    "amsgrad": Recipe(60, learning_rate=0.05, amsgrad=True, patience=4),
    "all of it": Recipe(
        60, learning_rate=0.1, batch_size=16, patience=2, amsgrad=True, early_stop=5
    ),
}


class LeNetSpec:
    convolutional = True

    def build(self, input_shape, classes):
        return LeNet()


class Dropping(Network):
    """A network that draws random numbers while it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.4))
        self.head = nn.Linear(6, CLASSES)

    def features(self, inputs: Tensor) -> Tensor:
        return self.body(inputs)


class DroppingSpec:
    convolutional = False

    def build(self, input_shape, classes):
        return Dropping()


def rows(shape=(4,), count=ROWS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    targets = torch.randint(CLASSES, (count,), generator=generator)
    inputs += functional.one_hot(targets, 4)[(..., *[None] * (len(shape) - 1))][
        :, : shape[0]
    ]  # something to learn
    return inputs, targets


def networks(spec, shape=(4,), models=3) -> list[Network]:
    return [initialise(spec, shape, CLASSES, seed, torch.float64) for seed in range(models)]


def whole(spec, shape=(4,), objective=PLAIN, removed=(3, 40, -1)) -> Task:
    """Three networks with seeds of their own, of which two do without a row."""
    started, (inputs, targets) = networks(spec, shape), rows(shape)
    return Task(
        network=started[0],
        objective=objective,
        parameters=stack_modules(started),
        inputs=inputs[None],
        targets=targets,
        weights=weights_without(ROWS, torch.tensor(removed)[:, None], "n-1"),
        seeds=(5, 6, 7),
        probe_inputs=inputs[None, :6],
        probe_targets=targets[:6],
    )


def heads(spec, shape=(4,), objective=PLAIN) -> Task:
    """Two seeds' heads on features of their own: nothing removed, then each of two rows."""
    started, (inputs, targets) = networks(spec, shape, models=2), rows(shape)
    with torch.no_grad():
        features = torch.stack([network.features(inputs) for network in started])
    weights = weights_without(ROWS, torch.tensor([[-1], [3], [40]]), "n-1")
    return Task(
        network=started[0].head,
        objective=objective,
        parameters=stack_modules([n.head for n in started]).repeat_interleave(3, dim=0),
        inputs=features,
        targets=targets,
        weights=weights.repeat(2, 1),
        seeds=(5, 5, 5, 6, 6, 6),
        probe_inputs=features[:, :6],
        probe_targets=targets[:6],
    )


TASKS = {
    "mlp": lambda: whole(MLPSpec(2, 5, "tanh")),
    "head": lambda: heads(MLPSpec(1, 5)),
    "lenet": lambda: whole(LeNetSpec(), (1, 8, 8)),
    "bayesian mlp": lambda: whole(VariationalSpec(MLPSpec(1, 5, "tanh")), objective=BAYES),
    "bayesian head": lambda: heads(VariationalSpec(MLPSpec(1, 5)), objective=BAYES),
    "bayesian lenet": lambda: whole(VariationalSpec(LeNetSpec()), (1, 8, 8), objective=BAYES),
}


def engine_for(task: Task):
    structured = TorchEngine()
    fits = structured.supports(task.network, task.objective, Recipe(1))
    return structured if fits else VmapEngine()


def looped(task: Task, model: int, recipe: Recipe) -> tuple[nn.Module, list[float], float]:
    """Train one model as everybody does; return it, the losses watched, and the last rate."""
    network = copy.deepcopy(task.network)
    load_flat(network, task.parameters[model].clone())
    network.train()
    inputs = task.inputs[model // task.models_per_group]
    kept = (task.weights[model] > 0).numpy()
    optimiser = torch.optim.Adam(
        network.parameters(),
        lr=recipe.learning_rate,
        weight_decay=task.objective.weight_decay,
        amsgrad=recipe.amsgrad,
    )
    scheduler = ReduceLROnPlateau(optimiser, factor=recipe.factor, patience=recipe.patience)
    is_rho = Layout.of(network).is_rho
    watched: list[float] = []
    best, stale = np.inf, 0
    for epoch in range(recipe.epochs):
        order = np.arange(len(kept))
        if recipe.batch_size is not None:
            name = provenance.named_seed(task.seeds[model], "shuffle", epoch)
            order = np.random.default_rng(name).permutation(len(kept))
        total = 0.0
        for start in range(0, len(order), recipe.batch_size or len(order)):
            batch = order[start : start + (recipe.batch_size or len(order))]
            batch = batch[kept[batch]]
            optimiser.zero_grad()
            loss = torch.zeros((), dtype=torch.float64)
            if len(batch):
                outputs = network(inputs[batch])
                loss = task.objective.per_example_loss(outputs, task.targets[batch]).mean()
            if isinstance(task.objective, VariationalObjective):
                flat = torch.cat([p.flatten() for p in network.parameters()])
                loss = loss + task.objective.regulariser(flat, is_rho)
            if loss.requires_grad:
                loss.backward()
            else:
                for parameter in network.parameters():
                    parameter.grad = torch.zeros_like(parameter)
            optimiser.step()
            total += float(loss.detach()) * len(batch)
        watched.append(total / kept.sum())
        scheduler.step(watched[-1])
        better = watched[-1] < best * (1 - 1e-4)
        best, stale = (watched[-1], 0) if better else (best, stale + 1)
        if recipe.early_stop is not None and stale >= recipe.early_stop:
            break
    return network.eval(), watched, optimiser.param_groups[0]["lr"]


def flat_of(network: nn.Module) -> Tensor:
    return stack_modules([network])[0]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", TASKS)
def test_every_model_is_the_loop_s(name, recipe):
    task, recipe = TASKS[name](), replace(RECIPES[recipe], record_every=1)
    fit = engine_for(task).fit(task, recipe)
    assert torch.isfinite(fit.parameters).all()
    for model in range(task.models):
        network, watched, rate = looped(task, model, recipe)
        torch.testing.assert_close(fit.parameters[model], flat_of(network), rtol=0, atol=EXACT)
        assert float(fit.learning_rate[model]) == pytest.approx(rate, rel=1e-12)
        recorded = fit.losses[model, : len(watched)].double()
        torch.testing.assert_close(
            recorded, torch.tensor(watched, dtype=torch.float64), rtol=0, atol=EXACT
        )


def test_the_recipes_do_what_they_are_for():
    """One lowers a rate, and one stops models early, at different epochs."""
    task = TASKS["mlp"]()
    recipe = RECIPES["all of it"]
    lengths = [len(looped(task, model, recipe)[1]) for model in range(task.models)]
    assert len(set(lengths)) > 1
    assert min(lengths) < recipe.epochs
    rates = [looped(task, model, recipe)[2] for model in range(task.models)]
    assert min(rates) < recipe.learning_rate


def test_amsgrad_makes_a_difference():
    task, recipe = TASKS["mlp"](), RECIPES["amsgrad"]
    plain = TorchEngine().fit(task, replace(recipe, amsgrad=False)).parameters
    assert (TorchEngine().fit(task, recipe).parameters - plain).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["mlp", "head", "bayesian mlp"])
def test_engines_agree(name):
    task, recipe = TASKS[name](), RECIPES["all of it"]
    first, second = (engine.fit(task, recipe) for engine in (TorchEngine(), VmapEngine()))
    torch.testing.assert_close(first.parameters, second.parameters, rtol=0, atol=EXACT)


@pytest.mark.parametrize("recipe", [RECIPES["batches"], RECIPES["amsgrad"], RECIPES["all of it"]])
def test_the_compiled_engine_leaves_it_to_others(recipe):
    assert not NumbaEngine().supports(TASKS["mlp"]().network, PLAIN, recipe)


# --- batches ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "size"), [(47, 10), (40, 10), (3, 10), (1, 1), (47, 1)])
def test_batches_of_an_epoch_are_all_rows_once(count, size):
    batches = batches_of(0, 3, count, size)
    assert sorted(torch.cat(batches).tolist()) == [*range(count)]
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    assert 0 < len(batches[-1]) <= size


def test_the_order_is_that_of_seed_and_epoch():
    first = torch.cat(batches_of(0, 0, 100, 7))
    assert torch.equal(first, torch.cat(batches_of(0, 0, 100, 50)))
    for other in ((0, 1), (1, 0)):
        assert not torch.equal(first, torch.cat(batches_of(*other, 100, 7)))


def test_weights_of_a_batch_sum_to_those_of_all_rows():
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.0], [0.25, 0.25, 0.25, 0.25]], dtype=torch.float64)
    task = replace(whole(MLPSpec()), parameters=torch.zeros(2, 1), weights=weights, seeds=(0, 0))
    batch = task.batch(torch.tensor([2, 0])).weights
    torch.testing.assert_close(batch, torch.tensor([[0.45, 0.15], [0.5, 0.5]]).double())
    nothing = task.batch(torch.tensor([3])).weights
    assert nothing.tolist() == [[0.0], [1.0]]


@pytest.mark.parametrize("name", TASKS)
def test_a_seed_does_not_depend_on_its_company(name):
    task, recipe = TASKS[name](), RECIPES["all of it"]
    together = engine_for(task).fit(task, recipe).parameters
    unit = task.models_per_group if len(task.inputs) > 1 else 1
    for first in range(0, task.models, unit):
        alone = engine_for(task).fit(task.part(first, first + unit), recipe).parameters
        assert torch.equal(alone, together[first : first + unit])


@pytest.mark.parametrize("name", ["mlp", "head", "lenet"])
def test_going_on_is_training_in_one_piece(name):
    task, recipe = TASKS[name](), RECIPES["all of it"]
    engine = engine_for(task)
    start = engine.fit(task, replace(recipe, epochs=7))
    end = engine.fit(task, recipe, after=start)
    assert torch.equal(end.parameters, engine.fit(task, recipe).parameters)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_row_in_a_batch_of_its_own(dtype):
    task = whole(MLPSpec())
    task = replace(
        task,
        parameters=task.parameters.to(dtype),
        inputs=task.inputs[:, :1].to(dtype),
        targets=task.targets[:1],
        weights=torch.ones(3, 1, dtype=dtype),
        probe_inputs=None,
        probe_targets=None,
    )
    fit = TorchEngine().fit(task, Recipe(5, batch_size=8))
    assert torch.isfinite(fit.parameters).all()


# --- blocks of rows ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 46, 47, 1000])
@pytest.mark.parametrize("name", ["lenet", "bayesian lenet", "mlp"])
def test_blocks_of_rows_change_nothing_but_rounding(name, size, monkeypatch):
    task = TASKS[name]()
    expected, probed = GenericKernel(task).differentiate(), GenericKernel(task).probe()
    monkeypatch.setattr("ifcheck.engines.generic_kernel.ROWS_AT_ONCE", size)
    kernel = GenericKernel(task)
    torch.testing.assert_close(kernel.differentiate(), expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(kernel.probe(), probed, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["lenet", "bayesian lenet", "mlp"])
def test_a_single_model_goes_its_own_way_to_the_same(name):
    task = TASKS[name]()
    losses, gradients = GenericKernel(task).differentiate()
    for model in range(task.models):
        loss, gradient = GenericKernel(task.part(model, model + 1)).differentiate()
        torch.testing.assert_close(loss[0], losses[model], rtol=0, atol=1e-13)
        torch.testing.assert_close(gradient[0], gradients[model], rtol=0, atol=1e-13)


# --- dropout -------------------------------------------------------------------------------------


def test_dropout_is_drawn_by_seed_and_epoch_alone():
    """The loop with torch's own generator, seeded by name at the start of each epoch."""
    task, recipe = whole(DroppingSpec()), Recipe(3, batch_size=20)
    before = torch.random.get_rng_state()
    fit = VmapEngine().fit(task, recipe)
    assert torch.equal(torch.random.get_rng_state(), before)
    for model in range(task.models):
        network = copy.deepcopy(task.network)
        load_flat(network, task.parameters[model].clone())
        network.train()
        optimiser = torch.optim.Adam(network.parameters(), weight_decay=0.005)
        kept = task.weights[model] > 0
        with torch.random.fork_rng(devices=[]):
            for epoch in range(recipe.epochs):
                torch.manual_seed(provenance.named_seed(task.seeds[model], "dropout", epoch))
                for batch in batches_of(task.seeds[model], epoch, ROWS, 20):
                    optimiser.zero_grad()
                    outputs = network(task.inputs[0, batch])
                    losses = functional.cross_entropy(
                        outputs, task.targets[batch], reduction="none"
                    )
                    losses[kept[batch]].mean().backward()
                    optimiser.step()
        torch.testing.assert_close(fit.parameters[model], flat_of(network), rtol=0, atol=EXACT)


def test_dropout_rests_where_probes_are_watched():
    task = whole(DroppingSpec())
    fit = VmapEngine().fit(task, Recipe(2, batch_size=20))
    assert fit.probe_losses is not None
    network = copy.deepcopy(task.network)
    load_flat(network, fit.parameters[1])
    weights = dict(network.named_parameters())
    outputs = functional_call(network.eval(), weights, (task.probe_inputs[0],))
    expected = functional.cross_entropy(outputs, task.probe_targets, reduction="none")
    torch.testing.assert_close(fit.probe_losses[1, :, -1], expected.detach())


def test_dropout_does_not_depend_on_company_or_threads():
    task, recipe = whole(DroppingSpec()), Recipe(4, batch_size=20)
    together = VmapEngine().fit(task, recipe).parameters
    torch.set_num_threads(2)
    for model in range(3):
        alone = VmapEngine().fit(task.part(model, model + 1), recipe).parameters
        assert torch.equal(alone[0], together[model])


def test_losses_of_models_that_rest_are_found_once(monkeypatch):
    calls = []
    differentiate = GenericKernel.differentiate

    def counted(kernel):
        calls.append(1)
        return differentiate(kernel)

    monkeypatch.setattr(GenericKernel, "differentiate", counted)
    recipe = Recipe(50, learning_rate=1e-12, early_stop=2, record_every=1)
    fit = VmapEngine().fit(whole(MLPSpec(1, 5)), recipe)
    assert fit.losses.shape == (3, 51)
    moved = 3  # epochs: the first, and two without improvement
    assert len(calls) == moved + 1
    assert torch.equal(fit.losses[:, moved:], fit.losses[:, moved : moved + 1].expand(-1, 48))

"""Training again from initialisation against a sequential torch loop in float64."""

import dataclasses

import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from ifcheck import memory
from ifcheck.engines import Averaging, Recipe
from ifcheck.models import initialise
from ifcheck.models.mlp import MLPSpec
from ifcheck.removal import TRUTHS, RemovalProblem, Training, Truth
from tests import oracles
from tests.benchmarks import sequential_loop as loop

SIZES = (3, 4, 3)
EPOCHS = 200
PLAIN = Recipe(EPOCHS, learning_rate=1e-2, patience=5)
AVERAGING = Averaging(loop.AVERAGING_START * EPOCHS, int(loop.ANNEALING_SHARE * EPOCHS))
RECIPES = {"plain": PLAIN, "averaged": dataclasses.replace(PLAIN, averaging=AVERAGING)}
CLOSE = {"rtol": 0, "atol": 1e-12}  # both loops differ by rounding alone


def scratch(problem: RemovalProblem) -> Truth:
    return TRUTHS.create("scratch").remove(problem)


def initial(seed: int, dtype: torch.dtype = torch.float64):
    spec = MLPSpec(depth=1, width=SIZES[1], activation="tanh")
    return initialise(spec, SIZES[:1], SIZES[2], seed, dtype)


@pytest.fixture
def make(make_problem):
    """Return a builder of the problem whose networks of seeds 5 and 6 are trained again."""

    def build(polish=False, dtype=torch.float64, **parts):
        parts = {"recipe": PLAIN, "params": "all", "seeds": (5, 6), **parts}
        training = Training(lambda seed: initial(seed, dtype), polish)
        return make_problem(training=training, **parts)

    return build


def loop_model(problem, seed, removed) -> loop.MLP:
    """A network trained by torch's own loop without these rows; their mean leaves them out."""
    model = loop.make_mlp(SIZES[0], SIZES[1], 1, SIZES[2], "tanh").double()
    flat = nn.utils.parameters_to_vector(initial(seed).parameters())
    nn.utils.vector_to_parameters(flat, model.parameters())
    kept = [row for row in range(len(problem.train[1])) if row not in removed]
    recipe = problem.recipe
    run = loop.train(
        model,
        *(tensor[kept] for tensor in problem.train),
        epochs=recipe.epochs,
        weight_decay=problem.objective.weight_decay,
        learning_rate=recipe.learning_rate,
        patience=recipe.patience,
        averaging=recipe.averaging is not None,
    )
    return model if run.averaged is None else run.averaged


def assert_same_ends(truth, problem, seeds=(5, 6)):
    """Every network's null run and removals end where the loop does."""
    for s, seed in enumerate(seeds):
        model = loop_model(problem, seed, ())
        assert_allclose(truth.null_loss_after[s], loop.row_losses(model, *problem.test), **CLOSE)
        for k, removed in enumerate(problem.removed[s].tolist()):
            model = loop_model(problem, seed, removed)
            found = truth.loss_after[s, :, k]
            assert_allclose(found, loop.row_losses(model, *problem.test), **CLOSE)


@pytest.mark.parametrize("recipe", RECIPES)
def test_rows_leave_the_sequential_loop(make, recipe):
    problem = make(recipe=RECIPES[recipe])
    truth = scratch(problem)
    assert truth.loss_after.shape == (2, 2, 3)
    assert (truth.dtype, truth.reasons) == ("float64", ())
    assert_same_ends(truth, problem)


def test_groups_leave_the_sequential_loop_together(make):
    problem = make(removed=torch.tensor([[[0, 7, 12], [5, 6, 1]], [[19, 3, 7], [2, 0, 11]]]))
    assert_same_ends(scratch(problem), problem)


def test_what_the_networks_were_trained_to_does_not_matter(make):
    problem = make()
    others = [initial(seed) for seed in (8, 9)]
    truth, other = scratch(problem), scratch(dataclasses.replace(problem, networks=others))
    assert torch.equal(truth.loss_after, other.loss_after)


def test_a_replicate_starts_from_the_initialisation_of_its_own_seed(make):
    problem = make()
    replicate = problem.replicate(2)
    assert problem.replicate(0) == problem
    assert len({*problem.seeds, *replicate.seeds}) == 4
    assert_same_ends(scratch(replicate), problem, seeds=replicate.seeds)


def test_the_gradient_norm_is_that_of_the_whole_objective(make):
    problem = make()
    model = loop_model(problem, 5, (7,))
    kept = [row for row in range(20) if row != 7]
    loss = loop.data_term(model(problem.train[0][kept]), problem.train[1][kept], None)
    loss = loss + 0.005 * sum(p.square().sum() for p in model.parameters())
    gradient = torch.autograd.grad(loss, list(model.parameters()))
    norm = sum(part.square().sum() for part in gradient).sqrt()
    assert_allclose(scratch(problem).gradient_norm[0, 2], norm.detach(), rtol=1e-8)


def test_a_polished_head_stands_at_its_optimum_on_the_body_that_was_trained(make):
    problem = make(polish=True)
    truth = scratch(problem)
    inputs, targets = problem.train
    for removed in ((), (0,)):  # the first removal of the first network
        model = loop_model(problem, 5, removed)
        weights = torch.ones(20, dtype=torch.float64)
        weights[list(removed)] = 0
        with torch.no_grad():
            features, tests = (model.body(x).numpy() for x in (inputs, problem.test[0]))
        theta = oracles.head_optimum(
            features, targets.numpy(), (weights / weights.sum()).numpy(), 0.01, classes=3
        )
        losses = oracles.softmax_loss(theta, tests, problem.test[1].numpy(), classes=3)
        found = truth.loss_after[0, :, 0] if removed else truth.null_loss_after[0]
        assert_allclose(found, losses, rtol=0, atol=1e-8)


def test_single_precision_is_trained_in_single_and_judged_in_double(make):
    exact, truth = scratch(make()), scratch(make(dtype=torch.float32))
    assert truth.loss_after.dtype == truth.gradient_norm.dtype == torch.float64
    assert truth.dtype == "float32"
    assert_allclose(truth.loss_after, exact.loss_after, atol=1e-3)
    assert (truth.loss_after != exact.loss_after).any()


def test_the_trajectory_leads_from_initialisation_to_the_result(make):
    truth = scratch(make(recipe=dataclasses.replace(PLAIN, record_every=50)))
    assert truth.trajectory_epochs.tolist() == [0, 50, 100, 150, 200]
    assert_allclose(truth.trajectory[..., -1], truth.loss_after, **CLOSE)
    problem = make()
    for s, seed in enumerate((5, 6)):
        with torch.no_grad():
            logits = initial(seed)(problem.test[0])
        start = nn.functional.cross_entropy(logits, problem.test[1], reduction="none")
        assert_allclose(truth.trajectory[s, :, 1, 0], start, **CLOSE)


@pytest.mark.parametrize("recipe", [PLAIN, dataclasses.replace(PLAIN, batch_size=7, epochs=20)])
def test_memory_for_few_models_changes_no_number(make, recipe, monkeypatch):
    problem = make(recipe=dataclasses.replace(recipe, record_every=10))
    together = scratch(problem)
    monkeypatch.setattr(memory, "LARGEST_IN_MEMORY", 3 * 10 * 31 * 8)  # three at once, of eight
    alone = scratch(problem)
    for name in ("loss_after", "null_loss_after", "gradient_norm", "trajectory"):
        assert torch.equal(getattr(alone, name), getattr(together, name)), name


def test_progress_counts_every_epoch(make):
    problem, done = make(), []
    TRUTHS.create("scratch").remove(problem, done.append)
    assert sum(done) == TRUTHS.create("scratch").cost(problem) == 2 * 4 * EPOCHS


def test_it_needs_to_know_the_training(make_problem):
    with pytest.raises(ValueError, match="how the networks were trained"):
        scratch(make_problem(seeds=(0, 1)))

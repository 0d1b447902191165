"""Newton's truth against scipy's optimum of every removal, and what it refuses."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import minimize

from ifcheck.curvature.head import SoftmaxHeadLoss
from ifcheck.curvature.variational_head import VariationalHeadLoss
from ifcheck.models import VariationalSpec, initialise
from ifcheck.models.mlp import MLPSpec
from ifcheck.objective import Objective, VariationalObjective, uniform_weights, weights_without
from ifcheck.params import Layout
from ifcheck.removal import TRUTHS, RemovalProblem, Truth
from ifcheck.removal.newton import (
    GRADIENT_TOLERANCE,
    MAX_STEPS,
    HeadProblem,
    minimise_alike,
    minimise_head,
    polish_head,
)
from tests import oracles

CLASSES, WEIGHT_DECAY = 3, 0.01
NORMALISATIONS = ["n", "n-1"]


def newton(problem: RemovalProblem) -> Truth:
    return TRUTHS.create("newton").remove(problem)


def features_of(network, inputs: torch.Tensor) -> np.ndarray:
    """What the head of a one-layer tanh network sees."""
    hidden = network.body[0]
    return np.tanh(inputs.numpy() @ hidden.weight.detach().numpy().T + hidden.bias.detach().numpy())


def head_rows(seed: int = 0, rows: int = 40, scale: float = 1.0):
    random = np.random.default_rng(seed)
    features = scale * random.normal(size=(rows, 4))
    targets = random.integers(0, CLASSES, size=rows)
    return torch.from_numpy(features), torch.from_numpy(targets)


def softmax_problem(features, targets, weights, weight_decay: float) -> HeadProblem:
    loss, objective = SoftmaxHeadLoss(CLASSES), Objective(weight_decay)
    no_rho = torch.zeros(CLASSES * (features.shape[1] + 1), dtype=torch.bool)
    return HeadProblem(loss, objective, no_rho, features, targets, weights)


# --- the truth -----------------------------------------------------------------------------


@pytest.fixture(params=[math.inf, 0.0], ids=["own-hessians", "shared-hessian"])
def sharing(request, monkeypatch):
    """Whether one Hessian serves all removals, which it does where there are many rows."""
    monkeypatch.setattr("ifcheck.removal.newton.SHARED_WORK", request.param)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_changes_are_those_of_the_exact_optima(make_problem, normalisation, sharing):
    problem = make_problem(normalisation=normalisation)
    truth = newton(problem)
    targets, test_targets = problem.train[1].numpy(), problem.test[1].tolist()
    for s, network in enumerate(problem.networks):
        features = features_of(network, problem.train[0])
        tests = zip(features_of(network, problem.test[0]), test_targets, strict=True)
        for (t, test_row), k in itertools.product(enumerate(tests), range(3)):
            row = problem.removed[s, k].item()
            expected = oracles.leave_one_out_change(
                features, targets, WEIGHT_DECAY, CLASSES, row, *test_row, normalisation
            )
            change = truth.loss_after[s, t, k] - truth.null_loss_after[s, t]
            assert change.item() == pytest.approx(expected, rel=0, abs=1e-8)
    assert truth.loss_after.shape == (2, 2, 3)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_groups_leave_together(make_problem, normalisation, sharing):
    groups = torch.tensor([[[0, 7, 12], [5, 6, 1]], [[19, 3, 7], [2, 0, 11]]])
    problem = make_problem(normalisation=normalisation, removed=groups)
    truth = newton(problem)
    targets = problem.train[1].numpy()
    assert truth.loss_after.shape == (2, 2, 2)
    for s, network in enumerate(problem.networks):
        features = features_of(network, problem.train[0])
        tests = features_of(network, problem.test[0]), problem.test[1].numpy()
        for k, group in enumerate(groups[s].numpy()):
            left = len(targets) - (3 if normalisation == "n-1" else 0)
            weights = np.full(len(targets), 1 / left)
            weights[group] = 0
            theta = oracles.head_optimum(features, targets, weights, WEIGHT_DECAY, classes=CLASSES)
            expected = oracles.softmax_loss(theta, *tests, CLASSES)
            assert_allclose(truth.loss_after[s, :, k], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_null_run_removes_nothing(make_problem, normalisation):
    problem = make_problem(normalisation=normalisation)
    truth = newton(problem)
    targets = problem.train[1].numpy()
    mean = np.full(len(targets), 1 / len(targets))
    for s, network in enumerate(problem.networks):
        rows = features_of(network, problem.train[0]), targets, mean, WEIGHT_DECAY
        theta = oracles.head_optimum(*rows, classes=CLASSES)
        tests = features_of(network, problem.test[0]), problem.test[1].numpy()
        expected = oracles.softmax_loss(theta, *tests, CLASSES)
        assert_allclose(truth.null_loss_after[s], expected, rtol=0, atol=1e-8)


def test_every_optimum_has_its_certificate(make_problem, sharing):
    truth = newton(make_problem())
    assert truth.gradient_norm.shape == (2, 4)
    assert (truth.gradient_norm <= 1e-10).all()
    assert truth.converged.tolist() == [[True] * 3] * 2
    assert truth.reasons == ()
    assert truth.trajectory is None


def test_networks_do_not_move(make_problem):
    problem = make_problem()
    before = [p.clone() for network in problem.networks for p in network.parameters()]
    newton(problem)
    after = [p for network in problem.networks for p in network.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.grad is None for p in after)


def test_progress_reports_what_it_costs(make_problem):
    problem, method, reported = make_problem(), TRUTHS.create("newton"), []
    method.remove(problem, reported.append)
    assert sum(reported) == method.cost(problem) == 2


# --- degenerate rows -----------------------------------------------------------------------


def test_only_row_removed_leaves_the_regulariser(make_problem, sharing):
    # its minimum is theta = 0: every class has probability 1/3
    problem = make_problem(normalisation="n", removed=torch.zeros(2, 1, 1, dtype=torch.int64))
    one = problem.train[0][:1], problem.train[1][:1]
    truth = newton(dataclasses.replace(problem, train=one))
    assert_allclose(truth.loss_after, math.log(CLASSES), rtol=1e-12)
    assert truth.converged.all()


def test_mean_of_no_rows_has_no_optimum_and_spares_the_null_run(make_problem, sharing):
    problem = make_problem(normalisation="n-1", removed=torch.zeros(2, 1, 1, dtype=torch.int64))
    one = dataclasses.replace(problem, train=(problem.train[0][:1], problem.train[1][:1]))
    truth = newton(one)
    assert truth.loss_after.isnan().all()
    assert not truth.converged.any()
    assert not truth.positive_definite[:, 1:].any()
    keeping = newton(dataclasses.replace(one, normalisation="n"))
    torch.testing.assert_close(truth.null_loss_after, keeping.null_loss_after, rtol=0, atol=1e-8)


def test_one_class_present(make_problem):
    problem = make_problem()
    ones = torch.ones_like(problem.train[1])
    problem = dataclasses.replace(problem, train=(problem.train[0], ones))
    truth = newton(problem)
    features = features_of(problem.networks[1], problem.train[0])
    test_row = features_of(problem.networks[1], problem.test[0])[0], problem.test[1][0].item()
    rows = features, ones.numpy(), WEIGHT_DECAY, CLASSES, 3
    expected = oracles.leave_one_out_change(*rows, *test_row, "n-1")
    change = truth.loss_after[1, 0, 1] - truth.null_loss_after[1, 0]
    assert change.item() == pytest.approx(expected, abs=1e-8)


def test_one_of_identical_rows_changes_nothing(make_problem):
    problem = make_problem()
    inputs, targets = (tensor[:1].repeat_interleave(20, 0) for tensor in problem.train)
    truth = newton(dataclasses.replace(problem, train=(inputs, targets)))
    change = truth.loss_after - truth.null_loss_after[..., None]
    assert change.abs().max() < 1e-8


# --- the minimiser -------------------------------------------------------------------------


@pytest.mark.parametrize("weight_decay", [1e-6, 1e-4, 1e-2, 1])
@pytest.mark.parametrize("start", [0, 1, 1e2, 1e4])
def test_far_and_saturated_starts_reach_the_optimum(start, weight_decay):
    features, targets = head_rows()
    weights = uniform_weights(len(targets), torch.float64)[None]
    theta = start * torch.from_numpy(np.random.default_rng(1).normal(size=(1, 15)))
    optimum = minimise_head(softmax_problem(features, targets, weights, weight_decay), theta)
    rows = features.numpy(), targets.numpy(), weights[0].numpy(), weight_decay
    expected = oracles.head_optimum(*rows, classes=CLASSES)
    assert optimum.converged.tolist() == [True]
    # an error in a direction without data curvature is |gradient| / weight decay
    assert_allclose(optimum.flat[0], expected, rtol=0, atol=1.1e-10 / weight_decay)
    logits = features.numpy() @ oracles.split_theta(expected, 4)[0].T
    found = features.numpy() @ oracles.split_theta(optimum.flat[0].numpy(), 4)[0].T
    differences = np.diff(found) - np.diff(logits)
    assert np.abs(differences).max() < 1e-6


def test_badly_scaled_features_reach_the_optimum():
    features, targets = head_rows()
    features = features * torch.tensor([1e-3, 1, 30, 1e2], dtype=torch.float64)
    weights = uniform_weights(len(targets), torch.float64)[None]
    theta = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 15)))
    optimum = minimise_head(softmax_problem(features, targets, weights, WEIGHT_DECAY), theta)
    rows = features.numpy(), targets.numpy(), weights[0].numpy(), WEIGHT_DECAY
    assert optimum.converged.all()
    assert_allclose(optimum.flat[0], oracles.head_optimum(*rows, classes=CLASSES), atol=1e-8)


def test_gradient_norm_is_that_at_the_point_it_returns():
    features, targets = head_rows(scale=100)
    weights = torch.rand(3, len(targets), generator=torch.Generator().manual_seed(0)).double()
    start = 1e4 * torch.from_numpy(np.random.default_rng(1).normal(size=(3, 15)))
    optimum = minimise_head(softmax_problem(features, targets, weights, 1e-4), start)
    for flat, row_weights, norm in zip(
        optimum.flat, weights, optimum.gradient_norm.tolist(), strict=True
    ):
        rows = features.numpy(), targets.numpy(), row_weights.numpy(), 1e-4
        exact = np.linalg.norm(oracles.head_gradient(flat.numpy(), *rows))
        assert norm == pytest.approx(exact, rel=1e-9, abs=1e-11)
    assert optimum.converged.tolist() == (optimum.gradient_norm <= GRADIENT_TOLERANCE).tolist()
    assert optimum.steps <= MAX_STEPS


def test_problems_that_differ_in_difficulty_share_a_batch():
    features, targets = head_rows()
    weights = torch.rand(4, len(targets), generator=torch.Generator().manual_seed(0)).double()
    weights[2] = 0  # only the regulariser: the optimum is 0
    scales = torch.tensor([0, 1, 10, 1e3], dtype=torch.float64)[:, None]
    start = scales * torch.from_numpy(np.random.default_rng(1).normal(size=(4, 15)))
    optimum = minimise_head(softmax_problem(features, targets, weights, WEIGHT_DECAY), start)
    assert optimum.converged.all()
    assert optimum.flat[2].abs().max() < 1e-8
    for flat, row_weights in zip(optimum.flat, weights, strict=True):
        rows = features.numpy(), targets.numpy(), row_weights.numpy(), WEIGHT_DECAY
        assert_allclose(flat, oracles.head_optimum(*rows, classes=CLASSES), atol=1e-8)


def test_polishing_finds_the_optimum_of_all_rows(make_problem):
    problem = make_problem()
    network = problem.networks[0]
    optimum = polish_head(network, Objective(WEIGHT_DECAY), problem.train)
    targets = problem.train[1].numpy()
    mean = np.full(len(targets), 1 / len(targets))
    rows = features_of(network, problem.train[0]), targets, mean, WEIGHT_DECAY
    assert_allclose(optimum.flat[0], oracles.head_optimum(*rows, classes=CLASSES), atol=1e-8)
    assert optimum.converged.tolist() == [True]
    assert optimum.gradient_norm.item() <= 1e-10
    assert np.linalg.norm(oracles.head_gradient(optimum.flat[0].numpy(), *rows)) <= 1e-10


# --- refusals ------------------------------------------------------------------------------


def assert_nothing(truth: Truth) -> None:
    """Every number is undefined, in its usual shape."""
    for values, shape in (
        (truth.loss_after, (2, 2, 3)),
        (truth.null_loss_after, (2, 2)),
        (truth.gradient_norm, (2, 4)),
    ):
        assert values.shape == shape
        assert values.dtype == torch.float64
        assert values.isnan().all()
    assert truth.converged.tolist() == [[False] * 3] * 2


def test_without_weight_decay_there_is_nothing_to_find(make_problem):
    truth = newton(make_problem(weight_decay=0))
    assert_nothing(truth)
    (reason,) = truth.reasons
    assert "without weight decay" in reason
    assert "0 of 2 networks" in reason


def test_separated_networks_are_counted(make_problem):
    problem = make_problem(weight_decay=0)
    with torch.no_grad():
        labels = problem.networks[1](problem.train[0]).argmax(1)
        assert (problem.networks[0](problem.train[0]).argmax(1) != labels).any()
    truth = newton(dataclasses.replace(problem, train=(problem.train[0], labels)))
    assert_nothing(truth)
    assert "1 of 2 networks" in truth.reasons[0]


def test_whole_networks_are_not_moved(make_problem):
    truth = newton(make_problem(params="all"))
    assert_nothing(truth)
    assert "not --params all" in truth.reasons[0]


def test_deep_networks_are_solved_on_their_last_features(make_problem):
    spec = MLPSpec(depth=3, width=5, activation="selu")
    network = initialise(spec, (3,), CLASSES, 5, torch.float64)
    problem = make_problem(networks=[network], removed=torch.tensor([[[4]]]))
    truth = newton(problem)
    layers = [
        (layer.weight.detach().numpy(), layer.bias.detach().numpy())
        for layer in (network.body[0], network.body[2], network.body[4])
    ]
    # an identity as last layer makes the logits the features
    layers.append((np.eye(5), np.zeros(5)))
    features, tests = (
        oracles.numpy_mlp(layers, rows[0].numpy(), "selu") for rows in (problem.train, problem.test)
    )
    rows = features, problem.train[1].numpy(), WEIGHT_DECAY, CLASSES, 4
    expected = oracles.leave_one_out_change(*rows, tests[1], problem.test[1][1].item(), "n-1")
    change = truth.loss_after[0, 1, 0] - truth.null_loss_after[0, 1]
    assert change.item() == pytest.approx(expected, rel=0, abs=1e-8)


# --- one Hessian for all removals --------------------------------------------------------------


def test_of_many_rows_a_few_hessians_serve_all_removals(monkeypatch):
    """2,000 rows, the start far from the optimum: with Hessians of their own, 21 problems would
    take over 80."""
    monkeypatch.setattr("ifcheck.removal.newton.SHARED_WORK", 0.0)
    features, targets = head_rows(rows=2_000)
    weights = weights_without(2_000, torch.arange(-1, 20)[:, None], "n-1")
    problem = softmax_problem(features, targets, weights, WEIGHT_DECAY)
    start = torch.full_like(problem.is_rho, 3.0, dtype=torch.float64)
    expected = minimise_head(problem, start.expand(21, -1))
    made = []
    hessian = HeadProblem.hessian

    def counted(self, flat):
        made.append(len(flat))
        return hessian(self, flat)

    monkeypatch.setattr(HeadProblem, "hessian", counted)
    found = minimise_alike(problem, start)
    assert found.converged.all()
    assert found.positive_definite.all()
    assert_allclose(found.flat, expected.flat, rtol=0, atol=1e-7)
    assert sum(made) < 15


@pytest.mark.parametrize("start", [0.0, 40.0, math.nan])
def test_a_start_from_which_one_hessian_leads_nowhere(start, monkeypatch):
    monkeypatch.setattr("ifcheck.removal.newton.SHARED_WORK", 0.0)
    features, targets = head_rows()
    weights = weights_without(40, torch.tensor([[-1], [3]]), "n-1")
    problem = softmax_problem(features, targets, weights, WEIGHT_DECAY)
    found = minimise_alike(problem, torch.full((15,), start, dtype=torch.float64))
    assert found.converged.tolist() == [math.isfinite(start)] * 2


# --- Bayesian heads --------------------------------------------------------------------------


def bayesian_problem(make_problem, **options) -> RemovalProblem:
    """Untrained Bayesian networks whose heads are then solved."""
    spec = VariationalSpec(MLPSpec(depth=1, width=4, activation="tanh"))
    networks = [initialise(spec, (3,), CLASSES, seed, torch.float64) for seed in (0, 1)]
    problem = make_problem(networks=networks, **options)
    objective = VariationalObjective(rows=len(problem.train[1]))
    return dataclasses.replace(problem, objective=objective)


def bayesian_objective(problem: RemovalProblem, network, weights):
    """The plain objective of the head as a function of its flat parameters."""
    with torch.no_grad():
        features = network.features(problem.train[0]).numpy()
    targets = problem.train[1].numpy()
    share = 1 / len(targets)

    def objective(theta: np.ndarray) -> float:
        data = oracles.bayesian_head_loss(theta, features, targets, weights)
        return data + share * oracles.kl_to_standard_normal(theta)

    return objective


def test_a_bayesian_head_s_optimum_is_scipy_s(make_problem, sharing):
    """From the same start, by BFGS on differences of the plain objective."""
    problem = bayesian_problem(make_problem, normalisation="n")
    truth = newton(problem)
    assert truth.converged.all()
    assert truth.positive_definite.all()
    network, rows = problem.networks[0], len(problem.train[1])
    layout = Layout.of(network.head)
    start = layout.flatten(dict(network.head.named_parameters())).detach().numpy()
    losses = {}
    for row in (None, problem.removed[0, 1].item()):
        weights = np.full(rows, 1 / rows)
        if row is not None:
            weights[row] = 0
        objective = bayesian_objective(problem, network, weights)
        found = minimize(objective, start, method="BFGS", options={"gtol": 1e-7})
        with torch.no_grad():
            tests = network.features(problem.test[0]).numpy()
        one = np.ones(1)
        losses[row] = oracles.bayesian_head_loss(
            found.x, tests[1:2], problem.test[1][1:2].numpy(), one
        )
    assert truth.null_loss_after[0, 1].item() == pytest.approx(losses.pop(None), abs=1e-5)
    (expected,) = losses.values()
    assert truth.loss_after[0, 1, 1].item() == pytest.approx(expected, abs=1e-5)


def test_the_direction_of_negative_curvature_is_left():
    """A start where the Hessian is indefinite: the step is damped, and the objective falls."""
    random = np.random.default_rng(0)
    features = torch.from_numpy(np.abs(random.normal(size=(30, 2, 3))))
    targets = torch.from_numpy(random.integers(0, CLASSES, size=30))
    objective = VariationalObjective(rows=30, kl_weight=0.05)
    loss = VariationalHeadLoss(CLASSES, objective)
    is_rho = torch.arange(24) >= 12
    weights = uniform_weights(30, torch.float64)[None]
    problem = HeadProblem(loss, objective, is_rho, features, targets, weights)
    start = torch.from_numpy(3 * random.normal(size=(1, 24)))
    assert torch.linalg.eigvalsh(problem.hessian(start))[0, 0] < -1e-3
    optimum = minimise_head(problem, start)
    assert optimum.converged.all()
    assert optimum.positive_definite.all()
    assert problem.value(optimum.flat) < problem.value(start)
    assert torch.linalg.eigvalsh(problem.hessian(optimum.flat))[0, 0] > 0


@pytest.mark.parametrize("seed", range(8))
def test_large_moments_do_not_keep_the_gradient_from_vanishing(seed):
    """As below deep networks: differences of the objective are rounding long before the optimum."""
    random = np.random.default_rng(seed)
    targets = random.integers(0, CLASSES, size=149)
    features = random.normal(size=(149, 2, 5))
    features[:, 0] += 1e4 * np.eye(CLASSES, 5)[targets]
    features[:, 1] = 1e6 * random.lognormal(sigma=2, size=(149, 5))
    objective = VariationalObjective(rows=149)
    problem = HeadProblem(
        VariationalHeadLoss(CLASSES, objective),
        objective,
        torch.arange(36) >= 18,
        torch.from_numpy(features),
        torch.from_numpy(targets),
        uniform_weights(149, torch.float64)[None],
    )
    means = torch.cat([1e-3 * torch.eye(CLASSES, 5).flatten(), torch.zeros(CLASSES)])
    start = torch.cat([means, torch.full((18,), -15.0)])[None].double()
    optimum = minimise_head(problem, start)
    assert optimum.converged.all()
    assert optimum.positive_definite.all()


def test_polishing_a_bayesian_head(make_problem):
    problem = bayesian_problem(make_problem)
    optimum = polish_head(problem.networks[0], problem.objective, problem.train)
    assert optimum.converged.tolist() == [True]
    weights = np.full(len(problem.train[1]), 1 / len(problem.train[1]))
    objective = bayesian_objective(problem, problem.networks[0], weights)
    slope = oracles.finite_difference_gradient(objective, optimum.flat[0].numpy())
    assert np.linalg.norm(slope) < 1e-8


def test_the_mean_over_the_rest_has_the_minimum_of_the_row_s_weight_zero(make_problem):
    """Weights 1/n with KL/n, and 1/(n-1) with KL/(n-1): one minimum."""
    problem = bayesian_problem(make_problem)
    network, train = problem.networks[0], problem.train
    rows, removed = len(train[1]), 4
    optima = []
    for count in (rows, rows - 1):
        weights = torch.full((1, rows), 1 / count, dtype=torch.float64)
        weights[0, removed] = 0
        heads, flat = HeadProblem.of(network, VariationalObjective(rows=count), train, weights)
        optima.append(minimise_head(heads, flat[None]).flat)
    assert_allclose(optima[0], optima[1], rtol=0, atol=1e-8)

"""The proximal Bregman response against scipy on the plain objective, and what it refuses."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from ifcheck.curvature.local import local_model
from ifcheck.models import VariationalSpec, initialise
from ifcheck.models.mlp import MLPSpec
from ifcheck.objective import Objective, VariationalObjective
from ifcheck.removal import TRUTHS, RemovalProblem, Truth
from ifcheck.removal.newton import HeadProblem
from ifcheck.removal.pbrf import Responses
from ifcheck.scores import Estimator, influence_scores
from tests import oracles

CLASSES, WEIGHT_DECAY, DAMPING = 3, 0.01, 0.02


def pbrf(problem: RemovalProblem, damping: float = DAMPING) -> Truth:
    return TRUTHS.create("pbrf", {"damping": damping}).remove(problem)


class PlainResponse:
    """The objective of one network, as it is defined, in numpy."""

    def __init__(self, problem: RemovalProblem, network, removed, strength: float, share=1.0):
        inputs, targets = problem.train
        self.features, self.targets = features_of(network, inputs), targets.numpy()
        head = network.head
        self.centre = np.concatenate(
            [head.weight.detach().numpy().ravel(), head.bias.detach().numpy()]
        )
        self.outputs = self.outputs_at(self.centre)
        self.removed, self.strength, self.share = removed, strength, share

    def outputs_at(self, theta: np.ndarray) -> np.ndarray:
        W, b = oracles.split_theta(theta, self.features.shape[1])
        return self.features @ W.T + b

    def __call__(self, theta: np.ndarray) -> float:
        outputs, rows = self.outputs_at(theta), len(self.targets)
        moved = (softmax(self.outputs, axis=1) * (outputs - self.outputs)).sum(1)
        divergence = logsumexp(outputs, axis=1) - logsumexp(self.outputs, axis=1) - moved
        losses = logsumexp(outputs, axis=1) - outputs[np.arange(rows), self.targets]
        proximity = self.strength / 2 * ((theta - self.centre) ** 2).sum()
        gone = self.share * losses[self.removed].sum()
        return float(divergence.sum() / rows + proximity - gone / rows)

    def minimiser(self) -> np.ndarray:
        """From the trained weights, by BFGS on differences: about 1e-6 from the minimum."""
        return minimize(self, self.centre, method="BFGS", options={"gtol": 1e-9}).x


def features_of(network, inputs: torch.Tensor) -> np.ndarray:
    """What the head of a one-layer tanh network sees."""
    hidden = network.body[0]
    return np.tanh(inputs.numpy() @ hidden.weight.detach().numpy().T + hidden.bias.detach().numpy())


def losses_at(problem: RemovalProblem, network, theta: np.ndarray) -> np.ndarray:
    """Losses of the test points with the head at theta. Shape: (tests,)."""
    features = features_of(network, problem.test[0])
    return oracles.softmax_loss(theta, features, problem.test[1].numpy(), CLASSES)


def responses_of(problem: RemovalProblem, weights, network: int = 0) -> Responses:
    objective = problem.objective
    weights = torch.as_tensor(weights)
    return Responses.of(problem.networks[network], objective, DAMPING, problem.train, weights)


@pytest.fixture(params=[math.inf, 0.0], ids=["light", "heavy"])
def sharing(request, monkeypatch):
    """Whether removals that need more than one Hessian are solved together or one by one."""
    monkeypatch.setattr("ifcheck.removal.newton.SHARED_WORK", request.param)


# --- the minimum ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "groups",
    [[[[0], [7], [12]], [[19], [3], [7]]], [[[0, 7, 12], [5, 6, 1]], [[19, 3, 7], [2, 0, 11]]]],
    ids=["rows", "groups"],
)
def test_losses_are_those_at_scipys_minimum(make_problem, groups, sharing):
    problem = make_problem(WEIGHT_DECAY, removed=torch.tensor(groups))
    truth = pbrf(problem)
    for s, network in enumerate(problem.networks):
        for k, group in enumerate(groups[s]):
            theta = PlainResponse(problem, network, group, WEIGHT_DECAY + DAMPING).minimiser()
            expected = losses_at(problem, network, theta)
            assert_allclose(truth.loss_after[s, :, k], expected, rtol=0, atol=1e-6)
    assert (truth.gradient_norm <= 1e-10).all()
    assert truth.converged.all()
    assert truth.positive_definite.all()
    assert truth.reasons == ()


def test_weight_decay_and_damping_hold_alike(make_problem):
    first = pbrf(make_problem(WEIGHT_DECAY), damping=0.02)
    second = pbrf(make_problem(0.0), damping=0.03)
    assert_allclose(first.loss_after, second.loss_after, rtol=0, atol=1e-9)


def test_what_is_asked_for_as_the_mean_over_the_rest_is_no_part_of_it(make_problem):
    over_the_rest, over_all = (pbrf(make_problem(normalisation=n)) for n in ("n-1", "n"))
    assert torch.equal(over_the_rest.loss_after, over_all.loss_after)


@pytest.mark.parametrize("group", [[4], [4, 0, 11]])
def test_derivatives_are_differences_of_the_plain_objective(make_problem, group):
    problem = make_problem()
    weights = np.full((1, 20), 1 / 20)
    weights[0, group] = 0
    responses = responses_of(problem, weights)
    plain = PlainResponse(problem, problem.networks[0], group, WEIGHT_DECAY + DAMPING)
    at = plain.centre + np.random.default_rng(5).normal(size=plain.centre.size)
    flat = torch.from_numpy(at)[None]
    removals = responses.removals
    constant = plain(plain.centre) - removals.value(responses.centre[None]).item()
    assert removals.value(flat).item() + constant == pytest.approx(plain(at), rel=1e-12)
    slope = oracles.finite_difference_gradient(plain, at)
    assert_allclose(removals.gradient(flat)[0], slope, rtol=0, atol=1e-8)
    curvature = oracles.finite_difference_hessian(plain, at)
    assert_allclose(removals.hessian(flat)[0], curvature, rtol=0, atol=1e-6)


def test_many_rows_take_one_hessian(make_problem, monkeypatch):
    """Removing one of 2,000 rows moves the head so little that its own Hessian is not needed."""
    monkeypatch.setattr("ifcheck.removal.newton.SHARED_WORK", 0.0)
    problem = make_problem()
    inputs, targets = problem.train
    noise = torch.randn(2_000, 3, generator=torch.Generator().manual_seed(0)).double()
    many = (inputs.repeat(100, 1) + 0.1 * noise, targets.repeat(100))
    made = []
    hessian = HeadProblem.hessian

    def counted(self, flat):
        made.append(len(flat))
        return hessian(self, flat)

    monkeypatch.setattr(HeadProblem, "hessian", counted)
    assert pbrf(dataclasses.replace(problem, train=many)).converged.all()
    assert sum(made) == len(problem.networks)


# --- what it linearises to -----------------------------------------------------------------


@pytest.mark.parametrize("weight_decay", [0.0, WEIGHT_DECAY])
def test_the_derivative_in_the_rows_weight_is_the_influence_score(make_problem, weight_decay):
    """At weights that are not stationary, where the optimum's derivative is another."""
    problem, row, step = make_problem(weight_decay), 7, 1e-4
    estimator = Estimator("head", "objective", DAMPING, "exact", "n", curvature="ggn")
    network = problem.networks[0]
    model = local_model(network, problem.objective, "head", problem.train, problem.test, "ggn")
    scores = influence_scores(model, estimator).values[:, row]
    weights = np.full((2, 20), 1 / 20)
    weights[:, row] = (1 - step) / 20, (1 + step) / 20
    responses = responses_of(problem, weights)
    features = network.features(problem.test[0]).detach()
    changes = responses.loss_changes(responses.solve().flat, features, problem.test[1])
    derivative = (changes[0] - changes[1]) / (2 * step)
    assert_allclose(derivative, scores, rtol=1e-6)


@pytest.mark.parametrize("share", [0.25, 2.0, 5.0])
def test_a_share_of_the_rows_loss_is_taken_off(make_problem, share):
    """Above 1 its curvature is negative, and the minimum is that next to the trained head."""
    problem = make_problem()
    weights = np.full((1, 20), 1 / 20)
    weights[0, 3] = (1 - share) / 20
    network = problem.networks[0]
    plain = PlainResponse(problem, network, [3], WEIGHT_DECAY + DAMPING, share)
    optimum = responses_of(problem, weights).solve()
    found = losses_at(problem, network, optimum.flat[0].numpy())
    assert_allclose(found, losses_at(problem, network, plain.minimiser()), rtol=0, atol=1e-6)


def test_a_row_that_weighs_too_little_for_the_tolerance_moves_the_head_all_the_same(make_problem):
    """Gradients below 1e-10 that weak damping turns into changes far above rounding."""
    problem, damping, rows = make_problem(0.0).part(0, 1), 1e-4, torch.arange(20)
    network = problem.networks[0]
    with torch.no_grad():
        network.head.bias += torch.tensor([22.0, 0, 0])
    problem = dataclasses.replace(
        problem,
        train=(problem.train[0], torch.zeros_like(rows)),
        test=(problem.test[0], torch.ones(2, dtype=torch.int64)),
        removed=rows[None, :, None],
    )
    plain = PlainResponse(problem, network, [0], damping)
    assert np.linalg.norm(oracles.row_gradient(plain.centre, plain.features[0], 0)) / 20 < 1e-10
    truth = pbrf(problem, damping)
    estimator = Estimator("head", "objective", damping, "exact", "n")
    model = local_model(network, problem.objective, "head", problem.train, problem.test)
    changes = truth.loss_after - truth.null_loss_after[..., None]
    assert_allclose(changes[0], influence_scores(model, estimator).values, rtol=1e-4)


# --- the null run --------------------------------------------------------------------------


def test_removing_nothing_changes_nothing(make_problem):
    problem = make_problem()
    truth = pbrf(problem)
    for s, network in enumerate(problem.networks):
        with torch.no_grad():
            outputs = network(problem.test[0])
        before = problem.objective.per_example_loss(outputs, problem.test[1])
        assert torch.equal(truth.null_loss_after[s], before)
    assert truth.gradient_norm[:, 0].tolist() == [0.0, 0.0]
    assert truth.positive_definite[:, 0].all()


def test_the_trained_head_is_the_minimum_with_nothing_removed(make_problem):
    responses = responses_of(make_problem(), np.full((1, 20), 1 / 20))
    assert responses.nothing.gradient(responses.centre[None]).norm() < 1e-16
    assert torch.equal(responses.solve().flat[0], responses.centre)


# --- degenerate rows -----------------------------------------------------------------------


def test_saturated_rows(make_problem, sharing):
    """Logits of hundreds: most rows have neither gradient nor curvature, wrong ones a gradient."""
    problem = make_problem()
    with torch.no_grad():
        for network in problem.networks:
            network.head.weight *= 1e3
    truth = pbrf(problem)
    assert truth.converged.all()
    network, row = problem.networks[0], problem.removed[0, 1].item()
    plain = PlainResponse(problem, network, [row], WEIGHT_DECAY + DAMPING)
    expected = losses_at(problem, network, plain.minimiser())
    assert_allclose(truth.loss_after[0, :, 1], expected, rtol=0, atol=1e-4)


def test_duplicate_rows_have_the_same_response(make_problem):
    problem = make_problem()
    inputs, targets = (torch.cat([tensor, tensor]) for tensor in problem.train)
    removed = torch.tensor([[[4], [24]]] * 2)
    truth = pbrf(dataclasses.replace(problem, train=(inputs, targets), removed=removed))
    assert_allclose(truth.loss_after[..., 0], truth.loss_after[..., 1], rtol=0, atol=1e-12)


def test_a_pair_of_duplicates_of_twice_the_rows_is_one_row(make_problem):
    problem = make_problem()
    inputs, targets = (torch.cat([tensor, tensor]) for tensor in problem.train)
    pairs = torch.cat([problem.removed, problem.removed + 20], dim=2)
    doubled = dataclasses.replace(problem, train=(inputs, targets), removed=pairs)
    assert_allclose(pbrf(doubled).loss_after, pbrf(problem).loss_after, rtol=0, atol=1e-9)


def test_one_class_present(make_problem):
    problem = make_problem()
    ones = torch.ones_like(problem.train[1])
    problem = dataclasses.replace(problem, train=(problem.train[0], ones))
    plain = PlainResponse(problem, problem.networks[1], [3], WEIGHT_DECAY + DAMPING)
    expected = losses_at(problem, problem.networks[1], plain.minimiser())
    assert_allclose(pbrf(problem).loss_after[1, :, 1], expected, rtol=0, atol=1e-6)


def test_only_row_removed_leaves_a_loss_without_bound_but_for_the_proximity(make_problem):
    """D - l is linear: the minimum is at theta-hat plus the row's gradient over the strength."""
    problem = make_problem(removed=torch.zeros(2, 1, 1, dtype=torch.int64))
    problem = dataclasses.replace(problem, train=(problem.train[0][:1], problem.train[1][:1]))
    truth = pbrf(problem)
    for s, network in enumerate(problem.networks):
        plain = PlainResponse(problem, network, [0], WEIGHT_DECAY + DAMPING)
        gradient = oracles.row_gradient(plain.centre, plain.features[0], plain.targets[0])
        theta = plain.centre + gradient / (WEIGHT_DECAY + DAMPING)
        assert_allclose(truth.loss_after[s, :, 0], losses_at(problem, network, theta), rtol=1e-9)


def test_a_network_that_is_not_finite_has_no_response(make_problem):
    problem = make_problem()
    with torch.no_grad():
        problem.networks[0].head.weight[0, 0] = math.nan
    truth = pbrf(problem)
    assert truth.loss_after[0].isnan().all()
    assert truth.converged.tolist() == [[False] * 3, [True] * 3]
    assert torch.equal(truth.loss_after[1], pbrf(make_problem()).loss_after[1])


def test_networks_do_not_move_and_progress_is_told(make_problem):
    problem, method, reported = make_problem(), TRUTHS.create("pbrf"), []
    before = [p.clone() for network in problem.networks for p in network.parameters()]
    method.remove(problem, reported.append)
    after = [p for network in problem.networks for p in network.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert sum(reported) == method.cost(problem) == 2 * 3


# --- refusals ------------------------------------------------------------------------------


def bayesian(problem: RemovalProblem) -> RemovalProblem:
    spec = VariationalSpec(MLPSpec(depth=1, width=4, activation="tanh"))
    networks = [initialise(spec, (3,), CLASSES, seed, torch.float64) for seed in (0, 1)]
    return dataclasses.replace(problem, networks=networks, objective=VariationalObjective(rows=20))


def live(problem: RemovalProblem) -> RemovalProblem:
    return dataclasses.replace(problem, live=torch.zeros(2, 31, dtype=torch.float64))


def undamped(problem: RemovalProblem) -> RemovalProblem:
    return dataclasses.replace(problem, objective=Objective())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (bayesian, "Bayesian loss is not convex in the outputs"),
        (live, "--swa-restart live"),
        (undamped, "without weight decay and damping"),
    ],
)
@pytest.mark.parametrize("params", ["head", "all"])
def test_what_has_no_response_is_refused_with_the_reason(change, reason, params, make_problem):
    truth = pbrf(change(make_problem(params=params)), damping=0.0)
    (told,) = truth.reasons
    assert reason in told
    assert truth.loss_after.shape == (2, 2, 3)
    for values in (truth.loss_after, truth.null_loss_after, truth.gradient_norm):
        assert values.isnan().all()
    assert not truth.converged.any()

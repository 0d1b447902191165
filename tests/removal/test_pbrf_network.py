"""Proximal Bregman responses of whole networks: against scipy on the plain objective in numpy."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from ifcheck.curvature.local import local_model
from ifcheck.models import initialise
from ifcheck.models.mlp import MLPSpec
from ifcheck.removal import TRUTHS, RemovalProblem, Truth
from ifcheck.removal.network_response import (
    LIMITED_TOLERANCE,
    NetworkProblem,
    losses_at,
    respond,
)
from ifcheck.scores import Estimator, influence_scores
from tests import oracles
from tests.networks import LeNet

WEIGHT_DECAY, DAMPING = 0.01, 0.02
STRENGTH = WEIGHT_DECAY + DAMPING
GROUPS = {
    "rows": [[[0], [7], [12]], [[19], [3], [7]]],
    "groups": [[[0, 7, 12], [5, 6, 1]], [[19, 3, 7], [2, 0, 11]]],
}


@pytest.fixture
def make_whole(make_problem):
    """Return a builder of problems that move all parameters, with an activation of choice."""

    def make(weight_decay=WEIGHT_DECAY, activation="tanh", depth=1, **parts) -> RemovalProblem:
        spec = MLPSpec(depth=depth, width=4, activation=activation)
        networks = [initialise(spec, (3,), 3, seed, torch.float64) for seed in (0, 1)]
        return make_problem(weight_decay, **({"networks": networks, "params": "all"} | parts))

    return make


@pytest.fixture(params=["Newton", "L-BFGS"])
def method(request, monkeypatch):
    """Which of the two ways minimises, whatever the size."""
    limit = math.inf if request.param == "Newton" else 0.0
    monkeypatch.setattr("ifcheck.removal.network_response.DENSE_WORK", limit)
    return request.param


def pbrf(problem: RemovalProblem, damping: float = DAMPING) -> Truth:
    return TRUTHS.create("pbrf", {"damping": damping}).remove(problem)


class PlainNetwork:
    """A network of one hidden tanh layer and its objective, as it is defined, in numpy."""

    def __init__(self, problem, network, removed, strength=STRENGTH, share=1.0):
        self.inputs, self.targets = (tensor.numpy() for tensor in problem.train)
        self.tests, self.test_targets = (tensor.numpy() for tensor in problem.test)
        parameters = list(network.parameters())  # body weight and bias, head weight and bias
        self.shapes = [tuple(p.shape) for p in parameters]
        self.centre = np.concatenate([p.detach().numpy().ravel() for p in parameters])
        self.outputs = self.outputs_at(self.centre, self.inputs)
        self.removed, self.strength, self.share = removed, strength, share

    def outputs_at(self, theta, inputs):
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1]
        pieces = np.split(theta, ends)
        V, c, W, b = (p.reshape(s) for p, s in zip(pieces, self.shapes, strict=True))
        return np.tanh(inputs @ V.T + c) @ W.T + b

    def __call__(self, theta: np.ndarray) -> float:
        outputs, rows = self.outputs_at(theta, self.inputs), len(self.targets)
        moved = (softmax(self.outputs, axis=1) * (outputs - self.outputs)).sum(1)
        divergence = logsumexp(outputs, axis=1) - logsumexp(self.outputs, axis=1) - moved
        losses = logsumexp(outputs, axis=1) - outputs[np.arange(rows), self.targets]
        proximity = self.strength / 2 * ((theta - self.centre) ** 2).sum()
        gone = self.share * losses[self.removed].sum()
        return float(divergence.sum() / rows + proximity - gone / rows)

    def losses_at(self, theta):
        outputs = self.outputs_at(theta, self.tests)
        own = outputs[np.arange(len(self.test_targets)), self.test_targets]
        return logsumexp(outputs, axis=1) - own

    def minimiser(self):
        """From the trained weights, by BFGS on differences: about 1e-6 from the minimum."""
        return minimize(self, self.centre, method="BFGS", options={"gtol": 1e-9}).x


def network_problem(problem: RemovalProblem, weights) -> NetworkProblem:
    network = problem.networks[0]
    return NetworkProblem.of(network, STRENGTH, problem.train, torch.as_tensor(weights))


def weights_of(group, share=1.0) -> np.ndarray:
    weights = np.full((1, 20), 1 / 20)
    weights[0, group] = (1 - share) / 20
    return weights


# --- the minimum ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", GROUPS)
def test_losses_are_those_at_scipys_minimum(kind, make_whole, method):
    groups = GROUPS[kind]
    problem = make_whole(removed=torch.tensor(groups))
    truth = pbrf(problem)
    for s, network in enumerate(problem.networks):
        for k, group in enumerate(groups[s]):
            plain = PlainNetwork(problem, network, group)
            expected = plain.losses_at(plain.minimiser())
            assert_allclose(truth.loss_after[s, :, k], expected, rtol=0, atol=3e-5)
            moved = np.abs(expected - plain.losses_at(plain.centre)).max()
            assert moved > 1e-3  # so that the tolerance tells the minimum from the start
    assert truth.converged.all()
    assert truth.reasons == ()
    if method == "Newton":
        assert (truth.gradient_norm <= 1e-10).all()
        assert truth.positive_definite.all()
    else:
        assert (truth.gradient_norm <= LIMITED_TOLERANCE).all()
        assert truth.positive_definite is None


@pytest.mark.parametrize("group", [[4], [4, 0, 11]])
def test_derivatives_are_differences_of_the_plain_objective(group, make_whole):
    problem = make_whole()
    found = network_problem(problem, weights_of(group))
    plain = PlainNetwork(problem, problem.networks[0], group)
    at = plain.centre + 0.5 * np.random.default_rng(5).normal(size=plain.centre.size)
    flat = torch.from_numpy(at)[None]
    constant = plain(plain.centre) - found.value(found.centre[None]).item()
    assert found.value(flat).item() + constant == pytest.approx(plain(at), rel=1e-12)
    slope = oracles.finite_difference_gradient(plain, at)
    assert_allclose(found.gradient(flat)[0], slope, rtol=0, atol=1e-8)
    curvature = oracles.finite_difference_hessian(plain, at)
    assert_allclose(found.hessian(flat)[0], curvature, rtol=0, atol=1e-6)
    value, together = found.value_and_gradient(flat)
    assert value.item() == pytest.approx(found.value(flat).item(), rel=1e-14)
    assert torch.equal(together, found.gradient(flat))


def test_rows_in_blocks_and_removals_in_parts_are_the_whole(make_whole, monkeypatch):
    problem = make_whole()
    weights = np.concatenate([weights_of([row]) for row in range(5)])
    whole = network_problem(problem, weights)
    flat = whole.centre + torch.from_numpy(np.random.default_rng(2).normal(size=(5, 31)))
    expected = whole.value(flat), whole.gradient(flat), whole.hessian(flat)
    together = respond(whole, lambda done: None)
    monkeypatch.setattr("ifcheck.models.base.ROWS_AT_ONCE", 7)
    monkeypatch.setattr("ifcheck.removal.network_response.TOGETHER", 2 * 20 * 31)
    monkeypatch.setattr("ifcheck.removal.network_response.COLUMNS_AT_ONCE", 5)
    for found, value in zip(
        (whole.value(flat), whole.gradient(flat), whole.hessian(flat)), expected, strict=True
    ):
        assert_allclose(found, value, rtol=1e-11, atol=1e-14)
    parts = respond(whole, lambda done: None)
    assert_allclose(parts.flat, together.flat, rtol=0, atol=1e-9)


def test_the_order_of_removals_makes_no_difference(make_whole, method):
    problem, order = make_whole(), torch.tensor([2, 0, 1])
    permuted = dataclasses.replace(problem, removed=problem.removed[:, order])
    first, second = pbrf(problem), pbrf(permuted)
    assert_allclose(first.loss_after[..., order], second.loss_after, rtol=0, atol=1e-9)


@pytest.mark.parametrize("depth", [1, 4])
def test_deep_smooth_networks_converge(depth, make_whole, method):
    """One in six may end short of it: rounding keeps L-BFGS from a gradient of 1e-7."""
    truth = pbrf(make_whole(depth=depth))
    assert truth.converged.sum() >= truth.converged.numel() - (depth > 1)
    assert truth.loss_after.isfinite().all()


def test_both_ways_lead_to_one_minimum(make_whole, monkeypatch):
    problem = make_whole(depth=2)
    by_newton = pbrf(problem)
    monkeypatch.setattr("ifcheck.removal.network_response.DENSE_WORK", 0.0)
    assert_allclose(pbrf(problem).loss_after, by_newton.loss_after, rtol=0, atol=1e-5)


@pytest.mark.parametrize("activation", ["selu", "relu"])
def test_on_kinks_no_step_of_any_length_leads_down(activation, make_whole):
    """What has not converged is checked by values alone: along many directions none is lower."""
    problem = make_whole(activation=activation, removed=torch.arange(20).repeat(2, 1)[..., None])
    weights = np.concatenate([weights_of([row]) for row in range(20)])
    found = network_problem(problem, weights)
    ends = respond(found, lambda done: None)
    assert not ends.converged.all()
    start = found.value(found.centre.expand(20, -1))
    reached = found.value(ends.flat)
    defined = reached.isfinite()  # others have no minimum near the trained weights
    assert defined.sum() >= 15
    assert not ends.converged[~defined].any()
    assert (reached < start)[defined].all()
    generator = torch.Generator().manual_seed(0)
    for length in (1e-4, 1e-3, 1e-2):
        steps = torch.randn(200, *ends.flat.shape, dtype=torch.float64, generator=generator)
        steps *= length / steps.norm(dim=-1, keepdim=True)
        lower = torch.stack([found.value(ends.flat + step) for step in steps]).min(0).values
        assert (reached - lower < 0.01 * (start - reached))[defined].all()


# --- what it linearises to -----------------------------------------------------------------


@pytest.mark.parametrize("weight_decay", [0.0, WEIGHT_DECAY])
def test_the_derivative_in_the_rows_share_is_the_score_of_the_damped_gauss_newton(
    weight_decay, make_whole
):
    """By differences, at weights that are not stationary: of G, and not of the Hessian."""
    problem, row, step = make_whole(weight_decay), 7, 1e-4
    network, strength = problem.networks[0], weight_decay + DAMPING
    weights = np.concatenate([weights_of([row], share) for share in (step, -step)])
    found = NetworkProblem.of(network, strength, problem.train, torch.from_numpy(weights))
    flat = respond(found, lambda done: None).flat
    losses = losses_at(network, problem.objective, flat, problem.test)
    derivative = (losses[0] - losses[1]) / (2 * step)
    scores = {}
    for curvature in ("ggn", "hessian"):
        model = local_model(
            network, problem.objective, "all", problem.train, problem.test, curvature
        )
        estimator = Estimator("all", "objective", DAMPING, "exact", "n", curvature=curvature)
        scores[curvature] = influence_scores(model, estimator).values[:, row]
    assert_allclose(derivative, scores["ggn"], rtol=1e-5)
    assert not np.allclose(derivative, scores["hessian"], rtol=0.02)


def test_a_row_that_weighs_too_little_for_the_tolerance_moves_the_weights_all_the_same(make_whole):
    """Gradients below 1e-10 that weak damping turns into changes far above rounding."""
    problem, damping, rows = make_whole(0.0).part(0, 1), 1e-4, torch.arange(20)
    network = problem.networks[0]
    with torch.no_grad():
        network.head.bias += torch.tensor([22.0, 0, 0])
    problem = dataclasses.replace(
        problem,
        train=(problem.train[0], torch.zeros_like(rows)),
        test=(problem.test[0], torch.ones(2, dtype=torch.int64)),
        removed=rows[None, :, None],
    )
    truth = pbrf(problem, damping)
    model = local_model(network, problem.objective, "all", problem.train, problem.test, "ggn")
    estimator = Estimator("all", "objective", damping, "exact", "n", curvature="ggn")
    changes = truth.loss_after - truth.null_loss_after[..., None]
    predicted = influence_scores(model, estimator).values
    second_order = 1e-11  # about, of changes of 1e-6
    assert_allclose(changes[0], predicted, rtol=1e-4, atol=second_order)
    assert predicted.abs().max() > 1e-6


def test_a_network_that_is_its_head_responds_as_the_head_does(make_whole):
    problem = make_whole()
    still = dataclasses.replace(problem, networks=[_without_body(n) for n in problem.networks])
    head = pbrf(dataclasses.replace(still, params="head"))
    assert_allclose(pbrf(still).loss_after, head.loss_after, rtol=0, atol=1e-9)


def _without_body(network):
    torch.manual_seed(0)
    network.head = torch.nn.Linear(3, 3).double()
    network.features = torch.sin  # of the inputs, which are as many as the head takes
    del network.body
    return network


# --- the null run and degenerate networks --------------------------------------------------


def test_removing_nothing_changes_nothing(make_whole, method):
    problem = make_whole()
    truth = pbrf(problem)
    for s, network in enumerate(problem.networks):
        with torch.no_grad():
            outputs = network(problem.test[0])
        before = problem.objective.per_example_loss(outputs, problem.test[1])
        assert torch.equal(truth.null_loss_after[s], before)
    assert not truth.gradient_norm[:, 0].any()
    found = network_problem(problem, np.full((1, 20), 1 / 20))
    assert found.gradient(found.centre[None]).norm() < 1e-16
    assert_allclose(respond(found, lambda done: None).flat[0], found.centre, rtol=0, atol=1e-14)


def test_a_network_that_is_not_finite_has_no_response(make_whole, method):
    problem = make_whole()
    with torch.no_grad():
        problem.networks[0].head.weight[0, 0] = math.nan
    truth = pbrf(problem)
    assert truth.loss_after[0].isnan().all()
    assert truth.converged.tolist() == [[False] * 3, [True] * 3]
    assert torch.equal(truth.loss_after[1], pbrf(make_whole()).loss_after[1])


def test_networks_do_not_move_and_progress_counts_removals(make_whole, method):
    problem, truth, reported = make_whole(), TRUTHS.create("pbrf", {"damping": DAMPING}), []
    before = [p.clone() for network in problem.networks for p in network.parameters()]
    truth.remove(problem, reported.append)
    after = [p for network in problem.networks for p in network.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert sum(reported) == truth.cost(problem) == 2 * 3


def test_a_convolutional_network_responds_if_it_is_held(make_problem, method):
    """Where damping is weak what leaves of a row's loss has no bound: no minimum, and no number."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(22, 1, 8, 8, dtype=torch.float64, generator=generator)
    torch.manual_seed(0)
    networks = [LeNet().double() for _ in range(2)]
    targets = torch.arange(22) % networks[0].head.out_features
    problem = make_problem(
        networks=networks,
        params="all",
        train=(images[:20], targets[:20]),
        test=(images[20:], targets[20:]),
    )
    held = pbrf(problem, damping=1.0)
    assert held.loss_after.isfinite().all()
    assert (held.loss_after != held.null_loss_after[..., None]).all()
    free = pbrf(problem, damping=0.0)
    undefined = free.loss_after.isnan()
    assert undefined.any() or method == "Newton"  # whose shorter steps may stay with a minimum
    assert (undefined.any(1) == undefined.all(1)).all()
    assert not free.converged[undefined.any(1)].any()
    assert (free.loss_after[~undefined] < 1e3).all()

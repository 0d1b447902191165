"""Hessians and gradients of a trained network: the two routes, and what is refused."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from ifcheck.curvature.dense import Differentiable
from ifcheck.curvature.local import LocalModel, local_model
from ifcheck.errors import RunFailed, UnusableInput
from ifcheck.models import MLP, VariationalSpec, initialise
from ifcheck.models.mlp import MLPSpec
from ifcheck.objective import Objective, VariationalObjective
from ifcheck.params import load_flat
from tests import oracles
from tests.curvature import mlp_loss

SIZES = (3, 4, 3)
HEAD, HEAD_WEIGHT, HEAD_BIAS = slice(16, 31), slice(16, 28), slice(28, 31)
FLAT = np.random.default_rng(1).normal(size=31)
ROWS, TESTS = 8, 3
WEIGHT_DECAY = 0.02


def rows(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    inputs = torch.from_numpy(random.normal(size=(count, SIZES[0])))
    return inputs, torch.from_numpy(random.integers(0, SIZES[-1], size=count))


TRAIN, TEST = rows(ROWS, 2), rows(TESTS, 3)


@pytest.fixture
def network():
    built = MLP(*SIZES[:2], 1, SIZES[-1], "selu")
    load_flat(built, torch.from_numpy(FLAT))
    return built


def train_gradients(model: LocalModel) -> torch.Tensor:
    """The gradient of each training row, along one axis after the other. (rows, params)."""
    size = model.test_gradients.shape[1]
    return model.train_products(torch.eye(size, dtype=torch.float64)).mT


@pytest.mark.parametrize(
    ("selection", "part"),
    [("head", HEAD), ("layer:head.weight", HEAD_WEIGHT), ("layer:head.bias", HEAD_BIAS)],
)
def test_head_is_that_of_the_oracle_and_of_automatic_differentiation(network, selection, part):
    objective = Objective(WEIGHT_DECAY)
    model = local_model(network, objective, selection, TRAIN, TEST)
    hidden, bias = FLAT[:12].reshape(4, 3), FLAT[12:16]
    features = oracles.ACTIVATIONS["selu"](TRAIN[0].numpy() @ hidden.T + bias)
    mean = np.full(ROWS, 1 / ROWS)
    theta = FLAT[HEAD]
    within = slice(part.start - HEAD.start, part.stop - HEAD.start)
    exact = oracles.head_hessian(theta, features, TRAIN[1].numpy(), mean, weight_decay=0)
    assert_allclose(model.hessian.dense(), exact[within, within], rtol=1e-11, atol=1e-15)
    assert_allclose(model.regulariser_gradient, WEIGHT_DECAY * FLAT[part], rtol=1e-15)

    automatic = Differentiable(network, objective, selection)
    weights = torch.from_numpy(mean)
    close = {"rtol": 1e-11, "atol": 1e-15}
    torch.testing.assert_close(model.hessian.dense(), automatic.hessian(*TRAIN, weights), **close)
    torch.testing.assert_close(train_gradients(model), automatic.row_gradients(*TRAIN), **close)
    torch.testing.assert_close(model.test_gradients, automatic.row_gradients(*TEST), **close)


@pytest.mark.parametrize("selection", ["all", "layer:head,body.0"])
def test_whole_network_is_that_of_finite_differences(network, selection):
    model = local_model(network, Objective(WEIGHT_DECAY), selection, TRAIN, TEST)

    def loss(flat, row=None, at=TRAIN):
        count = len(at[1])
        weights = np.full(count, 1 / count) if row is None else np.eye(count)[row]
        return mlp_loss(flat, SIZES, "selu", at[0].numpy(), at[1].numpy(), weights)

    assert_allclose(model.hessian.dense(), oracles.finite_difference_hessian(loss, FLAT), atol=1e-7)
    for gradients, at in ((train_gradients(model), TRAIN), (model.test_gradients, TEST)):
        assert len(gradients) == len(at[1])
        for row, gradient in enumerate(gradients):
            expected = oracles.finite_difference_gradient(
                lambda t, row=row, at=at: loss(t, row, at), FLAT
            )
            assert_allclose(gradient, expected, atol=1e-9)
    assert_allclose(model.regulariser_gradient, WEIGHT_DECAY * FLAT, rtol=1e-15)


def test_body_without_the_head(network):
    whole = local_model(network, Objective(), "all", TRAIN, TEST)
    body = local_model(network, Objective(), "layer:body.0", TRAIN, TEST)
    torch.testing.assert_close(body.hessian.dense(), whole.hessian.dense()[:16, :16])
    torch.testing.assert_close(train_gradients(body), train_gradients(whole)[:, :16])
    torch.testing.assert_close(body.test_gradients, whole.test_gradients[:, :16])


def test_one_row(network):
    one = TRAIN[0][:1], TRAIN[1][:1]
    model = local_model(network, Objective(), "head", one, TEST)
    hidden, bias = FLAT[:12].reshape(4, 3), FLAT[12:16]
    features = oracles.ACTIVATIONS["selu"](one[0].numpy()[0] @ hidden.T + bias)
    assert_allclose(model.hessian.dense(), oracles.row_hessian(FLAT[HEAD], features), rtol=1e-11)
    assert train_gradients(model).shape == (1, 15)


def test_network_keeps_no_gradients(network):
    for selection in ("head", "all"):
        model = local_model(network, Objective(), selection, TRAIN, TEST)
        assert not model.hessian.dense().requires_grad
        assert not train_gradients(model).requires_grad
    assert all(p.grad is None for p in network.parameters())


# --- size ----------------------------------------------------------------------------------


def test_too_many_parameters_are_refused_with_their_number_when_a_matrix_is_asked_for():
    network = MLP(3, 70, 2, 3).double()  # 3*70+70 + 70*70+70 + 70*3+3
    model = local_model(network, Objective(), "all", TRAIN, TEST)
    with pytest.raises(UnusableInput, match=r"5,463 parameters .* at most 5,000") as e:
        model.hessian.dense()
    assert "--solver cg" in e.value.remedy


def test_large_network_still_has_small_layers():
    network = MLP(3, 70, 2, 3).double()
    model = local_model(network, Objective(), "layer:body.0", TRAIN, TEST)
    assert model.hessian.dense().shape == (280, 280)


def test_a_head_that_does_not_fit_into_memory_is_refused_before_it_is_made(network, monkeypatch):
    model = local_model(network, Objective(), "head", TRAIN, TEST)
    needed = 5 * 8 * 15**2
    for free, fits in ((needed, True), (needed - 1, False)):
        memory = SimpleNamespace(available=free)
        monkeypatch.setattr("psutil.virtual_memory", lambda memory=memory: memory)
        if fits:
            assert model.hessian.dense().shape == (15, 15)
            continue
        with pytest.raises(RunFailed, match=r"15 parameters takes 0\.0 GB") as e:
            model.hessian.dense()
        assert "--solver cg" in e.value.remedy


# --- products ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "selection", ["head", "layer:head.weight", "layer:head.bias", "all", "layer:body.0"]
)
def test_products_are_those_of_the_matrix(network, selection):
    operator = local_model(network, Objective(), selection, TRAIN, TEST).hessian
    directions = torch.from_numpy(np.random.default_rng(5).normal(size=(3, operator.size)))
    expected = directions @ operator.dense()
    torch.testing.assert_close(operator.product(directions), expected, rtol=1e-11, atol=1e-14)
    assert not operator.product(directions).requires_grad


@pytest.mark.parametrize("alive", [1, 40, 1 << 20])
@pytest.mark.parametrize("selection", ["head", "head-mean", "layer:head.weight", "all"])
def test_products_of_a_bayesian_network_are_those_of_the_matrix(selection, alive, monkeypatch):
    spec, objective = VariationalSpec(MLPSpec(1, 4, "tanh")), VariationalObjective(rows=ROWS)
    bayesian = initialise(spec, SIZES[:1], SIZES[-1], 0, torch.float64)
    monkeypatch.setattr("ifcheck.curvature.variational_head.OUTER_VALUES", alive)
    operator = local_model(bayesian, objective, selection, TRAIN, TEST).hessian
    directions = torch.from_numpy(np.random.default_rng(5).normal(size=(3, operator.size)))
    with monkeypatch.context() as patch:
        patch.setattr("ifcheck.curvature.variational_head.OUTER_VALUES", 1 << 20)
        expected = directions @ operator.dense()
    torch.testing.assert_close(operator.product(directions), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("alive", [1, 40])
def test_products_of_a_head_block_by_block_are_those_on_all(network, alive, monkeypatch):
    monkeypatch.setattr("ifcheck.curvature.head.JOINT_VALUES", alive)
    test_products_are_those_of_the_matrix(network, "head")


def test_derivatives_along_directions_do_not_depend_on_other_threads(network):
    """Torch's forward mode has one level for all threads."""
    model = Differentiable(network, Objective())
    directions = torch.from_numpy(np.random.default_rng(5).normal(size=(40, 31)))
    expected = directions @ model.row_gradients(*TRAIN).mT
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: model.row_products(*TRAIN, directions), range(12)))
    for products in found:
        torch.testing.assert_close(products, expected, rtol=1e-11, atol=1e-14)


def test_products_again_are_the_same_from_the_graph_that_is_kept(network, monkeypatch):
    weights = torch.full((ROWS,), 1 / ROWS, dtype=torch.float64)
    model = Differentiable(network, Objective())
    calls = []
    losses = model._losses
    monkeypatch.setattr(model, "_losses", lambda *given: calls.append(1) or losses(*given))
    products = model.hessian_products(*TRAIN, weights)
    directions = torch.from_numpy(np.random.default_rng(5).normal(size=(2, 31)))
    first = products(directions)
    for _ in range(3):
        assert torch.equal(products(directions), first)
    assert len(calls) == 1


@pytest.mark.parametrize("values", [1, 40, 57])  # of which a row leaves 4 + 4 + 3 behind
def test_products_block_by_block_of_rows_are_those_on_all(network, values, monkeypatch):
    model = Differentiable(network, Objective())
    weights = torch.rand(ROWS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    directions = torch.from_numpy(np.random.default_rng(5).normal(size=(2, 31)))
    expected = directions @ model.hessian(*TRAIN, weights)
    monkeypatch.setattr("ifcheck.models.base.DERIVED_VALUES", values)
    found = model.hessian_products(*TRAIN, weights)(directions)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-14)

"""Hessians and gradients of a trained network: the two routes, and what is refused."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from ifcheck.curvature import dense
from ifcheck.curvature.dense import Differentiable
from ifcheck.curvature.local import LocalModel, local_model
from ifcheck.errors import UnusableInput
from ifcheck.models import MLP
from ifcheck.objective import Objective
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
    assert_allclose(model.hessian, exact[within, within], rtol=1e-11, atol=1e-15)
    assert_allclose(model.regulariser_gradient, WEIGHT_DECAY * FLAT[part], rtol=1e-15)

    automatic = Differentiable(network, objective, selection)
    weights = torch.from_numpy(mean)
    close = {"rtol": 1e-11, "atol": 1e-15}
    torch.testing.assert_close(model.hessian, automatic.hessian(*TRAIN, weights), **close)
    torch.testing.assert_close(train_gradients(model), automatic.row_gradients(*TRAIN), **close)
    torch.testing.assert_close(model.test_gradients, automatic.row_gradients(*TEST), **close)


@pytest.mark.parametrize("selection", ["all", "layer:head,body.0"])
def test_whole_network_is_that_of_finite_differences(network, selection):
    model = local_model(network, Objective(WEIGHT_DECAY), selection, TRAIN, TEST)

    def loss(flat, row=None, at=TRAIN):
        count = len(at[1])
        weights = np.full(count, 1 / count) if row is None else np.eye(count)[row]
        return mlp_loss(flat, SIZES, "selu", at[0].numpy(), at[1].numpy(), weights)

    assert_allclose(model.hessian, oracles.finite_difference_hessian(loss, FLAT), atol=1e-7)
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
    torch.testing.assert_close(body.hessian, whole.hessian[:16, :16])
    torch.testing.assert_close(train_gradients(body), train_gradients(whole)[:, :16])
    torch.testing.assert_close(body.test_gradients, whole.test_gradients[:, :16])


def test_one_row(network):
    one = TRAIN[0][:1], TRAIN[1][:1]
    model = local_model(network, Objective(), "head", one, TEST)
    hidden, bias = FLAT[:12].reshape(4, 3), FLAT[12:16]
    features = oracles.ACTIVATIONS["selu"](one[0].numpy()[0] @ hidden.T + bias)
    assert_allclose(model.hessian, oracles.row_hessian(FLAT[HEAD], features), rtol=1e-11)
    assert train_gradients(model).shape == (1, 15)


def test_network_keeps_no_gradients(network):
    for selection in ("head", "all"):
        model = local_model(network, Objective(), selection, TRAIN, TEST)
        assert not model.hessian.requires_grad
        assert not train_gradients(model).requires_grad
    assert all(p.grad is None for p in network.parameters())


# --- size ----------------------------------------------------------------------------------


def test_too_many_parameters_are_refused_with_their_number():
    network = MLP(3, 70, 2, 3).double()  # 3*70+70 + 70*70+70 + 70*3+3
    with pytest.raises(UnusableInput, match=r"--params all selects 5,463 .* at most 5,000") as e:
        local_model(network, Objective(), "all", TRAIN, TEST)
    assert "--params head" in e.value.remedy


def test_large_network_still_has_small_layers():
    network = MLP(3, 70, 2, 3).double()
    model = local_model(network, Objective(), "layer:body.0", TRAIN, TEST)
    assert model.hessian.shape == (280, 280)


def test_too_large_a_head_is_refused():
    network = MLP(3, 1, 1, 2 + dense.MAX_DENSE_PARAMETERS // 2).double()
    assert nn.utils.parameters_to_vector(network.head.parameters()).numel() == 5_004
    one = TRAIN[0][:1], TRAIN[1][:1]
    with pytest.raises(UnusableInput, match="--params head selects 5,004"):
        local_model(network, Objective(), "head", one, one)

"""Automatic differentiation of whole networks against finite differences of a numpy network."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from ifcheck.curvature import head
from ifcheck.curvature.dense import Differentiable
from ifcheck.errors import UnknownName, UnusableInput
from ifcheck.models import MLP
from ifcheck.objective import Objective
from ifcheck.params import load_flat
from tests import oracles
from tests.curvature import mlp_loss

SIZES = (3, 4, 4, 2)
LAYERS = {  # positions in the flat vector, counted by hand
    "body.0": range(16),
    "body.2": range(16, 36),
    "body.2.bias": range(32, 36),
    "head": range(36, 46),
    "head.weight": range(36, 44),
    "head.bias": range(44, 46),
}
FLAT = np.random.default_rng(1).normal(size=46)
ROWS = 7


def make_network(activation: str, flat: np.ndarray = FLAT) -> MLP:
    network = MLP(*SIZES[:2], len(SIZES) - 2, SIZES[-1], activation)
    load_flat(network, torch.from_numpy(flat))
    return network


class Reference:
    """One network in torch, its rows, and its derivatives by finite differences."""

    def __init__(self, activation: str) -> None:
        random = np.random.default_rng(2)
        self.inputs = random.normal(size=(ROWS, SIZES[0]))
        self.targets = random.integers(0, SIZES[-1], size=ROWS)
        self.weights = random.uniform(0, 0.3, size=ROWS)
        self.weights[1] = 0
        self.network = make_network(activation)
        self.activation = activation
        self.gradient = oracles.finite_difference_gradient(self.loss, FLAT)
        self.hessian = oracles.finite_difference_hessian(self.loss, FLAT)

    def loss(self, flat, weights=None) -> float:
        weights = self.weights if weights is None else weights
        return mlp_loss(flat, SIZES, self.activation, self.inputs, self.targets, weights)

    def rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(self.inputs), torch.from_numpy(self.targets)

    def model(self, selection: str = "all") -> Differentiable:
        # weight decay must not enter: these are derivatives of the data term
        return Differentiable(self.network, Objective(weight_decay=10.0), selection)

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return *self.rows(), torch.from_numpy(self.weights)


@pytest.fixture(scope="module", params=["selu", "tanh", "relu"])
def reference(request):
    return Reference(request.param)


@pytest.fixture(scope="module")
def tanh():
    return Reference("tanh")


def mean_gradient(model: Differentiable, inputs, targets, weights) -> torch.Tensor:
    return model.combined_gradients(inputs, targets, weights[None])[0]


def test_mean_gradient_of_all_parameters(reference):
    found = mean_gradient(reference.model(), *reference.tensors())
    assert_allclose(found, reference.gradient, atol=1e-9)


def test_hessian_of_all_parameters(reference):
    matrix = reference.model().hessian(*reference.tensors())
    assert_allclose(matrix, reference.hessian, atol=1e-7)
    assert torch.equal(matrix, matrix.mT)


def test_row_gradients_of_all_parameters(reference):
    gradients = reference.model().row_gradients(*reference.rows())
    expected = [
        oracles.finite_difference_gradient(lambda t, only=row: reference.loss(t, only), FLAT)
        for row in np.eye(ROWS)
    ]
    assert_allclose(gradients, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("selection", "positions"),
    [
        ("head", LAYERS["head"]),
        ("layer:body.0", LAYERS["body.0"]),
        ("layer:head.bias", LAYERS["head.bias"]),
        ("layer:body", [*LAYERS["body.0"], *LAYERS["body.2"]]),
        ("layer:head.weight,body.2.bias", [*LAYERS["body.2.bias"], *LAYERS["head.weight"]]),
    ],
)
def test_selected_layers_are_blocks_of_the_whole(tanh, selection, positions):
    model = tanh.model(selection)
    block = np.ix_(positions, positions)
    assert model.parameters.tolist() == FLAT[positions].tolist()
    assert_allclose(model.hessian(*tanh.tensors()), tanh.hessian[block], atol=1e-7)
    assert_allclose(mean_gradient(model, *tanh.tensors()), tanh.gradient[positions], atol=1e-9)
    gradients = model.row_gradients(*tanh.rows())
    assert_allclose(tanh.weights @ gradients.numpy(), tanh.gradient[positions], atol=1e-9)


def test_head_agrees_with_the_closed_form(reference):
    inputs, targets, weights = reference.tensors()
    model = reference.model("head")
    with torch.no_grad():
        features = reference.network.features(inputs)
    flat = torch.from_numpy(FLAT[LAYERS["head"]])
    close = {"rtol": 1e-12, "atol": 1e-15}
    torch.testing.assert_close(
        model.hessian(inputs, targets, weights),
        head.SoftmaxHeadLoss(SIZES[-1]).hessian(flat, features, targets, weights),
        **close,
    )
    torch.testing.assert_close(
        model.row_gradients(inputs, targets),
        head.SoftmaxHeadLoss(SIZES[-1]).row_gradients(flat, features, targets),
        **close,
    )
    torch.testing.assert_close(
        mean_gradient(model, inputs, targets, weights),
        head.SoftmaxHeadLoss(SIZES[-1]).mean_gradient(flat, features, targets, weights),
        **close,
    )


def test_one_row(tanh):
    row = np.eye(ROWS)[4]
    inputs, targets = (tensor[4:5] for tensor in tanh.rows())
    matrix = tanh.model().hessian(inputs, targets, torch.ones(1, dtype=torch.float64))
    expected = oracles.finite_difference_hessian(lambda t: tanh.loss(t, row), FLAT)
    assert_allclose(matrix, expected, atol=1e-7)


def test_saturated_network_has_finite_derivatives(tanh):
    network = make_network("tanh", 1e3 * FLAT)
    model = Differentiable(network, Objective())
    logits = network(torch.from_numpy(tanh.inputs))
    wrong = logits.argmin(1)
    gradients = model.row_gradients(torch.from_numpy(tanh.inputs), wrong)
    # p is one-hot to rounding: the biases of the head get +1 and -1, whatever lies below
    assert gradients[:, LAYERS["head.bias"]].abs().tolist() == [[1, 1]] * ROWS
    matrix = model.hessian(torch.from_numpy(tanh.inputs), wrong, torch.ones(ROWS).double())
    assert torch.isfinite(matrix).all()
    head_block = matrix[LAYERS["head"]][:, LAYERS["head"]]
    assert head_block.abs().max() < 1e-100


def test_network_is_left_as_it_was(tanh):
    network = make_network("tanh").train()
    model = Differentiable(network, Objective())
    model.hessian(*tanh.tensors())
    model.row_gradients(*tanh.rows())
    assert network.training
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    flat = torch.nn.utils.parameters_to_vector(network.parameters())
    assert flat.tolist() == FLAT.tolist()


def test_unknown_layer_is_named(tanh):
    with pytest.raises(UnknownName, match=r"unknown layer 'body\.7'") as caught:
        tanh.model("layer:body.7")
    assert "body.0" in caught.value.message


@pytest.mark.parametrize("selection", ["", "body.0", "layer:", "everything"])
def test_unreadable_selection_is_refused(tanh, selection):
    with pytest.raises(UnusableInput, match="expected head, head-mean, all or layer:NAME"):
        tanh.model(selection)

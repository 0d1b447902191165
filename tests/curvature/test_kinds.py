"""Hessian, Gauss-Newton and empirical Fisher against numpy's formulas and curvlinops."""

import curvlinops
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.sparse.linalg import cg, eigsh
from torch import nn

from ifcheck.curvature.kinds import CURVATURES
from ifcheck.curvature.local import local_model
from ifcheck.curvature.rows import HeadRows, NetworkRows
from ifcheck.errors import UnusableInput
from ifcheck.models import MLP, VariationalSpec, initialise
from ifcheck.models.mlp import MLPSpec
from ifcheck.objective import Objective, VariationalObjective
from ifcheck.params import Layout, load_flat
from tests import oracles
from tests.curvature import mlp_loss
from tests.curvature.test_local import FLAT, HEAD, HEAD_BIAS, ROWS, SIZES, TEST, TRAIN

SELECTIONS = [
    ("head", HEAD),
    ("layer:head.bias", HEAD_BIAS),
    ("layer:body.0", slice(16)),
    ("all", slice(None)),
]


@pytest.fixture
def network():
    built = MLP(*SIZES[:2], 1, SIZES[-1], "selu")
    load_flat(built, torch.from_numpy(FLAT))
    return built


def bayesian() -> nn.Module:
    spec = VariationalSpec(MLPSpec(1, 4, "tanh"))
    return initialise(spec, SIZES[:1], SIZES[-1], 0, torch.float64)


def operator_of(network, objective, selection, kind, train=TRAIN):
    return local_model(network, objective, selection, train, TEST, kind).hessian


def jacobian(flat: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Of the logits of an MLP in numpy, by central differences. (rows, classes, params)."""

    def logits(theta: np.ndarray) -> np.ndarray:
        hidden, bias = theta[:12].reshape(4, 3), theta[12:16]
        head, head_bias = theta[16:28].reshape(3, 4), theta[28:]
        return oracles.numpy_mlp([(hidden, bias), (head, head_bias)], inputs, "selu")

    step = 1e-6
    columns = [
        (logits(flat + step * unit) - logits(flat - step * unit)) / (2 * step)
        for unit in np.eye(len(flat))
    ]
    return np.stack(columns, axis=-1)


def probabilities(flat: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    layers = [
        (flat[:12].reshape(4, 3), flat[12:16]),
        (flat[16:28].reshape(3, 4), flat[28:]),
    ]
    logits = oracles.numpy_mlp(layers, inputs, "selu")
    return np.array([oracles.softmax(row) for row in logits])


@pytest.mark.parametrize(("selection", "part"), SELECTIONS)
def test_gauss_newton_is_the_outputs_curvature_between_their_jacobians(network, selection, part):
    inputs = TRAIN[0].numpy()
    matrix = np.zeros((31, 31))
    for row, p in zip(jacobian(FLAT, inputs), probabilities(FLAT, inputs), strict=True):
        matrix += row.T @ (np.diag(p) - np.outer(p, p)) @ row / ROWS
    operator = operator_of(network, Objective(), selection, "ggn")
    assert_allclose(operator.dense(), matrix[part, part], atol=1e-8)
    assert np.linalg.eigvalsh(operator.dense()).min() > -1e-14


@pytest.mark.parametrize(("selection", "part"), SELECTIONS)
def test_the_empirical_fisher_is_the_mean_of_the_gradients_outer_products(network, selection, part):
    inputs, targets = (values.numpy() for values in TRAIN)
    matrix = np.zeros((31, 31))
    for row in np.eye(ROWS):
        gradient = oracles.finite_difference_gradient(
            lambda theta, row=row: mlp_loss(theta, SIZES, "selu", inputs, targets, row), FLAT
        )
        matrix += np.outer(gradient, gradient) / ROWS
    operator = operator_of(network, Objective(), selection, "empirical-fisher")
    assert_allclose(operator.dense(), matrix[part, part], atol=1e-8)


@pytest.mark.parametrize("kind", list(CURVATURES))
@pytest.mark.parametrize("selection", ["head", "layer:head.weight", "all", "layer:body.0"])
@pytest.mark.parametrize("at_once", [3, 1_024])  # 8 rows: blocks of 3, 3 and 2
def test_products_are_those_of_the_matrix(network, kind, selection, at_once, monkeypatch):
    expected = operator_of(network, Objective(), selection, kind).dense()
    monkeypatch.setattr("ifcheck.models.base.ROWS_AT_ONCE", at_once)
    monkeypatch.setattr("ifcheck.curvature.kinds.ROW_VALUES", 3 * len(expected))
    operator = operator_of(network, Objective(), selection, kind)
    directions = torch.from_numpy(np.random.default_rng(5).normal(size=(3, operator.size)))
    close = {"rtol": 1e-11, "atol": 1e-14}
    torch.testing.assert_close(operator.product(directions), directions @ expected, **close)
    torch.testing.assert_close(operator.dense(), expected, **close)
    assert not operator.product(directions).requires_grad


@pytest.mark.parametrize("kind", list(CURVATURES))
@pytest.mark.parametrize("selection", ["head", "head-mean", "all"])
def test_products_of_bayesian_networks_are_those_of_the_matrix(kind, selection):
    objective = VariationalObjective(rows=ROWS)
    operator = operator_of(bayesian(), objective, selection, kind)
    directions = torch.from_numpy(np.random.default_rng(5).normal(size=(3, operator.size)))
    expected = directions @ operator.dense()
    torch.testing.assert_close(operator.product(directions), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", ["ggn", "empirical-fisher"])
def test_a_bayesian_head_is_that_of_the_whole_network_s_part(kind):
    """Two routes: the head's closed form, and automatic differentiation of the whole network."""
    network, objective = bayesian(), VariationalObjective(rows=ROWS)
    layout = Layout.of(network)
    head = layout.positions("head")
    whole = CURVATURES.create(kind).operator(NetworkRows.of(network, objective, "all", TRAIN))
    own = operator_of(network, objective, "head", kind)
    expected = whole.dense()[head][:, head]
    torch.testing.assert_close(own.dense(), expected, rtol=1e-10, atol=1e-14)


def test_gauss_newton_of_a_bayesian_network_is_its_outputs_curvature_between_jacobians():
    network, objective = bayesian(), VariationalObjective(rows=ROWS)
    layout = Layout.of(network)
    flat = layout.flatten(dict(network.named_parameters())).detach()

    def outputs(theta: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(network, layout.unflatten(theta), (TRAIN[0],))

    def loss(values: torch.Tensor, row: int) -> torch.Tensor:
        return objective.per_example_loss(values[None], TRAIN[1][row : row + 1]).sum()

    jacobians = torch.autograd.functional.jacobian(outputs, flat).flatten(1, 2)
    matrix = torch.zeros(layout.size, layout.size, dtype=torch.float64)
    for row, values in enumerate(outputs(flat).detach()):
        bend = torch.autograd.functional.hessian(lambda v, row=row: loss(v, row), values)
        bend = bend.reshape(values.numel(), values.numel())
        matrix += jacobians[row].T @ bend @ jacobians[row] / ROWS
    operator = operator_of(network, objective, "all", "ggn")
    torch.testing.assert_close(operator.dense(), matrix, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("hessian", "HessianLinearOperator"),
        ("ggn", "GGNLinearOperator"),
        ("empirical-fisher", "EFLinearOperator"),
    ],
)
def test_all_parameters_are_those_of_curvlinops(network, kind, name):
    """In its batches of 3, 3 and 2, which it weights by examples."""
    batches = [(x, y) for x, y in zip(TRAIN[0].split(3), TRAIN[1].split(3), strict=True)]
    theirs = getattr(curvlinops, name)(
        network, nn.CrossEntropyLoss(), list(network.parameters()), batches
    )
    expected = theirs @ torch.eye(31, dtype=torch.float64)
    operator = operator_of(network, Objective(), "all", kind)
    torch.testing.assert_close(operator.dense(), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("kind", list(CURVATURES))
@pytest.mark.parametrize("selection", ["head", "all"])
def test_some_rows_have_the_curvature_that_they_have_alone(network, kind, selection):
    positions = torch.tensor([5, 0, 3])
    model = local_model(network, Objective(), selection, TRAIN, TEST, kind)
    alone = operator_of(
        network, Objective(), selection, kind, tuple(rows[positions] for rows in TRAIN)
    )
    found = model.hessian_at(positions)
    torch.testing.assert_close(found.dense(), alone.dense(), rtol=1e-12, atol=1e-15)
    directions = torch.from_numpy(np.random.default_rng(1).normal(size=(2, found.size)))
    torch.testing.assert_close(
        found.product(directions), alone.product(directions), rtol=1e-12, atol=1e-15
    )


def test_sums_of_gradients_are_those_of_the_rows(network):
    for selection in ("head", "all"):
        model = local_model(network, Objective(), selection, TRAIN, TEST)
        shares = torch.from_numpy(np.random.default_rng(2).normal(size=(2, len(TRAIN[1]))))
        directions = torch.eye(model.hessian.size, dtype=torch.float64)
        rows = model.train_products(directions)  # (params, rows)
        torch.testing.assert_close(model.train_sums(shares), shares @ rows.mT)


@pytest.mark.parametrize("kind", ["hessian", "empirical-fisher"])
def test_operators_add_up(network, kind):
    first = operator_of(network, Objective(), "head", kind)
    other = operator_of(network, Objective(), "head", "ggn").times(-0.5).plus_diagonal(0.25)
    both = first.plus_diagonal(1.0).plus(other)
    expected = first.dense() + other.dense() + torch.eye(15, dtype=torch.float64)
    torch.testing.assert_close(both.dense(), expected)
    directions = torch.from_numpy(np.random.default_rng(3).normal(size=(2, 15)))
    torch.testing.assert_close(both.product(directions), directions @ expected)
    assert both.shift == 1.25


# --- ordinary inputs that are extreme --------------------------------------------------------


@pytest.mark.parametrize("kind", list(CURVATURES))
def test_one_row(network, kind):
    one = TRAIN[0][:1], TRAIN[1][:1]
    own = operator_of(network, Objective(), "head", kind, one).dense()
    whole = CURVATURES.create(kind).operator(NetworkRows.of(network, Objective(), "all", one))
    torch.testing.assert_close(own, whole.dense()[HEAD, HEAD], rtol=1e-10, atol=1e-15)
    assert torch.linalg.matrix_rank(own) <= (1 if kind == "empirical-fisher" else 2)


@pytest.mark.parametrize("kind", list(CURVATURES))
def test_rows_that_the_network_is_certain_of_have_no_curvature(network, kind):
    with torch.no_grad():
        network.head.weight *= 1e6
    operator = operator_of(network, Objective(), "head", kind)
    assert operator.dense().isfinite().all()
    directions = torch.ones(1, 15, dtype=torch.float64)
    torch.testing.assert_close(operator.product(directions), directions @ operator.dense())


@pytest.mark.parametrize("kind", list(CURVATURES))
def test_rows_of_one_class(network, kind):
    same = TRAIN[0], torch.zeros_like(TRAIN[1])
    own = operator_of(network, Objective(), "head", kind, same)
    directions = torch.from_numpy(np.random.default_rng(5).normal(size=(2, 15)))
    expected = directions @ own.dense()
    torch.testing.assert_close(own.product(directions), expected, rtol=1e-11, atol=1e-14)


# --- scipy, and what is refused --------------------------------------------------------------


@pytest.mark.parametrize("selection", ["head", "all"])
def test_an_operator_is_scipy_s(network, selection):
    operator = operator_of(network, Objective(), selection, "hessian")
    matrix, scipys = operator.dense().numpy(), operator.linear_operator()
    columns = np.random.default_rng(2).normal(size=(operator.size, 3))
    assert_allclose(scipys @ columns, matrix @ columns, rtol=1e-10, atol=1e-13)
    assert_allclose(scipys @ columns[:, 0], matrix @ columns[:, 0], rtol=1e-10, atol=1e-13)
    assert_allclose(scipys.H @ columns, matrix @ columns, rtol=1e-10, atol=1e-13)
    largest = eigsh(scipys, k=1, which="LA", return_eigenvectors=False)
    assert_allclose(largest, np.linalg.eigvalsh(matrix)[-1:], rtol=1e-9)
    damped = operator.plus_diagonal(torch.full((operator.size,), 5.0, dtype=torch.float64))
    found, info = cg(damped.linear_operator(), columns[:, 0], rtol=1e-12)
    assert info == 0
    expected = np.linalg.solve(matrix + 5 * np.eye(len(matrix)), columns[:, 0])
    assert_allclose(found, expected, rtol=1e-8)


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(4)])
@pytest.mark.parametrize("rows", [NetworkRows, HeadRows])
def test_a_network_in_training_mode_is_refused(network, layer, rows):
    network.body.append(layer.double())
    network.train()
    with pytest.raises(UnusableInput, match=type(layer).__name__) as raised:
        rows.of(network, Objective(), "head", TRAIN)
    assert "eval()" in raised.value.remedy
    network.eval()
    rows.of(network, Objective(), "head", TRAIN)

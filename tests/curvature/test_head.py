"""The closed form of the softmax head against loops over rows and finite differences."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from ifcheck.curvature import head
from tests import oracles

CLASSES, FEATURES, ROWS = 4, 3, 7  # all different: a confused order cannot pass
PARAMETERS = CLASSES * (FEATURES + 1)


class Problem(NamedTuple):
    """Heads with leading axes, and weights that are unequal and sometimes zero."""

    flat: np.ndarray  # (..., PARAMETERS)
    features: np.ndarray  # (..., ROWS, FEATURES)
    targets: np.ndarray  # (ROWS,)
    weights: np.ndarray  # (..., ROWS)

    def tensors(self) -> list[torch.Tensor]:
        return [torch.from_numpy(array) for array in self]

    def solved_by(self, oracle) -> np.ndarray:
        """The oracle's answers, one problem of the leading axes at a time."""
        leading = self.flat.shape[:-1]
        features = np.broadcast_to(self.features, (*leading, *self.features.shape[-2:]))
        answers = [
            oracle(self.flat[i], features[i], self.targets, self.weights[i])
            for i in np.ndindex(leading)
        ]
        return np.reshape(answers, (*leading, *np.shape(answers[0])))


def make_problem(leading: tuple[int, ...] = (), of_features: tuple[int, ...] = ()) -> Problem:
    random = np.random.default_rng(0)
    weights = random.uniform(0, 0.3, size=(*leading, ROWS))
    weights[..., 2] = 0
    return Problem(
        random.normal(size=(*leading, PARAMETERS)),
        random.normal(size=(*of_features, ROWS, FEATURES)),
        random.integers(0, CLASSES, size=ROWS),
        weights,
    )


@pytest.fixture(
    params=[((), ()), ((2,), ()), ((2,), (2,)), ((2, 3), (2, 1))],
    ids=["one", "shared-features", "own-features", "grouped-features"],
)
def problem(request):
    return make_problem(*request.param)


# --- against loops over rows ---------------------------------------------------------------


def test_losses_are_those_of_the_oracle(problem):
    flat, features, targets, _ = problem.tensors()
    expected = problem.solved_by(lambda t, h, y, a: oracles.softmax_loss(t, h, y, CLASSES))
    assert_allclose(
        head.SoftmaxHeadLoss(CLASSES).losses(flat, features, targets), expected, rtol=1e-13
    )


def test_row_gradients_are_those_of_the_oracle(problem):
    def each_row(theta, features, targets, _):
        rows = zip(features, targets, strict=True)
        return [oracles.row_gradient(theta, h, y) for h, y in rows]

    flat, features, targets, _ = problem.tensors()
    gradients = head.SoftmaxHeadLoss(CLASSES).row_gradients(flat, features, targets)
    assert_allclose(gradients, problem.solved_by(each_row), rtol=1e-12, atol=1e-15)


def test_mean_gradient_is_that_of_the_oracle(problem):
    flat, features, targets, weights = problem.tensors()
    gradient = head.SoftmaxHeadLoss(CLASSES).mean_gradient(flat, features, targets, weights)
    expected = problem.solved_by(lambda *p: oracles.head_gradient(*p, weight_decay=0))
    assert_allclose(gradient, expected, rtol=1e-12, atol=1e-15)


def test_hessian_is_that_of_the_oracle(problem):
    flat, features, targets, weights = problem.tensors()
    matrix = head.SoftmaxHeadLoss(CLASSES).hessian(flat, features, targets, weights)
    expected = problem.solved_by(lambda *p: oracles.head_hessian(*p, weight_decay=0))
    assert_allclose(matrix, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("outer_values", [1, 40])
@pytest.mark.parametrize("joint_values", [1, 40, 1 << 22])
def test_hessian_of_many_rows_is_that_of_the_oracle(
    problem, outer_values, joint_values, monkeypatch
):
    """Block by block of rows, and by products of each class with those after it."""
    monkeypatch.setattr(head, "OUTER_VALUES", outer_values)
    monkeypatch.setattr(head, "JOINT_VALUES", joint_values)
    flat, features, targets, weights = problem.tensors()
    matrix = head.SoftmaxHeadLoss(CLASSES).hessian(flat, features, targets, weights)
    expected = problem.solved_by(lambda *p: oracles.head_hessian(*p, weight_decay=0))
    assert_allclose(matrix, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("directions", [1, 5])
def test_derivatives_along_directions_are_those_of_the_oracle_s_gradients(directions):
    problem = make_problem()
    flat, features, targets, _ = problem.tensors()
    along = np.random.default_rng(1).normal(size=(directions, PARAMETERS))
    found = head.SoftmaxHeadLoss(CLASSES).row_products(
        flat, features, targets, torch.from_numpy(along)
    )
    rows = zip(problem.features, problem.targets, strict=True)
    gradients = np.array([oracles.row_gradient(problem.flat, h, y) for h, y in rows])
    assert_allclose(found, along @ gradients.T, rtol=1e-12, atol=1e-15)


# --- against finite differences ------------------------------------------------------------


def test_derivatives_are_those_of_finite_differences():
    problem = make_problem()
    flat, features, targets, weights = problem.tensors()

    def loss(theta):
        return oracles.head_objective(theta, *problem[1:], weight_decay=0)

    gradient = head.SoftmaxHeadLoss(CLASSES).mean_gradient(flat, features, targets, weights)
    matrix = head.SoftmaxHeadLoss(CLASSES).hessian(flat, features, targets, weights)
    assert_allclose(gradient, oracles.finite_difference_gradient(loss, problem.flat), atol=1e-9)
    assert_allclose(matrix, oracles.finite_difference_hessian(loss, problem.flat), atol=1e-7)


# --- order ---------------------------------------------------------------------------------


def test_flat_parameters_stand_in_the_order_of_torch():
    layer = nn.Linear(FEATURES, CLASSES, dtype=torch.float64)
    flat = nn.utils.parameters_to_vector(layer.parameters())
    features = torch.from_numpy(make_problem().features)
    torch.testing.assert_close(
        head.SoftmaxHeadLoss(CLASSES).logits(flat, features), layer(features)
    )


def test_matrix_has_a_row_for_each_class_with_the_bias_last():
    flat = torch.tensor([11.0, 12.0, 13.0, 21.0, 22.0, 23.0, 1.0, 2.0])
    matrix = torch.tensor([[11.0, 12.0, 13.0, 1.0], [21.0, 22.0, 23.0, 2.0]])
    assert torch.equal(head.flat_to_matrix(flat, 2), matrix)
    assert torch.equal(head.matrix_to_flat(matrix), flat)


# --- singular, degenerate and extreme heads ------------------------------------------------


def test_null_space_is_the_same_vector_added_to_every_class():
    flat, features, targets, weights = make_problem().tensors()
    matrix = head.SoftmaxHeadLoss(CLASSES).hessian(flat, features, targets, weights)
    for feature in range(FEATURES):
        shift = torch.zeros(PARAMETERS, dtype=torch.float64)
        shift[feature : CLASSES * FEATURES : FEATURES] = 1
        assert (matrix @ shift).abs().max() < 1e-15
    biases = torch.zeros(PARAMETERS, dtype=torch.float64)
    biases[-CLASSES:] = 1
    assert (matrix @ biases).abs().max() < 1e-15
    assert np.linalg.matrix_rank(matrix, hermitian=True) == PARAMETERS - (FEATURES + 1)


def test_one_row_curves_one_direction_fewer_than_there_are_classes():
    flat, features, targets, weights = make_problem().tensors()
    one = slice(3, 4)
    matrix = head.SoftmaxHeadLoss(CLASSES).hessian(flat, features[one], targets[one], weights[one])
    theta, row = flat.numpy(), features[3].numpy()
    assert_allclose(matrix, weights[3].item() * oracles.row_hessian(theta, row), rtol=1e-12)
    assert np.linalg.matrix_rank(matrix, hermitian=True) == CLASSES - 1
    gradient = head.SoftmaxHeadLoss(CLASSES).mean_gradient(
        flat, features[one], targets[one], weights[one]
    )
    expected = weights[3].item() * oracles.row_gradient(theta, row, targets[3].item())
    assert_allclose(gradient, expected, rtol=1e-12)


def test_one_class_has_neither_loss_nor_slope_nor_curvature():
    _, features, _, weights = make_problem().tensors()
    flat = torch.linspace(-2, 2, FEATURES + 1, dtype=torch.float64)
    targets = torch.zeros(ROWS, dtype=torch.int64)
    assert not head.SoftmaxHeadLoss(1).losses(flat, features, targets).any()
    gradient = head.SoftmaxHeadLoss(1).mean_gradient(flat, features, targets, weights)
    assert gradient.shape == flat.shape
    assert not gradient.any()
    matrix = head.SoftmaxHeadLoss(1).hessian(flat, features, targets, weights)
    assert matrix.shape == (FEATURES + 1, FEATURES + 1)
    assert not matrix.any()


def test_saturated_head_keeps_a_finite_loss_and_a_slope():
    # logits (1000, 0, -1000) and label 1: p = (1, 0, 0) to rounding, and the loss is the gap
    flat = torch.tensor([500.0, 0, -500, 0, 0, 0], dtype=torch.float64)
    features, targets = torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([1])
    weights = torch.ones(1, dtype=torch.float64)
    assert head.SoftmaxHeadLoss(3).losses(flat, features, targets).item() == 1000
    gradient = head.SoftmaxHeadLoss(3).mean_gradient(flat, features, targets, weights)
    assert gradient.tolist() == [2, -2, 0, 1, -1, 0]
    assert not head.SoftmaxHeadLoss(3).hessian(flat, features, targets, weights).any()


def test_row_of_weight_zero_leaves_no_trace():
    flat, features, targets, weights = make_problem().tensors()
    kept = weights > 0
    assert kept.sum() == ROWS - 1
    torch.testing.assert_close(
        head.SoftmaxHeadLoss(CLASSES).mean_gradient(flat, features, targets, weights),
        head.SoftmaxHeadLoss(CLASSES).mean_gradient(
            flat, features[kept], targets[kept], weights[kept]
        ),
    )
    torch.testing.assert_close(
        head.SoftmaxHeadLoss(CLASSES).hessian(flat, features, targets, weights),
        head.SoftmaxHeadLoss(CLASSES).hessian(flat, features[kept], targets[kept], weights[kept]),
    )


def test_duplicate_row_counts_twice():
    flat, features, targets, weights = make_problem().tensors()
    twice = torch.cat([torch.arange(ROWS), torch.tensor([4])])
    doubled = weights.clone()
    doubled[4] *= 2
    torch.testing.assert_close(
        head.SoftmaxHeadLoss(CLASSES).hessian(
            flat, features[twice], targets[twice], weights[twice]
        ),
        head.SoftmaxHeadLoss(CLASSES).hessian(flat, features, targets, doubled),
    )
    torch.testing.assert_close(
        head.SoftmaxHeadLoss(CLASSES).mean_gradient(
            flat, features[twice], targets[twice], weights[twice]
        ),
        head.SoftmaxHeadLoss(CLASSES).mean_gradient(flat, features, targets, doubled),
    )

"""The exact solver against numpy's solve and pseudo-inverse, and its certificates."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.sparse.linalg import ArpackNoConvergence

from ifcheck.curvature.operator import HessianOperator
from ifcheck.errors import Diverged
from ifcheck.solvers import SOLVERS, Solution
from tests import oracles

EPS = np.finfo(np.float64).eps


def with_eigenvalues(*values: float) -> np.ndarray:
    """A symmetric matrix with these eigenvalues in random directions."""
    random = np.random.default_rng(len(values))
    vectors, _ = np.linalg.qr(random.normal(size=(len(values), len(values))))
    matrix = (vectors * values) @ vectors.T
    return (matrix + matrix.T) / 2


def right_hand_sides(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(7).normal(size=(count, size))


def prepare(matrix: np.ndarray, damping: float = 0.0):
    operator = HessianOperator.of_matrix(torch.from_numpy(matrix))
    return SOLVERS.create("exact").prepare(operator, damping)


def solve(matrix: np.ndarray, rhs: np.ndarray, damping: float = 0.0) -> Solution:
    return prepare(matrix, damping).solve(torch.from_numpy(rhs))


def pseudo_inverse(matrix: np.ndarray) -> np.ndarray:
    return np.linalg.pinv(matrix, rcond=len(matrix) * EPS, hermitian=True)


# --- solutions -----------------------------------------------------------------------------


def test_regular_matrix_is_solved_for_every_right_hand_side():
    matrix, rhs = with_eigenvalues(0.3, 1, 2, 5), right_hand_sides(3, 4)
    solution = solve(matrix, rhs)
    assert_allclose(solution.x, np.linalg.solve(matrix, rhs.T).T, rtol=1e-12)
    assert solution.rel_residual.max() < 1e-14
    assert solution.converged.tolist() == [True] * 3
    assert solution.steps.tolist() == [0] * 3


@pytest.mark.parametrize("scale", [1e-12, 1, 1e12])
def test_singular_matrix_gets_its_pseudo_inverse_at_any_scale(scale):
    matrix = scale * with_eigenvalues(4, 2, 0.5, 0.01, 0, 0)
    rhs = right_hand_sides(3, 6)
    assert_allclose(solve(matrix, rhs).x, rhs @ pseudo_inverse(matrix), rtol=1e-11)
    assert prepare(matrix).spectrum.null_space == 2


def test_softmax_head_is_singular_and_its_gradients_are_solved():
    random = np.random.default_rng(0)
    features, targets = random.normal(size=(20, 3)), random.integers(0, 4, size=20)
    theta, weights = random.normal(size=16), np.full(20, 1 / 20)
    matrix = oracles.head_hessian(theta, features, targets, weights, weight_decay=0)
    rhs = np.array(
        [oracles.row_gradient(theta, h, y) for h, y in zip(features, targets, strict=True)]
    )
    prepared = prepare(matrix)
    assert prepared.spectrum.null_space == 4  # features + 1
    assert prepared.spectrum.negative == 0
    solution = prepared.solve(torch.from_numpy(rhs))
    assert_allclose(solution.x, rhs @ pseudo_inverse(matrix), rtol=1e-9, atol=1e-12)
    assert solution.converged.all()
    assert solution.rel_residual.max() < 1e-12


def test_indefinite_matrix_is_solved_and_its_negative_eigenvalues_counted():
    matrix, rhs = with_eigenvalues(-2, -0.1, 0.5, 3), right_hand_sides(2, 4)
    prepared = prepare(matrix)
    solution = prepared.solve(torch.from_numpy(rhs))
    assert_allclose(solution.x, np.linalg.solve(matrix, rhs.T).T, rtol=1e-12)
    assert prepared.spectrum.negative == 2
    assert prepared.spectrum.null_space == 0
    assert prepared.spectrum.smallest == pytest.approx(-2)
    assert prepared.spectrum.largest == pytest.approx(3)


def test_condition_of_1e10_still_converges():
    matrix, rhs = with_eigenvalues(1, 0.1, 1e-5, 1e-10), right_hand_sides(4, 4)
    solution = solve(matrix, rhs)
    assert solution.converged.all()
    assert_allclose(solution.x, rhs @ pseudo_inverse(matrix), rtol=1e-5)


def test_one_parameter():
    solution = solve(np.array([[4.0]]), np.array([[2.0], [-1.0]]))
    assert solution.x.tolist() == [[0.5], [-0.25]]


# --- damping -------------------------------------------------------------------------------


def test_damping_is_added_to_the_diagonal_but_not_to_the_spectrum():
    matrix, rhs = with_eigenvalues(3, 1, 0, 0), right_hand_sides(3, 4)
    prepared = prepare(matrix, damping=0.01)
    solution = prepared.solve(torch.from_numpy(rhs))
    expected = np.linalg.solve(matrix + 0.01 * np.eye(4), rhs.T).T
    assert_allclose(solution.x, expected, rtol=1e-11)
    assert solution.rel_residual.max() < 1e-13
    assert solution.converged.all()
    assert prepared.spectrum.null_space == 2
    assert prepared.spectrum.largest == pytest.approx(3)
    assert prepared.spectrum.smallest == pytest.approx(0, abs=1e-14)


def test_direction_that_damping_cancels_is_dropped():
    solution = solve(np.diag([2.0, -0.5]), np.array([[5.0, 0.0], [0.0, 1.0]]), damping=0.5)
    assert solution.x.tolist() == [[2, 0], [0, 0]]
    assert solution.rel_residual.tolist() == [0, 1]
    assert solution.converged.tolist() == [True, False]


# --- certificates --------------------------------------------------------------------------


def test_part_in_the_null_space_stays_in_the_residual():
    # of (3, 4) only the 3 can be reached: 4/5 of the norm is left
    solution = solve(np.diag([2.0, 0.0]), np.array([[3.0, 4.0], [3.0, 0.0]]))
    assert solution.x.tolist() == [[1.5, 0], [1.5, 0]]
    assert_allclose(solution.rel_residual, [0.8, 0], atol=1e-15)
    assert solution.converged.tolist() == [False, True]


def test_zero_right_hand_side_has_the_zero_solution_without_residual():
    solution = solve(with_eigenvalues(1, 2, 0), np.zeros((1, 3)))
    assert solution.x.tolist() == [[0, 0, 0]]
    assert solution.rel_residual.tolist() == [0]
    assert solution.converged.tolist() == [True]


def test_zero_matrix_solves_nothing_and_says_so():
    prepared = prepare(np.zeros((3, 3)))
    solution = prepared.solve(torch.ones(1, 3, dtype=torch.float64))
    assert solution.x.tolist() == [[0, 0, 0]]
    assert solution.rel_residual.tolist() == [1]
    assert solution.converged.tolist() == [False]
    assert prepared.spectrum.null_space == 3


def test_right_hand_side_that_is_not_finite_has_not_converged():
    rhs = np.array([[1.0, 2.0], [np.nan, 0.0], [np.inf, 0.0]])
    solution = solve(with_eigenvalues(1, 2), rhs)
    assert solution.converged.tolist() == [True, False, False]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_matrix_that_is_not_finite_is_refused(value):
    matrix = np.eye(3)
    matrix[2, 0] = value
    with pytest.raises(Diverged, match="Hessian is not finite") as caught:
        prepare(matrix)
    assert "train it again" in caught.value.remedy


def test_single_precision_is_solved_in_double():
    matrix, rhs = with_eigenvalues(1, 2, 3).astype(np.float32), right_hand_sides(2, 3)
    solution = solve(matrix, rhs)
    expected = np.linalg.solve(matrix.astype(np.float64), rhs.T).T
    assert_allclose(solution.x, expected, rtol=1e-12)


# --- large matrices ------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch):
    """As if four parameters were too many for all eigenvalues."""
    monkeypatch.setattr("ifcheck.solvers.exact.DECOMPOSED_PARAMETERS", 4)


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_large_definite_matrix_gets_the_same_answer_without_its_eigenvalues(
    few, damping, monkeypatch
):
    matrix, rhs = with_eigenvalues(*np.geomspace(1e-3, 7, 20)), right_hand_sides(3, 20)
    monkeypatch.setattr("torch.linalg.eigh", None)
    prepared = prepare(matrix, damping)
    solution = prepared.solve(torch.from_numpy(rhs))
    expected = np.linalg.solve(matrix + damping * np.eye(20), rhs.T).T
    assert_allclose(solution.x, expected, rtol=1e-10)
    assert solution.converged.all()
    assert solution.rel_residual.max() < 1e-12
    assert prepared.spectrum.largest == pytest.approx(7, rel=1e-4)
    assert prepared.spectrum.smallest == pytest.approx(1e-3, rel=1e-3)
    assert prepared.spectrum.null_space == prepared.spectrum.negative == 0


@pytest.mark.parametrize("damping", [0.0, 0.01, 10.0])
def test_extremes_of_a_softmax_head_are_those_without_damping(few, damping):
    """Its matrix has the vector of ones as an eigenvector: a bad place to start from."""
    random = np.random.default_rng(1)
    features, theta = random.normal(size=(50, 4)), random.normal(size=15)
    targets = random.integers(0, 3, size=50)
    matrix = oracles.head_hessian(theta, features, targets, np.full(50, 0.02), weight_decay=1e-4)
    expected = np.linalg.eigvalsh(matrix)
    prepared = prepare(matrix, damping)
    assert type(prepared).__name__ == "_Cholesky"
    assert prepared.spectrum.smallest == pytest.approx(expected[0], rel=1e-3)
    assert prepared.spectrum.largest == pytest.approx(expected[-1], rel=1e-3)


def test_extremes_that_are_not_found_have_a_remedy(few, monkeypatch):
    def lost(*_, **__):
        raise ArpackNoConvergence("%s", np.zeros(0), np.zeros((0, 0)))

    monkeypatch.setattr("ifcheck.curvature.extremes.eigsh", lost)
    with pytest.raises(Diverged, match="eigenvalues of the Hessian were not found") as caught:
        prepare(with_eigenvalues(1, 2, 3, 4, 5))
    assert "--damping" in caught.value.remedy


@pytest.mark.parametrize("least", [-0.3, 0.0, 1e-17])
def test_large_matrix_with_something_to_drop_is_decomposed_all_the_same(few, least):
    matrix, rhs = with_eigenvalues(least, 0.1, 1, 2, 3, 4), right_hand_sides(2, 6)
    prepared = prepare(matrix)
    expected = rhs @ pseudo_inverse(matrix)
    assert_allclose(prepared.solve(torch.from_numpy(rhs)).x, expected, rtol=1e-10)
    assert prepared.spectrum.negative == (least < -1e-10)
    assert prepared.spectrum.null_space == (abs(least) < 1e-10)

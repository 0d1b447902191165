"""Conjugate gradient against numpy's and scipy's solves, and what it refuses."""

import re

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.sparse.linalg import cg

from ifcheck.curvature.operator import HessianOperator
from ifcheck.errors import Diverged
from ifcheck.solvers import SOLVERS, Solution
from tests.solvers.test_exact import right_hand_sides, with_eigenvalues


def solve(matrix: np.ndarray, rhs: np.ndarray, damping: float = 0.0, **options) -> Solution:
    def unformed() -> torch.Tensor:
        raise AssertionError("the matrix was asked for")

    tensor = torch.from_numpy(matrix)
    operator = HessianOperator(len(matrix), lambda directions: directions @ tensor, unformed)
    prepared = SOLVERS.create("cg", options).prepare(operator, damping)
    return prepared.solve(torch.from_numpy(rhs))


@pytest.mark.parametrize("damping", [0.0, 0.7])
def test_every_right_hand_side_is_solved_in_as_many_steps_as_there_are_parameters(damping):
    matrix, rhs = with_eigenvalues(0.3, 1, 2, 5), right_hand_sides(3, 4)
    solution = solve(matrix, rhs, damping, tolerance=1e-12)
    expected = np.linalg.solve(matrix + damping * np.eye(4), rhs.T).T
    assert_allclose(solution.x, expected, rtol=1e-11)
    assert solution.converged.all()
    assert solution.steps.tolist() == [4] * 3
    assert solution.rel_residual.max() < 1e-12


def test_each_goes_its_own_way_as_scipy_s_does():
    """Side by side, one may end before the others; its steps are those it would take alone."""
    values = np.geomspace(1e-3, 1, 60)
    matrix, rhs = with_eigenvalues(*values), right_hand_sides(4, 60)
    rhs[1] = np.linalg.eigh(matrix)[1][:, 5]  # solved in one step
    solution = solve(matrix, rhs, tolerance=1e-10)
    for row, (found, steps) in enumerate(zip(solution.x, solution.steps, strict=True)):
        count = 0

        def count_up(_x: np.ndarray) -> None:
            nonlocal count
            count += 1

        expected, _ = cg(matrix, rhs[row], rtol=1e-10, callback=count_up)
        assert_allclose(found, expected, rtol=1e-6, atol=1e-8 * np.abs(expected).max())
        assert abs(int(steps) - count) <= 3  # rounding decides when a residual is short enough
    assert solution.steps[1] == 1
    assert solution.converged.all()


def test_the_residual_is_that_of_the_solution():
    matrix, rhs = with_eigenvalues(*np.geomspace(1e-4, 1, 30)), right_hand_sides(2, 30)
    solution = solve(matrix, rhs, 1e-3, tolerance=1e-3)
    residual = solution.x.numpy() @ (matrix + 1e-3 * np.eye(30)) - rhs
    expected = np.linalg.norm(residual, axis=1) / np.linalg.norm(rhs, axis=1)
    assert_allclose(solution.rel_residual, expected, rtol=1e-8)
    assert (expected > 1e-9).all()


def test_too_few_steps_do_not_converge_and_say_so():
    matrix, rhs = with_eigenvalues(*np.geomspace(1e-4, 1, 30)), right_hand_sides(2, 30)
    solution = solve(matrix, rhs, iterations=3)
    assert not solution.converged.any()
    assert solution.steps.tolist() == [3, 3]
    assert (solution.rel_residual > 1e-3).all()


def test_a_singular_matrix_is_solved_where_the_right_hand_side_is_in_its_range():
    matrix = with_eigenvalues(4, 2, 0.5, 0, 0, 0)
    rhs = right_hand_sides(2, 6) @ matrix
    solution = solve(matrix, rhs)
    assert_allclose(solution.x, rhs @ np.linalg.pinv(matrix), rtol=1e-6, atol=1e-9)
    assert solution.converged.all()


def test_nothing_to_solve():
    solution = solve(with_eigenvalues(1, 2), np.zeros((2, 2)))
    assert solution.x.tolist() == [[0, 0], [0, 0]]
    assert solution.rel_residual.tolist() == [0, 0]
    assert solution.converged.all()


@pytest.mark.parametrize("values", [(-2, 0.5, 3, 4), (0, 0, 3, 4)])
def test_without_positive_curvature_more_damping_is_asked_for_and_suffices(values):
    matrix, rhs = with_eigenvalues(*values), right_hand_sides(1, 4)
    with pytest.raises(Diverged, match="without positive curvature") as caught:
        solve(matrix, rhs)
    assert "--damping" in caught.value.remedy
    least = float(re.search(r"curvature \((\S+)\)", caught.value.message)[1])
    assert min(values) - 0.1 <= least <= 1e-10  # of a unit vector: damping can be compared with it
    assert solve(matrix, rhs, damping=2.5).converged.all()


def test_products_that_are_not_finite_are_refused():
    with pytest.raises(Diverged, match="not finite"):
        solve(np.full((2, 2), np.nan), right_hand_sides(1, 2))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_right_hand_side_that_is_not_finite_is_refused(value):
    with pytest.raises(Diverged, match="gradient is not finite"):
        solve(np.eye(2), np.array([[1.0, value]]))


def test_the_spectrum_is_not_known():
    operator = HessianOperator.of_matrix(torch.eye(2))
    spectrum = SOLVERS.create("cg").prepare(operator, 0.0).spectrum
    assert np.isnan([spectrum.smallest, spectrum.largest]).all()
    assert spectrum.null_space == spectrum.negative == -1


# --- preconditioned --------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 5, 60])
def test_preconditioned_solves_are_the_same(rank):
    matrix, rhs = with_eigenvalues(*np.geomspace(1e-3, 1, 60)), right_hand_sides(4, 60)
    solution = solve(matrix, rhs, tolerance=1e-10, preconditioner=rank)
    assert_allclose(solution.x, np.linalg.solve(matrix, rhs.T).T, rtol=1e-6)
    assert solution.converged.all()


def test_eigenvalues_that_stand_out_cost_no_iterations():
    values = np.concatenate([np.linspace(1, 2, 55), np.geomspace(1e2, 1e4, 5)])
    matrix, rhs = with_eigenvalues(*values), right_hand_sides(2, 60)
    plain = solve(matrix, rhs, tolerance=1e-8)
    fewer = solve(matrix, rhs, tolerance=1e-8, preconditioner=6)
    assert (fewer.steps < 0.7 * plain.steps).all()


def test_a_preconditioner_hides_no_negative_curvature():
    matrix, rhs = with_eigenvalues(-2, 0.5, 3, 4), right_hand_sides(1, 4)
    for rank in (1, 3, 4):
        with pytest.raises(Diverged, match="without positive curvature"):
            solve(matrix, rhs, preconditioner=rank)


def test_a_preconditioner_of_nothing_but_negative_eigenvalues_is_none():
    with pytest.raises(Diverged, match="without positive curvature"):
        solve(with_eigenvalues(-5, 1, 2), right_hand_sides(1, 3), preconditioner=1)

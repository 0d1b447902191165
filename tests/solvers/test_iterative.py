"""Solvers by products alone: against numpy's solves, and what they say where they do not solve."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from ifcheck.curvature.operator import HessianOperator
from ifcheck.errors import Diverged, UnusableInput
from ifcheck.solvers import SOLVERS, Solution
from tests.solvers.test_exact import right_hand_sides, with_eigenvalues

ITERATIVE = ("cg", "minres", "lissa")
BY_PRODUCTS = (*ITERATIVE, "lanczos")


def by_products(matrix: np.ndarray) -> HessianOperator:
    def unformed() -> torch.Tensor:
        raise AssertionError("the matrix was asked for")

    tensor = torch.from_numpy(matrix)
    return HessianOperator(len(matrix), lambda directions: directions @ tensor, unformed)


def solve(
    solver: str, matrix: np.ndarray, rhs: np.ndarray, damping: float = 0.0, **options
) -> Solution:
    prepared = SOLVERS.create(solver, options).prepare(by_products(matrix), damping)
    return prepared.solve(torch.from_numpy(rhs))


def true_residuals(matrix: np.ndarray, rhs: np.ndarray, x: torch.Tensor) -> np.ndarray:
    return np.linalg.norm(x.numpy() @ matrix - rhs, axis=1) / np.linalg.norm(rhs, axis=1)


# --- what all of them do ---------------------------------------------------------------------


@pytest.mark.parametrize("solver", BY_PRODUCTS)
@pytest.mark.parametrize("damping", [0.0, 0.7])
def test_a_definite_matrix_is_solved_for_every_right_hand_side(solver, damping):
    matrix, rhs = with_eigenvalues(0.3, 1, 2, 5), right_hand_sides(3, 4)
    solution = solve(solver, matrix, rhs, damping, tolerance=1e-11)
    damped = matrix + damping * np.eye(4)
    assert_allclose(solution.x, np.linalg.solve(damped, rhs.T).T, rtol=1e-9)
    assert_allclose(solution.rel_residual, true_residuals(damped, rhs, solution.x), atol=1e-15)
    assert solution.converged.tolist() == [True] * 3
    assert solution.reason == ""


@pytest.mark.parametrize("solver", BY_PRODUCTS)
def test_a_single_parameter(solver):
    solution = solve(solver, np.array([[4.0]]), np.array([[2.0], [-8.0]]), tolerance=1e-12)
    assert_allclose(solution.x, [[0.5], [-2.0]], rtol=1e-11)
    assert solution.converged.all()


@pytest.mark.parametrize("solver", BY_PRODUCTS)
def test_nothing_to_solve(solver):
    solution = solve(solver, with_eigenvalues(1, 2, 3), np.zeros((2, 3)))
    assert solution.x.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert solution.rel_residual.tolist() == [0, 0]
    assert solution.steps.tolist() == [0, 0]
    assert solution.converged.all()


@pytest.mark.parametrize("solver", BY_PRODUCTS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(solver, value):
    with pytest.raises(Diverged, match="gradient is not finite"):
        solve(solver, np.eye(3), np.array([[1.0, value, 0.0]]))
    with pytest.raises(Diverged):
        solve(solver, np.full((3, 3), value), right_hand_sides(1, 3))


@pytest.mark.parametrize("solver", ["minres", "lissa"])
def test_too_few_iterations_do_not_converge_and_say_why(solver):
    matrix, rhs = with_eigenvalues(*np.geomspace(1e-4, 1, 30)), right_hand_sides(2, 30)
    solution = solve(solver, matrix, rhs, iterations=7)
    assert not solution.converged.any()
    assert solution.steps.tolist() == [7, 7]
    assert_allclose(solution.rel_residual, true_residuals(matrix, rhs, solution.x), rtol=1e-10)
    assert "after 7 iterations; 1e-06 was asked for" in solution.reason


@pytest.mark.parametrize("solver", ["cg", "minres"])
def test_a_singular_matrix_is_solved_where_the_right_hand_side_is_in_its_range(solver):
    matrix = with_eigenvalues(4, 2, 0.5, 0, 0, 0)
    rhs = right_hand_sides(2, 6) @ matrix
    solution = solve(solver, matrix, rhs, tolerance=1e-10)
    assert_allclose(solution.x, rhs @ np.linalg.pinv(matrix, rcond=1e-10), rtol=1e-7)
    assert solution.converged.all()


@pytest.mark.parametrize(
    ("solver", "options"),
    [
        *((solver, {"tolerance": 0.0}) for solver in ITERATIVE),
        *((solver, {"iterations": 0}) for solver in ITERATIVE),
        *((solver, {"iterations": 2.5}) for solver in ITERATIVE),
        ("cg", {"preconditioner": -1}),
        ("cg", {"preconditioner": 0.5}),
        ("lissa", {"scale": -1.0}),
        ("lanczos", {"rank": 0}),
        ("lanczos", {"rank": True}),
        ("lanczos", {"tolerance": -1.0}),
    ],
)
def test_options_that_cannot_be_are_refused(solver, options):
    with pytest.raises(UnusableInput, match=next(iter(options))):
        SOLVERS.create(solver, options)


# --- minimal residuals -----------------------------------------------------------------------


def test_minimal_residuals_solve_an_indefinite_matrix():
    matrix, rhs = with_eigenvalues(-3, -0.1, 0.2, 1, 7), right_hand_sides(3, 5)
    solution = solve("minres", matrix, rhs, tolerance=1e-10)
    assert_allclose(solution.x, np.linalg.solve(matrix, rhs.T).T, rtol=1e-8)
    assert solution.converged.all()


def test_a_residual_is_measured_by_the_right_hand_side_as_promised():
    """Scipy measures it by |A| |x| + |b|, which is 1e6 times as large here."""
    matrix, rhs = with_eigenvalues(*np.geomspace(1e-6, 1, 12)), right_hand_sides(2, 12)
    solution = solve("minres", matrix, rhs, tolerance=1e-8)
    assert true_residuals(matrix, rhs, solution.x).max() <= 1e-8
    assert solution.converged.all()


def test_a_right_hand_side_beside_the_range_leaves_its_part_as_residual():
    matrix = with_eigenvalues(4, 2, 0.5, 0)
    values, vectors = np.linalg.eigh(matrix)
    null = vectors[:, np.abs(values).argmin()]
    rhs = right_hand_sides(1, 4)
    solution = solve("minres", matrix, rhs)
    beside = abs(rhs[0] @ null) / np.linalg.norm(rhs)
    assert beside > 0.1
    assert_allclose(solution.rel_residual, [beside], rtol=1e-6)
    assert_allclose(solution.rel_residual, true_residuals(matrix, rhs, solution.x), rtol=1e-9)
    assert not solution.converged.any()
    assert solution.reason


# --- LiSSA -----------------------------------------------------------------------------------


def neumann(matrix: np.ndarray, rhs: np.ndarray, scale: float, depth: int) -> np.ndarray:
    """The recursion as Koh & Liang (2017) write it: v <- g + (I - A / scale) v, then v / scale."""
    v = np.zeros_like(rhs)
    for _ in range(depth):
        v = rhs + v - matrix @ v / scale
    return v / scale


@pytest.mark.parametrize("scale", [4.0, 25.0])
def test_lissa_is_the_recursion_of_its_paper(scale):
    matrix, rhs = with_eigenvalues(0.01, 1, 2, 5), right_hand_sides(1, 4)
    solution = solve("lissa", matrix, rhs, 0.1, scale=scale, iterations=60)
    expected = neumann(matrix + 0.1 * np.eye(4), rhs[0], scale, 60)
    assert_allclose(solution.x[0], expected, rtol=1e-12)
    assert not solution.converged.any()


def test_the_scale_is_a_little_over_the_largest_eigenvalue():
    operator = by_products(with_eigenvalues(0.5, 1, 2, 8))
    prepared = SOLVERS.create("lissa").prepare(operator, 0.25)
    assert prepared.spectrum.largest == pytest.approx(8, rel=1e-2)
    assert prepared.scale == pytest.approx(1.05 * 8.25, rel=1e-2)


def test_iterations_fall_as_the_smallest_eigenvalue_says():
    matrix, rhs = with_eigenvalues(0.1, 1.0), right_hand_sides(1, 2)
    solution = solve("lissa", matrix, rhs, scale=1.0, tolerance=1e-6)
    part = abs(rhs[0] @ np.linalg.eigh(matrix)[1][:, 0]) / np.linalg.norm(rhs)
    assert int(solution.steps[0]) == np.ceil(np.log(1e-6 / part) / np.log(0.9))


def test_what_is_missing_says_how_many_iterations_would_do():
    matrix, rhs = with_eigenvalues(0.001, 1.0), right_hand_sides(1, 2)
    solution = solve("lissa", matrix, rhs, scale=1.0, iterations=100, tolerance=1e-6)
    left = np.log(1e-6 / float(solution.rel_residual[0])) / np.log(0.999)
    told = int(solution.reason.split("about ")[1].split(" more")[0].replace(",", ""))
    assert told == pytest.approx(left, rel=0.01)
    assert solve("lissa", matrix, rhs, scale=1.0, iterations=101 + told).converged.all()


def test_divergence_by_negative_curvature_is_found_long_before_it_explodes():
    calls = []
    matrix = torch.from_numpy(with_eigenvalues(-0.3, 1, 2, 5))

    def product(directions: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return directions @ matrix

    operator = HessianOperator(4, product, lambda: matrix)
    prepared = SOLVERS.create("lissa", {"scale": 5.0}).prepare(operator, 0.0)
    with pytest.raises(Diverged, match="negative curvature") as raised:
        prepared.solve(torch.from_numpy(right_hand_sides(1, 4)))
    assert len(calls) < 100
    assert "--damping" in raised.value.remedy


def test_divergence_by_too_small_a_scale_is_told_apart():
    matrix, rhs = with_eigenvalues(0.5, 1, 2, 8), right_hand_sides(1, 4)
    with pytest.raises(Diverged, match=r"above 2 \* scale") as raised:
        solve("lissa", matrix, rhs, scale=3.9)
    assert "scale" in raised.value.remedy
    assert solve("lissa", matrix, rhs, scale=4.1).converged.all()


def test_a_hessian_of_zeros_is_its_damping_alone():
    solution = solve("lissa", np.zeros((3, 3)), right_hand_sides(1, 3), 0.5)
    assert_allclose(solution.x, right_hand_sides(1, 3) / 0.5, rtol=1e-5)
    assert solution.converged.all()


# --- low rank --------------------------------------------------------------------------------


@pytest.mark.parametrize("damping", [0.0, 0.05])
def test_low_rank_keeps_the_largest_magnitudes(damping):
    values = np.array([-2.0, *np.geomspace(1e-3, 1e-1, 8), 1.0, 3.0])
    matrix, rhs = with_eigenvalues(*values), right_hand_sides(2, 11)
    solution = solve("lanczos", matrix, rhs, damping, rank=3)
    found, vectors = np.linalg.eigh(matrix)
    kept = np.abs(found) >= 1
    inverse = np.where(kept, 1 / (found + damping), 1 / damping if damping else 0)
    assert kept.sum() == 3
    assert_allclose(solution.x, (rhs @ vectors * inverse) @ vectors.T, rtol=1e-9)
    damped = matrix + damping * np.eye(11)
    assert_allclose(solution.rel_residual, true_residuals(damped, rhs, solution.x), rtol=1e-9)
    assert not solution.converged.any()
    assert "1e-06 was asked for" in solution.reason


@pytest.mark.parametrize("damping", [0.0, 0.05])
def test_low_rank_counts_weight_decay_in_full(damping):
    values = np.array([*np.geomspace(1e-6, 1e-4, 8), 1.0, 2.0, 3.0])
    matrix, rhs = with_eigenvalues(*values), right_hand_sides(2, 11)
    decayed = (
        by_products(matrix)
        .times(2.0)
        .plus_diagonal(0.01)
        .plus_diagonal(torch.full((11,), 0.02, dtype=torch.float64))
    )
    assert decayed.shift == pytest.approx(0.03)
    prepared = SOLVERS.create("lanczos", {"rank": 3}).prepare(decayed, damping)
    solution = prepared.solve(torch.from_numpy(rhs))
    found, vectors = np.linalg.eigh(2 * matrix)
    kept = np.where(found >= 1, found, 0)
    expected = (rhs @ vectors / (kept + 0.03 + damping)) @ vectors.T
    assert_allclose(solution.x, expected, rtol=1e-9)
    assert prepared.spectrum.largest == pytest.approx(6.03)
    exact = np.linalg.solve(2 * matrix + (0.03 + damping) * np.eye(11), rhs.T).T
    assert np.linalg.norm(solution.x.numpy() - exact) < 0.01 * np.linalg.norm(exact)


def test_minimal_residuals_take_about_as_many_iterations_as_conjugate_gradient():
    matrix, rhs = with_eigenvalues(*np.geomspace(0.005, 3, 60)), right_hand_sides(4, 60)
    steps = {name: solve(name, matrix, rhs).steps.max() for name in ("cg", "minres")}
    assert steps["minres"] <= 1.2 * steps["cg"]


def test_minimal_residuals_take_a_tolerance_near_rounding():
    matrix, rhs = with_eigenvalues(-1, 0.5, 1, 2), right_hand_sides(2, 4)
    solution = solve("minres", matrix, rhs, tolerance=1e-13)
    assert_allclose(solution.x, np.linalg.solve(matrix, rhs.T).T, rtol=1e-11)


def test_as_many_as_there_are_solve_it():
    matrix, rhs = with_eigenvalues(-2, 0.01, 1, 3), right_hand_sides(2, 4)
    solution = solve("lanczos", matrix, rhs, rank=50)
    assert_allclose(solution.x, np.linalg.solve(matrix, rhs.T).T, rtol=1e-11)
    assert solution.converged.all()


def test_an_eigenvalue_that_damping_cancels_is_left_out():
    solution = solve("lanczos", np.zeros((3, 3)), right_hand_sides(1, 3), 0.0)
    assert solution.x.tolist() == [[0, 0, 0]]
    assert_allclose(solution.rel_residual, [1])
    assert not solution.converged.any()


def low_rank(size: int, rank: int) -> np.ndarray:
    """Eigenvalues of 1 and less, and zeros to rounding."""
    random = np.random.default_rng(size)
    factor = random.normal(size=(size, rank))
    return factor @ factor.T / size


@pytest.mark.parametrize(("size", "rank"), [(18, 5), (300, 20)])
def test_directions_that_are_zero_to_rounding_are_left_out(size, rank):
    matrix = low_rank(size, rank)
    rhs = right_hand_sides(2, size)
    solution = solve("lanczos", matrix, rhs, rank=50)
    expected = rhs @ np.linalg.pinv(matrix, rcond=1e-10, hermitian=True)
    assert_allclose(solution.x, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("preconditioner", [0, 3, 20])
def test_a_preconditioner_of_more_than_the_rank_solves_in_the_range(preconditioner):
    matrix = low_rank(40, 5)
    rhs = right_hand_sides(2, 40) @ matrix
    solution = solve("cg", matrix, rhs, preconditioner=preconditioner)
    assert solution.converged.all()
    assert_allclose(solution.x @ torch.from_numpy(matrix), rhs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "damping"), [((-5, 4.9), 6.0), ((-6, 5, 1), 6.001), ((-70, -3, 0, 2), 71.0)]
)
def test_lissa_solves_what_damping_makes_definite(values, damping):
    matrix, rhs = with_eigenvalues(*values), right_hand_sides(2, len(values))
    solution = solve("lissa", matrix, rhs, damping, iterations=500_000, tolerance=1e-8)
    expected = np.linalg.solve(matrix + damping * np.eye(len(values)), rhs.T).T
    assert_allclose(solution.x, expected, rtol=1e-4)
    assert SOLVERS.create("lissa").prepare(by_products(matrix), damping).spectrum.largest >= 0

"""Solutions along dampings from one factorisation or Krylov space, against numpy's of each."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from ifcheck.curvature.operator import HessianOperator
from ifcheck.errors import Diverged, RunFailed
from ifcheck.solvers import SOLVERS
from ifcheck.solvers.iterative import Stopping
from ifcheck.solvers.krylov import solve_along

DAMPINGS = (0.0, 1e-3, 0.05, 2.0)
EXACT_ALONG = ["exact", "cg", "minres", "lissa"]


def matrix_with(values: np.ndarray, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    vectors, _ = np.linalg.qr(random.normal(size=(len(values), len(values))))
    return (vectors * values) @ vectors.T


def operator_of(matrix: np.ndarray) -> HessianOperator:
    return HessianOperator.of_matrix(torch.from_numpy(matrix))


def counted(matrix: np.ndarray) -> tuple[HessianOperator, list[int]]:
    """The operator, and how many directions each of its products took."""
    tensor, calls = torch.from_numpy(matrix), []

    def product(directions: torch.Tensor) -> torch.Tensor:
        calls.append(len(directions))
        return directions @ tensor

    return HessianOperator(len(matrix), product, lambda: tensor), calls


RHS = torch.from_numpy(np.random.default_rng(7).normal(size=(3, 20)))
DEFINITE = matrix_with(np.geomspace(0.02, 3, 20))
INDEFINITE = matrix_with(np.concatenate([[-0.3, -0.02], np.geomspace(0.01, 3, 18)]))


@pytest.mark.parametrize("solver", EXACT_ALONG)
def test_each_damping_is_solved_as_numpy_does(solver):
    tolerance = {} if solver == "exact" else {"tolerance": 1e-11}
    prepared = SOLVERS.create(solver, tolerance).prepare(operator_of(DEFINITE), 0.5)
    solutions = prepared.along(RHS, DAMPINGS)
    assert len(solutions) == len(DAMPINGS)
    for damping, solution in zip(DAMPINGS, solutions, strict=True):
        damped = DEFINITE + damping * np.eye(20)
        assert_allclose(solution.x, np.linalg.solve(damped, RHS.numpy().T).T, rtol=1e-7, atol=1e-9)
        residual = np.linalg.norm(solution.x.numpy() @ damped - RHS.numpy(), axis=1)
        relative = residual / np.linalg.norm(RHS.numpy(), axis=1)
        assert_allclose(solution.rel_residual, relative, atol=1e-14)
        assert solution.converged.all()
        assert not solution.reason


@pytest.mark.parametrize("solver", ["exact", "cg", "minres", "lanczos"])
def test_a_path_is_the_same_as_its_dampings_one_by_one(solver):
    options = {} if solver in ("exact", "lanczos") else {"tolerance": 1e-12}
    if solver == "lanczos":
        options = {"rank": 6}
    chosen = SOLVERS.create(solver, options)
    found = chosen.prepare(operator_of(DEFINITE), 0.0).along(RHS, DAMPINGS)
    for damping, solution in zip(DAMPINGS, found, strict=True):
        alone = chosen.prepare(operator_of(DEFINITE), damping).solve(RHS)
        assert_allclose(solution.x, alone.x, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("iterations", [3, 8, 13])
def test_before_it_is_solved_an_indefinite_matrix_has_the_least_residual_there_is(iterations):
    """That of minimal residuals: at each damping the least over the Krylov space, by numpy."""
    options = {"iterations": iterations, "tolerance": 1e-14}
    prepared = SOLVERS.create("minres", options).prepare(operator_of(INDEFINITE), 0.0)
    for damping, solution in zip(DAMPINGS, prepared.along(RHS, DAMPINGS), strict=True):
        damped = INDEFINITE + damping * np.eye(20)
        for rhs, found in zip(RHS.numpy(), solution.rel_residual.tolist(), strict=True):
            powers = [rhs]
            for _ in range(iterations - 1):
                powers.append(INDEFINITE @ powers[-1] / np.linalg.norm(powers[-1]))
            basis, _ = np.linalg.qr(np.array(powers).T)
            y, *_ = np.linalg.lstsq(damped @ basis, rhs, rcond=None)
            least = np.linalg.norm(damped @ basis @ y - rhs) / np.linalg.norm(rhs)
            assert found == pytest.approx(least, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("part", [1.0, 1e-3, 1e-5])
def test_beside_the_range_solutions_do_not_grow(part):
    """Of a singular system that has none, the solution of least residual that is not long."""
    random = np.random.default_rng(2)
    values = np.concatenate([np.zeros(10), np.geomspace(1e-3, 2, 50)])
    matrix = matrix_with(values, seed=2)
    rhs = random.normal(size=(2, 60))
    beside = rhs - rhs @ np.linalg.pinv(matrix, rcond=1e-10) @ matrix
    rhs = rhs - beside + part * beside
    shortest = np.linalg.norm(rhs @ np.linalg.pinv(matrix, rcond=1e-10), axis=1)
    least = part * np.linalg.norm(beside, axis=1) / np.linalg.norm(rhs, axis=1)
    prepared = SOLVERS.create("minres").prepare(operator_of(matrix), 0.0)
    alone = prepared.solve(torch.from_numpy(rhs))
    (along,) = prepared.along(torch.from_numpy(rhs), (0.0,))
    for solution, longest in ((alone, 10), (along, 1.01)):
        assert_allclose(solution.rel_residual, least, rtol=1e-2)
        assert (solution.x.norm(dim=1).numpy() < longest * shortest).all()
        assert not solution.converged.any()


def test_a_path_makes_no_preconditioner(monkeypatch):
    def refuse(*_):
        raise AssertionError("made for nothing")

    monkeypatch.setattr("ifcheck.solvers.conjugate_gradient.largest_eigenpairs", refuse)
    prepared = SOLVERS.create("cg", {"preconditioner": 3}).prepare(operator_of(DEFINITE), 0.0)
    assert prepared.along(RHS, DAMPINGS)[1].converged.all()


def test_a_path_takes_the_products_of_its_hardest_damping_and_one_each():
    operator, calls = counted(DEFINITE)
    solve_along(operator, RHS, DAMPINGS, Stopping(), definite=True)
    spaces, checks = [c for c in calls if c == 1], [c for c in calls if c == 3]
    assert len(spaces) <= 3 * 20
    assert len(checks) == len(DAMPINGS)


def test_large_dampings_alone_take_few_iterations():
    large = matrix_with(np.geomspace(1e-4, 1, 400))
    rhs = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 400)))
    easy = solve_along(operator_of(large), rhs, (1.0, 3.0), Stopping(), definite=True)
    hard = solve_along(operator_of(large), rhs, (1e-4, 3.0), Stopping(), definite=True)
    assert easy[0].steps[0] < 30 < hard[0].steps[0]
    assert all(bool(solution.converged.all()) for solution in [*easy, *hard])


def test_indefinite_matrices_are_solved_by_minres_and_told_by_cg():
    dampings = (0.0, 0.1, 1.0)
    found = {
        name: SOLVERS.create(name).prepare(operator_of(INDEFINITE), 5.0).along(RHS, dampings)
        for name in ("minres", "cg")
    }
    for place, damping in enumerate(dampings):
        expected = np.linalg.solve(INDEFINITE + damping * np.eye(20), RHS.numpy().T).T
        assert_allclose(found["minres"][place].x, expected, rtol=1e-5, atol=1e-6)
        assert found["minres"][place].converged.all()
        assert bool(found["cg"][place].converged.all()) == (damping == 1.0)
    assert "negative eigenvalue of -3.0e-01" in found["cg"][0].reason
    assert found["cg"][2].reason == ""


def test_lissa_diverges_at_some_dampings_and_solves_the_others():
    prepared = SOLVERS.create("lissa").prepare(operator_of(INDEFINITE), 5.0)
    low, high = prepared.along(RHS, (0.0, 1.0))
    assert low.x.isnan().all()
    assert not low.converged.any()
    assert "negative curvature" in low.reason
    assert high.converged.all()


def test_a_singular_matrix_is_solved_in_its_range():
    values = np.concatenate([np.zeros(5), np.geomspace(0.1, 2, 15)])
    matrix = matrix_with(values)
    rhs = RHS.numpy() @ matrix  # in the range, as gradients are
    (solution,) = solve_along(
        operator_of(matrix), torch.from_numpy(rhs), (0.0,), Stopping(1e-9), definite=True
    )
    assert_allclose(solution.x, rhs @ np.linalg.pinv(matrix, rcond=1e-10), rtol=1e-6, atol=1e-8)
    assert solution.converged.all()


@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_a_gradient_of_zeros_and_a_matrix_of_zeros(damping):
    zeros = torch.zeros(1, 20, dtype=torch.float64)
    (solution,) = solve_along(operator_of(DEFINITE), zeros, (damping,), Stopping(), definite=True)
    assert solution.x.tolist() == zeros.tolist()
    assert solution.converged.all()
    (solution,) = solve_along(
        operator_of(np.zeros((20, 20))), RHS, (damping,), Stopping(), definite=True
    )
    assert bool(solution.converged.all()) == (damping > 0)
    if damping:
        assert_allclose(solution.x, RHS / damping, rtol=1e-12)


def test_one_parameter_and_too_few_iterations():
    one = operator_of(np.array([[2.0]]))
    (solution,) = solve_along(
        one, torch.ones(1, 1, dtype=torch.float64), (2.0,), Stopping(), definite=True
    )
    assert solution.x.item() == pytest.approx(0.25)
    (solution,) = solve_along(
        operator_of(DEFINITE), RHS, (0.0,), Stopping(1e-9, iterations=3), definite=True
    )
    assert solution.steps.tolist() == [3, 3, 3]
    assert not solution.converged.any()
    assert "after 3 iterations" in solution.reason


def test_what_is_not_finite_or_does_not_fit_is_refused(monkeypatch):
    with pytest.raises(Diverged):
        solve_along(operator_of(DEFINITE), RHS * torch.nan, (0.0,), Stopping(), definite=True)
    monkeypatch.setattr("ifcheck.curvature.operator.psutil.virtual_memory", lambda: _Memory(100))
    with pytest.raises(RunFailed, match="directions of 20 iterations on 20 parameters") as caught:
        solve_along(operator_of(DEFINITE), RHS, (0.0,), Stopping(), definite=True)
    assert "solver_options.iterations" in caught.value.remedy


class _Memory:
    def __init__(self, available: int) -> None:
        self.available = available

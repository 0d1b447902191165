"""Stochastic Lanczos quadrature against all eigenvalues, which small matrices have."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from ifcheck import provenance
from ifcheck.curvature.operator import HessianOperator
from ifcheck.errors import RunFailed
from ifcheck.spectrum.density import Quadrature, common_grid, quadrature

SIZE = 30


def matrix_of(values: np.ndarray) -> np.ndarray:
    random = np.random.default_rng(len(values))
    vectors, _ = np.linalg.qr(random.normal(size=(len(values), len(values))))
    return (vectors * values) @ vectors.T


VALUES = np.concatenate([np.linspace(-0.5, -0.1, 3), np.zeros(12), np.geomspace(1e-3, 4, 15)])
MATRIX = matrix_of(VALUES)


def found(matrix: np.ndarray = MATRIX, probes: int = 6, steps: int = 80, seed: int = 0):
    tensor = torch.from_numpy(matrix)
    operator = HessianOperator(len(matrix), lambda directions: directions @ tensor, None)
    return quadrature(operator, probes, steps, seed)


def signs(probes: int, seed: int, size: int = SIZE) -> np.ndarray:
    generator = torch.Generator().manual_seed(provenance.named_seed(seed, "density"))
    drawn = torch.randint(0, 2, (probes, size), generator=generator, dtype=torch.int8)
    return (2 * drawn.numpy() - 1) / np.sqrt(size)


def exactly(function, probes: int, seed: int = 0) -> np.ndarray:
    """v^T f(H) v of each probe, from all eigenvalues and vectors."""
    values, vectors = np.linalg.eigh(MATRIX)
    return ((signs(probes, seed) @ vectors) ** 2 * function(values)).sum(1)


@pytest.mark.parametrize("steps", [4, 9])
def test_few_steps_are_exact_for_polynomials_of_twice_their_degree(steps):
    """Gauss quadrature: k nodes integrate degrees up to 2 k - 1."""
    result = found(steps=steps)
    assert result.nodes.shape == result.weights.shape == (6, steps)
    for degree in range(2 * steps):
        expected = exactly(lambda values, degree=degree: values**degree, 6)
        assert_allclose((result.weights * result.nodes**degree).sum(1), expected, rtol=1e-9)


def test_as_many_steps_as_it_takes_are_exact_for_everything():
    """There are 19 different eigenvalues: after as many steps the Krylov space is complete."""
    result = found()
    assert_allclose(result.weights.sum(1), 1, rtol=1e-12)
    expected = exactly(lambda values: np.exp(-values), 6)
    assert_allclose((result.weights * np.exp(-result.nodes)).sum(1), expected, rtol=1e-10)
    negative = exactly(lambda values: values < -0.01, 6)
    assert_allclose((result.weights * (result.nodes < -0.01)).sum(1), negative, atol=1e-9)


def test_trace_and_negative_share_are_estimated_with_their_errors():
    result = found(probes=400)
    trace, error = result.trace()
    assert abs(trace - VALUES.sum()) < 4 * error
    of_probes = SIZE * exactly(lambda values: values, 400)
    assert trace == pytest.approx(of_probes.mean())
    assert error == pytest.approx(of_probes.std(ddof=1) / 20)
    low, high, error = result.negative_share()
    assert low - 4 * error < 3 / SIZE < high + 4 * error
    assert 0 < error < 0.02


@pytest.mark.parametrize("steps", [5, 10, 20, 40])
@pytest.mark.parametrize("zeros", [0, 100, 380])
def test_bounds_of_the_negative_share_hold_where_eigenvalues_crowd_at_zero(steps, zeros):
    """400 eigenvalues and few steps: the nodes stand for many, some of either sign."""
    random = np.random.default_rng(zeros)
    crowd = 1e-3 * random.normal(size=400 - zeros - 10)
    values = np.concatenate([crowd, np.zeros(zeros), np.geomspace(0.1, 5, 10)])
    low, high, error = found(np.diag(values), probes=30, steps=steps).negative_share()
    true = (values < -5e-6).mean()
    assert low - 4 * error - 1e-9 <= true <= high + 4 * error + 1e-9
    assert 0 <= low <= high <= 1


def test_a_single_probe_has_no_error():
    assert np.isnan(found(probes=1).trace()[1])


def test_density_integrates_to_one_and_lies_where_the_eigenvalues_are():
    result = found(probes=300)
    grid, width = common_grid([result])
    density, error = result.density(grid, width)
    assert np.trapezoid(density, grid) == pytest.approx(1, rel=1e-3)
    smooth = np.exp(-0.5 * ((grid[:, None] - VALUES) / width) ** 2).mean(1)
    smooth /= width * np.sqrt(2 * np.pi)
    assert (np.abs(density - smooth) <= 5 * error + 1e-9).all()
    assert error.max() > 0


def test_one_grid_holds_the_eigenvalues_of_all_networks():
    both = [found(), found(3 * MATRIX)]
    grid, width = common_grid(both)
    assert grid[0] < 3 * VALUES.min() < 3 * VALUES.max() < grid[-1]
    for result in both:
        assert np.trapezoid(result.density(grid, width)[0], grid) == pytest.approx(1, rel=2e-2)


def test_a_flat_loss_is_a_peak_at_zero():
    result = found(np.zeros((5, 5)), steps=3)
    assert result.trace() == (0, 0)
    assert result.negative_share()[0] == 0
    grid, width = common_grid([result])
    assert np.trapezoid(result.density(grid, width)[0], grid) == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("alive", [1, 8 * 9 * SIZE * 2])
def test_probes_in_parts_are_those_side_by_side(alive, monkeypatch):
    together = found(steps=9)
    monkeypatch.setattr("ifcheck.spectrum.density.BASIS_BYTES", alive)
    parts = found(steps=9)
    assert_allclose(parts.nodes, together.nodes, atol=1e-12)
    assert_allclose(parts.weights, together.weights, atol=1e-10)


def test_the_same_seed_draws_the_same_probes_and_another_others():
    assert np.array_equal(found().nodes, found().nodes)
    assert not np.array_equal(found().nodes, found(seed=1).nodes)


def test_vectors_that_do_not_fit_are_refused_before_anything_is_computed(monkeypatch):
    free = SimpleNamespace(available=8 * 9 * SIZE - 1)
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    with pytest.raises(RunFailed, match="9 Lanczos vectors of 30 parameters") as raised:
        found(steps=9)
    assert "density_steps" in raised.value.remedy


def test_weights_of_one_node_are_its_probes():
    single = Quadrature(3, np.array([[2.0], [4.0]]), np.ones((2, 1)))
    assert single.trace() == (9.0, 3.0)

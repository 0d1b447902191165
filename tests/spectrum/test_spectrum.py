"""Eigenvalues against finite differences of a numpy network and a power iteration in numpy."""

import functools
import math
import warnings
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.sparse.linalg import ArpackNoConvergence
from torch import nn

from ifcheck import provenance
from ifcheck.curvature.extremes import end_of_spectrum, largest_eigenpairs
from ifcheck.curvature.operator import HessianOperator
from ifcheck.errors import Diverged, UnusableInput
from ifcheck.models import MLP
from ifcheck.objective import Objective
from ifcheck.params import load_flat
from ifcheck.spectrum import SPECTRA, Eigenvalues
from tests import oracles
from tests.benchmarks import sequential_loop as loop
from tests.curvature import mlp_loss

WEIGHT_DECAY = 0.05
METHODS = ["dense", "power", "lanczos"]
EXACT = {"iterations": 400, "tolerance": 1e-12}
# PyHessian divides vectors by their length plus 1e-6, twice an iteration: its estimates of
# values near 1 are 2e-6 too small, however long it iterates.
LENGTH_ERROR = 1e-5


@pytest.fixture(autouse=True)
def quiet_threads():
    """One torch thread: for models this small more are slower, and much so on a busy machine."""
    with loop.one_thread():
        yield


class Problem(NamedTuple):
    """A tanh network by its flat parameters, and its rows."""

    sizes: tuple[int, ...]
    flat: np.ndarray
    inputs: np.ndarray
    targets: np.ndarray

    @property
    def network(self) -> MLP:
        network = MLP(*self.sizes[:2], len(self.sizes) - 2, self.sizes[-1], "tanh")
        load_flat(network, torch.from_numpy(self.flat))
        return network

    @property
    def rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(self.inputs), torch.from_numpy(self.targets)

    def hessian(self) -> np.ndarray:
        """Of the mean data loss, by finite differences, to about 1e-7."""
        mean = np.full(len(self.targets), 1 / len(self.targets))

        def loss(flat):
            return mlp_loss(flat, self.sizes, "tanh", self.inputs, self.targets, mean)

        return oracles.finite_difference_hessian(loss, self.flat)

    def eigenvalues(self, method: str, top: int = 1, seed: int = 0, **options) -> Eigenvalues:
        return self.eigenvalues_of(self.network, method, top, seed, **options)

    def eigenvalues_of(
        self, network, method: str, top=1, seed=0, with_regulariser=False, **options
    ) -> Eigenvalues:
        return SPECTRA.create(method, options).eigenvalues(
            network,
            Objective(WEIGHT_DECAY),
            self.rows,
            with_regulariser=with_regulariser,
            top=top,
            seed=seed,
        )


@functools.cache
def ordinary() -> tuple[Problem, np.ndarray]:
    """A network in the middle of training: its largest eigenvalues are well apart."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=(12, 3))
    targets = random.integers(0, 3, size=12)
    problem = Problem((3, 4, 3), 0.7 * random.normal(size=31), inputs, targets)
    return problem, problem.hessian()


@functools.cache
def concave() -> tuple[Problem, np.ndarray]:
    """A confidently wrong network, where the residual outweighs the Gauss-Newton part.

    One hidden unit at tanh(0.66), logits 20 apart on it: p is (1, 0) to 1e-5, so only
    (p - y) times the curvature of the logits, 20 tanh''(0.66) x x^T < 0, is left.
    """
    flat = np.array([0.25, 0.1, 0.06, 10, -10, 0.1, -0.1])
    problem = Problem((2, 1, 2), flat, np.array([[2.0, 1.0], [2.2, 0.8]]), np.array([1, 1]))
    return problem, problem.hessian()


def by_magnitude(values: np.ndarray) -> np.ndarray:
    return values[np.argsort(-np.abs(values))]


# --- dense ---------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [ordinary, concave])
def test_dense_is_the_spectrum_of_finite_differences(case):
    problem, matrix = case()
    found = problem.eigenvalues("dense", top=len(matrix))
    values = np.linalg.eigvalsh(matrix)
    atol = 1e-7 * np.abs(values).max() + 1e-7
    assert_allclose(found.values, by_magnitude(values), atol=atol)
    assert found.smallest == pytest.approx(values[0], abs=atol)
    assert found.largest == pytest.approx(values[-1], abs=atol)
    assert (found.values.abs().diff() <= 0).all()


@pytest.mark.parametrize("case", [ordinary, concave])
@pytest.mark.parametrize("top", [1, 3])
def test_lanczos_finds_both_ends_and_what_is_largest_in_magnitude(case, top):
    problem, matrix = case()
    found = problem.eigenvalues("lanczos", top=top)
    values = np.linalg.eigvalsh(matrix)
    atol = 1e-7 * np.abs(values).max() + 1e-7
    assert_allclose(found.values, by_magnitude(values)[:top], atol=atol)
    end = 1e-4 * np.abs(values).max()
    assert found.smallest == pytest.approx(values[0], abs=end)
    assert found.largest == pytest.approx(values[-1], abs=end)
    assert found.rel_residual.max() < 1e-6


@pytest.mark.parametrize(
    "values",
    [
        np.concatenate([np.zeros(550), np.geomspace(1e-2, 3, 50)]),
        np.geomspace(1e-12, 10, 200),
        -np.geomspace(1e-12, 10, 200),
    ],
)
def test_lanczos_does_not_tell_apart_what_crowds_at_zero(values):
    random = np.random.default_rng(0)
    vectors, _ = np.linalg.qr(random.normal(size=(len(values), len(values))))
    matrix, calls = torch.from_numpy((vectors * values) @ vectors.T), []

    def product(directions: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return directions @ matrix

    operator = HessianOperator(len(values), product, lambda: matrix)
    sign = 1.0 if values.max() > 1 else -1.0
    (found,), _ = largest_eigenpairs(operator, 1, 1e-8)
    assert found == pytest.approx(sign * np.abs(values).max(), rel=1e-8)
    other = end_of_spectrum(operator, -sign, abs(found))
    assert other == pytest.approx(0, abs=1e-4 * abs(found))
    assert len(calls) < 2_000


def test_an_end_that_is_not_found_is_not_known(monkeypatch):
    def lost(*_, **__):
        raise ArpackNoConvergence("%s", np.zeros(0), np.zeros((0, 0)))

    monkeypatch.setattr("ifcheck.curvature.extremes.eigsh", lost)
    operator = HessianOperator.of_matrix(torch.eye(9, dtype=torch.float64))
    assert math.isnan(end_of_spectrum(operator, -1.0, 2.0))


def test_a_network_that_is_not_finite_is_refused():
    problem, _ = ordinary()
    broken = problem._replace(flat=np.full_like(problem.flat, np.nan))
    with pytest.raises(Diverged, match="not finite"):
        broken.eigenvalues("lanczos", top=1)


def test_lanczos_refuses_more_values_than_there_are():
    with pytest.raises(UnusableInput, match=r"--top 32 asks for more .* 31 parameters"):
        ordinary()[0].eigenvalues("lanczos", top=32)
    assert len(ordinary()[0].eigenvalues("lanczos", top=31).values) == 31


def test_lanczos_forms_no_matrix_of_a_large_network(monkeypatch):
    monkeypatch.setattr("ifcheck.curvature.dense.Differentiable.hessian", None)
    problem, matrix = ordinary()
    found = problem.eigenvalues("lanczos", top=1)
    assert found.largest == pytest.approx(np.linalg.eigvalsh(matrix)[-1], abs=1e-6)


def test_dense_residuals_are_rounding():
    found = ordinary()[0].eigenvalues("dense", top=5)
    assert found.rel_residual.shape == (5,)
    assert found.rel_residual.max() < 1e-13


def test_dense_refuses_more_values_than_there_are():
    with pytest.raises(UnusableInput, match=r"--top 32 got a network of 31 parameters") as caught:
        ordinary()[0].eigenvalues("dense", top=32)
    assert "smaller --top" in caught.value.remedy


def test_dense_refuses_large_networks_and_names_the_other_method():
    network = MLP(3, 70, 2, 3).double()
    with pytest.raises(UnusableInput, match=r"5,463 parameters; .* at most 5,000") as caught:
        ordinary()[0].eigenvalues_of(network, "dense")
    assert "--method power" in caught.value.remedy


# --- power iteration -----------------------------------------------------------------------


def power_iteration(
    matrix: np.ndarray, sizes: list[tuple[int, ...]], seed: int, iterations: int
) -> tuple[float, float]:
    """The Rayleigh quotient of the last but one vector, and its residual on the last."""
    torch.manual_seed(provenance.named_seed(seed, "power"))
    vector = torch.cat([torch.randn(size).flatten() for size in sizes]).double().numpy()
    for _ in range(iterations):
        vector /= np.linalg.norm(vector)
        product = matrix @ vector
        value = float(vector @ product)
        vector = product
    vector /= np.linalg.norm(vector)
    return value, float(np.linalg.norm(matrix @ vector - value * vector)) / abs(value)


@pytest.mark.parametrize(
    ("case", "iterations"), [(ordinary, 1), (ordinary, 2), (ordinary, 8), (concave, 1)]
)
def test_power_is_power_iteration_with_its_residual(case, iterations):
    problem, matrix = case()
    sizes = [tuple(p.shape) for p in problem.network.parameters()]
    for seed in (0, 1):
        value, residual = power_iteration(matrix, sizes, seed, iterations)
        assert residual > 1e-3  # early, so that the residual is more than rounding
        found = problem.eigenvalues("power", seed=seed, iterations=iterations, tolerance=0.0)
        assert found.values.item() == pytest.approx(value, rel=LENGTH_ERROR)
        assert found.rel_residual.item() == pytest.approx(residual, rel=1e-4)


def test_power_with_its_defaults_comes_close_and_certifies_it():
    problem, matrix = ordinary()
    found = problem.eigenvalues("power")
    values = np.linalg.eigvalsh(matrix)
    assert found.values.item() == pytest.approx(values[-1], rel=1e-2)
    # a residual r of a unit vector puts an eigenvalue within r of the estimate
    distance = np.abs(values - found.values.item()).min()
    assert distance <= found.rel_residual.item() * found.values.item() + 1e-6
    assert found.rel_residual.item() < 0.1
    assert math.isnan(found.smallest)
    assert math.isnan(found.largest)


def test_power_finds_the_eigenvalue_of_largest_magnitude_where_it_is_negative():
    problem, matrix = concave()
    values = np.linalg.eigvalsh(matrix)
    assert -values[0] > 2 * values[-1] > 0
    found = problem.eigenvalues("power", **EXACT)
    assert found.values.item() == pytest.approx(values[0], rel=LENGTH_ERROR)
    assert found.rel_residual.item() < LENGTH_ERROR


def test_power_and_dense_agree_on_several_values_where_they_are_apart():
    problem, matrix = ordinary()
    magnitudes = np.abs(by_magnitude(np.linalg.eigvalsh(matrix)))[:5]
    assert (magnitudes[1:] < 0.95 * magnitudes[:-1]).all()
    found = problem.eigenvalues("power", top=4, **EXACT)
    exact = problem.eigenvalues("dense", top=4)
    assert_allclose(found.values, exact.values, rtol=LENGTH_ERROR)
    assert found.values.shape == found.rel_residual.shape == (4,)


@pytest.mark.parametrize("with_regulariser", [False, True])
@pytest.mark.parametrize("rows", [1, 5])
def test_power_block_by_block_of_rows_is_power_on_all(rows, with_regulariser, monkeypatch):
    """Blocks of unequal size count by their numbers of rows."""
    problem, _ = ordinary()
    network, options = problem.network, {"with_regulariser": with_regulariser, "top": 2}
    whole = problem.eigenvalues_of(network, "power", **options, **EXACT)
    monkeypatch.setattr("ifcheck.models.base.ROWS_AT_ONCE", rows)
    blocks = problem.eigenvalues_of(network, "power", **options, **EXACT)
    assert len(problem.targets) == 12
    assert_allclose(blocks.values, whole.values, rtol=1e-9)
    assert_allclose(blocks.rel_residual, whole.rel_residual, rtol=0, atol=1e-8)


def test_power_sorts_what_it_finds_by_magnitude_and_keeps_residuals_in_step():
    # after two iterations the estimates come out of order
    problem, _ = ordinary()
    seeds = range(4)
    unsorted = 0
    for seed in seeds:
        found = problem.eigenvalues("power", top=6, seed=seed, iterations=2, tolerance=0.0)
        assert (found.values.abs().diff() <= 0).all()
        first = problem.eigenvalues("power", top=1, seed=seed, iterations=2, tolerance=0.0)
        place = found.values.tolist().index(first.values.item())
        assert found.rel_residual[place] == first.rel_residual[0]
        unsorted += place > 0
    assert unsorted > 0


# --- what both promise ---------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_regulariser_adds_the_weight_decay(method):
    problem, matrix = ordinary()
    options = EXACT if method == "power" else {}
    data = problem.eigenvalues(method, **options)
    whole = problem.eigenvalues(method, with_regulariser=True, **options)
    largest = np.linalg.eigvalsh(matrix)[-1]
    assert data.values.item() == pytest.approx(largest, rel=LENGTH_ERROR)
    assert whole.values.item() == pytest.approx(largest + WEIGHT_DECAY, rel=LENGTH_ERROR)


@pytest.mark.parametrize("method", METHODS)
def test_network_and_generator_are_left_as_they_were(method):
    problem, _ = ordinary()
    network = problem.network.train()
    gradients = [torch.full_like(p, 7.0) for p in network.parameters()]
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()
    torch.manual_seed(11)
    state = torch.random.get_rng_state()
    found = problem.eigenvalues_of(network, method, top=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert network.training
    assert all(module.training for module in network.modules())
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)
        assert parameter.requires_grad
    assert nn.utils.parameters_to_vector(network.parameters()).tolist() == problem.flat.tolist()
    # gradients that were there do not enter either
    assert torch.equal(found.values, problem.eigenvalues(method, top=2).values)


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_gives_identical_values(method):
    problem, _ = ordinary()
    first = problem.eigenvalues(method, top=3, seed=5)
    torch.manual_seed(123)
    again = problem.eigenvalues(method, top=3, seed=5)
    assert torch.equal(first.values, again.values)
    assert torch.equal(first.rel_residual, again.rel_residual)


def test_power_depends_on_the_seed():
    problem, _ = ordinary()
    values = {problem.eigenvalues("power", seed=s, iterations=3).values.item() for s in range(3)}
    assert len(values) == 3


@pytest.mark.parametrize("method", METHODS)
def test_one_row(method):
    problem, _ = ordinary()
    one = problem._replace(inputs=problem.inputs[:1], targets=problem.targets[:1])
    values = np.linalg.eigvalsh(one.hessian())
    options = EXACT if method == "power" else {}
    expected = by_magnitude(values)[0]
    found = one.eigenvalues(method, **options)
    assert found.values.item() == pytest.approx(expected, rel=LENGTH_ERROR)


@pytest.mark.parametrize("method", METHODS)
def test_duplicate_rows_change_nothing(method):
    problem, _ = ordinary()
    twice = problem._replace(
        inputs=np.tile(problem.inputs, (2, 1)), targets=np.tile(problem.targets, 2)
    )
    expected = problem.eigenvalues(method, top=2).values
    assert_allclose(twice.eigenvalues(method, top=2).values, expected, rtol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_flat_loss_has_no_curvature(method):
    # right and certain to rounding: the loss is 0 with all its derivatives
    problem, _ = concave()
    flat = problem.flat * np.array([1, 1, 1, 1e3, 1e3, 1, 1])
    certain = problem._replace(flat=flat, targets=np.array([0, 0]))
    found = certain.eigenvalues(method)
    assert abs(found.values.item()) < 1e-100
    assert not found.rel_residual.item() < 1  # nothing is certified


def test_power_is_quiet():
    problem, _ = ordinary()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        problem.eigenvalues("power")

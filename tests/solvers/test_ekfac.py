"""EK-FAC: where it is exact, against its definition in numpy, and what it is not known for."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import spearmanr
from torch import nn

from ifcheck.config import load_config
from ifcheck.curvature.local import LocalModel, local_model
from ifcheck.curvature.operator import HessianOperator
from ifcheck.errors import Diverged, RunFailed, UnusableInput
from ifcheck.models import MLP, VariationalSpec, initialise
from ifcheck.models.mlp import MLPSpec
from ifcheck.objective import Objective, VariationalObjective
from ifcheck.params import load_flat
from ifcheck.solvers import SOLVERS, Solution
from ifcheck.stages.setup import make_setup
from tests import oracles
from tests.networks import CLASSES, LeNet

DAMPING = 0.05
INPUTS, WIDTH = 5, 4
SIZES = [(WIDTH, INPUTS), (CLASSES, WIDTH)]  # of the weights
ROWS, TESTS = 8, 3
RANDOM = np.random.default_rng(11)
WEIGHTS = [(RANDOM.normal(size=size), RANDOM.normal(size=size[0])) for size in SIZES]
FLAT = np.concatenate([np.concatenate([W.ravel(), b]) for W, b in WEIGHTS])
HEAD = slice(WIDTH * (INPUTS + 1), None)


def rows(count: int, seed: int, shape=(INPUTS,)) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    inputs = torch.from_numpy(random.normal(size=(count, *shape)))
    return inputs, torch.from_numpy(random.integers(0, CLASSES, size=count))


TRAIN, TEST = rows(ROWS, 2), rows(TESTS, 3)
ONE_ROW = tuple(values[:1].repeat(ROWS, *[1] * (values.dim() - 1)) for values in TRAIN)


@pytest.fixture
def network():
    built = MLP(INPUTS, WIDTH, 1, CLASSES, "tanh")
    load_flat(built, torch.from_numpy(FLAT))
    return built


def model_of(network, selection="all", kind="ggn", train=TRAIN, test=TEST) -> LocalModel:
    return local_model(network, Objective(), selection, train, test, kind)


def solve(operator: HessianOperator, rhs: torch.Tensor, damping=DAMPING, **options) -> Solution:
    return SOLVERS.create("ekfac", options).prepare(operator, damping).solve(rhs)


def dense_solve(matrix, rhs, damping=DAMPING) -> np.ndarray:
    """x (matrix + damping I) = rhs for each row, by numpy."""
    return np.linalg.solve(np.asarray(matrix) + damping * np.eye(len(matrix)), np.asarray(rhs).T).T


def random_rhs(count: int, size: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(7).normal(size=(count, size)))


# --- where it is exact -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hessian", "ggn", "empirical-fisher"])
def test_a_head_of_equal_rows_is_solved_exactly(network, kind):
    """Its curvature is one Kronecker product: of the outputs' curvature and h h^T."""
    operator = model_of(network, "head", kind, ONE_ROW).hessian
    rhs = random_rhs(3, operator.size)
    expected = dense_solve(operator.dense(), rhs)
    solution = solve(operator, rhs)
    assert_allclose(solution.x, expected, rtol=1e-8)
    assert solution.rel_residual.max() < 1e-10
    assert solution.converged.all()
    assert solution.steps.tolist() == [0, 0, 0]
    assert solution.reason == ""


def test_factors_and_uniform_diagonals_are_taken_along(network):
    operator = model_of(network, "head", "ggn", ONE_ROW).hessian
    decay = torch.full((operator.size,), 0.3, dtype=torch.float64)
    changed = operator.plus_diagonal(decay).times(2.5).plus_diagonal(0.1)
    rhs = random_rhs(3, operator.size)
    expected = dense_solve(2.5 * operator.dense(), rhs, 2.5 * 0.3 + 0.1)
    assert_allclose(solve(changed, rhs, damping=0.0).x, expected, rtol=1e-8)


def test_without_damping_it_is_the_pseudo_inverse(network):
    """Of rank two: a solution in the range where there is one, and a residual where not."""
    model = model_of(network, "head", "hessian", ONE_ROW)
    operator, matrix = model.hessian, model.hessian.dense().numpy()
    inverse = np.linalg.pinv(matrix, rcond=1e-10)
    beside = random_rhs(2, operator.size)
    within = beside @ operator.dense()
    solution = solve(operator, within, damping=0.0)
    assert_allclose(solution.x, within.numpy() @ inverse, rtol=1e-8)
    assert solution.converged.all()
    solution = solve(operator, beside, damping=0.0)
    assert_allclose(solution.x, beside.numpy() @ inverse, rtol=1e-8)
    assert not solution.converged.any()
    assert solution.reason.startswith("EK-FAC is an approximation: a relative residual of ")


# --- its definition --------------------------------------------------------------------------


def numpy_ekfac(empirical: bool) -> np.ndarray:
    """EK-FAC of the MLP (params, params), row by row, label by label, from its definition.

    A layer's gradient for a row and a label is g a^T; labels come with the probabilities that the
    network gives them, or are the rows' own. Q_a and Q_g are eigenvectors of E[a a^T] and
    E[g g^T], and the eigenvalues E[(Q_g^T g a^T Q_a)^2].
    """
    (W, b), (V, c) = WEIGHTS
    samples: list[list[tuple[float, np.ndarray, np.ndarray]]] = [[], []]
    for x, target in zip(*(values.numpy() for values in TRAIN), strict=True):
        hidden = np.tanh(W @ x + b)
        p = oracles.softmax(V @ hidden + c)
        for label in range(CLASSES):
            share = (label == target if empirical else p[label]) / ROWS
            slope = p - np.eye(CLASSES)[label]
            samples[0].append((share, (V.T @ slope) * (1 - hidden**2), np.append(x, 1)))
            samples[1].append((share, slope, np.append(hidden, 1)))
    blocks = [ekfac_block(layer) for layer in samples]
    matrix, start = np.zeros((len(FLAT), len(FLAT))), 0
    for block in blocks:
        end = start + len(block)
        matrix[start:end, start:end], start = block, end
    return matrix


def ekfac_block(samples: list[tuple[float, np.ndarray, np.ndarray]]) -> np.ndarray:
    """One layer's block, in the order of the flat parameters: the weight's rows, then the bias."""
    of_inputs = sum(share * np.outer(a, a) for share, _, a in samples)
    of_outputs = sum(share * np.outer(g, g) for share, g, _ in samples)
    Q_a, Q_g = np.linalg.eigh(of_inputs)[1], np.linalg.eigh(of_outputs)[1]
    values = sum(share * (Q_g.T @ np.outer(g, a) @ Q_a) ** 2 for share, g, a in samples)
    basis = np.kron(Q_g, Q_a)  # of row-major gradients (outputs, inputs + 1)
    places = np.arange(values.size).reshape(values.shape)
    order = np.concatenate([places[:, :-1].ravel(), places[:, -1]])
    return (basis * values.ravel() @ basis.T)[np.ix_(order, order)]


@pytest.mark.parametrize("kind", ["hessian", "ggn", "empirical-fisher"])
@pytest.mark.parametrize(
    ("selection", "part"),
    [("all", slice(None)), ("head", HEAD), ("layer:body.0", slice(0, HEAD.start))],
)
@pytest.mark.parametrize("at_once", [3, 1_024])  # 8 rows: blocks of 3, 3 and 2
def test_it_is_what_its_definition_says(network, kind, selection, part, at_once, monkeypatch):
    monkeypatch.setattr("ifcheck.models.base.ROWS_AT_ONCE", at_once)
    matrix = numpy_ekfac(empirical=kind == "empirical-fisher")[part, part]
    operator = model_of(network, selection, kind).hessian
    rhs = random_rhs(3, operator.size)
    expected = dense_solve(matrix, rhs)
    assert_allclose(solve(operator, rhs).x, expected, rtol=1e-9, atol=1e-12)


def test_rows_are_taken_block_by_block(network, monkeypatch):
    monkeypatch.setattr("ifcheck.models.base.ROWS_AT_ONCE", 3)
    kronecker, sizes = model_of(network).hessian.kronecker, []
    network.head.register_forward_hook(lambda module, inputs, outputs: sizes.append(len(outputs)))
    kronecker()
    assert sizes == [1, *[3, 3, 2] * 2]  # after a row that tells how many there may be


@pytest.mark.parametrize("kind", ["hessian", "ggn", "empirical-fisher"])
@pytest.mark.parametrize("selection", ["all", "head"])
def test_the_residual_is_that_of_the_matrix_itself(network, kind, selection):
    model = model_of(network, selection, kind)
    rhs = model.test_gradients.numpy()
    solution = solve(model.hessian, model.test_gradients)
    damped = model.hessian.dense().numpy() + DAMPING * np.eye(rhs.shape[1])
    residual = np.linalg.norm(solution.x.numpy() @ damped - rhs, axis=1)
    assert_allclose(solution.rel_residual, residual / np.linalg.norm(rhs, axis=1), rtol=1e-9)
    assert solution.rel_residual.min() > 1e-3  # it is an approximation of these
    assert not solution.converged.any()
    assert f"{solution.rel_residual.max():.1e}; 1e-06 was asked for" in solution.reason
    assert solve(model.hessian, model.test_gradients, tolerance=10.0).converged.all()


# --- convolutions ----------------------------------------------------------------------------


@pytest.fixture
def convolutional():
    torch.manual_seed(3)
    return LeNet().double().eval()


IMAGES, TEST_IMAGES = rows(60, 4, (1, 8, 8)), rows(4, 5, (1, 8, 8))


def test_eigenvalues_of_every_layer_are_the_matrix_s_diagonal_in_its_basis(convolutional):
    """As they are without a Kronecker structure: the basis is rotated into, column by column."""
    operator = model_of(convolutional, "all", "ggn", IMAGES, TEST_IMAGES).hessian
    approximation = operator.kronecker()
    identity = torch.eye(operator.size, dtype=torch.float64)
    values, matrix, start = approximation.values, operator.dense(), 0
    for layer in approximation.layers:
        block = slice(start, start := start + layer.values.numel())
        for place in range(block.start, block.stop):
            marked = torch.arange(operator.size) == place
            marks = iter(marked.split([part.values.numel() for part in approximation.layers]))
            unit = approximation.function_product(
                lambda old, marks=marks: next(marks).view_as(old).double(), identity
            )  # u u^T of one eigenvector u
            assert_allclose((unit @ matrix).trace(), values[place], rtol=1e-9, atol=1e-15)
            outside = unit.clone()
            outside[block, block] = 0
            assert not outside.any()
    assert_allclose(values.sum(), matrix.trace(), rtol=1e-12)


def test_bases_of_a_convolution_are_of_its_patches(convolutional):
    """Q_i are eigenvectors of the second moment of patches with a one, over rows and positions."""
    operator = model_of(convolutional, "all", "ggn", IMAGES, TEST_IMAGES).hessian
    first, second, *_ = operator.kronecker().layers
    outputs = convolutional.body[:3](IMAGES[0]).detach()
    for layer, inputs, size in ((first, IMAGES[0], 3), (second, outputs, 2)):
        patches = nn.functional.unfold(inputs, size).movedim(1, 2).flatten(0, 1)
        columns = torch.cat([patches, torch.ones(len(patches), 1)], dim=1).double()
        moment = columns.mT @ columns / len(columns)
        rotated = layer.inputs.mT @ moment @ layer.inputs
        assert_allclose(rotated, torch.diag(rotated.diagonal()), atol=1e-13)


def test_a_convolutional_network_is_solved_nearly_as_its_exact_blocks(convolutional):
    """Between layers EK-FAC has zeros, and next to them its error is small.

    Measured: errors of 0.07 to 0.11 and rank correlations above 0.999, where the best multiples of
    the gradients, which know no curvature, have errors of 0.67 to 0.76.
    """
    model = model_of(convolutional, "all", "ggn", IMAGES, TEST_IMAGES)
    matrix, rhs = model.hessian.dense(), model.test_gradients
    sizes = [layer.values.numel() for layer in model.hessian.kronecker().layers]
    layer_of = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    matrix[layer_of[:, None] != layer_of] = 0
    matrix.diagonal().add_(DAMPING)
    expected = torch.linalg.solve(matrix, rhs.mT).mT
    found = solve(model.hessian, rhs).x
    assert ((found - expected).norm(dim=1) / expected.norm(dim=1)).max() < 0.15
    scores = zip(model.train_products(found), model.train_products(expected), strict=True)
    assert min(spearmanr(own, other).statistic for own, other in scores) > 0.99


# --- what is left as it was ------------------------------------------------------------------


def test_the_same_numbers_every_time_and_the_network_as_it_was(network):
    network.requires_grad_(False)
    model = model_of(network)
    first, again = (solve(model.hessian, model.test_gradients).x for _ in range(2))
    assert torch.equal(first, again)
    assert not first.requires_grad
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()]
    assert hooks == [0] * len(hooks)
    assert not any(p.requires_grad or p.grad is not None for p in network.parameters())


# --- what is refused -------------------------------------------------------------------------


def refused(network, selection="all", objective=None, match="takes whole layers") -> None:
    model = local_model(network, objective or Objective(), selection, TRAIN, TEST)
    with pytest.raises(UnusableInput, match=match) as caught:
        SOLVERS.create("ekfac").prepare(model.hessian, DAMPING)
    assert "another --solver" in caught.value.remedy


@pytest.mark.parametrize(
    "selection", ["layer:head.weight", "layer:head.bias", "layer:body.0.weight,head"]
)
def test_parts_of_layers_are_refused(network, selection):
    given = selection.removeprefix("layer:").removesuffix(",head")
    refused(network, selection, match=f"takes whole layers: .* of a Linear it got {given}.")


@pytest.mark.parametrize("selection", ["all", "head", "head-mean"])
def test_bayesian_networks_are_refused(selection):
    spec = VariationalSpec(MLPSpec(1, WIDTH, "tanh"))
    bayesian = initialise(spec, (INPUTS,), CLASSES, 0, torch.float64)
    refused(bayesian, selection, VariationalObjective(rows=ROWS))


@pytest.mark.parametrize(
    "layer",
    [
        nn.LayerNorm(INPUTS),
        nn.Linear(INPUTS, INPUTS, bias=False),
        nn.Sequential(nn.Unflatten(1, (INPUTS, 1, 1)), nn.Conv2d(INPUTS, INPUTS, 1, groups=INPUTS)),
        nn.Sequential(
            nn.Unflatten(1, (1, 1, INPUTS)), nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")
        ),
    ],
)
def test_layers_of_other_kinds_are_refused(network, layer):
    network.body = nn.Sequential(layer, nn.Flatten(), *network.body)
    refused(network.double())


def test_operators_without_an_approximation_are_refused(network):
    operator = model_of(network).hessian
    uneven = torch.linspace(0.1, 0.2, operator.size, dtype=torch.float64)
    for other in (operator.plus_diagonal(uneven), HessianOperator.of_matrix(operator.dense())):
        with pytest.raises(UnusableInput, match="no approximation of this Hessian"):
            SOLVERS.create("ekfac").prepare(other.times(2.0).plus_diagonal(0.1), DAMPING)


def test_factors_that_do_not_fit_are_refused(network, monkeypatch):
    operator = model_of(network).hessian
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1_000))
    with pytest.raises(RunFailed, match="Kronecker factors of these layers take"):
        SOLVERS.create("ekfac").prepare(operator, DAMPING)


@pytest.mark.parametrize("selection", ["head", "all"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_network_that_has_diverged_is_refused(network, selection, value):
    load_flat(network, torch.full((len(FLAT),), value, dtype=torch.float64))
    operator = model_of(network, selection).hessian
    with pytest.raises(Diverged, match="not finite"):
        SOLVERS.create("ekfac").prepare(operator, DAMPING)


@pytest.mark.parametrize("tolerance", [0.0, -1.0])
def test_a_tolerance_that_cannot_be_is_refused(tolerance):
    with pytest.raises(UnusableInput, match="tolerance"):
        SOLVERS.create("ekfac", {"tolerance": tolerance})


def test_without_curvlinops_it_is_refused_before_anything_is_done(monkeypatch):
    monkeypatch.setitem(sys.modules, "curvlinops", None)
    config = load_config(flags={"influence.solver": "ekfac"})
    with pytest.raises(UnusableInput, match="curvlinops-for-pytorch, which cannot") as caught:
        make_setup(config)
    assert caught.value.remedy == "Run `pip install 'ifcheck[ekfac]'`, or use another --solver."
    assert caught.value.exit_code == 2
    make_setup(load_config(flags={"influence.solver": "cg"}))

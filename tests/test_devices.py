"""What a GPU would run, on the meta device, under a guard that refuses to mix devices.

Shapes, types and devices are followed through every operation, values are not; no GPU is needed.
"""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ifcheck.curvature.head import SoftmaxHeadLoss
from ifcheck.curvature.variational_head import VariationalHeadLoss
from ifcheck.engines import Task
from ifcheck.engines.batched import STRUCTURED
from ifcheck.engines.generic_kernel import GenericKernel
from ifcheck.engines.optimiser import Adam
from ifcheck.engines.padding import pad_rows
from ifcheck.models import MLP, VariationalNetwork
from ifcheck.models.moments import LAYERS
from ifcheck.models.variational import VariationalHead
from ifcheck.objective import Objective, VariationalObjective, uniform_weights
from ifcheck.params import Layout, stack_modules
from tests.networks import CLASSES, LeNet

MODELS, ROWS = 2, 9
VARIATIONAL = VariationalObjective(rows=ROWS)


# A GPU's tensor may be copied to the CPU and back, and indexed by one of the CPU.
CROSSING = {torch.ops.aten._to_copy, torch.ops.aten.copy_, torch.ops.aten.index}


class OneDevice(TorchDispatchMode):
    """Refuse every operation on tensors of several devices, as CUDA does; numbers are of none."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        leaves = tree_leaves((args, kwargs or {}))
        devices = {str(x.device) for x in leaves if isinstance(x, torch.Tensor) and x.dim()}
        if len(devices) > 1 and function.overloadpacket not in CROSSING:
            raise RuntimeError(f"{function} mixes devices {devices}")
        return function(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def guard():
    """Devices are guarded in every test; what the package makes is the CPU's unless it asks."""
    with OneDevice():
        yield


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, device="meta")


def no_targets(rows: int = ROWS) -> torch.Tensor:
    return torch.zeros(rows, dtype=torch.int64, device="meta")


def rates() -> torch.Tensor:
    return torch.full((MODELS,), 1e-3, dtype=torch.float64, device="meta")


def task(network: nn.Module, objective: Objective, *shape: int) -> Task:
    return Task(
        network=network,
        objective=objective,
        parameters=stack_modules([network] * MODELS).detach(),
        inputs=random(MODELS, ROWS, *shape),
        targets=no_targets(),
        weights=uniform_weights(ROWS, torch.float32, "meta").expand(MODELS, -1),
        probe_inputs=random(MODELS, 4, *shape),
        probe_targets=no_targets(4),
    )


def networks() -> dict[str, nn.Module]:
    with torch.device("meta"):
        mlp, lenet = MLP(4, 5, 2, CLASSES), LeNet()
        return {
            "MLP": mlp,
            "head": mlp.head,
            "Bayesian MLP": VariationalNetwork(mlp),
            "Bayesian head": VariationalHead(mlp.head),
            "Bayesian LeNet": VariationalNetwork(lenet),
        }


SHAPES = {"head": (5,), "Bayesian head": (2, 5), "Bayesian LeNet": (1, 8, 8)}


def task_of(name: str) -> Task:
    objective = VARIATIONAL if name.startswith("Bayesian") else Objective(0.005)
    return task(networks()[name], objective, *SHAPES.get(name, (4,)))


STRUCTURES = ("MLP", "head", "Bayesian MLP", "Bayesian head")


def test_all_layers_with_a_bayesian_form_stand_in_the_network():
    assert set(LAYERS) == {type(layer) for layer in (*LeNet().body, LeNet().head)}


def test_devices_that_are_mixed_are_refused():
    with pytest.raises(RuntimeError, match="mixes devices"):
        random(2) + torch.zeros(2)


@pytest.mark.parametrize("likelihood", ["marginal", "expected"])
@pytest.mark.parametrize("jacobian", ["diagonal", "full"])
def test_a_bayesian_lenet_and_its_objective(likelihood, jacobian):
    network = networks()["Bayesian LeNet"]
    objective = VariationalObjective(rows=ROWS, likelihood=likelihood, jacobian=jacobian)
    outputs = network(random(ROWS, 1, 8, 8))
    targets = no_targets()
    weights = uniform_weights(ROWS, torch.float32, "meta")
    layout = Layout.of(network)
    flat, is_rho = layout.flatten(dict(network.named_parameters())), layout.is_rho.to("meta")
    loss = objective.data_loss(outputs, targets, weights) + objective.regulariser(flat, is_rho)
    loss.backward()
    assert outputs.shape == (ROWS, 2, CLASSES)
    assert all(parameter.grad.is_meta for parameter in network.parameters())
    for values in (
        objective.negative_log_probability(outputs, targets),
        objective.predictions(outputs),
        objective.regulariser_gradient(flat, is_rho),
        objective.regulariser_curvature(flat, is_rho),
    ):
        assert values.is_meta


@pytest.mark.parametrize("name", STRUCTURES)
def test_kernels_by_hand_and_the_optimiser(name):
    given = pad_rows(task_of(name))
    kernel = STRUCTURED[type(given.network)](given)
    adam = Adam(kernel.parameters, given.objective.weight_decay)
    losses, gradient = kernel.differentiate()
    adam.step(gradient, rates())
    adam.step(kernel.gradient(), rates())
    for values in (losses, gradient, kernel.probe(), kernel.to_flat(kernel.parameters)):
        assert values.is_meta


@pytest.mark.parametrize("name", [*STRUCTURES, "Bayesian LeNet"])
def test_the_kernel_of_any_network(name):
    kernel = GenericKernel(task_of(name))
    losses, gradient = kernel.differentiate()
    assert losses.shape == (MODELS,)
    assert gradient.shape == kernel.parameters.shape
    assert kernel.probe().shape == (MODELS, 4)
    assert gradient.is_meta


@pytest.mark.parametrize("bayesian", [False, True], ids=["plain", "Bayesian"])
def test_heads_in_closed_form(bayesian):
    size = CLASSES * 6 * (2 if bayesian else 1)
    features = random(ROWS, *((2, 5) if bayesian else (5,)), dtype=torch.float64)
    targets = no_targets()
    loss = VariationalHeadLoss(CLASSES, VARIATIONAL) if bayesian else SoftmaxHeadLoss(CLASSES)
    flat = random(MODELS, size, dtype=torch.float64)
    weights = uniform_weights(ROWS, torch.float64, "meta").expand(MODELS, -1)
    for values, shape in (
        (loss.losses(flat, features, targets), (MODELS, ROWS)),
        (loss.row_gradients(flat, features, targets), (MODELS, ROWS, size)),
        (loss.mean_gradient(flat, features, targets, weights), (MODELS, size)),
        (loss.hessian(flat, features, targets, weights), (MODELS, size, size)),
    ):
        assert values.is_meta
        assert values.shape == shape

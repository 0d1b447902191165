"""The same numbers on a GPU as on the CPU, to rounding in float64; skipped where there is none."""

from dataclasses import replace

import pytest
import torch

from ifcheck.curvature.local import LocalModel, local_model
from ifcheck.engines import Recipe, Task
from ifcheck.engines.batched import TorchEngine, VmapEngine
from ifcheck.models import MLP, VariationalNetwork
from ifcheck.models.variational import VariationalHead
from ifcheck.objective import Objective, VariationalObjective
from ifcheck.params import Layout, stack_modules
from ifcheck.scores import ESTIMATORS, STEPS, damping_path, influence_scores
from ifcheck.solvers import SOLVERS
from ifcheck.variants import averaged
from tests.engines.conftest import random_weights
from tests.networks import CLASSES, LeNet

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

MODELS, ROWS = 3, 50
RECIPE = averaged(Recipe(40, learning_rate=0.01, patience=3, record_every=10))


def lenets() -> list[VariationalNetwork]:
    return [VariationalNetwork(LeNet().double()) for _ in range(MODELS)]


def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(ROWS, 1, 8, 8, dtype=torch.float64, generator=generator)
    return inputs, torch.randint(CLASSES, (ROWS,), generator=generator)


def make_task(name: str) -> Task:
    torch.manual_seed(0)
    inputs, targets = images()
    if name == "Bayesian LeNet":
        networks = lenets()
    else:
        networks = [MLP(64, 5, 3, CLASSES).double() for _ in range(MODELS)]
        inputs = inputs.flatten(1)
    if name == "Bayesian MLP":
        networks = [VariationalNetwork(network) for network in networks]
    if name.endswith("head"):
        networks, inputs = [network.head for network in networks], inputs[:, :5]
    if name == "Bayesian head":
        networks = [VariationalHead(head) for head in networks]
        inputs = torch.stack([inputs, inputs.square()], dim=1)
    bayesian = name.startswith("Bayesian")
    inputs = inputs.expand(MODELS, *inputs.shape)
    return Task(
        network=networks[0],
        objective=VariationalObjective(rows=ROWS) if bayesian else Objective(0.005),
        parameters=stack_modules(networks).detach(),
        inputs=inputs,
        targets=targets,
        weights=random_weights(MODELS, ROWS, torch.Generator().manual_seed(2)),
        probe_inputs=inputs[:, :4],
        probe_targets=targets[:4],
    )


def on_gpu(task: Task) -> Task:
    tensors = {name: value for name, value in vars(task).items() if torch.is_tensor(value)}
    return replace(task, **{name: value.cuda() for name, value in tensors.items()})


@pytest.mark.parametrize("engine", [TorchEngine(), VmapEngine()], ids=["torch", "vmap"])
@pytest.mark.parametrize("name", ["MLP", "head", "Bayesian MLP", "Bayesian head", "Bayesian LeNet"])
def test_training(name, engine):
    if name == "Bayesian LeNet" and isinstance(engine, TorchEngine):
        pytest.skip("has no kernel written by hand")
    task = make_task(name)
    expected, fit = engine.fit(task, RECIPE), engine.fit(on_gpu(task), RECIPE)
    assert fit.parameters.is_cuda
    for field in ("parameters", "live", "losses", "probe_losses"):
        found = getattr(fit, field).cpu()
        torch.testing.assert_close(found, getattr(expected, field), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("likelihood", ["marginal", "expected"])
@pytest.mark.parametrize("jacobian", ["diagonal", "full"])
def test_a_bayesian_lenet_in_unequal_batches(likelihood, jacobian):
    """The parts' losses and gradients on the GPU add up to those of all rows on the CPU."""
    torch.manual_seed(0)
    network, (inputs, targets) = lenets()[0], images()
    objective = VariationalObjective(rows=ROWS, likelihood=likelihood, jacobian=jacobian)
    weights = torch.rand(ROWS, dtype=torch.float64)
    layout = Layout.of(network)

    def differentiate(device: str, batches: list[slice]) -> tuple[torch.Tensor, torch.Tensor]:
        moved = network.to(device)
        moved.zero_grad()
        losses = [
            objective.data_loss(
                moved(inputs[rows].to(device)), targets[rows].to(device), weights[rows].to(device)
            )
            for rows in batches
        ]
        sum(losses).backward()
        gradient = layout.flatten({n: p.grad for n, p in moved.named_parameters()})
        return sum(losses).detach().cpu(), gradient.cpu()

    loss, gradient = differentiate("cpu", [slice(None)])
    found = differentiate("cuda", [slice(0, 1), slice(1, 30), slice(30, ROWS)])
    torch.testing.assert_close(found[0], loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[1], gradient, rtol=1e-10, atol=1e-12)


def plain_model(device: str, selection: str) -> LocalModel:
    torch.manual_seed(0)
    network = MLP(64, 5, 2, CLASSES, "tanh").double().to(device)
    inputs, targets = (rows.to(device) for rows in images())
    rows = inputs.flatten(1), targets
    test = rows[0][:2], rows[1][:2]
    return local_model(network, Objective(0.05), selection, rows, test)


@pytest.mark.parametrize("step", list(STEPS))
@pytest.mark.parametrize("solver", ["exact", "cg", "minres", "lissa"])
def test_scores_of_rows_and_groups(step, solver):
    estimator = replace(ESTIMATORS.create("objective"), step=step, solver=solver)
    found = {}
    for device in ("cpu", "cuda"):
        model = plain_model(device, "head")
        groups = torch.tensor([[0, 4, 7], [3, 1, 9]], device=device)
        scores = influence_scores(model, estimator)
        of_groups = STEPS.create(step).group_scores(model, estimator, scores, groups)
        assert of_groups.values.device.type == scores.values.device.type == device
        found[device] = scores.values.cpu(), of_groups.values.cpu()
    for ours, theirs in zip(found["cuda"], found["cpu"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("solver", list(SOLVERS))
@pytest.mark.parametrize("selection", ["head", "all"])
def test_scores_along_dampings(solver, selection):
    estimator = replace(
        ESTIMATORS.create("objective"),
        params=selection,
        solver=solver,
        damping=3.0,
        damping_path=(1.0, 5.0),
    )
    found = {}
    for device in ("cpu", "cuda"):
        scores, path = damping_path(plain_model(device, selection), estimator)
        assert path.values.device.type == device
        found[device] = scores.values.cpu(), path.values.cpu()
    for ours, theirs in zip(found["cuda"], found["cpu"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)

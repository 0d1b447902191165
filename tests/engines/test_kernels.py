"""The kernels against each other and against differences of a loss in plain numpy."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ifcheck.engines import Task
from ifcheck.engines.generic_kernel import GenericKernel
from ifcheck.engines.kernels import HeadKernel, Kernel, MLPKernel
from ifcheck.objective import Objective
from tests import oracles
from tests.engines.conftest import CLASSES, bilinear_task, head_task, mlp_task

EXACT = 1e-14  # float64 rounding of losses near 1 and gradients near 0.1
DIFFERENCES = 1e-9  # error of central differences is about 1e-10


def layers(flat: np.ndarray, sizes: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights (out, in) and biases (out,) of each layer, in torch's order of parameters."""
    result, start = [], 0
    for fan_in, fan_out in pairwise(sizes):
        middle, end = start + fan_in * fan_out, start + (fan_in + 1) * fan_out
        result.append((flat[start:middle].reshape(fan_out, fan_in), flat[middle:end]))
        start = end
    return result


def plain_losses(flat, sizes, activation, inputs, targets) -> np.ndarray:
    """Cross-entropy of each row in nats, in numpy. Shape: (rows,)."""
    logits = oracles.numpy_mlp(layers(flat, sizes), inputs, activation)
    top = logits.max(1)
    normaliser = top + np.log(np.exp(logits - top[:, None]).sum(1))
    return normaliser - logits[np.arange(len(targets)), targets]


def plain_model(task: Task, model: int) -> tuple[np.ndarray, Callable[..., np.ndarray]]:
    """Flat parameters of one model, and its losses as a function of parameters and rows."""
    network = task.network
    head = isinstance(network, nn.Linear)
    sizes = (network.in_features, network.out_features) if head else network.layer_sizes
    activation = "none" if head else network.activation

    def losses(flat: np.ndarray, inputs: Tensor, targets: Tensor) -> np.ndarray:
        group = 0 if len(inputs) == 1 else model // task.models_per_group
        return plain_losses(flat, sizes, activation, inputs[group].numpy(), targets.numpy())

    return task.parameters[model].numpy(), losses


def shortened(task: Task, rows: int) -> Task:
    """The task on its first rows, which share its weights anew."""
    weights = task.weights[:, :rows]
    return replace(
        task,
        inputs=task.inputs[:, :rows],
        targets=task.targets[:rows],
        weights=weights / weights.sum(1, keepdim=True),
    )


def check_against_numpy(task: Task, model: int, loss, losses: Tensor, gradient: Tensor) -> None:
    start = task.parameters[model].numpy()
    assert losses[model].item() == pytest.approx(loss(start), abs=EXACT)
    expected = oracles.finite_difference_gradient(loss, start)
    np.testing.assert_allclose(gradient[model].numpy(), expected, rtol=0, atol=DIFFERENCES)


def differentiate(kernel: Kernel) -> tuple[Tensor, Tensor]:
    """Losses and gradients, the latter in the order of the network's layout."""
    losses, gradient = kernel.differentiate()
    return losses.clone(), kernel.to_flat(gradient)


MLPS = {
    "one set of rows": {"models": 3},
    "a group for each model": {"models": 3, "groups": 3},
    "two models a group": {"models": 4, "groups": 2},
    "depth 8": {"models": 2, "depth": 8},
    "tanh": {"models": 2, "depth": 2, "activation": "tanh"},
    "relu": {"models": 2, "depth": 3, "activation": "relu"},
    "width 14": {"models": 2, "width": 14},
    "width 1": {"models": 2, "width": 1, "depth": 2},
    "one row left": {"models": 2, "rows": 2},
}
HEADS = {
    "one group": {"groups": 1, "models_per_group": 3},
    "two groups": {"groups": 2, "models_per_group": 3},
    "one head a group": {"groups": 3, "models_per_group": 1},
    "width 1": {"groups": 2, "models_per_group": 2, "width": 1},
}
CASES = [
    *(pytest.param(MLPKernel, lambda o=o: mlp_task(**o), id=f"mlp {k}") for k, o in MLPS.items()),
    *(
        pytest.param(HeadKernel, lambda o=o: head_task(**o), id=f"head {k}")
        for k, o in HEADS.items()
    ),
]


@pytest.mark.parametrize("rows", [1, 7, 64])  # of which the last block has fewer
@pytest.mark.parametrize("groups", [1, 2])
def test_heads_block_by_block_of_rows_are_heads_on_all(rows, groups, monkeypatch):
    task = head_task(groups=groups, models_per_group=3)
    whole = HeadKernel(task)
    losses, gradient = differentiate(whole)
    monkeypatch.setattr("ifcheck.engines.kernels.ROWS_IN_CACHE", rows)
    kernel = HeadKernel(task)
    for _ in range(2):  # what one call leaves behind must not enter the next
        found, slopes = differentiate(kernel)
        torch.testing.assert_close(found, losses, rtol=0, atol=EXACT)
        torch.testing.assert_close(slopes, gradient, rtol=0, atol=EXACT)
        alone = kernel.to_flat(kernel.gradient())
        torch.testing.assert_close(alone, gradient, rtol=0, atol=EXACT)


@pytest.mark.parametrize(("kernel", "make_task"), CASES)
def test_kernels_written_by_hand_agree_with_the_generic_one(kernel, make_task):
    task = make_task()
    losses, gradient = differentiate(kernel(task))
    generic_losses, generic_gradient = differentiate(GenericKernel(task))
    torch.testing.assert_close(losses, generic_losses, rtol=0, atol=EXACT)
    torch.testing.assert_close(gradient, generic_gradient, rtol=0, atol=EXACT)


@pytest.mark.parametrize(("kernel", "make_task"), CASES)
def test_a_gradient_without_losses_is_the_same(kernel, make_task):
    task = make_task()
    _, gradient = differentiate(kernel(task))
    lone = kernel(task)
    torch.testing.assert_close(lone.to_flat(lone.gradient()), gradient, rtol=0, atol=EXACT)


@pytest.mark.parametrize(("kernel", "make_task"), CASES)
def test_probes_agree_with_the_generic_kernel(kernel, make_task):
    task = make_task()
    probed = kernel(task).probe()
    assert probed.shape == (task.models, len(task.probe_targets))
    torch.testing.assert_close(probed, GenericKernel(task).probe(), rtol=0, atol=EXACT)


@pytest.mark.parametrize("generic", [False, True], ids=["by hand", "generic"])
@pytest.mark.parametrize(("kernel", "make_task"), CASES)
def test_losses_and_gradients_against_numpy(kernel, make_task, generic):
    """Losses are plain sums over rows; gradients are differences of them."""
    task = shortened(make_task(), 20)
    losses, gradient = differentiate((GenericKernel if generic else kernel)(task))
    for model in range(task.models):
        _, plain = plain_model(task, model)
        weights = task.weights[model].numpy()

        def loss(flat, plain=plain, weights=weights):
            return float(weights @ plain(flat, task.inputs, task.targets))

        check_against_numpy(task, model, loss, losses, gradient)


@pytest.mark.parametrize("generic", [False, True], ids=["by hand", "generic"])
@pytest.mark.parametrize(("kernel", "make_task"), CASES)
def test_probes_against_numpy(kernel, make_task, generic):
    task = make_task()
    probed = (GenericKernel if generic else kernel)(task).probe()
    for model in range(task.models):
        flat, plain = plain_model(task, model)
        expected = plain(flat, task.probe_inputs, task.probe_targets)
        np.testing.assert_allclose(probed[model].numpy(), expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize("kernel", [MLPKernel, GenericKernel])
def test_one_shared_set_of_rows_is_the_same_set_for_every_group(kernel):
    shared = mlp_task(4)
    copied = replace(
        shared,
        inputs=shared.inputs.repeat(4, 1, 1),
        probe_inputs=shared.probe_inputs.repeat(4, 1, 1),
    )
    for one, other in zip(
        (*differentiate(kernel(shared)), kernel(shared).probe()),
        (*differentiate(kernel(copied)), kernel(copied).probe()),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=EXACT)


# --- removed rows ----------------------------------------------------------------------------


@pytest.mark.parametrize("generic", [False, True], ids=["by hand", "generic"])
@pytest.mark.parametrize(("kernel", "make_task"), CASES)
def test_a_row_of_weight_zero_counts_for_nothing(kernel, make_task, generic):
    """Deleting the rows instead gives the same losses and gradients (every fifth is removed)."""
    task = make_task()
    kept = torch.arange(len(task.targets)) % 5 != 0
    assert (task.weights[:, ~kept] == 0).all()
    without = replace(
        task,
        inputs=task.inputs[:, kept],
        targets=task.targets[kept],
        weights=task.weights[:, kept],
    )
    make = GenericKernel if generic else kernel
    for one, other in zip(differentiate(make(task)), differentiate(make(without)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=EXACT)


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_the_generic_loss_leaves_out_a_removed_row_that_is_not_finite(bad):
    """Only the loss: backpropagation multiplies the zero weight by the row all the same."""
    task = head_task(1, 2)
    spoiled = task.inputs.clone()
    spoiled[:, 0] = bad
    losses, _ = differentiate(GenericKernel(replace(task, inputs=spoiled)))
    torch.testing.assert_close(losses, differentiate(GenericKernel(task))[0], rtol=0, atol=EXACT)


# --- extreme logits --------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [HeadKernel, GenericKernel])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_huge_logits_do_not_overflow(kernel, dtype):
    """Two classes 2,000 nats apart: a loss of 2,000 where the label is wrong, 0 where right."""
    network = nn.Linear(1, 2)
    task = Task(
        network=network,
        objective=Objective(),
        parameters=torch.tensor([[1000.0, -1000.0, 0.0, 0.0]], dtype=dtype),
        inputs=torch.ones(1, 2, 1, dtype=dtype),
        targets=torch.tensor([0, 1]),
        weights=torch.full((1, 2), 0.5, dtype=dtype),
        probe_inputs=torch.ones(1, 2, 1, dtype=dtype),
        probe_targets=torch.tensor([0, 1]),
    )
    losses, gradient = differentiate(kernel(task))
    assert losses.tolist() == [1000.0]
    assert gradient.tolist() == [[0.5, -0.5, 0.5, -0.5]]
    assert kernel(task).probe().tolist() == [[0.0, 2000.0]]


# --- what a kernel promises ------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "make_task"), CASES)
def test_parameters_return_in_the_network_s_order_as_a_copy(kernel, make_task):
    task = make_task()
    start = task.parameters.clone()
    made = kernel(task)
    flat = made.to_flat(made.parameters)
    assert torch.equal(flat, start)
    made.parameters.zero_()
    assert torch.equal(flat, start)
    assert torch.equal(task.parameters, start)


@pytest.mark.parametrize(("kernel", "make_task"), CASES)
def test_the_caller_may_overwrite_what_it_was_given(kernel, make_task):
    """The optimiser consumes the gradient; the next call starts afresh."""
    made = kernel(make_task())
    losses, gradient = differentiate(made)
    for returned in made.differentiate():
        returned.fill_(torch.nan)
    again_losses, again = differentiate(made)
    assert torch.equal(losses, again_losses)
    assert torch.equal(gradient, again)


def test_the_generic_kernel_takes_any_network():
    task = bilinear_task(2)
    losses, gradient = differentiate(GenericKernel(task))
    for model in range(task.models):
        weights = task.weights[model].numpy()

        def loss(theta, weights=weights):
            # a network without hidden layers and biases, its weights scaled
            flat = np.concatenate([theta[-1] * theta[:-1], np.zeros(CLASSES)])
            rows = (task.inputs[0].numpy(), task.targets.numpy())
            return float(weights @ plain_losses(flat, (4, CLASSES), "none", *rows))

        check_against_numpy(task, model, loss, losses, gradient)


@pytest.mark.parametrize(
    ("kernel", "task", "expected"),
    [(HeadKernel, mlp_task(1), "linear head"), (MLPKernel, head_task(1, 1), "MLP")],
)
def test_a_kernel_refuses_another_architecture(kernel, task, expected):
    with pytest.raises(TypeError, match=f"expected an? {expected}, got"):
        kernel(task)


@pytest.mark.parametrize("kernel", [MLPKernel, GenericKernel])
def test_probing_without_probes_is_an_error(kernel):
    with pytest.raises(ValueError, match="no probes"):
        kernel(mlp_task(1, probes=0)).probe()

"""Losses and gradients of many models at once: the part of training that differs by network."""

from __future__ import annotations

from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from ifcheck import memory
from ifcheck.engines.base import Task
from ifcheck.engines.padding import pad_columns
from ifcheck.models import MLP
from ifcheck.models.moments import SELU_ALPHA, SELU_SCALE

ROWS_IN_CACHE = 1_024  # of 40 heads of ten classes, whose logits fit into a core's cache


class Kernel(Protocol):
    """Batched differentiation of one task at parameters that the optimiser moves in place."""

    task: Task
    parameters: Tensor  # (models, params) in an order of the kernel's own

    def to_flat(self, parameters: Tensor) -> Tensor:
        """Return a copy of `parameters` in the order of the network's layout."""

    def from_flat(self, flat: Tensor) -> Tensor:
        """Return a copy of flat parameters (models, P) in the kernel's own order."""

    def look_at(self, rows: Task) -> None:
        """Differentiate on these rows from now on: the task's own, or a batch of them."""

    def differentiate(self) -> tuple[Tensor, Tensor]:
        """Return each model's loss (models,) and its gradient, valid until the next call.

        The loss is the weighted mean over the rows, and a regulariser that the optimiser does
        not add by itself. Both may be overwritten by the caller.
        """

    def gradient(self) -> Tensor:
        """Return the same gradient where nobody asks for the losses."""

    def probe(self) -> Tensor:
        """Return the loss of each model on each probe row. Shape: (models, tests)."""


class MLPKernel:
    """Multilayer perceptrons by hand: one batched matrix product a layer and direction.

    M models, W units, N rows: activations are (M, W, N), so that element-wise work runs over
    long contiguous memory. Weights and gradients are views of the flat tensors, made once.
    """

    def __init__(self, task: Task) -> None:
        if not isinstance(task.network, MLP):
            raise TypeError(f"expected an MLP, got {type(task.network).__name__}")
        self.parameters = self.from_flat(task.parameters)
        self.task = task
        self._sizes = task.network.layer_sizes
        self._activation = ACTIVATIONS[task.network.activation]
        self._gradient = torch.zeros_like(self.parameters)
        self._layers = layer_views(self.parameters, self._sizes)
        self._layer_gradients = layer_views(self._gradient, self._sizes)
        self.look_at(task)

    def to_flat(self, parameters: Tensor) -> Tensor:
        return parameters[:, : self.task.parameters.shape[1]].clone()

    def from_flat(self, flat: Tensor) -> Tensor:
        return pad_columns(flat)

    def look_at(self, rows: Task) -> None:
        self._inputs = self._expand(rows.inputs)
        self._output = _SoftmaxOutput(rows, self._sizes[-1])

    def differentiate(self) -> tuple[Tensor, Tensor]:
        activations = self._forward(self._inputs)
        losses, delta = self._output.differentiate(activations.pop())
        self._backward(activations, delta)
        return losses, self._gradient

    def gradient(self) -> Tensor:
        activations = self._forward(self._inputs)
        self._backward(activations, self._output.delta(activations.pop()))
        return self._gradient

    def probe(self) -> Tensor:
        inputs, targets = probes(self.task)
        return _losses_of_logits(self._forward(self._expand(inputs))[-1], targets)

    def _expand(self, inputs: Tensor) -> Tensor:
        return per_model(self.task, columns_of(inputs, self.parameters.dtype))

    def _forward(self, inputs: Tensor) -> list[Tensor]:
        """Return the activations below each layer, and the logits last; each (M, W, N)."""
        activations = [inputs]
        for index, (weight, bias) in enumerate(self._layers):
            output = torch.baddbmm(bias, weight, activations[-1])
            if index < len(self._layers) - 1:
                self._activation.apply(output)
            activations.append(output)
        return activations

    def _backward(self, activations: list[Tensor], delta: Tensor) -> None:
        """Fill the gradient from delta = d loss / d logits, (M, classes, N)."""
        for index in range(len(self._layers) - 1, -1, -1):
            below = activations[index]
            weight_gradient, bias_gradient = self._layer_gradients[index]
            weight_gradient.copy_(torch.bmm(delta, below.transpose(1, 2)))
            torch.sum(delta, dim=2, keepdim=True, out=bias_gradient)
            if index:
                upstream = torch.bmm(self._layers[index][0].transpose(1, 2), delta)
                delta = self._activation.backward(upstream, below)


class HeadKernel:
    """Linear heads on cached features: the heads of one group share one matrix product.

    A head's weights and bias stand together as a matrix (classes, features + 1), and the
    features carry a last row of ones.
    """

    def __init__(self, task: Task) -> None:
        if not isinstance(task.network, nn.Linear):
            raise TypeError(f"expected a linear head, got {type(task.network).__name__}")
        self._classes = task.network.out_features
        self._to_flat, self._to_kernel = _bias_beside_weights(task.network)
        self._used = len(self._to_kernel)
        self.parameters = self.from_flat(task.parameters)
        self._gradient = torch.zeros_like(self.parameters)
        self._matrices = self.parameters.new_empty(
            len(task.inputs), task.models_per_group * self._classes, task.network.in_features + 1
        )
        self._product = torch.empty_like(self._matrices)
        self.task = task
        self.look_at(task)

    def to_flat(self, parameters: Tensor) -> Tensor:
        return parameters[:, self._to_flat]

    def from_flat(self, flat: Tensor) -> Tensor:
        return pad_columns(flat[:, self._to_kernel])

    def look_at(self, rows: Task) -> None:
        groups, count, width = rows.inputs.shape
        step = count if rows.inputs.is_cuda else ROWS_IN_CACHE  # a GPU wants work to be large
        # Block after block in one tensor, which stands in a file where it is large.
        dtype, device = self.parameters.dtype, self.parameters.device
        room = memory.empty((count, groups * (width + 1)), dtype, device)
        self._blocks = []
        for start in range(0, count, step):
            block = slice(start, start + step)
            inputs = room[block].view(groups, width + 1, -1)
            _fill_with_ones(inputs, rows.inputs[:, block])
            output = _SoftmaxOutput(rows, self._classes, block)
            self._blocks.append(_HeadBlock(inputs, output))

    def differentiate(self) -> tuple[Tensor, Tensor]:
        self._take_parameters()
        total = torch.zeros_like(self.parameters[:, 0])
        for block in self._blocks:
            losses, delta = block.output.differentiate(self._logits(block.inputs))
            total += losses
            self._add(delta, block)
        return total, self._finished()

    def gradient(self) -> Tensor:
        self._take_parameters()
        for block in self._blocks:
            self._add(block.output.delta(self._logits(block.inputs)), block)
        return self._finished()

    def _add(self, delta: Tensor, block: _HeadBlock) -> None:
        """Add a block's share to the gradient; the first block's stands in its place."""
        stacked = delta.view(*self._product.shape[:2], -1)
        if block is self._blocks[0]:
            torch.bmm(stacked, block.transposed, out=self._product)
        else:
            self._product.baddbmm_(stacked, block.transposed)

    def _finished(self) -> Tensor:
        self._gradient[:, : self._used] = self._product.view(-1, self._used)
        return self._gradient

    def probe(self) -> Tensor:
        inputs, targets = probes(self.task)
        groups, count, width = inputs.shape
        shape = (groups, width + 1, count)
        columns = memory.empty(shape, self.parameters.dtype, inputs.device)
        _fill_with_ones(columns, inputs)
        self._take_parameters()
        return _losses_of_logits(self._logits(columns), targets)

    def _take_parameters(self) -> None:
        """Lay the parameters out for the matrix products: (groups, models * classes, F + 1)."""
        self._matrices.view(-1, self._used).copy_(self.parameters[:, : self._used])

    def _logits(self, inputs: Tensor) -> Tensor:
        """Return (M, classes, N) for inputs (groups, features + 1, N)."""
        logits = torch.bmm(self._matrices, inputs)
        return logits.view(len(self.parameters), self._classes, -1)


class _HeadBlock:
    """Rows of a head's task whose logits are worked on while they are in cache."""

    def __init__(self, inputs: Tensor, output: _SoftmaxOutput) -> None:
        self.inputs = inputs  # (groups, features + 1, rows)
        self.transposed = inputs.transpose(1, 2)
        self.output = output


class _SoftmaxOutput:
    """Cross-entropy of logits (M, classes, N) with row weights, and its derivative.

    One exponential an element: `log_softmax` and its derivative would take two.
    """

    def __init__(self, task: Task, classes: int, rows: slice = slice(None)) -> None:
        self._labels = one_hot(task.targets[rows], classes, task.weights.dtype)  # (classes, N)
        self._weights = task.weights[:, None, rows].contiguous()  # (M, 1, N)

    def differentiate(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses (M,) and delta = d loss / d logits, (M, classes, N); eats `logits`."""
        logits.sub_(logits.amax(1, keepdim=True))
        of_labels = (logits * self._labels).sum(1, keepdim=True)
        delta, total = self._normalise(logits)
        return (total.log_().sub_(of_labels) * self._weights).sum((1, 2)), delta

    def delta(self, logits: Tensor) -> Tensor:
        """Return the same delta where nobody asks for the losses; eats `logits`."""
        return self._normalise(logits.sub_(logits.amax(1, keepdim=True)))[0]

    def _normalise(self, shifted: Tensor) -> tuple[Tensor, Tensor]:
        """Return delta, and the sum of the exponentials (M, 1, N)."""
        exponentials = shifted.exp_()
        total = exponentials.sum(1, keepdim=True)
        exponentials.mul_(self._weights / total)
        return exponentials.addcmul_(self._labels, self._weights, value=-1), total


class _Activation(Protocol):
    """An element-wise function whose derivative is found from its result."""

    def apply(self, values: Tensor) -> None:
        """Replace z by f(z)."""

    def backward(self, upstream: Tensor, activated: Tensor) -> Tensor:
        """Return upstream * f'(z), given f(z)."""


class _Selu:
    def apply(self, values: Tensor) -> None:
        torch.selu_(values)

    def backward(self, upstream: Tensor, activated: Tensor) -> Tensor:
        result: Tensor = torch.ops.aten.elu_backward(
            upstream, SELU_ALPHA, SELU_SCALE, 1.0, True, activated
        )
        return result


class _Tanh:
    def apply(self, values: Tensor) -> None:
        values.tanh_()

    def backward(self, upstream: Tensor, activated: Tensor) -> Tensor:
        result: Tensor = torch.ops.aten.tanh_backward(upstream, activated)
        return result


class _Relu:
    def apply(self, values: Tensor) -> None:
        values.relu_()

    def backward(self, upstream: Tensor, activated: Tensor) -> Tensor:
        result: Tensor = torch.ops.aten.threshold_backward(upstream, activated, 0.0)
        return result


ACTIVATIONS: dict[str, _Activation] = {"selu": _Selu(), "tanh": _Tanh(), "relu": _Relu()}


def probes(task: Task) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of the rows that are watched."""
    if task.probe_inputs is None or task.probe_targets is None:
        raise ValueError("the task has no probes")
    return task.probe_inputs, task.probe_targets


def columns_of(inputs: Tensor, dtype: torch.dtype) -> Tensor:
    """Return inputs (groups, N, ...) as (groups, features, N)."""
    return memory.copy(inputs.flatten(2).transpose(1, 2), dtype)


def per_model(task: Task, columns: Tensor) -> Tensor:
    """Return each model's (M, ...) of what its group has, (groups, ...).

    Models share memory where all of them are of one group.
    """
    if len(columns) == 1:
        return columns.expand(task.models, -1, -1)
    return columns.repeat_interleave(task.models_per_group, dim=0)


def one_hot(targets: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Return (classes, rows)."""
    return nn.functional.one_hot(targets, classes).T.to(dtype)


def _losses_of_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """Return (M, N) for logits (M, classes, N)."""
    labels = one_hot(targets, logits.shape[1], logits.dtype)
    return -torch.where(labels == 0, 0.0, torch.log_softmax(logits, dim=1)).sum(1)


def _fill_with_ones(columns: Tensor, inputs: Tensor) -> None:
    """Write features (groups, N, F) into (groups, F + 1, N), the last row ones."""
    columns[:, :-1], columns[:, -1] = inputs.transpose(1, 2), 1.0


def layer_views(flat: Tensor, sizes: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    """Return views (M, out, in) of each layer's weights and (M, out, 1) of its biases."""
    layers, start = [], 0
    for fan_in, fan_out in pairwise(sizes):
        middle, end = start + fan_in * fan_out, start + fan_in * fan_out + fan_out
        weight = flat[:, start:middle].unflatten(1, (fan_out, fan_in))
        layers.append((weight, flat[:, middle:end].unsqueeze(2)))
        start = end
    return layers


def _bias_beside_weights(head: nn.Linear) -> tuple[Tensor, Tensor]:
    """Return the permutations to torch's order (weights, then biases) and from it."""
    weights = torch.arange(head.weight.numel()).view_as(head.weight)
    biases = head.weight.numel() + torch.arange(head.out_features)[:, None]
    from_flat = torch.cat([weights, biases], dim=1).flatten()
    return from_flat.argsort(), from_flat

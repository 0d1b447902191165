"""Losses and gradients of any network: by torch's own differentiation, models by `vmap`."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from ifcheck.engines.base import Task
from ifcheck.engines.kernels import probes
from ifcheck.models import ROWS_AT_ONCE
from ifcheck.objective import weighted_mean
from ifcheck.params import Layout


class GenericKernel:
    """Any `nn.Module`: `vmap` over `functional_call`, block by block of rows, then backwards.

    A single model goes without `vmap`. With `training` its dropout is at work, drawn from torch's
    global generator.
    """

    def __init__(self, task: Task, training: bool = False) -> None:
        self.parameters = self.from_flat(task.parameters)
        self.task = task
        # functional_call puts parameters into the module: every thread needs one of its own.
        self._network = copy.deepcopy(task.network).train(training)
        self._layout = Layout.of(task.network)
        self._is_rho = self._layout.is_rho.to(task.parameters.device)
        self.look_at(task)

    def to_flat(self, parameters: Tensor) -> Tensor:
        return parameters.clone()

    def from_flat(self, flat: Tensor) -> Tensor:
        return flat.clone()

    def look_at(self, rows: Task) -> None:
        self._rows = rows
        self._weights = rows.weights.unflatten(0, (len(rows.inputs), -1))

    def differentiate(self) -> tuple[Tensor, Tensor]:
        leaf = self.parameters.detach().requires_grad_()
        total, gradient = torch.zeros_like(leaf[:, 0]), torch.zeros_like(leaf)
        for block in torch.arange(self._rows.inputs.shape[1]).split(ROWS_AT_ONCE):
            inputs, targets = self._rows.inputs[:, block], self._rows.targets[block]
            losses = self._losses(leaf, inputs, targets)
            weighted = weighted_mean(losses, self._weights[..., block]).flatten()
            gradient += torch.autograd.grad(weighted.sum(), leaf)[0]
            total += weighted.detach()
        if not self.task.objective.coupled:
            share = self.task.objective.regulariser(leaf, self._is_rho)
            gradient += torch.autograd.grad(share.sum(), leaf)[0]
            total += share.detach()
        return total, gradient

    def gradient(self) -> Tensor:
        return self.differentiate()[1]

    def probe(self) -> Tensor:
        inputs, targets = probes(self.task)
        training = self._network.training
        self._network.eval()
        with torch.no_grad():
            losses = [
                self._losses(self.parameters, inputs[:, block], targets[block]).flatten(0, 1)
                for block in torch.arange(len(targets)).split(ROWS_AT_ONCE)
            ]
        self._network.train(training)
        return torch.cat(losses, dim=1)

    def _losses(self, flat: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return per-example losses. Shape: (groups, models of a group, rows)."""
        network, objective = self._network, self.task.objective
        inputs = inputs.to(flat.dtype)

        def one(parameters: dict[str, Tensor], rows: Tensor) -> Tensor:
            outputs = functional_call(network, parameters, (rows,))
            return objective.per_example_loss(outputs, targets)

        if len(flat) == 1:
            return one(self._layout.unflatten(flat[0]), inputs[0])[None, None]
        grouped = self._layout.unflatten(flat.unflatten(0, (len(inputs), -1)))
        losses: Tensor = vmap(vmap(one, in_dims=(0, None)))(grouped, inputs)
        return losses

"""The paper's power iteration, by the PyHessian package."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import pyhessian
import torch
from torch import Tensor, nn

from ifcheck import provenance
from ifcheck.models import Network, rows_at_once
from ifcheck.objective import Objective, uniform_weights
from ifcheck.params import Layout
from ifcheck.spectrum.base import SPECTRA, Eigenvalues, require_as_many


@SPECTRA.register("power")
@dataclass(frozen=True)
class PowerIteration:
    """Power iteration by PyHessian (Yao et al. 2020), with that package's defaults.

    Finds the eigenvalue of largest *magnitude*, which can be negative. It stops when two
    estimates differ by less than `tolerance`, relative to the estimate plus 1e-6, and divides
    vectors by their length plus 1e-6: values come out about 2e-6 low, those near 1e-6 and
    below much lower. The residual tells.
    """

    iterations: int = 100
    tolerance: float = 1e-3
    side_by_side: ClassVar[bool] = False  # PyHessian draws from the global generator

    def products(self, size: int) -> int:
        return self.iterations

    def eigenvalues(
        self,
        network: Network,
        objective: Objective,
        train: tuple[Tensor, Tensor],
        *,
        with_regulariser: bool,
        top: int,
        seed: int,
    ) -> Eigenvalues:
        inputs = train[0]
        size = sum(parameter.numel() for parameter in network.parameters())
        require_as_many(top, size)
        # PyHessian switches its model to eval mode and works on its `.grad`: it gets a copy.
        model = copy.deepcopy(network)
        is_rho = Layout.of(network).is_rho.to(inputs.device)

        def criterion(outputs: Tensor, labels: Tensor) -> Tensor:
            weights = uniform_weights(len(labels), inputs.dtype, inputs.device)
            loss = objective.data_loss(outputs, labels, weights)
            if with_regulariser:
                flat = nn.utils.parameters_to_vector(model.parameters())
                loss = loss + objective.regulariser(flat, is_rho)
            return loss

        devices = [inputs.device] if inputs.is_cuda else []
        current = torch.cuda.device(inputs.device) if inputs.is_cuda else nullcontext()
        with current, torch.random.fork_rng(devices=devices), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Using backward.. with create_graph=True")
            torch.manual_seed(provenance.named_seed(seed, "power"))
            operator = pyhessian.hessian(
                model, criterion, **_data(network, train), cuda=inputs.is_cuda
            )
            values, vectors = operator.eigenvalues(self.iterations, self.tolerance, top)
        residuals = [
            _relative_residual(operator, value, vector)
            for value, vector in zip(values, vectors, strict=True)
        ]
        order = sorted(range(top), key=lambda index: -abs(values[index]))
        return Eigenvalues(
            values=torch.tensor([values[index] for index in order], dtype=torch.float64),
            rel_residual=torch.tensor([residuals[index] for index in order], dtype=torch.float64),
            smallest=math.nan,
            largest=math.nan,
        )


def _data(network: Network, train: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """Return the rows as PyHessian takes them: blocks of them where there are many.

    It keeps the graph of a single batch, and makes those of blocks anew for each product, of which
    it takes the mean by their numbers of rows.
    """
    inputs, targets = train
    step = rows_at_once(network, inputs)
    if len(targets) <= step:
        return {"data": (inputs, targets)}
    blocks = zip(inputs.split(step), targets.split(step), strict=True)
    return {"dataloader": list(blocks)}


def _relative_residual(operator: pyhessian.hessian, value: float, vector: list[Tensor]) -> float:
    """Return |H v - value v| / |value| of a unit vector v."""
    if operator.full_dataset:
        product = operator.dataloader_hv_product(vector)[1]
    else:
        product = torch.autograd.grad(
            operator.gradsH, operator.params, grad_outputs=vector, retain_graph=True
        )
    direction = _flat(vector)
    difference = _flat(product) - value * direction
    return float(difference.norm() / direction.norm()) / abs(value) if value else math.nan


def _flat(parts: Sequence[Tensor]) -> Tensor:
    """Join tensors, of which those of convolutions need not be contiguous."""
    return torch.cat([part.reshape(-1) for part in parts])

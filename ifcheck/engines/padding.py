"""Memory in whole vector registers, so that no model's numbers depend on its neighbours.

Element-wise operations work through a tensor two vector registers at a time and finish what is
left over by other instructions, which may round differently. Where every model's block of memory
is a multiple of two registers there are no leftovers, and the same instructions compute a model
whoever stands beside it: a seed's result does not depend on its company, bit for bit.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ifcheck import memory
from ifcheck.engines.base import Task

MULTIPLE = 32  # two AVX-512 registers of float32; also a multiple of every smaller one


def missing(size: int) -> int:
    """Return how many values bring `size` up to a multiple of two registers."""
    return -size % MULTIPLE


def pad_columns(values: Tensor) -> Tensor:
    """Return a copy of (models, params) with columns of zeros up to a multiple."""
    return torch.nn.functional.pad(values, (0, missing(values.shape[1]))).clone()


def pad_rows(task: Task) -> Task:
    """Return the task with rows of weight zero, and probes, added up to a multiple.

    The rows that are added repeat the first one, so that nothing new enters the network.
    """
    rows = missing(task.inputs.shape[1])
    padded = replace(
        task,
        inputs=_repeat_first(task.inputs, rows, dim=1),
        targets=_repeat_first(task.targets, rows, dim=0),
        weights=torch.nn.functional.pad(task.weights, (0, rows)),
    )
    if task.probe_inputs is None or task.probe_targets is None:
        return padded
    probes = missing(task.probe_inputs.shape[1])
    return replace(
        padded,
        probe_inputs=_repeat_first(task.probe_inputs, probes, dim=1),
        probe_targets=_repeat_first(task.probe_targets, probes, dim=0),
    )


def _repeat_first(values: Tensor, times: int, dim: int) -> Tensor:
    if times == 0:
        return values
    rows = values.shape[dim]
    shape = (*values.shape[:dim], rows + times, *values.shape[dim + 1 :])
    padded = memory.empty(shape, values.dtype, values.device)
    padded.narrow(dim, 0, rows).copy_(values)
    padded.narrow(dim, rows, times).copy_(values.narrow(dim, 0, 1))
    return padded

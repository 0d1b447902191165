"""Truth by Newton: the exact optimum of the head without each row, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ifcheck.curvature import head
from ifcheck.engines import Progress, run_each, silent
from ifcheck.models import Network
from ifcheck.objective import uniform_weights, weighted_mean
from ifcheck.params import Layout
from ifcheck.removal.base import TRUTHS, RemovalProblem, Truth, split_null

GRADIENT_TOLERANCE = 1e-10  # of |grad|; float64 reaches about 1e-15 on problems of this scale
MAX_STEPS = 100  # strictly convex and smooth: a handful suffices, more means something is wrong
MAX_HALVINGS = 30  # a step shorter than 1e-9 of Newton's is rounding, not descent
WORK_PER_ROW = 64  # values per row and removal that a step handles at once, about
ARMIJO = 1e-4  # share of the predicted decrease that a step must reach (Nocedal & Wright 2006)


@dataclass(frozen=True)
class Optimum:
    """Minimisers of several head problems."""

    flat: Tensor  # (problems, P)
    gradient_norm: Tensor  # (problems,)
    converged: Tensor  # (problems,) bool
    steps: int


def minimise_head(
    start: Tensor,
    features: Tensor,
    targets: Tensor,
    weights: Tensor,
    weight_decay: float,
    classes: int,
) -> Optimum:
    """Minimise sum_i w_i l_i + weight_decay/2 |theta|^2 over softmax heads, side by side.

    Damped Newton with step halving; strictly convex for weight_decay > 0. Shapes: start
    (problems, P), features (rows, F) shared by all problems, weights (problems, rows).
    """
    flat = start.clone()
    eye = torch.eye(flat.shape[-1], dtype=flat.dtype, device=flat.device)

    def objective(theta: Tensor) -> Tensor:
        data = weighted_mean(head.losses(theta, features, targets, classes), weights)
        return data + 0.5 * weight_decay * theta.square().sum(-1)

    def gradient(theta: Tensor) -> Tensor:
        data = head.mean_gradient(theta, features, targets, weights, classes)
        return data + weight_decay * theta

    for steps in range(MAX_STEPS + 1):
        slope = gradient(flat)
        norm = slope.norm(dim=-1)
        if steps == MAX_STEPS or bool((norm <= GRADIENT_TOLERANCE).all()):
            break
        matrix = head.hessian(flat, features, weights, classes) + weight_decay * eye
        direction = -torch.linalg.solve(matrix, slope)
        flat = _line_search(objective, flat, direction, slope)
    return Optimum(flat, norm, norm <= GRADIENT_TOLERANCE, steps)


def _line_search(
    objective: Callable[[Tensor], Tensor], flat: Tensor, direction: Tensor, slope: Tensor
) -> Tensor:
    """Halve each problem's step until its objective falls enough.

    Near the optimum the decrease drowns in rounding, where the full step is the right one:
    an increase within rounding of the objective is therefore accepted.
    """
    before = objective(flat)
    predicted = (slope * direction).sum(-1)
    slack = 4 * torch.finfo(flat.dtype).eps * before.abs()
    size = torch.ones_like(before)
    for _ in range(MAX_HALVINGS):
        after = objective(flat + size[:, None] * direction)
        short = ~(after <= before + ARMIJO * size * predicted + slack)
        if not bool(short.any()):
            break
        size = torch.where(short, size / 2, size)
    return flat + size[:, None] * direction


def refusal(networks: Sequence[Network], train: tuple[Tensor, Tensor]) -> str:
    """Say why the head problem without weight decay has no unique finite optimum."""
    inputs, targets = train
    with torch.no_grad():
        separated = sum(bool((n(inputs).argmax(1) == targets).all()) for n in networks)
    return (
        "without weight decay the head problem is not strictly convex, and on separable rows "
        f"it has no finite optimum ({separated} of {len(networks)} networks classify all "
        "training rows correctly)"
    )


def polish_head(network: Network, weight_decay: float, train: tuple[Tensor, Tensor]) -> Optimum:
    """Return the optimum of the head of a float64 network on all its training rows."""
    flat, features, classes = _head_problem(network, train[0])
    weights = uniform_weights(len(train[1]), flat.dtype, flat.device)[None]
    return minimise_head(flat[None], features, train[1], weights, weight_decay, classes)


def _head_problem(network: Network, inputs: Tensor) -> tuple[Tensor, Tensor, int]:
    with torch.no_grad():
        features = network.features(inputs)
    flat = Layout.of(network.head).flatten(dict(network.head.named_parameters())).detach()
    return flat, features, network.head.out_features


@dataclass(frozen=True)
class Solved:
    """The optima of one network's head: nothing removed, then each row in turn."""

    optimum: Optimum
    losses: Tensor  # (K + 1, tests)


def _solve(problem: RemovalProblem, network: Network, weights: Tensor) -> Solved:
    flat, features, classes = _head_problem(network, problem.train[0])
    optimum = minimise_head(
        flat.expand(len(weights), -1),
        features,
        problem.train[1],
        weights.to(flat),
        problem.objective.weight_decay,
        classes,
    )
    test_features = _head_problem(network, problem.test[0])[1]
    return Solved(optimum, head.losses(optimum.flat, test_features, problem.test[1], classes))


@TRUTHS.register("newton")
@dataclass(frozen=True)
class Newton:
    """Exact optimum of the head without the row, to gradient norm 1e-10 in float64.

    Needs weight decay: without it the problem is refused, with the reason, and the losses
    are nan. Moves the head alone.
    """

    has_trajectory: ClassVar[bool] = False

    def cost(self, problem: RemovalProblem) -> int:
        return len(problem.networks)

    def remove(self, problem: RemovalProblem, progress: Progress = silent) -> Truth:
        reason = self._refusal(problem)
        if reason is not None:
            return _nothing(problem, reason)
        rows = problem.removed.shape[1] * len(problem.train[1])
        solved = run_each(
            lambda pair: _solve(problem, *pair),
            list(zip(problem.networks, problem.row_weights, strict=True)),
            rows * WORK_PER_ROW,
            problem.train[0].device,
            progress,
        )
        loss_after, null_loss_after = split_null(torch.stack([s.losses for s in solved]))
        return Truth(
            loss_after,
            null_loss_after,
            torch.stack([s.optimum.converged[1:] for s in solved]),
            torch.stack([s.optimum.gradient_norm for s in solved]),
        )

    def _refusal(self, problem: RemovalProblem) -> str | None:
        if problem.params != "head":
            return f"newton moves the head alone, not --params {problem.params}"
        if problem.objective.weight_decay == 0:
            return refusal(problem.networks, problem.train)
        return None


def _nothing(problem: RemovalProblem, reason: str) -> Truth:
    networks, removals = problem.removed.shape
    tests = len(problem.test[1])
    undefined = torch.full((networks, tests, removals), torch.nan, dtype=torch.float64)
    return Truth(
        loss_after=undefined,
        null_loss_after=undefined[..., 0].clone(),
        converged=torch.zeros(networks, removals, dtype=torch.bool),
        gradient_norm=torch.full((networks, removals + 1), torch.nan, dtype=torch.float64),
        reasons=(reason,),
    )

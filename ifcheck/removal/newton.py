"""Truth by Newton: the exact optimum of the head without each row, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ifcheck.config import Normalisation
from ifcheck.curvature.factors import cholesky_solve
from ifcheck.curvature.head_loss import HeadLoss, head_loss
from ifcheck.engines import Progress, Recipe, run_each, silent
from ifcheck.models import Network, evaluate
from ifcheck.objective import Objective, uniform_weights, weighted_mean
from ifcheck.params import Layout
from ifcheck.removal.base import TRUTHS, RemovalProblem, Truth, split_null
from ifcheck.removal.trust_region import trust_region_step

# Of |grad|: float64 reaches about 1e-15 for softmax heads, 1e-14 for Bayesian ones of depth 8.
GRADIENT_TOLERANCE = 1e-10
MAX_STEPS = 100  # softmax heads take about 4, Bayesian ones of depth 8 from 4 to some 20
# Multiplications of all problems' Hessians from which one Hessian serves all: seconds of work.
SHARED_WORK = 1e11
SHARED_HESSIANS = 5  # for the first problem; two or three suffice where training came near
SHARED_GAIN = 0.5  # share of the gradient that a step may leave
WORK_PER_ROW = 64  # values per row and removal that a step handles at once, about


@dataclass(frozen=True)
class HeadProblem:
    """Several objectives of a head that differ in the weights of the rows."""

    loss: HeadLoss
    objective: Objective
    is_rho: Tensor  # (P,)
    features: Tensor  # (rows, ...) shared by all
    targets: Tensor  # (rows,)
    weights: Tensor  # (problems, rows)
    tilt: Tensor | None = None  # (P,) slope of a linear term that every objective is less by

    @classmethod
    def of(
        cls, network: Network, objective: Objective, train: tuple[Tensor, Tensor], weights: Tensor
    ) -> tuple[HeadProblem, Tensor]:
        """Return the problems of a float64 network's head, and where it stands, (P,)."""
        layout = Layout.of(network.head)
        flat = layout.flatten(dict(network.head.named_parameters())).detach()
        features = evaluate(network.features, train[0])
        loss, is_rho = head_loss(network, objective), layout.is_rho.to(flat.device)
        return cls(loss, objective, is_rho, features, train[1], weights.to(flat)), flat

    def part(self, which: Tensor) -> HeadProblem:
        """Return the problems that a mask (problems,) selects."""
        return replace(self, weights=self.weights[which])

    def value(self, flat: Tensor) -> Tensor:
        """Return the objectives at flat parameters (problems, P). Shape: (problems,)."""
        data = weighted_mean(self.loss.losses(flat, self.features, self.targets), self.weights)
        values = data + self.objective.regulariser(flat, self.is_rho)
        return values if self.tilt is None else values - flat @ self.tilt

    def gradient(self, flat: Tensor) -> Tensor:
        """Return the gradients. Shape: (problems, P)."""
        data = self.loss.mean_gradient(flat, self.features, self.targets, self.weights)
        gradients = data + self.objective.regulariser_gradient(flat, self.is_rho)
        return gradients if self.tilt is None else gradients - self.tilt

    def hessian(self, flat: Tensor) -> Tensor:
        """Return the Hessians. Shape: (problems, P, P)."""
        data = self.loss.hessian(flat, self.features, self.targets, self.weights)
        return data + torch.diag_embed(self.objective.regulariser_curvature(flat, self.is_rho))


@dataclass(frozen=True)
class Optimum:
    """Minimisers of several head problems."""

    flat: Tensor  # (problems, P)
    gradient_norm: Tensor  # (problems,)
    converged: Tensor  # (problems,) bool
    positive_definite: Tensor  # (problems,) bool, of the Hessian at what has converged: a minimum
    steps: int


def minimise_head(problem: HeadProblem, start: Tensor) -> Optimum:
    """Minimise the problems from `start` (problems, P), side by side, by a trust region.

    A problem that is not finite ends at nan.
    """
    flat, damping = start.clone(), torch.zeros_like(start[:, 0])
    for steps in range(MAX_STEPS + 1):
        slope = problem.gradient(flat)
        norm = slope.norm(dim=-1)
        going = (norm > GRADIENT_TOLERANCE) & norm.isfinite()
        if steps == MAX_STEPS or not bool(going.any()):
            break
        moving, at = problem.part(going), flat[going]
        flat[going], damping[going] = trust_region_step(
            moving, moving.hessian(at), at, slope[going], damping[going]
        )
    if problem.loss.convex:
        definite = torch.full_like(going, problem.objective.regularised)
    else:
        definite = torch.linalg.cholesky_ex(problem.hessian(flat)).info == 0
    converged = norm <= GRADIENT_TOLERANCE
    flat = torch.where(norm.isfinite()[:, None], flat, torch.nan)
    return Optimum(flat, norm, converged, converged & definite, steps)


def minimise_alike(problem: HeadProblem, start: Tensor) -> Optimum:
    """Minimise problems that differ little, from one start (P,): nothing removed, then each row.

    Where a Hessian for each would take long, the first problem's at its optimum serves all
    (a simplified Newton method, Deuflhard 2011, section 2.1.2); what it does not bring to its
    optimum gets Hessians of its own.
    """
    starts = start.expand(len(problem.weights), -1)
    if _is_light(problem):
        return minimise_head(problem, starts)
    nothing = problem.part(torch.arange(len(starts), device=start.device) == 0)
    centre, norm = starts[:1].clone(), torch.full_like(start[:1], torch.inf)
    for _ in range(SHARED_HESSIANS):
        factor, info = torch.linalg.cholesky_ex(nothing.hessian(centre))
        before = norm
        centre, norm = _simplified(nothing, centre, factor[0])
        if int(info[0]) > 0 or not bool(GRADIENT_TOLERANCE < norm < before):
            break
    return minimise_near(problem, minimise_head(nothing, centre).flat[0], factor[0])


def minimise_near(problem: HeadProblem, centre: Tensor, factor: Tensor) -> Optimum:
    """Minimise problems whose optima are near `centre` (P,).

    `factor` (P, P) is the Cholesky factor of a Hessian there, by which all go on as far as it
    takes them.
    """
    flat, _ = _simplified(problem, centre.repeat(len(problem.weights), 1), factor)
    return minimise_head(problem, flat) if _is_light(problem) else _one_by_one(problem, flat)


def _is_light(problem: HeadProblem) -> bool:
    """Return whether a Hessian for each of the problems takes little time and memory."""
    size = problem.is_rho.numel()
    return len(problem.weights) * len(problem.targets) * size**2 < SHARED_WORK


def _one_by_one(problem: HeadProblem, start: Tensor) -> Optimum:
    """Minimise problems one after the other, with one Hessian in memory."""
    places = torch.arange(len(start), device=start.device)
    each = [minimise_head(problem.part(places == i), start[i : i + 1]) for i in range(len(start))]
    return Optimum(
        flat=torch.cat([optimum.flat for optimum in each]),
        gradient_norm=torch.cat([optimum.gradient_norm for optimum in each]),
        converged=torch.cat([optimum.converged for optimum in each]),
        positive_definite=torch.cat([optimum.positive_definite for optimum in each]),
        steps=max(optimum.steps for optimum in each),
    )


def _simplified(problem: HeadProblem, flat: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Take Newton steps with one Hessian's Cholesky factor while each halves the gradient.

    One at least: a gradient may be short because the row that leaves weighs little.
    Returns where that leads the problems, (problems, P), and the gradients' norms there.
    """
    slope = problem.gradient(flat)
    norm, going = slope.norm(dim=-1), True
    while going:
        after = flat - cholesky_solve(factor, slope)
        slope = problem.gradient(after)
        length = slope.norm(dim=-1)
        shorter = length < SHARED_GAIN * norm
        flat = torch.where(shorter[:, None], after, flat)
        norm = torch.where(shorter, length, norm)
        slope = torch.where(shorter[:, None], slope, 0.0)  # the others stand still
        going = bool((shorter & (norm > GRADIENT_TOLERANCE)).any())
    return flat, norm


def refusal(networks: Sequence[Network], train: tuple[Tensor, Tensor]) -> str:
    """Say why a softmax head's problem without weight decay has no unique finite optimum."""
    inputs, targets = train
    separated = sum(bool((evaluate(n, inputs).argmax(1) == targets).all()) for n in networks)
    return (
        "without weight decay the head problem is not strictly convex, and on separable rows "
        f"it has no finite optimum ({separated} of {len(networks)} networks classify all "
        "training rows correctly)"
    )


def polish_head(
    network: Network,
    objective: Objective,
    train: tuple[Tensor, Tensor],
    weights: Tensor | None = None,
) -> Optimum:
    """Return the optimum of the head of a float64 network on its training rows.

    `weights` are the rows' shares in the mean, (rows,); without them all count alike.
    """
    if weights is None:
        weights = uniform_weights(len(train[1]), train[0].dtype, train[0].device)
    problem, flat = HeadProblem.of(network, objective, train, weights[None])
    return minimise_head(problem, flat[None])


@dataclass(frozen=True)
class Solved:
    """The optima of one network's head: nothing removed, then each row in turn."""

    optimum: Optimum
    losses: Tensor  # (K + 1, tests)


def _solve(problem: RemovalProblem, network: Network, weights: Tensor) -> Solved:
    heads, flat = HeadProblem.of(network, problem.objective, problem.train, weights)
    optimum = minimise_alike(heads, flat)
    features = evaluate(network.features, problem.test[0])
    return Solved(optimum, heads.loss.losses(optimum.flat, features, problem.test[1]))


@TRUTHS.register("newton")
@dataclass(frozen=True)
class Newton:
    """Exact optimum of the head without the row, to gradient norm 1e-10 in float64.

    Needs a regulariser: without it the problem is refused, with the reason, and the losses
    are nan. Moves the head alone. A Bayesian head's problem is not convex: what is found is the
    minimum next to the trained head, and `positive_definite` says whether it is one.
    """

    has_trajectory: ClassVar[bool] = False
    trains_again: ClassVar[bool] = False
    takes_float64: ClassVar[bool] = True
    settings: ClassVar[frozenset[str]] = frozenset({"params", "normalisation", "replicates"})
    normalisation: ClassVar[Normalisation | None] = None
    proximal: ClassVar[bool] = False
    place: ClassVar[int] = 2
    takes_back: ClassVar[str] = "distance of the trained network from its optimum"

    def why_deterministic(
        self, network: nn.Module, recipe: Recipe, params: str, rows: int
    ) -> str | None:
        return "the head's optimum is the same whatever the seed"

    def cost(self, problem: RemovalProblem) -> int:
        return len(problem.networks)

    def remove(self, problem: RemovalProblem, progress: Progress = silent) -> Truth:
        reason = self._refusal(problem)
        if reason is not None:
            return refused(problem, reason)
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
            positive_definite=torch.stack([s.optimum.positive_definite for s in solved]),
        )

    def _refusal(self, problem: RemovalProblem) -> str | None:
        if problem.params != "head":
            return f"newton moves the head alone, not --params {problem.params}"
        if not problem.objective.regularised:
            return refusal(problem.networks, problem.train)
        return None


def refused(problem: RemovalProblem, reason: str) -> Truth:
    """Return the truth in which every number is undefined, for the reason."""
    networks, removals = problem.removed.shape[:2]
    tests = len(problem.test[1])
    undefined = torch.full((networks, tests, removals), torch.nan, dtype=torch.float64)
    return Truth(
        loss_after=undefined,
        null_loss_after=undefined[..., 0].clone(),
        converged=torch.zeros(networks, removals, dtype=torch.bool),
        gradient_norm=torch.full((networks, removals + 1), torch.nan, dtype=torch.float64),
        reasons=(reason,),
    )

"""Truth by the proximal Bregman response: what removal does near the head as it was trained.

With h_j the outputs on row j, h-hat_j those of the trained weights theta-hat, p-hat_j their
softmax, D the Bregman divergence of the cross-entropy in the outputs, w the weight decay, S the
rows that leave, and n the number of all rows, each of which holds its outputs (Bae et al. 2022):

    argmin  1/n sum_j D(h_j, h-hat_j) + (damping + w)/2 |theta - theta-hat|^2 - 1/n sum_S l_i
    D(h, h-hat) = logsumexp(h) - logsumexp(h-hat) - p-hat^T (h - h-hat)

D differs from the loss by a term that is linear in the outputs, and a head's outputs are linear
in theta. So this is, up to a constant, the mean loss without the rows S, with damping + w for
weight decay, less a linear term. With R the same of all rows:

    R(theta) - 1/n sum_S l_i(theta) - <grad R(theta-hat), theta>

It is strictly convex, as what is left of the rows' losses is. Newton's first step from theta-hat
with the Hessian of R is the influence estimate of normalisation n.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ifcheck.config import Normalisation
from ifcheck.curvature.head_loss import head_loss
from ifcheck.engines import Progress, Recipe, run_each, silent
from ifcheck.models import Network, evaluate
from ifcheck.objective import Objective, uniform_weights, weights_without
from ifcheck.removal.base import TRUTHS, RemovalProblem, Truth
from ifcheck.removal.newton import WORK_PER_ROW, HeadProblem, Optimum, minimise_near, refused


@dataclass(frozen=True)
class Responses:
    """The problems of one network's head, one for each removal, and where none has moved."""

    removals: HeadProblem
    nothing: HeadProblem  # removed; its minimum is the centre
    centre: Tensor  # (P,) the trained head

    @classmethod
    def of(
        cls,
        network: Network,
        objective: Objective,
        damping: float,
        train: tuple[Tensor, Tensor],
        weights: Tensor,
    ) -> Responses:
        """Return the problems of a float64 network with a softmax head.

        `weights` (removals, rows) are what is left of each row's loss: 1/n, and 0 of a removed row.
        """
        proximal = replace(objective, weight_decay=objective.weight_decay + damping)
        untilted, centre = HeadProblem.of(network, proximal, train, weights)
        all_rows = uniform_weights(len(train[1]), centre.dtype, centre.device)[None]
        tilt = replace(untilted, weights=all_rows).gradient(centre[None])[0]
        removals = replace(untilted, tilt=tilt)
        return cls(removals, replace(removals, weights=all_rows), centre)

    def solve(self) -> Optimum:
        """Return the minima, from the influence estimate of each."""
        factor, _ = torch.linalg.cholesky_ex(self.nothing.hessian(self.centre[None]))
        return minimise_near(self.removals, self.centre, factor[0])

    def loss_changes(self, flat: Tensor, features: Tensor, targets: Tensor) -> Tensor:
        """Return by how much losses at flat (removals, P) exceed the centre's. (removals, rows)."""
        together = torch.cat([self.centre[None], flat])
        losses = self.removals.loss.losses(together, features, targets)
        return losses[1:] - losses[:1]


@TRUTHS.register("pbrf")
@dataclass(frozen=True)
class ProximalBregman:
    """Response of the head near its trained weights, optimum or not, to gradient norm 1e-10.

    What influence functions estimate where training has not converged: outputs stay near the
    trained ones, so that removing nothing changes nothing, by definition. In float64.
    Needs weight decay or `damping`, without which it is not strictly convex, and a softmax head:
    a Bayesian loss is not convex in the outputs and has no Bregman divergence. What is refused
    has the reason, and losses of nan.
    Reference: Bae et al. (2022), section 4.
    """

    damping: float = 0.0  # beside weight decay, in nats per squared parameter

    has_trajectory: ClassVar[bool] = False
    trains_again: ClassVar[bool] = False
    # The response subtracts the rows' share of a mean over all rows: there is no mean over the rest
    # whose minimum it is.
    normalisation: ClassVar[Normalisation | None] = "n"
    proximal: ClassVar[bool] = True
    place: ClassVar[int] = 1
    takes_back: ClassVar[str] = "linearisation and solver"

    def why_deterministic(self, network: nn.Module, recipe: Recipe, params: str) -> str | None:
        return "the response is the same whatever the seed"

    def cost(self, problem: RemovalProblem) -> int:
        return len(problem.networks)

    def remove(self, problem: RemovalProblem, progress: Progress = silent) -> Truth:
        reason = self._refusal(problem)
        if reason is not None:
            return refused(problem, reason)
        rows = len(problem.train[1])
        solved = run_each(
            lambda pair: self._solve(problem, *pair),
            list(zip(problem.networks, weights_without(rows, problem.removed, "n"), strict=True)),
            problem.removed.shape[1] * rows * WORK_PER_ROW,
            problem.train[0].device,
            progress,
        )
        losses = torch.stack([losses for _, losses, _ in solved])
        changes = torch.stack([changes for _, _, changes in solved])
        converged = torch.stack([optimum.converged for optimum, _, _ in solved])
        definite = torch.stack([optimum.positive_definite for optimum, _, _ in solved])
        norms = torch.stack([optimum.gradient_norm for optimum, _, _ in solved])
        return Truth(
            loss_after=(losses[:, None] + changes).transpose(1, 2),
            null_loss_after=losses,
            converged=converged,
            gradient_norm=torch.cat([torch.zeros_like(norms[:, :1]), norms], dim=1),
            positive_definite=torch.cat([torch.ones_like(definite[:, :1]), definite], dim=1),
        )

    def _solve(
        self, problem: RemovalProblem, network: Network, weights: Tensor
    ) -> tuple[Optimum, Tensor, Tensor]:
        """Return the minima, the test losses (T,) before, and their changes (K, T)."""
        objective, (inputs, targets) = problem.objective, problem.test
        responses = Responses.of(network, objective, self.damping, problem.train, weights)
        optimum = responses.solve()
        # As the network itself is evaluated, so that the null run's drift is 0 and not rounding.
        losses = objective.per_example_loss(evaluate(network, inputs), targets)
        features = evaluate(network.features, inputs)
        return optimum, losses, responses.loss_changes(optimum.flat, features, targets)

    def _refusal(self, problem: RemovalProblem) -> str | None:
        if problem.params != "head":
            return f"pbrf moves the head alone, not --params {problem.params}"
        if not head_loss(problem.networks[0], problem.objective).convex:
            return "a Bayesian loss is not convex in the outputs: it has no Bregman divergence"
        if problem.live is not None:
            return "pbrf responds near the averaged weights, not those of --swa-restart live"
        if problem.objective.weight_decay + self.damping == 0:
            return (
                "without weight decay and damping the response is not strictly convex "
                "(--set retrain.damping=0.01 adds damping)"
            )
        return None

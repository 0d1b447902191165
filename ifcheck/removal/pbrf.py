"""Truth by the proximal Bregman response: what removal does near the network as it was trained.

With h_j the outputs on row j, h-hat_j those of the trained weights theta-hat, p-hat_j their
softmax, D the Bregman divergence of the cross-entropy in the outputs, w the weight decay, S the
rows that leave, and n the number of all rows, each of which holds its outputs (Bae et al. 2022):

    argmin  1/n sum_j D(h_j, h-hat_j) + (damping + w)/2 |theta - theta-hat|^2 - 1/n sum_S l_i
    D(h, h-hat) = logsumexp(h) - logsumexp(h-hat) - p-hat^T (h - h-hat)

theta are the parameters that move, of the head or of the whole network. At theta-hat D has no
gradient, and its Hessian is the generalised Gauss-Newton matrix G of the data loss: the response
starts, in the share of the rows' losses that leaves, as the influence estimate with
G + damping + w (`--curvature ggn`, normalisation n).

Of a whole network it is not convex: see `network_response` for how a minimum is found, and which.

D differs from the loss by a term that is linear in the outputs, and a head's outputs are linear
in theta. So for a head it is, up to a constant, the mean loss without the rows S, with
damping + w for weight decay, less a linear term. With R the same of all rows:

    R(theta) - 1/n sum_S l_i(theta) - <grad R(theta-hat), theta>

It is strictly convex, as what is left of the rows' losses is. Newton's first step from theta-hat
with the Hessian of R, which is G + damping + w there, is the influence estimate of normalisation n.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ifcheck.config import Normalisation
from ifcheck.curvature.head_loss import head_loss
from ifcheck.engines import Progress, Recipe, run_each, silent
from ifcheck.models import Network, evaluate
from ifcheck.objective import Objective, uniform_weights, weights_without
from ifcheck.params import Layout
from ifcheck.removal.base import TRUTHS, RemovalProblem, Truth
from ifcheck.removal.network_response import NetworkProblem, losses_at, respond
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


@dataclass(frozen=True)
class Solved:
    """What is kept of one network's responses."""

    losses: Tensor  # (tests,) with nothing removed
    after: Tensor  # (K, tests)
    gradient_norm: Tensor  # (K,)
    converged: Tensor  # (K,) bool
    positive_definite: Tensor | None  # (K,) bool, where there are Hessians


@TRUTHS.register("pbrf")
@dataclass(frozen=True)
class ProximalBregman:
    """Response near the trained weights, optimum or not, of the head or of all parameters.

    What influence functions estimate where training has not converged: outputs stay near the
    trained ones, so that removing nothing changes nothing, by definition. In float64.

    The response of a head is found to gradient norm 1e-10. That of a whole network is the local
    minimum that the descent from the trained weights leads to, to 1e-10 or, by L-BFGS, to 1e-7.
    With SELU or ReLU it may lie on a kink, where no gradient vanishes: `converged` is false there
    and `gradient_norm` that of one side. Weak damping may leave no minimum at all: losses of nan.

    Needs weight decay or `damping`, without which nothing holds the weights, and a softmax head:
    a Bayesian loss is not convex in the outputs and has no Bregman divergence. What is refused
    has the reason, and losses of nan.
    Reference: Bae et al. (2022), section 4.
    """

    damping: float = 0.0  # beside weight decay, in nats per squared parameter

    has_trajectory: ClassVar[bool] = False
    trains_again: ClassVar[bool] = False
    takes_float64: ClassVar[bool] = True
    settings: ClassVar[frozenset[str]] = frozenset({"params", "damping", "replicates"})
    # The response subtracts the rows' share of a mean over all rows: there is no mean over the rest
    # whose minimum it is.
    normalisation: ClassVar[Normalisation | None] = "n"
    proximal: ClassVar[bool] = True
    place: ClassVar[int] = 1
    takes_back: ClassVar[str] = "linearisation and solver"

    def why_deterministic(
        self, network: nn.Module, recipe: Recipe, params: str, rows: int
    ) -> str | None:
        return "the response is the same whatever the seed"

    def cost(self, problem: RemovalProblem) -> int:
        networks, removals = problem.removed.shape[:2]
        return networks * removals

    def remove(self, problem: RemovalProblem, progress: Progress = silent) -> Truth:
        reason = self._refusal(problem)
        if reason is not None:
            return refused(problem, reason)
        rows, removals = len(problem.train[1]), problem.removed.shape[1]
        of_head = problem.params == "head"
        size, lock = Layout.of(problem.networks[0]).size, threading.Lock()

        def told(done: int) -> None:
            with lock:  # networks are solved side by side
                progress(done)

        solve = self._solve_head if of_head else self._solve_network
        solved = run_each(
            lambda pair: solve(problem, *pair, told),
            list(zip(problem.networks, weights_without(rows, problem.removed, "n"), strict=True)),
            removals * rows * WORK_PER_ROW if of_head else rows * size,
            problem.train[0].device,
        )
        losses = torch.stack([own.losses for own in solved])
        norms = torch.stack([own.gradient_norm for own in solved])
        definite = [s.positive_definite for s in solved if s.positive_definite is not None]
        every = torch.ones_like(norms[:, :1], dtype=torch.bool)
        return Truth(
            loss_after=torch.stack([own.after for own in solved]).transpose(1, 2),
            null_loss_after=losses,
            converged=torch.stack([own.converged for own in solved]),
            gradient_norm=torch.cat([torch.zeros_like(norms[:, :1]), norms], dim=1),
            positive_definite=torch.cat([every, torch.stack(definite)], 1) if definite else None,
        )

    def _solve_head(
        self, problem: RemovalProblem, network: Network, weights: Tensor, progress: Progress
    ) -> Solved:
        objective, (inputs, targets) = problem.objective, problem.test
        responses = Responses.of(network, objective, self.damping, problem.train, weights)
        optimum = responses.solve()
        losses = _losses(problem, network)
        features = evaluate(network.features, inputs)
        changes = responses.loss_changes(optimum.flat, features, targets)
        progress(len(weights))
        return Solved(
            losses,
            losses + changes,
            optimum.gradient_norm,
            optimum.converged,
            optimum.positive_definite,
        )

    def _solve_network(
        self, problem: RemovalProblem, network: Network, weights: Tensor, progress: Progress
    ) -> Solved:
        objective = problem.objective
        strength = objective.weight_decay + self.damping
        found = respond(NetworkProblem.of(network, strength, problem.train, weights), progress)
        return Solved(
            _losses(problem, network),
            losses_at(network, objective, found.flat, problem.test),
            found.gradient_norm,
            found.converged,
            found.positive_definite,
        )

    def _refusal(self, problem: RemovalProblem) -> str | None:
        if not head_loss(problem.networks[0], problem.objective).convex:
            return "a Bayesian loss is not convex in the outputs: it has no Bregman divergence"
        if problem.live is not None:
            return "pbrf responds near the averaged weights, not those of --swa-restart live"
        if problem.objective.weight_decay + self.damping == 0:
            return (
                "without weight decay and damping nothing holds the weights, and the response "
                "need not exist "
                "(--set retrain.damping=0.01 adds damping)"
            )
        return None


def _losses(problem: RemovalProblem, network: Network) -> Tensor:
    """Return the test losses (T,) of the trained network.

    As the network itself is evaluated, so that the null run's drift is 0 and not rounding.
    """
    inputs, targets = problem.test
    return problem.objective.per_example_loss(evaluate(network, inputs), targets)

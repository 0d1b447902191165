"""What a truth is: rows removed from trained networks in, test losses before and after out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from ifcheck.config import Normalisation
from ifcheck.engines import Progress, Recipe, silent
from ifcheck.models import Network
from ifcheck.objective import Objective, weights_without
from ifcheck.provenance import replicate_seed
from ifcheck.registry import Registry


@dataclass(frozen=True)
class Training:
    """How the networks came to be, for a truth that trains them again."""

    initial: Callable[[int], Network]  # by seed, before training and in the training's type
    polish: bool  # whether the head was moved to its optimum at the end


@dataclass(frozen=True)
class RemovalProblem:
    """Trained networks and the rows, or groups of rows, to take away from each, one at a time.

    The null run, in which nothing is removed, is always part of the problem: at a point that
    is not stationary, removing nothing already changes the loss.
    """

    networks: Sequence[Network]  # S trained networks, in the type that `warm` moves them in
    live: Tensor | None  # (S, params) live weights of an averaged training, to restart from
    objective: Objective
    recipe: Recipe  # of the retraining
    engine: str  # by name; "auto": the first one that can train what moves
    params: str  # "head" or "all": what retraining moves
    normalisation: Normalisation  # as `objective.normalisation` gives it
    removed: Tensor  # (S, K, G) positions of the training rows that leave together
    train: tuple[Tensor, Tensor]  # inputs (N, ...), targets (N,)
    test: tuple[Tensor, Tensor]  # inputs (T, ...), targets (T,)
    seeds: tuple[int, ...] = ()  # of each network; they name its start and the order of batches
    training: Training | None = None  # where a truth asks for it

    @property
    def row_weights(self) -> Tensor:
        """Return the row weights of the null run and of each removal. Shape: (S, K + 1, N)."""
        nothing = torch.full_like(self.removed[:, :1], -1)
        positions = torch.cat([nothing, self.removed], dim=1)
        return weights_without(len(self.train[1]), positions, self.normalisation)

    def replicate(self, number: int) -> RemovalProblem:
        """Return the same problem under the seeds of a replicate; number 0 is this one."""
        return replace(self, seeds=tuple(replicate_seed(seed, number) for seed in self.seeds))

    def part(self, first: int, last: int) -> RemovalProblem:
        """Return the same problem for the networks first..last-1."""
        networks = slice(first, last)
        return replace(
            self,
            networks=self.networks[networks],
            live=None if self.live is None else self.live[networks],
            removed=self.removed[networks],
            seeds=self.seeds[networks],
        )


@dataclass(frozen=True)
class Truth:
    """Test losses after removal, in nats, each with the certificate of its optimum.

    Of R replicates together the first four have a last axis R; what is recorded beside them is
    that of replicate 0.
    """

    loss_after: Tensor  # (S, T, K)
    null_loss_after: Tensor  # (S, T)
    converged: Tensor  # (S, K) bool
    gradient_norm: Tensor  # (S, K + 1) of the retraining objective at the end; null run first
    reasons: tuple[str, ...] = field(default=())  # why a removal was refused, if any was
    positive_definite: Tensor | None = None  # (S, K + 1) bool, of the Hessian where that is known
    engine: str = "torch"  # that did the work
    dtype: str = "float64"  # of the parameters that moved
    trajectory_epochs: Tensor | None = None  # (E,)
    trajectory: Tensor | None = None  # (S, T, K, E)

    @classmethod
    def joined(cls, parts: Sequence[Truth]) -> Truth:
        """Return the truth about all networks from those about some of them, in order."""
        joined: dict[str, Any] = {
            item.name: torch.cat([getattr(part, item.name) for part in parts])
            for item in fields(cls)
            if isinstance(getattr(parts[0], item.name), Tensor) and item.name != "trajectory_epochs"
        }
        return replace(parts[0], **joined)

    @classmethod
    def replicated(cls, truths: Sequence[Truth]) -> Truth:
        """Return the truth of several replicates, in order; of one alone as it is."""
        if len(truths) == 1:
            return truths[0]
        names = ("loss_after", "null_loss_after", "converged", "gradient_norm")
        together: dict[str, Any] = {
            name: torch.stack([getattr(truth, name) for truth in truths], dim=-1) for name in names
        }
        return replace(truths[0], **together)


class TruthMethod(Protocol):
    """An entry of `TRUTHS`: a frozen dataclass whose fields are the way's options."""

    has_trajectory: ClassVar[bool]  # whether losses can be recorded along the way
    trains_again: ClassVar[bool]  # from initialisation, by the recipe of the training
    takes_float64: ClassVar[bool]  # networks and rows, whatever type the training had
    # Of the configuration's `retrain`, besides which rows leave; one that is not there has no
    # effect. What is there may be refused with a reason of its own.
    settings: ClassVar[frozenset[str]]
    normalisation: ClassVar[Normalisation | None]  # that it is defined with; None: what is asked
    proximal: ClassVar[bool]  # about the network as it was trained, near an optimum or not
    # Its place in the chain from a prediction to the training itself, each of whose members takes
    # back one more simplification, and what that one is called.
    place: ClassVar[int]
    takes_back: ClassVar[str]

    def why_deterministic(
        self, network: nn.Module, recipe: Recipe, params: str, rows: int
    ) -> str | None:
        """Say why retraining `params` of such a network depends on no seed; None where it does.

        `rows` is the number of training rows.
        """

    def cost(self, problem: RemovalProblem) -> int:
        """Return the number of progress units that `remove` will report."""

    def remove(self, problem: RemovalProblem, progress: Progress = silent) -> Truth:
        """Remove each row of the problem from each network."""


TRUTHS: Registry[TruthMethod] = Registry("truth")


def split_null(values: Tensor) -> tuple[Tensor, Tensor]:
    """Split (S, K + 1, T) into the removals' (S, T, K) and the null run's (S, T)."""
    return values[:, 1:].transpose(1, 2), values[:, 0]

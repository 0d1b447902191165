"""The proximal Bregman responses of whole networks: their objectives, and how they are minimised.

See `removal.pbrf` for the objective. It is not convex in the weights below the head, and where
activations have kinks (SELU and ReLU have) it has kinks as well, on which a minimum may lie.

Nor is it bounded below: what is left of the row that leaves is linear in its outputs, which grow
with a higher power of the weights than the proximity does. The response is the local minimum next
to the trained weights; where the descent from there finds none it is undefined, and nan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize
from torch import Tensor
from torch.func import functional_call, vmap

from ifcheck.engines import Progress
from ifcheck.models import Network, evaluate, rows_at_once
from ifcheck.objective import Objective
from ifcheck.params import Layout
from ifcheck.removal.newton import GRADIENT_TOLERANCE
from ifcheck.removal.trust_region import trust_region_step

# Rows times squared parameters of a Hessian that each step may have: a tenth of a second of work
# for each removal. What is larger is minimised by gradients alone.
DENSE_WORK = 5e7
TOGETHER = 1 << 22  # removals times rows times parameters that are differentiated twice at once
COLUMNS_AT_ONCE = 8  # of all Hessians: their intermediate values stay in the cache
MAX_STEPS = 15  # of Newton; it takes 4 to 10 where the minimum is smooth, and none where not

# By gradients alone: differences of the objective that are rounding (about 1e-16) end the line
# search at gradients of sqrt(2e-16 * damping), 1e-9 for 0.01; measured 1e-10 to 1e-8 on Iris.
LIMITED_TOLERANCE = 1e-7  # of |grad|
PAIRS = 30  # of steps and gradients that stand for the curvature; scipy's 10 take longer
MAX_ITERATIONS = 2_000  # Iris takes 30 to 350 with a damping of 0.01
# How far each weight may move: a descent that has come there has no minimum next to it. Iris of
# depth 8 moves its weights by at most 0.08.
RADIUS = 10.0
EDGE = 1e-6  # share of the radius within which a weight counts as being there


@dataclass(frozen=True)
class NetworkProblem:
    """Several objectives of one float64 network that differ in what is left of rows' losses."""

    network: Network
    strength: float  # damping and weight decay together
    centre: Tensor  # (P,) the trained weights
    inputs: Tensor  # (rows, ...)
    targets: Tensor  # (rows,)
    pull: Tensor  # (rows, classes) 1/n of the trained softmax
    weights: Tensor  # (problems, rows) what is left of each row's loss, 1/n of all of it

    @classmethod
    def of(
        cls, network: Network, strength: float, train: tuple[Tensor, Tensor], weights: Tensor
    ) -> NetworkProblem:
        """Return the problems of a float64 network with softmax outputs."""
        inputs, targets = train
        centre = Layout.of(network).flatten(dict(network.named_parameters())).detach()
        pull = evaluate(network, inputs).softmax(-1) / len(targets)
        return cls(network, strength, centre, inputs, targets, pull, weights.to(centre))

    def part(self, which: Tensor) -> NetworkProblem:
        """Return the problems that a mask or positions (problems,) select."""
        return replace(self, weights=self.weights[which])

    def value(self, flat: Tensor) -> Tensor:
        """Return the objectives, up to a constant, at flat parameters (problems, P)."""
        with torch.no_grad():
            data = [self._data(flat, rows) for rows in self._blocks()]
            return torch.stack(data).sum(0) + self._proximity(flat)

    def gradient(self, flat: Tensor) -> Tensor:
        """Return the gradients. Shape: (problems, P)."""
        return self.value_and_gradient(flat)[1]

    def value_and_gradient(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Return the objectives and their gradients, block by block of rows."""
        value, slope = self._proximity(flat), self.strength * (flat - self.centre)
        for rows in self._blocks():
            leaf = flat.detach().clone().requires_grad_()
            with torch.enable_grad():
                data = self._data(leaf, rows)
            slope += torch.autograd.grad(data.sum(), leaf)[0]
            value += data.detach()
        return value, slope

    def hessian(self, flat: Tensor) -> Tensor:
        """Return the Hessians. Shape: (problems, P, P)."""
        size = len(self.centre)
        matrix = torch.zeros(size, *flat.shape).to(flat)  # column by column
        matrix.diagonal(dim1=0, dim2=2).add_(self.strength)
        identity = torch.eye(size).to(flat)[:, None].expand(size, *flat.shape)
        for rows in self._blocks():
            leaf = flat.detach().clone().requires_grad_()
            with torch.enable_grad():
                data = self._data(leaf, rows).sum()
                (slope,) = torch.autograd.grad(data, leaf, create_graph=True)
            for start in range(0, size, COLUMNS_AT_ONCE):
                columns = slice(start, start + COLUMNS_AT_ONCE)
                matrix[columns] += torch.autograd.grad(
                    slope,
                    leaf,
                    identity[columns],
                    retain_graph=True,
                    is_grads_batched=True,
                    materialize_grads=True,
                )[0]
        matrix = matrix.transpose(0, 1)
        return (matrix + matrix.mT) / 2

    def _data(self, flat: Tensor, rows: slice) -> Tensor:
        """Return sum_j a_j logsumexp(h_j) - p-hat_j^T h_j / n + (1/n - a_j) h_jy of some rows.

        With a_j what is left of the row's loss: the Bregman divergences less the losses that
        leave, up to a constant. Shape: (problems,).
        """
        inputs, layout = self.inputs[rows], Layout.of(self.network)

        def outputs_of(own: Tensor) -> Tensor:
            values: Tensor = functional_call(self.network, layout.unflatten(own), (inputs,))
            return values

        outputs: Tensor = vmap(outputs_of)(flat)
        left = self.weights[:, rows]
        places = self.targets[rows, None].expand(len(flat), -1, 1)
        of_targets = outputs.gather(-1, places).squeeze(-1)
        pulled = (self.pull[rows] * outputs).sum(-1)
        gone = 1 / len(self.targets) - left
        return (left * outputs.logsumexp(-1) - pulled + gone * of_targets).sum(-1)

    def _proximity(self, flat: Tensor) -> Tensor:
        return 0.5 * self.strength * (flat - self.centre).square().sum(-1)

    def _blocks(self) -> Iterator[slice]:
        step = rows_at_once(self.network, self.inputs)
        return (slice(start, start + step) for start in range(0, len(self.inputs), step))


@dataclass(frozen=True)
class Responses:
    """Where several objectives of one network ended, from its trained weights."""

    flat: Tensor  # (problems, P)
    gradient_norm: Tensor  # (problems,)
    converged: Tensor  # (problems,) bool
    positive_definite: Tensor | None  # (problems,) bool, of a Hessian; None without any

    def put(self, place: Tensor, other: Responses) -> None:
        """Let what one objective (problems = 1) ended at stand in its place, with no Hessian."""
        self.flat[place] = other.flat[0]
        self.gradient_norm[place] = other.gradient_norm[0]
        self.converged[place] = other.converged[0]

    @classmethod
    def joined(cls, parts: list[Responses]) -> Responses:
        """Return those of all problems from those of some of them, in order."""
        definite = [part.positive_definite for part in parts if part.positive_definite is not None]
        return cls(
            torch.cat([part.flat for part in parts]),
            torch.cat([part.gradient_norm for part in parts]),
            torch.cat([part.converged for part in parts]),
            torch.cat(definite) if definite else None,
        )


def losses_at(
    network: Network, objective: Objective, flat: Tensor, rows: tuple[Tensor, Tensor]
) -> Tensor:
    """Return the losses of rows (inputs, targets) at flat (problems, P). (problems, rows)."""
    layout, (inputs, targets) = Layout.of(network), rows

    def losses(own: Tensor) -> Tensor:
        tensors = layout.unflatten(own)
        outputs = evaluate(lambda block: functional_call(network, tensors, (block,)), inputs)
        return objective.per_example_loss(outputs, targets)

    return torch.stack([losses(own) for own in flat])


def respond(problem: NetworkProblem, progress: Progress) -> Responses:
    """Minimise the objectives from the trained weights; `progress` counts them.

    By Newton's steps where Hessians are small, which end at a gradient of 1e-10 where the minimum
    is smooth. L-BFGS, which needs no Hessian, does the rest: on kinks it goes down further (Lewis
    & Overton 2013), though no gradient vanishes there. Both find the local minimum that the
    descent leads to.
    """
    rows, size = len(problem.targets), len(problem.centre)
    places = torch.arange(len(problem.weights), device=problem.weights.device)
    if rows * size**2 > DENSE_WORK:
        return Responses.joined([_by_gradients(problem.part(p), progress) for p in places.split(1)])
    parts = []
    for chunk in places.split(max(1, TOGETHER // (rows * size))):
        part = problem.part(chunk)
        found = _by_hessians(part)
        progress(int(found.converged.sum()))
        for place in (~found.converged).nonzero().flatten():
            one = part.part(place[None])
            other = _by_gradients(one, progress)
            first = found.flat[place][None]
            if not bool(one.value(first) < one.value(other.flat)) or not _is_near(one, first):
                found.put(place, other)
        parts.append(found)
    return Responses.joined(parts)


def _by_hessians(problem: NetworkProblem) -> Responses:
    """Take Newton's steps side by side, each one at least: a row may weigh little and move much.

    A Hessian is made again where the weights have moved, so that a step undone costs little.
    """
    flat = problem.centre.repeat(len(problem.weights), 1)
    slope, matrix = problem.gradient(flat), problem.hessian(flat)
    damping, norm = torch.zeros_like(flat[:, 0]), slope.norm(dim=-1)
    going = norm.isfinite()
    for _ in range(MAX_STEPS):
        places = going.nonzero().flatten()
        if not len(places):
            break
        after, damping[places] = trust_region_step(
            problem.part(places), matrix[places], flat[places], slope[places], damping[places]
        )
        again = places[(after != flat[places]).any(dim=-1)]
        flat[places] = after
        if len(again):
            slope[again] = problem.part(again).gradient(flat[again])
            matrix[again] = problem.part(again).hessian(flat[again])
        norm = slope.norm(dim=-1)
        going &= (norm > GRADIENT_TOLERANCE) & norm.isfinite()
    converged = (norm <= GRADIENT_TOLERANCE) & _is_near(problem, flat)
    definite = torch.linalg.cholesky_ex(matrix).info == 0
    return Responses(flat, norm, converged, converged & definite)


def _by_gradients(problem: NetworkProblem, progress: Progress) -> Responses:
    """Minimise one objective by L-BFGS (Liu & Nocedal 1989).

    Ends at nan if it is not finite, or if there is no minimum within the radius.
    """
    centre = problem.centre

    def value_and_gradient(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        value, slope = problem.value_and_gradient(torch.from_numpy(point).to(centre)[None])
        return value.item(), slope[0].cpu().numpy()

    found = optimize.minimize(
        value_and_gradient,
        centre.cpu().numpy(),
        jac=True,
        method="L-BFGS-B",
        bounds=[(low, low + 2 * RADIUS) for low in (centre - RADIUS).tolist()],
        options={
            "maxcor": PAIRS,
            "maxiter": MAX_ITERATIONS,
            "maxfun": 2 * MAX_ITERATIONS,
            "ftol": 0.0,
            "gtol": LIMITED_TOLERANCE / len(centre) ** 0.5,  # of the largest component
        },
    )
    flat = torch.from_numpy(found.x).to(centre)[None]
    norm = problem.gradient(flat).norm(dim=-1)
    progress(1)
    defined = norm.isfinite() & _is_near(problem, flat)
    flat = torch.where(defined[:, None], flat, torch.nan)
    return Responses(flat, norm, defined & (norm <= LIMITED_TOLERANCE), None)


def _is_near(problem: NetworkProblem, flat: Tensor) -> Tensor:
    """Return whether weights (problems, P) are within the radius. Shape: (problems,)."""
    return (flat - problem.centre).abs().amax(dim=-1) < (1 - EDGE) * RADIUS

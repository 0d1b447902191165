"""First-order scores along a path of dampings, from what one of them takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ifcheck.curvature.local import LocalModel
from ifcheck.scores.base import Scores, prepare, regularised
from ifcheck.scores.estimators import Estimator
from ifcheck.scores.first_order import first_order
from ifcheck.solvers import Solution


@dataclass(frozen=True)
class DampingPath:
    """Scores of one network at each damping, each with the certificate of its solve."""

    values: Tensor  # (dampings, tests, rows) predicted change of the test loss, in nats
    solutions: Sequence[Solution]  # of each damping


def damping_path(model: LocalModel, estimator: Estimator) -> tuple[Scores, DampingPath]:
    """Return first-order scores at the estimator's damping, and at each of its path.

    A damping at which the solver fails has scores of nan, or its residual, and the reason.
    Raises: Diverged where something is not finite; RunFailed where memory is short; UnusableInput
    where the solver needs a matrix that is too large.
    """
    prepared = prepare(regularised(model.hessian, model, estimator), estimator)
    tests = model.test_gradients
    solutions = prepared.along(tests, (estimator.damping, *(estimator.damping_path or ())))
    solved = torch.cat([solution.x for solution in solutions])
    values = first_order(model, estimator, solved).unflatten(0, (len(solutions), len(tests)))
    scores = Scores(values[0], solutions[0], prepared)
    return scores, DampingPath(values[1:], solutions[1:])

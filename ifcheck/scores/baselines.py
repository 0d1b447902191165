"""Scores without curvature, that cost little: an estimate that does not beat them says little."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ifcheck.curvature.local import LocalModel
from ifcheck.objective import Objective
from ifcheck.params import Layout
from ifcheck.scores.base import STEPS, GroupScores, Scores
from ifcheck.scores.estimators import Estimator
from ifcheck.solvers import Solution


class Baseline:
    """What baselines share: nothing is solved, and a group's score is the sum of its rows'."""

    has_path: ClassVar[bool] = False
    is_baseline: ClassVar[bool] = True
    uses: ClassVar[frozenset[str] | None] = frozenset({"params"})

    def check(self, estimator: Estimator, layout: Layout, objective: Objective) -> None:
        """Everything has baselines."""

    def values(self, model: LocalModel) -> Tensor:
        """Return the score of each row for each test point. Shape: (tests, rows)."""
        raise NotImplementedError

    def scores(self, model: LocalModel, estimator: Estimator) -> Scores:
        """Larger where the row's removal is expected to hurt more; the unit is the baseline's."""
        tests = model.test_gradients
        nothing = torch.zeros_like(tests[:, 0])
        steps = torch.zeros_like(nothing, dtype=torch.int64)
        solution = Solution(torch.zeros_like(tests), nothing, steps, steps == 0)
        return Scores(self.values(model), solution, prepared=None)

    def group_scores(
        self, model: LocalModel, estimator: Estimator, scores: Scores, groups: Tensor
    ) -> GroupScores:
        """Sum the scores of the rows of each group."""
        nothing = torch.zeros(len(groups)).to(scores.values)
        return GroupScores(scores.values[:, groups].sum(-1), nothing, nothing == 0)


@STEPS.register("gradient-dot")
@dataclass(frozen=True)
class GradientDot(Baseline):
    """g_t^T g_i: influence with the identity for the Hessian (Charpiat et al. 2019)."""

    def values(self, model: LocalModel) -> Tensor:
        return model.train_products(model.test_gradients)


@STEPS.register("gradient-cosine")
@dataclass(frozen=True)
class GradientCosine(Baseline):
    """The cosine of g_t and g_i (Charpiat et al. 2019); 0 for a row without a gradient."""

    def values(self, model: LocalModel) -> Tensor:
        products = model.train_products(model.test_gradients)
        sizes = model.test_gradients.norm(dim=-1)[:, None] * model.train_norms()
        return torch.where(sizes > 0, products / torch.where(sizes > 0, sizes, 1.0), 0.0)


@STEPS.register("train-loss")
@dataclass(frozen=True)
class TrainLoss(Baseline):
    """The row's own loss, in nats, whatever the test point."""

    uses: ClassVar[frozenset[str] | None] = frozenset()

    def values(self, model: LocalModel) -> Tensor:
        return model.train_losses().expand(len(model.test_gradients), -1)


@STEPS.register("same-class")
@dataclass(frozen=True)
class SameClass(Baseline):
    """1 for rows of the test point's class, 0 for others."""

    uses: ClassVar[frozenset[str] | None] = frozenset()

    def values(self, model: LocalModel) -> Tensor:
        same = model.test_targets[:, None] == model.train_targets
        return same.to(model.test_gradients)


@STEPS.register("random")
@dataclass(frozen=True)
class Random(Baseline):
    """Standard normal numbers, drawn anew for each network and test point: they know nothing.

    By the seeds that the model has for its test points, so that no number depends on company.
    """

    uses: ClassVar[frozenset[str] | None] = frozenset()

    def values(self, model: LocalModel) -> Tensor:
        drawn = [
            np.random.default_rng(seed).standard_normal(model.rows) for seed in model.draw_seeds
        ]
        return torch.from_numpy(np.stack(drawn)).to(model.test_gradients)

"""Influence scores: the predicted change of a test loss when a training row is removed."""

from ifcheck.curvature.local import LocalModel
from ifcheck.scores import baselines as _baselines  # noqa: F401
from ifcheck.scores import first_order as _first_order  # noqa: F401 (registers itself)
from ifcheck.scores import newton_step as _newton_step  # noqa: F401
from ifcheck.scores import second_order as _second_order  # noqa: F401
from ifcheck.scores.base import STEPS, GroupScores, Scores, Step, null_scores
from ifcheck.scores.estimators import ESTIMATORS, Estimator, resolve_estimator
from ifcheck.scores.path import DampingPath, damping_path

__all__ = [
    "ESTIMATORS",
    "STEPS",
    "DampingPath",
    "Estimator",
    "GroupScores",
    "Scores",
    "Step",
    "damping_path",
    "influence_scores",
    "null_scores",
    "resolve_estimator",
]


def influence_scores(model: LocalModel, estimator: Estimator) -> Scores:
    """Predict the change of each test loss if one training row is removed.

    Positive means that removal hurts. Unit: nats. Shape of the values: (tests, rows).
    Raises: Diverged; UnusableInput where the solver needs a matrix that is too large, or the step
    is not known for these parameters.
    """
    return STEPS.create(estimator.step).scores(model, estimator)

"""The truth: what removing a training row does; importing this package registers the ways."""

from ifcheck.removal import newton as _newton  # noqa: F401 (registers itself)
from ifcheck.removal import pbrf as _pbrf  # noqa: F401 (registers itself)
from ifcheck.removal import scratch as _scratch  # noqa: F401 (registers itself)
from ifcheck.removal import warm as _warm  # noqa: F401 (registers itself)
from ifcheck.removal.base import TRUTHS, RemovalProblem, Training, Truth, TruthMethod

__all__ = ["TRUTHS", "RemovalProblem", "Training", "Truth", "TruthMethod"]

"""What a retraining says about each removal: the changes of the test loss, over replicates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ifcheck.artifacts import Artifact
from ifcheck.removal import TRUTHS

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Changes:
    """Changes of the test losses of S networks at T points by K removals, in nats.

    Each is the mean over R replicates.
    """

    true: Floats  # (S, T, K) since before the removal
    drift_corrected: Floats  # (S, T, K) beside the null run
    null_drift: Floats  # (S, T) what removing nothing changes
    each: Floats  # (S, T, K, R) drift-corrected, replicate by replicate

    @property
    def replicates(self) -> int:
        """How many replicates there are, R."""
        return int(self.each.shape[-1])


def changes_of(retrain: Artifact) -> Changes:
    """Return the changes that a file of `retrain` holds.

    A replicate that trained another network from initialisation (`scratch`) has no loss before
    the removal but its null run's: of several replicates `true` is `drift_corrected` there, and
    the null drift that of replicate 0, which repeats the base network.
    """
    before, after = retrain["loss_before"], retrain["loss_after"]
    null = retrain["null_loss_after"]
    if after.ndim == 3:
        corrected = after - null[..., None]
        return Changes(after - before[..., None], corrected, null - before, corrected[..., None])
    each = after - null[:, :, None]
    corrected = each.mean(axis=-1)
    if TRUTHS.create(retrain.meta["config"]["retrain"]["truth"]).trains_again:
        return Changes(corrected, corrected, null[..., 0] - before, each)
    true = (after - before[..., None, None]).mean(axis=-1)
    return Changes(true, corrected, null.mean(axis=-1) - before, each)

"""The order in which rows come in batches: named by the seed, the same for every removal."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ifcheck import provenance


def batches_of(seed: int, epoch: int, rows: int, batch_size: int) -> list[Tensor]:
    """Return the positions of each batch of an epoch; the last may be smaller.

    They depend on the seed and the epoch alone: a network that is trained again without a row
    sees the others in the order in which it saw them first.
    """
    generator = np.random.default_rng(provenance.named_seed(seed, "shuffle", epoch))
    return list(torch.from_numpy(generator.permutation(rows)).split(batch_size))

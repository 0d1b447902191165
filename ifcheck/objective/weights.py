"""The one weighted mean of losses, and the weights that it is taken with."""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """Return sum_i w_i l_i over the last axis: every mean of losses in ifcheck is this one.

    Rows of weight zero are left out even where their loss is not finite.
    """
    return torch.where(weights == 0, 0.0, weights * losses).sum(-1)


def uniform_weights(rows: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """Return the shares 1/n of the mean over all rows. Shape: (rows,)."""
    return torch.full((rows,), 1.0 / rows, dtype=dtype, device=device)


def weights_without(
    rows: int, removed: Tensor, normalisation: str, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Return the row weights of each removal.

    `removed` holds row positions, shape (..., k); negative positions remove nothing. With
    normalisation "n-1" the mean is over the rest, 1/(n-k); with "n" the denominator stays n.
    Shape: (..., rows). Raises: IndexError for a position that no row has.
    """
    if bool((removed >= rows).any()):
        raise IndexError(f"position {int(removed.max())} is beyond the {rows} rows")
    kept = torch.ones(*removed.shape[:-1], rows + 1, dtype=torch.float64, device=removed.device)
    kept.scatter_(-1, torch.where(removed < 0, rows, removed), 0.0)
    kept = kept[..., :rows]
    total = kept.sum(-1, keepdim=True) if normalisation == "n-1" else float(rows)
    return (kept / total).to(dtype)

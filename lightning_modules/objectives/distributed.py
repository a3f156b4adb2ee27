"""Rows of all ranks as columns of a loss, with gradients that equal one process's.

Every rank computes the loss of its own rows against the columns of all. Its columns on other ranks
get gradients there; the backward pass sums them up. DDP then averages over the ranks, which is
what the mean over all rows asks for. A gather without gradient would lose about half of it.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _GatherRows(torch.autograd.Function):
    """All-gather whose backward pass sums the gradients over the ranks."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        gathered = rows.new_empty(dist.get_world_size() * len(rows), *rows.shape[1:])
        dist.all_gather_into_tensor(gathered, rows.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Summed whole and cut, since gloo has no reduce-scatter; embeddings are small.
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all ranks, rank 0's first; gradients flow back to where the rows came from.

    Args:
        rows: This rank's rows, (B, ...); B must be the same on all ranks.

    Returns:
        Shape (world size * B, ...); the rows themselves in a single process.
    """
    if not is_distributed():
        return rows
    gathered: Tensor = _GatherRows.apply(rows)
    return gathered


def first_row(n_rows: int) -> int:
    """Where this rank's rows begin among the gathered ones."""
    return dist.get_rank() * n_rows if is_distributed() else 0


def mean_over_ranks(value: Tensor) -> Tensor:
    """Mean of a value over the ranks, without gradient: the denominator of a mean over all rows.

    Dividing a rank's sum by it makes DDP's average over ranks the mean of one process, however
    unevenly labels or pairs are spread over the ranks.

    Args:
        value: The same shape on all ranks.
    """
    value = value.detach().clone()
    if is_distributed():
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value

"""The global batch on every rank, with the true gradient.

Each rank's loss is W x (sum over its own rows) / (global count of valid rows), and gradients are averaged over ranks (as
DDP does); then the result equals that of one process holding the joint batch. Falls through on a single process.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of training processes, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's rank, 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


class _AllGather(torch.autograd.Function):
    """Forward: rows of all ranks, in rank order. Backward: sum of all ranks' gradients, own rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.start, ctx.count = rank() * len(rows), len(rows)
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad[ctx.start : ctx.start + ctx.count]


def gather(rows: Tensor) -> Tensor:
    """Rows of all ranks in rank order; every rank holds the same number.

    Args:
        rows: (n, ...), any dtype; gradients flow back to every rank's own rows.

    Returns:
        (W * n, ...).
    """
    return rows if world_size() == 1 else _AllGather.apply(rows)


def global_sum(value: Tensor) -> Tensor:
    """Sum over ranks of a tensor without gradient."""
    if world_size() == 1:
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def global_mean(local_sum: Tensor, local_count: Tensor) -> Tensor:
    """W x local_sum / global count: averaged over ranks it is the global mean. A count of 0 gives 0, never NaN."""
    return local_sum * world_size() / global_sum(local_count).clamp_min(1)

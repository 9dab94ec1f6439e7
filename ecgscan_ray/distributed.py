"""Rank, world size, gather with gradient, and sums over ranks.

Each rank's loss is W x (sum over its own rows) / (global count of valid rows), and gradients are averaged over ranks (as
DDP does); then the result equals that of one process holding the joint batch. On a single process nothing is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

_timed: Callable[[], AbstractContextManager[None]] = nullcontext


def time_exchanges(timed: Callable[[], AbstractContextManager[None]]) -> None:
    """Have each exchange between ranks of this process take place within ``timed()``."""
    global _timed
    _timed = timed


def _all_reduce(tensor: Tensor, operation: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> None:
    with _timed():
        dist.all_reduce(tensor, operation)


def _all_gather(parts: list[Tensor], tensor: Tensor) -> None:
    with _timed():
        dist.all_gather(parts, tensor)


def world_size() -> int:
    """Number of training processes, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's rank, 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def row_counts(local_rows: int, device: torch.device, *, equal_rows: bool) -> list[int]:
    """How many rows each rank holds.

    Args:
        local_rows: Rows of this rank.
        device: Where collectives take place.
        equal_rows: All ranks are known to hold the same number: then nothing is sent and the device is not synchronised.
    """
    if equal_rows or world_size() == 1:
        return [local_rows] * world_size()
    counts = [torch.empty(1, dtype=torch.int64, device=device) for _ in range(world_size())]
    _all_gather(counts, torch.tensor([local_rows], device=device))
    return torch.cat(counts).tolist()


class _AllGather(torch.autograd.Function):
    """Forward: rows of all ranks, in rank order. Backward: this rank's rows of the summed gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.start, ctx.count = sum(counts[: rank()]), len(rows)
        padded = F.pad(rows, (0, 0) * (rows.ndim - 1) + (0, max(counts) - len(rows))).contiguous()
        parts = [torch.empty_like(padded) for _ in counts]
        _all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.clone(memory_format=torch.contiguous_format)  # the engine may use ``grad`` elsewhere
        _all_reduce(total)
        return total[ctx.start : ctx.start + ctx.count], None


def gather(rows: Tensor, counts: list[int]) -> Tensor:
    """Rows of all ranks in rank order.

    Args:
        rows: (n, ...), any dtype; gradients flow back to each rank's rows.
        counts: Rows of each rank (``row_counts``).

    Returns:
        (sum of counts, ...).
    """
    return rows if world_size() == 1 else _AllGather.apply(rows, counts)


def global_sum(value: Tensor) -> Tensor:
    """Sum over ranks of a tensor without gradient."""
    if world_size() == 1:
        return value.detach()
    total = value.detach().clone()
    _all_reduce(total)
    return total


def global_logsumexp(value: Tensor) -> Tensor:
    """``log sum exp`` over ranks, element by element, of a tensor without gradient; -inf where all are."""
    if world_size() == 1:
        return value
    top = value.clone()
    _all_reduce(top, dist.ReduceOp.MAX)
    top.masked_fill_(top == float("-inf"), 0)
    return global_sum((value - top).exp()).log() + top


def global_mean(local_sum: Tensor, local_count: Tensor) -> Tensor:
    """W x local_sum / global count: averaged over ranks it is the global mean. A count of 0 gives 0, never NaN."""
    return local_sum * world_size() / global_sum(local_count).clamp_min(1)

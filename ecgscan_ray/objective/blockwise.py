"""Losses over all (row, column) pairs of the global batch, block by block, so that no N x N matrix is held.

A score is one differentiable function of a block of rows and all columns. Both losses differentiate it within the block, by
``torch.autograd.grad``, and add up the gradients. ``cross_entropy`` passes over the blocks twice: once for the log-sums of
rows and columns, once more in backward, since the gradient needs these sums. ``sigmoid_loss`` needs no sums and takes its
gradient in the first pass. Where all scores fit into ``DENSE_SCORES``, their graph is kept instead of computed again.

Autograd within blocks costs up to 1.2 times the time of derivatives written out by hand: the volume of 16,384 rows of 256 takes
26.2 s and 251 MB on one core, by hand 21.8 s and 216 MB; up to 2,048 rows the two take the same time.

Letters: n rows of this rank, N columns of all ranks, m rows of a block, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ecgscan_ray.distributed import global_logsumexp, global_sum, world_size

DENSE_SCORES = 2**22
"""Up to this many scores (16 MB in fp32, some 80 MB with their graph) are kept from forward to backward."""

BLOCK_SCORES = 2**20
"""Scores of a block where there are more in all."""

Score = Callable[..., Tensor]
"""(rows (m, D), column tensors (N, ...) each) -> scores (m, N), by operations that autograd differentiates."""


@dataclass(frozen=True)
class PairMask:
    """Which row meets which column."""

    row_valid: Tensor
    """(n,) bool: has all that is compared."""
    column_valid: Tensor
    """(N,) bool."""
    row_keys: Tensor
    """(n, k) int64; a row does not meet a column with which it shares a key, except its own."""
    column_keys: Tensor
    """(N, k) int64; a value below 0 (unknown) equals none."""
    start: int = 0
    """The rows' own columns are start .. start + n."""

    @classmethod
    def all_pairs(cls, rows: Tensor) -> PairMask:
        """Every row (n, D) meets every column of one process; row i belongs to column i."""
        valid = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        keys = torch.empty(len(rows), 0, dtype=torch.int64, device=rows.device)
        return cls(valid, valid, keys, keys)

    def excluded(self, first: int, last: int) -> Tensor:
        """(m, N) bool for rows first .. last: true where they do not meet."""
        valid = self.row_valid[first:last]
        excluded = (~valid)[:, None] | ~self.column_valid
        keys = self.row_keys[first:last]
        keys = keys.masked_fill(keys < 0, -2)  # unknown columns have -1
        for row, column in zip(keys.unbind(1), self.column_keys.unbind(1), strict=True):
            excluded.logical_or_(row[:, None] == column)
        self.positives(excluded, first).copy_(~valid)
        return excluded

    def positives(self, block: Tensor, first: int) -> Tensor:
        """The view (m,) of a block (m, N) that begins with row ``first``: each row with its own column."""
        return block.diagonal(self.start + first)


@dataclass(frozen=True)
class BlockPlan:
    """How to pass over the blocks."""

    score: Score
    mask: PairMask
    block_rows: int | None = None
    """Rows of a block; ``None`` = by size."""

    def blocks(self) -> Iterator[tuple[int, int]]:
        """First row and end of each block."""
        rows, columns = len(self.mask.row_valid), len(self.mask.column_valid)
        size = self.block_rows or (rows if self.dense else max(BLOCK_SCORES // columns, 1))
        return ((first, min(first + size, rows)) for first in range(0, rows, max(size, 1)))

    @property
    def dense(self) -> bool:
        """All scores are one block, whose graph is kept."""
        return self.block_rows is None and len(self.mask.row_valid) * len(self.mask.column_valid) <= DENSE_SCORES

    def normalizer(self, dtype: torch.dtype) -> Tensor:
        """W / (valid rows of all ranks): the factor on a row's loss (``distributed.py``)."""
        return world_size() / global_sum(self.mask.row_valid.sum().to(dtype)).clamp_min(1)


class _Scorer:
    """Scores of blocks with their graph, and the gradients that they pull back, summed over blocks.

    Args:
        score: (m, D), (N, ...) ... -> (m, N).
        needs_grad: Whether rows, and each of the columns, require a gradient.
        rows: (n, D).
        columns: (N, ...) each.
    """

    def __init__(self, score: Score, needs_grad: tuple[bool, ...], rows: Tensor, *columns: Tensor) -> None:
        self._score, self._rows, self._row_needs_grad = score, rows, needs_grad[0]
        self._columns = [c.detach().requires_grad_(need) for c, need in zip(columns, needs_grad[1:], strict=True)]
        # one tensor for all blocks: small ones kept from block to block would split the heap between the large ones, which
        # are allocated anew in every block, so that it grows by 4 GB at 16,384 rows
        self._row_grads = torch.zeros_like(rows) if self._row_needs_grad else None
        self._done = 0

    def block(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Rows of a block as a leaf (m, D), and their scores with graph (m, N)."""
        rows = self._rows[first:last].detach().requires_grad_(self._row_needs_grad)
        with torch.enable_grad():
            return rows, self._score(rows, *self._columns)

    def backward(self, rows: Tensor, scores: Tensor, dscores: Tensor, keep_graph: bool = False) -> None:
        """Add one block's gradient, given the one in its scores (m, N); blocks come in order."""
        if scores.requires_grad:
            scores.backward(dscores, retain_graph=keep_graph)
        if rows.grad is not None and self._row_grads is not None:
            self._row_grads[self._done : self._done + len(rows)] = rows.grad
            rows.grad = None
        self._done += len(rows)

    def take_grads(self) -> list[Tensor | None]:
        """The gradients in rows and columns; the next backward starts from zero."""
        grads = [self._row_grads, *(column.grad for column in self._columns)]
        self._row_grads = torch.zeros_like(self._rows) if self._row_needs_grad else None
        self._done = 0
        for column in self._columns:
            column.grad = None
        return grads


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropy in both directions; see ``cross_entropy``."""

    @staticmethod
    def forward(ctx: Any, plan: BlockPlan, scale: Tensor, *inputs: Tensor) -> Tensor:
        mask, rows = plan.mask, inputs[0]
        row_sums, positives = rows.new_empty(len(rows)), rows.new_empty(len(rows))
        column_sums = rows.new_full((len(mask.column_valid),), float("-inf"))
        ctx.dense_block = None
        if plan.dense:
            ctx.scorer = _Scorer(plan.score, ctx.needs_input_grad[2:], *inputs)
            ctx.dense_block = ctx.scorer.block(0, len(rows))
        for first, last in plan.blocks():
            scores = ctx.dense_block[1].detach() if ctx.dense_block else plan.score(rows[first:last], *inputs[1:])
            logits = scale * scores
            positives[first:last] = mask.positives(logits, first)
            logits.masked_fill_(mask.excluded(first, last), float("-inf"))
            row_sums[first:last] = logits.logsumexp(1)
            column_sums = torch.logaddexp(column_sums, logits.logsumexp(0))
        column_sums = global_logsumexp(column_sums)
        local = slice(mask.start, mask.start + len(rows))
        loss = 0.5 * (row_sums + column_sums[local]) - positives
        ctx.normalizer = plan.normalizer(rows.dtype)
        # where nothing is compared the sums are -inf; exp(-inf - inf) is the 0 that is meant
        nothing = float("-inf")
        row_sums.masked_fill_(row_sums == nothing, -nothing)
        column_sums = column_sums.masked_fill(column_sums == nothing, -nothing)
        ctx.plan = plan
        ctx.save_for_backward(scale, row_sums, column_sums, *inputs)
        return loss.masked_fill(~mask.row_valid, 0).sum() * ctx.normalizer

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        plan: BlockPlan = ctx.plan
        scale, row_sums, column_sums, *inputs = ctx.saved_tensors
        scorer = ctx.scorer if plan.dense else _Scorer(plan.score, ctx.needs_input_grad[2:], *inputs)
        scale_grad = torch.zeros_like(scale)
        for first, last in plan.blocks():
            block_rows, graph = ctx.dense_block or scorer.block(first, last)
            scores = graph.detach()
            logits = (scale * scores).masked_fill_(plan.mask.excluded(first, last), float("-inf"))
            dlogits = (logits - row_sums[first:last, None]).exp_()
            dlogits += logits.sub_(column_sums).exp_()
            valid = plan.mask.row_valid[first:last].to(dlogits.dtype)
            plan.mask.positives(dlogits, first).sub_(valid, alpha=2)
            dlogits *= 0.5 * grad * ctx.normalizer
            scale_grad += torch.tensordot(dlogits, scores)
            scorer.backward(block_rows, graph, dlogits.mul_(scale), keep_graph=plan.dense)
        return None, scale_grad, *scorer.take_grads()


class _Sigmoid(torch.autograd.Function):
    """Binary cross-entropy of every (row, column); see ``sigmoid_loss``."""

    @staticmethod
    def forward(ctx: Any, plan: BlockPlan, bias: Tensor, scale: Tensor, *inputs: Tensor) -> Tensor:
        mask, rows = plan.mask, inputs[0]
        total, bias_grad, scale_grad = rows.new_zeros(()), torch.zeros_like(bias), torch.zeros_like(scale)
        scorer = _Scorer(plan.score, ctx.needs_input_grad[3:], *inputs)
        normalizer = plan.normalizer(rows.dtype)
        for first, last in plan.blocks():
            block_rows, graph = scorer.block(first, last)
            scores, valid = graph.detach(), mask.row_valid[first:last]
            logits = (scale * scores + bias).masked_fill_(mask.excluded(first, last), float("-inf"))
            total += F.softplus(logits).sum() - mask.positives(logits, first).masked_fill(~valid, 0).sum()
            dlogits = logits.sigmoid_()
            mask.positives(dlogits, first).sub_(valid.to(dlogits.dtype))
            dlogits *= normalizer
            bias_grad += dlogits.sum()
            scale_grad += torch.tensordot(dlogits, scores)
            scorer.backward(block_rows, graph, dlogits.mul_(scale))
        ctx.save_for_backward(bias_grad, scale_grad, *scorer.take_grads())
        return total * normalizer

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(None if part is None else grad * part for part in ctx.saved_tensors)


def cross_entropy(plan: BlockPlan, scale: Tensor, rows: Tensor, *columns: Tensor) -> Tensor:
    """Mean over valid rows of the cross-entropy of row against columns, and of its column against all rows, halved.

    Args:
        plan: Score, masks, block size.
        scale: Scalar; logits are scale x score.
        rows: (n, D), this rank's.
        columns: Of all ranks, (N, ...) each, as the score takes them.

    Returns:
        Scalar, W x this rank's part of the mean (``distributed.py``); 0 where no row is valid. Every rank must give it the same
        gradient: a column's gradient on one rank stands for the losses of all.
    """
    return _CrossEntropy.apply(plan, scale, rows, *columns)


def sigmoid_loss(plan: BlockPlan, bias: Tensor, scale: Tensor, rows: Tensor, *columns: Tensor) -> Tensor:
    """Mean over valid rows of -log sigmoid(+-(scale x score + bias)), summed over columns.

    Args:
        plan: Score, masks, block size.
        bias: Scalar, added to the logits.
        scale, rows, columns: As in ``cross_entropy``.
    """
    return _Sigmoid.apply(plan, bias, scale, rows, *columns)

"""Contrast of rows with the columns of all ranks, block by block, so that no N x N matrix is held.

Both losses are autograd functions with their gradient written out. ``cross_entropy`` passes over the blocks twice: once for
the log-sums of rows and columns, once more, in backward, for the gradient that needs them. ``sigmoid_loss`` needs no sums and
takes its gradient on the way. Where all scores fit into ``DENSE_SCORES`` they are kept instead of computed anew.

Letters: n rows of this rank, N columns of all ranks, m rows of a block, K products of a row with a column, D features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ecgscan_ray.distributed import global_logsumexp, global_sum, world_size
from ecgscan_ray.objective.scores import Score

DENSE_SCORES = 2**22
"""Up to so many scores (16 MB in fp32) are kept from forward to backward."""

BLOCK_SCORES = 2**21
"""Scores of a block where more are needed: a few of such blocks are all that is held."""


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
    start: int
    """The rows' own columns are start .. start + n."""

    def excluded(self, first: int, last: int) -> Tensor:
        """(m, N) bool for rows first .. last: true where they do not meet."""
        valid = self.row_valid[first:last]
        excluded = (~valid)[:, None] | ~self.column_valid
        keys = self.row_keys[first:last]
        keys = keys.masked_fill(keys < 0, -2)  # unknown columns have -1
        for row, column in zip(keys.unbind(1), self.column_keys.unbind(1), strict=True):
            excluded.logical_or_(row[:, None] == column)
        self.own(excluded, first).copy_(~valid)
        return excluded

    def own(self, block: Tensor, first: int) -> Tensor:
        """The view (m,) of a block (m, N) that begins with row ``first``: each row with its own column."""
        return block.diagonal(self.start + first)


@dataclass(frozen=True)
class BlockPlan:
    """How to pass over the blocks."""

    score: Score
    comparison: PairMask
    smoothing: float = 0.0
    """Label smoothing of the cross-entropy."""
    block_rows: int | None = None
    """Rows of a block; ``None`` = by size."""

    def blocks(self) -> Iterator[tuple[int, int]]:
        rows, columns = len(self.comparison.row_valid), len(self.comparison.column_valid)
        size = self.block_rows or (rows if self.dense else max(BLOCK_SCORES // columns, 1))
        return ((first, min(first + size, rows)) for first in range(0, rows, max(size, 1)))

    @property
    def dense(self) -> bool:
        """All scores are one block, which is kept."""
        return (
            self.block_rows is None
            and len(self.comparison.row_valid) * len(self.comparison.column_valid) <= DENSE_SCORES
        )

    def normalizer(self, dtype: torch.dtype) -> Tensor:
        """W / (valid rows of all ranks): what one row's loss counts (``distributed.py``)."""
        return world_size() / global_sum(self.comparison.row_valid.sum().to(dtype)).clamp_min(1)

    def products(self, rows: Tensor, columns: tuple[Tensor, ...], first: int, last: int) -> Tensor:
        """(K, m, N)."""
        products = rows.new_empty(len(columns), last - first, len(columns[0]))
        for product, column in zip(products, columns, strict=True):
            torch.mm(rows[first:last], column.T, out=product)
        return products


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropy in both directions; see ``cross_entropy``."""

    @staticmethod
    def forward(
        ctx: Any, plan: BlockPlan, scale: Tensor, column_term: Tensor, rows: Tensor, *columns: Tensor
    ) -> Tensor:
        comparison, smoothing = plan.comparison, plan.smoothing
        row_sums, own = rows.new_empty(len(rows)), rows.new_empty(len(rows))
        column_sums = rows.new_full((len(columns[0]),), float("-inf"))
        row_means, row_counts = torch.zeros_like(row_sums), torch.ones_like(row_sums)
        column_totals, column_counts = torch.zeros_like(column_sums), torch.zeros_like(column_sums)
        ctx.kept = None
        for first, last in plan.blocks():
            products, excluded = plan.products(rows, columns, first, last), comparison.excluded(first, last)
            score = plan.score.value(products, column_term)
            logits = scale * score
            own[first:last] = comparison.own(logits, first)
            if smoothing:
                logits.masked_fill_(excluded, 0)
                row_counts[first:last] = (~excluded).sum(1).clamp_min(1)
                row_means[first:last] = logits.sum(1) / row_counts[first:last]
                column_totals += logits.sum(0)
                column_counts += (~excluded).sum(0)
            logits.masked_fill_(excluded, float("-inf"))
            row_sums[first:last] = logits.logsumexp(1)
            column_sums = torch.logaddexp(column_sums, logits.logsumexp(0))
            if plan.dense:
                ctx.kept = products, excluded, score
        column_sums = global_logsumexp(column_sums)
        column_counts = global_sum(column_counts).clamp_min(1)
        mine = slice(comparison.start, comparison.start + len(rows))
        loss = 0.5 * (row_sums + column_sums[mine]) - (1 - smoothing) * own
        if smoothing:
            column_means = global_sum(column_totals) / column_counts
            loss -= 0.5 * smoothing * (row_means + column_means[mine])
        ctx.normalizer = plan.normalizer(rows.dtype)
        # where nothing is compared the sums are -inf; exp(-inf - inf) is the 0 that is meant
        nothing = float("-inf")
        row_sums.masked_fill_(row_sums == nothing, -nothing)
        column_sums = column_sums.masked_fill(column_sums == nothing, -nothing)
        ctx.plan = plan
        ctx.save_for_backward(scale, column_term, rows, row_sums, column_sums, row_counts, column_counts, *columns)
        return loss.masked_fill(~comparison.row_valid, 0).sum() * ctx.normalizer

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        plan: BlockPlan = ctx.plan
        scale, column_term, rows, row_sums, column_sums, row_counts, column_counts, *columns = ctx.saved_tensors
        pulled = _Gradients(scale, column_term, rows, tuple(columns), ctx.needs_input_grad[3:])
        for first, last in plan.blocks():
            if ctx.kept:
                products, excluded, score = ctx.kept
            else:
                products = plan.products(rows, tuple(columns), first, last)
                excluded, score = plan.comparison.excluded(first, last), plan.score.value(products, column_term)
            logits = (scale * score).masked_fill_(excluded, float("-inf"))
            dlogits = (logits - row_sums[first:last, None]).exp_()
            dlogits += logits.sub_(column_sums).exp_()
            if plan.smoothing:
                even = plan.smoothing * (1 / row_counts[first:last, None] + 1 / column_counts)
                dlogits -= even.masked_fill_(excluded, 0)
            valid = plan.comparison.row_valid[first:last].to(dlogits.dtype)
            plan.comparison.own(dlogits, first).sub_(valid, alpha=2 * (1 - plan.smoothing))
            dlogits *= 0.5 * grad * ctx.normalizer
            pulled.add(plan, products, score, dlogits, first, last)
        return None, pulled.scale, pulled.column_term, pulled.rows, *pulled.columns


class _Sigmoid(torch.autograd.Function):
    """Binary cross-entropy of every (row, column); see ``sigmoid_loss``."""

    @staticmethod
    def forward(
        ctx: Any, plan: BlockPlan, bias: Tensor, scale: Tensor, column_term: Tensor, rows: Tensor, *columns: Tensor
    ) -> Tensor:
        comparison = plan.comparison
        total, in_bias = rows.new_zeros(()), rows.new_zeros(())
        pulled = _Gradients(scale, column_term, rows, columns, ctx.needs_input_grad[4:])
        normalizer = plan.normalizer(rows.dtype)
        for first, last in plan.blocks():
            products, excluded = plan.products(rows, columns, first, last), comparison.excluded(first, last)
            valid = comparison.row_valid[first:last]
            score = plan.score.value(products, column_term)
            logits = (scale * score + bias).masked_fill_(excluded, float("-inf"))
            total += F.softplus(logits).sum() - comparison.own(logits, first).masked_fill(~valid, 0).sum()
            dlogits = logits.sigmoid_()
            comparison.own(dlogits, first).sub_(valid.to(dlogits.dtype))
            dlogits *= normalizer
            in_bias += dlogits.sum()
            pulled.add(plan, products, score, dlogits, first, last)
        ctx.save_for_backward(
            *(
                part
                for part in (in_bias, pulled.scale, pulled.column_term, pulled.rows, *pulled.columns)
                if part is not None
            )
        )
        return total * normalizer

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = list(ctx.saved_tensors)
        always = [grad * saved.pop(0) for _ in range(3)]
        return None, *always, *(grad * saved.pop(0) if wanted else None for wanted in ctx.needs_input_grad[4:])


class _Gradients:
    """Gradients in everything the scores come from, summed over blocks.

    Args:
        scale: Of the logits.
        share: (N,), what columns bring along.
        rows: (n, D).
        columns: K of (N, D).
        wanted: For rows and each of the columns.
    """

    def __init__(
        self, scale: Tensor, column_term: Tensor, rows: Tensor, columns: tuple[Tensor, ...], wanted: tuple[bool, ...]
    ) -> None:
        self._scale, self._share, self._rows, self._columns = scale, column_term, rows, columns
        self.scale, self.column_term = torch.zeros_like(scale), torch.zeros_like(column_term)
        self.rows = torch.zeros_like(rows) if wanted[0] else None
        self.columns = [torch.zeros_like(c) if want else None for c, want in zip(columns, wanted[1:], strict=True)]

    def add(self, plan: BlockPlan, products: Tensor, score: Tensor, dlogits: Tensor, first: int, last: int) -> None:
        """One block's ``slope`` (m, N), the gradient in its logits; it is used up."""
        self.scale += torch.tensordot(dlogits, score)
        in_products, in_share = plan.score.pull(products, self._share, score, dlogits.mul_(self._scale))
        self.column_term += in_share
        for product, column, in_column in zip(in_products, self._columns, self.columns, strict=True):
            if self.rows is not None:
                self.rows[first:last].addmm_(product, column)
            if in_column is not None:
                in_column.addmm_(product.T, self._rows[first:last])


def cross_entropy(plan: BlockPlan, scale: Tensor, column_term: Tensor, rows: Tensor, *columns: Tensor) -> Tensor:
    """Mean over valid rows of the cross-entropy of row against columns, and of its column against all rows, halved.

    Args:
        plan: Score, masks, label smoothing, block size.
        scale: Scalar; logits are scale x score.
        share: (N,), what each column brings along to the score.
        rows: (n, D), this rank's.
        columns: K of (N, D), all ranks'.

    Returns:
        Scalar, W x this rank's part of the mean (``distributed.py``); 0 where no row is valid. Every rank must give it the same
        gradient: a column's gradient on one rank stands for the losses of all.
    """
    return _CrossEntropy.apply(plan, scale, column_term, rows, *columns)


def sigmoid_loss(
    plan: BlockPlan, bias: Tensor, scale: Tensor, column_term: Tensor, rows: Tensor, *columns: Tensor
) -> Tensor:
    """SigLIP (arXiv 2303.15343): mean over valid rows of -log sigmoid(+-(scale x score + bias)), summed over columns.

    Args:
        plan: Score, masks, block size.
        bias: Scalar, added to the logits.
        scale, share, rows, columns: As in ``cross_entropy``.
    """
    return _Sigmoid.apply(plan, bias, scale, column_term, rows, *columns)

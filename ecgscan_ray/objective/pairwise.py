"""Contrast of two modalities: InfoNCE (CLIP, arXiv 2103.00020) and SigLIP (arXiv 2303.15343).

Shapes: n rows of this rank, N columns of all ranks, D features.
"""

from __future__ import annotations

from torch import Tensor

from ecgscan_ray.objective.blockwise import BlockPlan, PairMask, cross_entropy, sigmoid_loss


def _cosine(rows: Tensor, columns: Tensor) -> Tensor:
    return rows @ columns.T


def info_nce_loss(
    rows: Tensor,
    columns: Tensor,
    logit_scale: Tensor,
    mask: PairMask | None = None,
    block_rows: int | None = None,
) -> Tensor:
    """Each row against all columns and each column against all rows, averaged; logits are scale x cosine.

    Args:
        rows: (n, D), unit rows of this rank.
        columns: (N, D), unit rows of all ranks (on one process N = n); column i belongs to row i.
        logit_scale: Scalar, 1 / temperature.
        mask: Which row meets which column; none = all of one process.
        block_rows: Rows of the score matrix held at once; none = by size.

    Returns:
        Scalar.

    Example:
        >>> import torch
        >>> features = torch.eye(4, 8)
        >>> info_nce_loss(features, features, torch.tensor(20.0)).item() < 0.01
        True
    """
    plan = BlockPlan(_cosine, mask or PairMask.all_pairs(rows), block_rows)
    return cross_entropy(plan, logit_scale, rows, columns)


def siglip_loss(
    rows: Tensor,
    columns: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    mask: PairMask | None = None,
    block_rows: int | None = None,
) -> Tensor:
    """-log sigmoid(+-(scale x cosine + bias)), + for what belongs together, summed over columns, averaged over rows.

    Args:
        rows, columns: As in ``info_nce_loss``.
        logit_scale: Scalar, 1 / temperature.
        logit_bias: Scalar; the paper starts it at -10, since most pairs are negatives.
        mask, block_rows: As in ``info_nce_loss``.

    Returns:
        Scalar.

    Example:
        >>> import torch
        >>> features = torch.eye(4, 8)
        >>> siglip_loss(features, features, torch.tensor(20.0), torch.tensor(-10.0)).item() < 0.01
        True
    """
    plan = BlockPlan(_cosine, mask or PairMask.all_pairs(rows), block_rows)
    return sigmoid_loss(plan, logit_bias, logit_scale, rows, columns)

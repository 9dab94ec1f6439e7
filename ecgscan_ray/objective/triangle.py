"""Area of the triangle whose corners are image, signal and text features (TRIANGLE, arXiv 2509.24734).

With the half squared sides p = 1 - <i,s>, q = 1 - <i,t>, r = 1 - <s,t>: Area^2 = p r - h^2, h = (p + r - q) / 2.

Shapes: N images, M (signal, text) pairs, D features. All arithmetic in the dtype given; callers pass fp32 with autocast off.
"""

from __future__ import annotations

from torch import Tensor

from ecgscan_ray.objective.blockwise import BlockPlan, PairMask, cross_entropy
from ecgscan_ray.objective.gram import EPS


def _area(image: Tensor, signal: Tensor, text: Tensor, signal_text: Tensor) -> Tensor:
    image_signal, image_text = image @ signal.T, image @ text.T
    p, r = 1 - image_signal, 1 - signal_text
    h = (image_text - image_signal).add_(r).mul_(0.5)
    return (p * r).addcmul_(h, h, value=-1).clamp_min(0).add_(EPS).sqrt_()


def triangle_area(image: Tensor, signal: Tensor, text: Tensor) -> Tensor:
    """``sqrt(max(Area^2, 0) + EPS)`` of every image with every (signal, text) pair.

    Args:
        image: (N, D), unit rows.
        signal: (M, D), unit rows.
        text: (M, D), unit rows; row j belongs to row j of ``signal``.

    Returns:
        (N, M).
    """
    return _area(image, signal, text, (signal * text).sum(-1))


def triangle_loss(
    image: Tensor,
    signal: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    mask: PairMask | None = None,
    block_rows: int | None = None,
) -> Tensor:
    """Each image against all (signal, text) pairs, each pair against all images; logits are -scale x area.

    Args:
        image: (n, D), unit rows of this rank.
        signal: (N, D), unit rows of all ranks (on one process N = n); row i belongs to image i.
        text: (N, D), as ``signal``.
        logit_scale: Scalar, 1 / temperature.
        mask: Which row meets which column; none = all of one process.
        block_rows: Rows of the score matrix held at once; none = by size.

    Returns:
        Scalar.

    Example:
        >>> import torch
        >>> signal, text = torch.eye(4, 8), torch.eye(4, 8).roll(4, -1)
        >>> image = signal  # two corners in one point: area 0
        >>> triangle_loss(image, signal, text, torch.tensor(20.0)).item() < 0.1
        True
    """
    plan = BlockPlan(_area, mask or PairMask.all_pairs(image), block_rows)
    return cross_entropy(plan, -logit_scale, image, signal, text, (signal * text).sum(-1))

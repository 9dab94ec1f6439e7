"""Volume of the parallelepiped that image, signal and text features span (GRAM, arXiv 2412.11959), in closed form.

Shapes: N rows here, M columns, D features. All arithmetic in the dtype given; callers pass fp32 with autocast off.
"""

from __future__ import annotations

import torch
from torch import Tensor


def squared_volumes(image: Tensor, signal: Tensor, text: Tensor) -> Tensor:
    """Squared volume of every image with every (signal, text) pair.

    With c = <s, t> and u the part of t orthogonal to s, the Gram determinant is (1 - c^2)(1 - <i,s>^2 - <i,u>^2): the
    squared sine of the angle between s and t, times the squared distance of i from their plane. This form stays exact
    to a few 1e-8 near 0, where the expanded determinant loses all its digits.

    Args:
        image: (N, D), unit rows.
        signal: (M, D), unit rows.
        text: (M, D), unit rows; row j belongs to row j of ``signal``.

    Returns:
        (N, M), at least 0 up to rounding, at most 1.
    """
    cosine = (signal * text).sum(-1, keepdim=True)
    across = text - cosine * signal
    squared_sine = across.square().sum(-1)
    # 1e-12 is the square of the smallest sine that fp32 resolves; below it the volume is 0 whatever the direction
    unit = across / squared_sine.clamp_min(1e-12).sqrt().unsqueeze(-1)
    return squared_sine * (1 - (image @ signal.T).square() - (image @ unit.T).square())


def gram_volume(image: Tensor, signal: Tensor, text: Tensor, eps: float = 1e-6) -> Tensor:
    """``sqrt(max(V^2, 0) + eps)``: (N, M); ``eps`` keeps the gradient finite where the volume is 0."""
    return (squared_volumes(image, signal, text).clamp_min(0) + eps).sqrt()


def mean_volumes(image: Tensor, signal: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Mean volume of matching triples, and of all others; both without gradient."""
    with torch.no_grad():
        volumes = gram_volume(image, signal, text)
        own = volumes.diagonal().mean()
        others = (volumes.sum() - volumes.diagonal().sum()) / max(volumes.numel() - len(volumes), 1)
    return own, others

"""Volume of the parallelepiped that image, signal and text features span (GRAM, arXiv 2412.11959), in closed form.

Shapes: N rows here, M columns, D features. All arithmetic in the dtype given; callers pass fp32 with autocast off. These are
the formulas in plain torch, N x M at once; the loss takes them block by block (``scores.py``).
"""

from __future__ import annotations

from torch import Tensor

from ecgscan_ray.objective.scores import EPS


def gram_schmidt(signal: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """The plane of each (signal, text) pair: the unit vector in it across the signal, and the angle between the two.

    Args:
        signal: (M, D), unit rows.
        text: (M, D), unit rows.

    Returns:
        u (M, D), the part of the text orthogonal to the signal, of unit norm; squared sine of their angle (M,).
    """
    across = text - (signal * text).sum(-1, keepdim=True) * signal
    squared_sine = across.square().sum(-1)
    # 1e-12 is the square of the smallest sine that fp32 resolves; below it the volume is 0 whatever the direction
    return across / squared_sine.clamp_min(1e-12).sqrt().unsqueeze(-1), squared_sine


def squared_volumes(image: Tensor, signal: Tensor, text: Tensor) -> Tensor:
    """Squared volume of every image with every (signal, text) pair.

    With u and the squared sine w of ``planes``, the Gram determinant is w (1 - <i,s>^2 - <i,u>^2): w times the squared
    distance of i from the plane. This form stays exact to a few 1e-8 near 0, where the expanded determinant loses all its
    digits.

    Args:
        image: (N, D), unit rows.
        signal: (M, D), unit rows.
        text: (M, D), unit rows; row j belongs to row j of ``signal``.

    Returns:
        (N, M), at least 0 up to rounding, at most 1.
    """
    across, squared_sine = gram_schmidt(signal, text)
    return squared_sine * (1 - (image @ signal.T).square() - (image @ across.T).square())


def gram_volume(image: Tensor, signal: Tensor, text: Tensor, eps: float = EPS) -> Tensor:
    """``sqrt(max(V^2, 0) + eps)``: (N, M); ``eps`` keeps the gradient finite where the volume is 0."""
    return (squared_volumes(image, signal, text).clamp_min(0) + eps).sqrt()

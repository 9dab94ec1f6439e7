"""Volume of the parallelepiped that image, signal and text features span (GRAM, arXiv 2412.11959), in closed form.

With the unit vector u of the text's part orthogonal to the signal, and w the squared sine of their angle (``gram_schmidt``),
the Gram determinant is V^2 = w (1 - <i,s>^2 - <i,u>^2): w times the squared distance of the image i from the plane of signal
and text. This form stays exact to a few 1e-8 near 0, where the expanded determinant loses all its digits.

Shapes: N images, M (signal, text) pairs, D features. All arithmetic in the dtype given; callers pass fp32 with autocast off.
"""

from __future__ import annotations

from torch import Tensor

from ecgscan_ray.objective.blockwise import BlockPlan, PairMask, cross_entropy

EPS = 1e-6
"""Added to squared volumes and areas before the root, whose derivative would be infinite at 0."""


def gram_schmidt(signal: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """The plane of each (signal, text) pair: the text's direction orthogonal to the signal, and the angle between the two.

    Args:
        signal: (M, D), unit rows.
        text: (M, D), unit rows.

    Returns:
        u (M, D), the part of the text orthogonal to the signal, of unit norm; squared sine of their angle (M,).
    """
    orthogonal = text - (signal * text).sum(-1, keepdim=True) * signal
    squared_sine = orthogonal.square().sum(-1)
    # 1e-12 is the square of the smallest sine that fp32 resolves; below it the volume is 0 whatever the direction
    return orthogonal / squared_sine.clamp_min(1e-12).sqrt().unsqueeze(-1), squared_sine


def _squared(image: Tensor, signal: Tensor, orthogonal: Tensor, squared_sine: Tensor) -> Tensor:
    in_signal, in_orthogonal = image @ signal.T, image @ orthogonal.T
    return in_signal.square().addcmul(in_orthogonal, in_orthogonal).neg_().add_(1) * squared_sine


def _volume(image: Tensor, signal: Tensor, orthogonal: Tensor, squared_sine: Tensor) -> Tensor:
    return _squared(image, signal, orthogonal, squared_sine).clamp_min(0).add_(EPS).sqrt_()


def squared_volumes(image: Tensor, signal: Tensor, text: Tensor) -> Tensor:
    """Squared volume of every image with every (signal, text) pair.

    Args:
        image: (N, D), unit rows.
        signal: (M, D), unit rows.
        text: (M, D), unit rows; row j belongs to row j of ``signal``.

    Returns:
        (N, M), at least 0 up to rounding, at most 1.
    """
    return _squared(image, signal, *gram_schmidt(signal, text))


def gram_volume(image: Tensor, signal: Tensor, text: Tensor) -> Tensor:
    """``sqrt(max(V^2, 0) + EPS)`` of features as in ``squared_volumes``: (N, M)."""
    return _volume(image, signal, *gram_schmidt(signal, text))


def gram_loss(
    image: Tensor,
    signal: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    mask: PairMask | None = None,
    block_rows: int | None = None,
) -> Tensor:
    """Each image against all (signal, text) pairs, each pair against all images; logits are -scale x volume (GRAM, eq. 5, 6).

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
        >>> from torch.nn.functional import normalize
        >>> signal, text = torch.eye(4, 8), torch.eye(4, 8).roll(4, -1)
        >>> image = normalize(signal + text, dim=-1)  # in the plane of its signal and text: volume 0
        >>> gram_loss(image, signal, text, torch.tensor(20.0)).item() < 0.1
        True
    """
    plan = BlockPlan(_volume, mask or PairMask.all_pairs(image), block_rows)
    return cross_entropy(plan, -logit_scale, image, signal, *gram_schmidt(signal, text))

"""Loss of the page frame: where the traces lie in the image and which layout it is, against the renderer's truth.

Without it, a decoder learns from waveforms alone where time zero is: a margin that is off by 4 mm shifts every beat by the
width of a QRS complex, and correlations stay near 0 for a long time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ecgscan_ray.distributed import global_mean
from ecgscan_ray.model.output import FrameOutput


def frame_loss(output: FrameOutput, corners: Tensor, layout: Tensor, page_ok: Tensor) -> Tensor:
    """Mean over pages of three errors: first guess, layout, and the votes on corners and edges.

    Args:
        output: The model's (shapes in ``model/output.py``); N pages, M layouts.
        corners: (N, 4, 2), true xy as fractions of the image.
        layout: (N,) int, true layout.
        page_ok: (N,) bool; false for pages that could not be drawn.

    Returns:
        Scalar: mean distance of the guessed corners in per cent of the image (smooth below 1 %), plus the layout's
        cross-entropy, plus the votes' divergence from the true positions.

    Example:
        >>> import torch
        >>> corners = torch.tensor([[[0.1, 0.3], [0.9, 0.3], [0.9, 0.8], [0.1, 0.8]]])
        >>> steps = torch.linspace(-0.02, 0.02, 5)[:, None] * torch.tensor([1.0, 0.0])
        >>> logits, xy = -0.5 * torch.arange(-2, 3).square().expand(1, 4, 5).float(), corners[:, :, None] + steps
        >>> output = {
        ...     "frame_guess": corners[:, None], "layout_logits": torch.zeros(1, 1),
        ...     "corner_logits": logits, "corner_xy": xy, "edge_logits": logits, "edge_xy": xy,
        ...     "edge_truth": corners, "edge_counts": torch.ones(1, 4),
        ... }
        >>> frame_loss(output, corners, torch.tensor([0]), torch.tensor([True])).item() < 1e-4
        True
    """
    guess = output["frame_guess"]
    guess = guess[torch.arange(len(guess), device=guess.device), layout]
    truth = corners.to(guess.dtype)
    loss = 100 * F.smooth_l1_loss(guess, truth, beta=0.01, reduction="none").mean((1, 2))
    loss = loss + F.cross_entropy(output["layout_logits"].to(guess.dtype), layout, reduction="none")
    loss = loss + vote_divergence(output["corner_logits"], output["corner_xy"], truth).mean(-1)
    edges = vote_divergence(output["edge_logits"], output["edge_xy"], output["edge_truth"])
    counts = output["edge_counts"]
    loss = loss + (edges * counts).sum(-1) / counts.sum(-1)
    return global_mean((loss * page_ok).sum(), page_ok.sum())


def vote_divergence(logits: Tensor, xy: Tensor, truth: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the votes from a narrow Gaussian around the truth: (N, K).

    Args:
        logits: (N, K, P).
        xy: (N, K, P, 2), positions voted on.
        truth: (N, K, 2), true positions.
    """
    with torch.no_grad():
        squared = (xy - truth[:, :, None]).square().sum(-1)  # (N, K, P)
        # as wide as the positions are apart: a narrower one would round the truth to a position
        pitch = (xy[:, :, 1:] - xy[:, :, :-1]).square().sum(-1).amin(-1, keepdim=True).clamp_min(1e-12)
        target = (-0.5 * squared / pitch).log_softmax(-1)
    return F.kl_div(logits.to(target.dtype).log_softmax(-1), target, reduction="none", log_target=True).sum(-1)

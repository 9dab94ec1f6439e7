"""Finding the page: where its trace frame lies in the picture, and which layout it has, against the renderer's truth.

Without this, a decoder learns where time zero is from waveforms alone: a margin that is off by 4 mm shifts every beat by
its own width, and correlations stay near 0 for a long time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ecgscan_ray.objective.gather import global_mean


def frame_loss(corners: Tensor, layout_logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Mean distance of the frame's corners in per cent of the picture (smooth below 1 %), plus layout cross-entropy.

    Args:
        corners: (N, M, 4, 2), one frame for each of M layouts; the true layout's is scored.
        layout_logits: (N, M).
        batch: ``frame_corners`` (N, 4, 2), ``layout`` (N,), ``page_ok`` (N,).
    """
    rows, ok = torch.arange(len(corners), device=corners.device), batch["page_ok"]
    own = corners[rows, batch["layout"]]
    target = batch["frame_corners"].to(own.dtype)
    distance = 100 * F.smooth_l1_loss(own, target, beta=0.01, reduction="none").mean((1, 2))
    entropy = F.cross_entropy(layout_logits.to(own.dtype), batch["layout"], reduction="none")
    return global_mean(((distance + entropy) * ok).sum(), ok.sum())

"""Finding the page: where its trace frame lies in the picture, and which layout it has, against the renderer's truth.

Without this, a decoder learns where time zero is from waveforms alone: a margin that is off by 4 mm shifts every beat by
its own width, and correlations stay near 0 for a long time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ecgscan_ray.distributed import global_mean


def frame_loss(output: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
    """First guess, votes and layout.

    Args:
        output: ``frame_guess`` (N, M, 4, 2), ``layout_logits`` (N, M); of the corners ``near_logits`` (N, 4, P),
            ``near_places`` (N, 4, P, 2); of the edges of strips ``edge_logits`` (N, K, P), ``edge_places`` (N, K, P, 2),
            ``edge_truth`` (N, K, 2), ``edge_counts`` (N, K).
        batch: ``frame_corners`` (N, 4, 2), ``layout`` (N,), ``page_ok`` (N,).

    Returns:
        Scalar: mean distance of the guessed corners in per cent of the picture (smooth below 1 %), plus the layout's
        cross-entropy, plus the votes' divergence from the true places.
    """
    guess, ok = output["frame_guess"], batch["page_ok"]
    own = guess[torch.arange(len(guess), device=guess.device), batch["layout"]]
    truth = batch["frame_corners"].to(own.dtype)
    loss = 100 * F.smooth_l1_loss(own, truth, beta=0.01, reduction="none").mean((1, 2))
    loss = loss + F.cross_entropy(output["layout_logits"].to(own.dtype), batch["layout"], reduction="none")
    loss = loss + vote_divergence(output["near_logits"], output["near_places"], truth).mean(-1)
    edges, counts = (
        vote_divergence(output["edge_logits"], output["edge_places"], output["edge_truth"]),
        output["edge_counts"],
    )
    loss = loss + (edges * counts).sum(-1) / counts.sum(-1)
    return global_mean((loss * ok).sum(), ok.sum())


def vote_divergence(logits: Tensor, places: Tensor, truth: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the votes from a narrow bell around the truth: (N, K).

    Args:
        logits: (N, K, P).
        places: (N, K, P, 2).
        truth: (N, K, 2).
    """
    with torch.no_grad():
        squared = (places - truth[:, :, None]).square().sum(-1)  # (N, K, P)
        # as wide as the places are apart: narrower ones would round the truth to a place
        pitch = (places[:, :, 1:] - places[:, :, :-1]).square().sum(-1).amin(-1, keepdim=True).clamp_min(1e-12)
        target = (-0.5 * squared / pitch).log_softmax(-1)
    return F.kl_div(logits.to(target.dtype).log_softmax(-1), target, reduction="none", log_target=True).sum(-1)

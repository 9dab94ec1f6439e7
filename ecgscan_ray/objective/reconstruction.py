"""Error of the twelve redrawn leads in mV, over what the page shows, what the lead laws derive from it, and the rest.

Shapes: N batch, 12 leads, T samples.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ecgscan_ray.distributed import global_mean


def pearson_per_lead(predicted: Tensor, target: Tensor, mask: Tensor, eps: float = 1e-8) -> tuple[Tensor, Tensor]:
    """Correlation over masked samples of each lead.

    Args:
        predicted: (N, 12, T).
        target: (N, 12, T).
        mask: (N, 12, T), bool.

    Returns:
        r (N, 12), and whether it is defined: at least 25 samples and a target that is not constant.
    """
    weight = mask.to(predicted.dtype)
    count = weight.sum(-1).clamp_min(1)
    p = (predicted - ((predicted * weight).sum(-1) / count)[..., None]) * weight
    t = (target - ((target * weight).sum(-1) / count)[..., None]) * weight
    variance_p, variance_t = p.square().sum(-1), t.square().sum(-1)
    r = (p * t).sum(-1) / (variance_p * variance_t + eps).sqrt()
    return r, (weight.sum(-1) >= 25) & (variance_t / count > 1e-6)


def reconstruction_loss(predicted_mv: Tensor, target_mv: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of an amplitude term, coarser views of it, a slope term and a correlation term.

    Args:
        predicted_mv: (N, 12, T), mV.
        target_mv: (N, 12, T), mV, centred.
        weight: (N, 12, T), 0 where a sample is left out (missing, or a page that could not be drawn).

    Returns:
        Scalar: amplitude + 0.5 (1/2, 1/4, 1/8 of the rate) + 0.5 slope (all in mV) + 0.5 (1 - r).

    Example:
        >>> import torch
        >>> target = torch.sin(torch.arange(200) / 5).expand(2, 12, 200)
        >>> weight = torch.ones(2, 12, 200)
        >>> reconstruction_loss(target, target, weight).item() < 1e-6 < reconstruction_loss(0 * target, target, weight)
        tensor(True)
    """
    error, active = predicted_mv - target_mv, weight.sum()
    # square up to 0.3 mV: an absolute error is least for a flat line until the position of a QRS is certain (most samples
    # lie near 0), so nothing would be learned; linear beyond, so that spikes do not dominate
    robust = F.huber_loss(error, torch.zeros_like(error), delta=0.3, reduction="none") / 0.3
    loss = global_mean((robust * weight).sum(), active)
    for factor in (2, 4, 8):
        coarse = F.avg_pool1d((error * (weight > 0)).flatten(0, 1)[:, None], factor).squeeze(1)
        coarse_weight = F.avg_pool1d(weight.flatten(0, 1)[:, None], factor).squeeze(1)
        loss = loss + 0.5 / 3 * global_mean((coarse.abs() * coarse_weight).sum(), coarse_weight.sum())
    slope_weight = torch.minimum(weight[..., 1:], weight[..., :-1])
    slope = (error[..., 1:] - error[..., :-1]).abs()
    loss = loss + 0.5 * global_mean((slope * slope_weight).sum(), slope_weight.sum())
    strongest = weight >= weight.amax(dim=-1, keepdim=True).clamp_min(1e-6)
    r, defined = pearson_per_lead(predicted_mv, target_mv, strongest)
    lead_weight = weight.amax(-1) * defined
    return loss + 0.5 * global_mean(((1 - r) * lead_weight).sum(), lead_weight.sum())

"""The four laws that tie the limb leads (Einthoven, Goldberger), as a soft penalty on redrawn leads in mV."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ecgscan_ray.objective.gather import global_mean
from ecgscan_ray.recording.leads import LEAD_LAWS


def lead_residual(signal_mv: Tensor) -> Tensor:
    """How far the leads miss the laws: (N, 12, T) in mV -> (N, 4, T) in mV."""
    laws = torch.as_tensor(LEAD_LAWS, dtype=signal_mv.dtype, device=signal_mv.device)
    return torch.einsum("kl,nlt->nkt", laws, signal_mv)


def soft_lead_loss(predicted_mv: Tensor, applies: Tensor, delta_mv: float) -> Tensor:
    """Mean over rows, laws and time of the Huber penalty on the residual, divided by delta (so: mV).

    Args:
        predicted_mv: (N, 12, T), mV.
        applies: (N,), bool; false for recordings that break the laws themselves, or pages that could not be drawn.
        delta_mv: Where the penalty turns from square to linear, mV.
    """
    residual = lead_residual(predicted_mv)
    penalty = F.huber_loss(residual, torch.zeros_like(residual), delta=delta_mv, reduction="none") / delta_mv
    return global_mean((penalty.mean((1, 2)) * applies).sum(), applies.sum())

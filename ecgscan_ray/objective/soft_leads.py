"""The four laws of the limb leads (Einthoven, Goldberger) as a soft penalty on redrawn leads in mV.

They hold exactly in every recording, so the penalty needs no recorded signal. Shapes: N batch, 12 leads, T samples.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ecgscan_ray.distributed import global_mean
from ecgscan_ray.recording.leads import LEAD_LAWS


def lead_law_residual(signal_mv: Tensor) -> Tensor:
    """By how much each law fails at each sample: (N, 12, T) in mV -> (N, 4, T) in mV."""
    laws = torch.as_tensor(LEAD_LAWS, dtype=signal_mv.dtype, device=signal_mv.device)
    return torch.einsum("kl,nlt->nkt", laws, signal_mv)


def soft_lead_loss(predicted_mv: Tensor, applies: Tensor, delta_mv: float = 0.02) -> Tensor:
    """Mean over rows, laws and time of the Huber penalty on the residual, in mV.

    Args:
        predicted_mv: (N, 12, T), mV.
        applies: (N,), bool; false for recordings that break the laws themselves, or pages that could not be drawn.
        delta_mv: Where the penalty turns from square to linear (slope 1), mV.

    Returns:
        Scalar, mV.

    Example:
        >>> import torch
        >>> leads = torch.zeros(2, 12, 100)
        >>> leads[:, 3] = 0.5  # aVR = -(I + II) / 2 is missed by 0.5 mV, three other laws hold
        >>> round(soft_lead_loss(leads, torch.tensor([True, True])).item(), 4)
        0.1225
    """
    residual = lead_law_residual(predicted_mv)
    penalty = F.huber_loss(residual, torch.zeros_like(residual), delta=delta_mv, reduction="none") / delta_mv
    return global_mean((penalty.mean((1, 2)) * applies).sum(), applies.sum())

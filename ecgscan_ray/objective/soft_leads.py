"""What ties the leads, as soft penalties on redrawn leads in mV; neither needs a recorded signal.

The four laws of the limb leads (Einthoven, Goldberger) hold exactly in every recording. The ties of the precordial leads are
statistical: two or three components hold most of one recording's variance, but which ones differs from heart to heart, so
they are fitted on each page. Shapes: N batch, 12 leads, T samples.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ecgscan_ray.distributed import global_mean
from ecgscan_ray.recording.leads import LEAD_LAWS, LEADS, MEASURED_LEADS

MEASURED = [LEADS.index(name) for name in MEASURED_LEADS]
PRECORDIAL = [MEASURED_LEADS.index(name) for name in MEASURED_LEADS if name.startswith("V")]
"""V1-V6 among the measured leads."""

ITSELF = list(range(len(PRECORDIAL)))

RIDGE_MV = 0.02
"""Noise that a fitted tie allows its leads, mV: what a trace's width hides."""


def lead_residual(signal_mv: Tensor) -> Tensor:
    """How far the leads miss the laws: (N, 12, T) in mV -> (N, 4, T) in mV."""
    laws = torch.as_tensor(LEAD_LAWS, dtype=signal_mv.dtype, device=signal_mv.device)
    return torch.einsum("kl,nlt->nkt", laws, signal_mv)


def huber_mv(residual_mv: Tensor, delta_mv: float) -> Tensor:
    """Square up to ``delta_mv``, linear beyond, where its slope is 1: element by element, in mV."""
    return F.huber_loss(residual_mv, torch.zeros_like(residual_mv), delta=delta_mv, reduction="none") / delta_mv


def soft_lead_loss(predicted_mv: Tensor, applies: Tensor, delta_mv: float) -> Tensor:
    """Mean over rows, laws and time of the Huber penalty on the residual, in mV.

    Args:
        predicted_mv: (N, 12, T), mV.
        applies: (N,), bool; false for recordings that break the laws themselves, or pages that could not be drawn.
        delta_mv: Where the penalty turns from square to linear, mV.
    """
    penalty = huber_mv(lead_residual(predicted_mv), delta_mv)
    return global_mean((penalty.mean((1, 2)) * applies).sum(), applies.sum())


def precordial_residual(predicted_mv: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
    """How far each precordial lead, where it is not shown, misses its tie with the leads that are shown beside it.

    The tie is a ridge regression on the samples at which the page shows the lead, from the measured leads that it shows all
    that time too (in 3x4 with rhythm strip: the two neighbours and II). It is fitted on the redrawn leads and held fixed.

    Args:
        predicted_mv: (N, 12, T), mV.
        shown: (N, 12, T), bool.

    Returns:
        Residual (N, 6, T) in mV; where it counts (N, 6, T), bool: the lead is not shown, and shown elsewhere beside others.
    """
    leads, seen = predicted_mv[:, MEASURED], shown[:, MEASURED].to(predicted_mv.dtype)
    window = seen[:, PRECORDIAL]  # (N, 6, T): the samples each tie is fitted on
    count = window.sum(-1).clamp_min(1)
    means = torch.einsum("nkt,nlt->nkl", window, leads) / count[..., None]
    beside = torch.einsum("nkt,nlt->nkl", window, seen) >= count[..., None]  # (N, 6, 8)
    beside[:, ITSELF, PRECORDIAL] = False
    with torch.no_grad():
        second = torch.stack([(leads * inside[:, None]) @ leads.mT for inside in window.unbind(1)], dim=1)
        covariance = second / count[..., None, None] - means[..., :, None] * means[..., None, :]
        usable = beside.to(leads.dtype)
        ridge = torch.diag_embed(RIDGE_MV**2 * usable + (1 - usable))  # a lead that may not help gets the weight 0
        target = covariance[:, ITSELF, :, PRECORDIAL].transpose(0, 1) * usable
        matrix = covariance * usable[..., :, None] * usable[..., None, :] + ridge
        weights = torch.linalg.solve(matrix, target)  # (N, 6, 8)
    own = leads[:, PRECORDIAL] - means[:, ITSELF, PRECORDIAL][..., None]
    told = torch.einsum("nkl,nlt->nkt", weights, leads) - (weights * means).sum(-1)[..., None]
    return own - told, ~shown[:, MEASURED][:, PRECORDIAL] & beside.any(-1, keepdim=True)


def precordial_tie_loss(predicted_mv: Tensor, shown: Tensor, applies: Tensor, delta_mv: float) -> Tensor:
    """Mean over rows, leads and unseen time of the Huber penalty on ``precordial_residual``, in mV.

    Args:
        predicted_mv: (N, 12, T), mV.
        shown: (N, 12, T), bool.
        applies: (N,), bool; false for pages that could not be drawn.
        delta_mv: Where the penalty turns from square to linear, mV.
    """
    residual, counts = precordial_residual(predicted_mv, shown)
    weight = counts & applies[:, None, None]
    return global_mean((huber_mv(residual, delta_mv) * weight).sum(), weight.sum())

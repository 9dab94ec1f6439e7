"""How well the twelve leads are redrawn, separately for what the page shows: shown, derivable, unseen.

How r is computed: for each recording and lead, Pearson's r between redrawn and true samples over the masked samples
of that lead (its mean over those samples removed); leads with fewer than 25 such samples, or whose truth is constant
there, are skipped; the mean over the leads is the recording's r; the mean over recordings is the figure. A redrawn
lead that is constant where the truth is not counts as r = 0. RMSE is the root of the mean square over all masked
samples of a recording, in mV, averaged over recordings, against the truth with each lead's mean removed (a page does
not show a lead's offset): no alignment, no scaling.

Letters: N recordings, 12 leads, T samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ecgscan_ray.objective.reconstruction import pearson_per_lead
from ecgscan_ray.objective.soft_leads import lead_law_residual
from ecgscan_ray.recording.leads import LEAD_LAWS

MASKS = ("shown", "derivable", "unseen")


def lead_pearson(redrawn_mv: torch.Tensor, truth_mv: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Pearson's r of every recording and lead over its masked samples.

    Args:
        redrawn_mv: (N, 12, T) mV.
        truth_mv: (N, 12, T) mV, finite.
        mask: (N, 12, T) bool.

    Returns:
        (N, 12) float32, NaN where r has no meaning (module head).
    """
    r, defined = pearson_per_lead(redrawn_mv.float(), truth_mv.float(), mask)
    return r.clamp(-1, 1).masked_fill(~defined, float("nan"))


def recording_pearson(redrawn_mv: torch.Tensor, truth_mv: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(N,) mean of ``lead_pearson`` over the leads of each recording; NaN where no lead has one."""
    return torch.nanmean(lead_pearson(redrawn_mv, truth_mv, mask), dim=-1)


def recording_rmse(redrawn_mv: torch.Tensor, truth_mv: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(N,) root mean square error in mV over all masked samples of each recording; NaN where there are none."""
    error = (redrawn_mv.float() - truth_mv.float()).masked_fill(~mask, 0.0)
    count = mask.sum((-1, -2))
    mean_square = error.square().sum((-1, -2)) / count.clamp_min(1)
    return mean_square.sqrt().masked_fill(count == 0, float("nan"))


def lead_residual_mv(redrawn_mv: torch.Tensor) -> torch.Tensor:
    """(N,) mean absolute residual of the four lead laws on the redrawn leads, in mV, over laws and time."""
    return lead_law_residual(redrawn_mv.float()).abs().mean((-1, -2))


OTHER_VARIANCE = 25.0
"""Assumed variance of leads that the page does not show, relative to shown ones: their error is five times as large."""


def project_on_laws(redrawn_mv: Tensor, shown: Tensor, other_variance: float = OTHER_VARIANCE) -> Tensor:
    """The nearest leads that obey the four laws, where nearness is weighted by evidence.

    x - S A'(A S A')^-1 A x at each sample, with S the leads' variances: what the page shows nearly keeps its value, what it
    does not show moves to fit. It hides the residual: measure that before.

    Args:
        redrawn_mv: (N, 12, T) mV.
        shown: (N, 12, T) bool, what the page shows.
        other_variance: Of the leads not shown, in units of that of shown ones.

    Returns:
        (N, 12, T) mV.
    """
    laws = torch.as_tensor(LEAD_LAWS, dtype=torch.float64, device=redrawn_mv.device)
    variance = torch.where(shown, 1.0, other_variance).double()
    weighted = torch.einsum("al,nlt->ntal", laws, variance)  # A S
    residual = lead_law_residual(redrawn_mv.double()).mT
    share = torch.linalg.solve(weighted @ laws.T, residual)
    return redrawn_mv - torch.einsum("ntal,nta->nlt", weighted, share).to(redrawn_mv.dtype)

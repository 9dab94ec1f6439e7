"""The lead laws' penalty: 0 where they hold, in mV where they do not, without a signal, not dominated by spikes."""

from __future__ import annotations

import pytest
import torch

from ecgscan_ray.objective.soft_leads import lead_law_residual, soft_lead_loss
from tests.unit.objective.batches import DOUBLE

ONE = torch.ones(1).bool()
T = 400


def lawful() -> torch.Tensor:
    """Leads in which the laws hold: (1, 12, T)."""
    torch.manual_seed(3)
    one, two, *chest = torch.randn(8, 3, dtype=DOUBLE) @ (0.3 * torch.randn(3, T, dtype=DOUBLE))
    limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    return torch.stack([*limb, *chest])[None]


def test_soft_leads_vanish_on_lawful_leads_and_grow_with_the_fault() -> None:
    leads = lawful()
    assert lead_law_residual(leads).abs().max() < 1e-12
    swapped = leads[:, [0, 1, 2, 3, 5, 4, 6, 7, 8, 9, 10, 11]]
    assert soft_lead_loss(swapped, ONE, 0.02) > 0.05
    assert soft_lead_loss(swapped, ~ONE, 0.02) == 0


def test_the_penalty_is_in_mv_square_then_linear() -> None:
    """An offset of aVR by d is a residual of d in one law of four."""
    leads = torch.zeros(1, 12, T, dtype=DOUBLE)
    for offset, expected in ((0.01, 0.5 * 0.01**2 / 0.02), (1.0, 1.0 - 0.01)):
        leads[:, 3] = offset
        assert soft_lead_loss(leads, ONE, 0.02).item() == pytest.approx(expected / 4)


def test_a_spike_has_no_larger_gradient_than_a_small_fault() -> None:
    grads = []
    for height in (0.1, 10.0):
        leads = torch.zeros(1, 12, T, dtype=DOUBLE)
        leads[0, 3, 50] = height
        leads.requires_grad_()
        grads.append(torch.autograd.grad(soft_lead_loss(leads, ONE, 0.02), leads)[0].abs().max())
    torch.testing.assert_close(*grads)

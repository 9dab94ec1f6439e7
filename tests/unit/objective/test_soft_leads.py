"""Laws and ties of leads: nothing where they hold, mV where they do not, no signal needed, spikes do not rule."""

from __future__ import annotations

import pytest
import torch

from ecgscan_ray.objective.soft_leads import (
    RIDGE_MV,
    lead_residual,
    precordial_residual,
    precordial_tie_loss,
    soft_lead_loss,
)
from tests.unit.objective.batches import DOUBLE

ONE = torch.ones(1).bool()
T = 400
QUARTER = T // 4


def lawful(components: int = 3) -> torch.Tensor:
    """Leads in which the laws hold, and of which all measured ones mix so many sources: (1, 12, T)."""
    torch.manual_seed(3)
    sources = 0.3 * torch.randn(components, T, dtype=DOUBLE)
    one, two, *chest = torch.randn(8, components, dtype=DOUBLE) @ sources
    limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    return torch.stack([*limb, *chest])[None]


def page(rhythm_strip: bool = True) -> torch.Tensor:
    """What 3x4 (+ II) shows: (1, 12, T)."""
    shown = torch.zeros(1, 12, T).bool()
    for quarter in range(4):
        shown[:, 3 * quarter : 3 * quarter + 3, quarter * QUARTER : (quarter + 1) * QUARTER] = True
    if rhythm_strip:
        shown[:, 1] = True
    return shown


def test_soft_leads_vanish_on_lawful_leads_and_grow_with_the_fault() -> None:
    leads = lawful()
    assert lead_residual(leads).abs().max() < 1e-12
    swapped = leads[:, [0, 1, 2, 3, 5, 4, 6, 7, 8, 9, 10, 11]]
    assert soft_lead_loss(swapped, ONE, 0.02) > 0.05
    assert soft_lead_loss(swapped, ~ONE, 0.02) == 0


def test_the_penalty_is_in_mv_square_then_linear() -> None:
    """An offset of aVR by d is a residual of d in one law of four."""
    leads = torch.zeros(1, 12, T, dtype=DOUBLE)
    for offset, expected in ((0.01, 0.5 * 0.01**2 / 0.02), (1.0, 1.0 - 0.01)):
        leads[:, 3] = offset
        assert soft_lead_loss(leads, ONE, 0.02).item() == pytest.approx(expected / 4)


def test_a_spike_asks_no_more_than_a_small_fault() -> None:
    grads = []
    for height in (0.1, 10.0):
        leads = torch.zeros(1, 12, T, dtype=DOUBLE)
        leads[0, 3, 50] = height
        leads.requires_grad_()
        grads.append(torch.autograd.grad(soft_lead_loss(leads, ONE, 0.02), leads)[0].abs().max())
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("rhythm_strip", [True, False])
def test_ties_hold_where_neighbours_tell_a_lead_and_fail_where_it_strays(rhythm_strip: bool) -> None:
    leads, shown = lawful(components=2), page(rhythm_strip)
    residual, counts = precordial_residual(leads, shown)
    assert counts.float().mean() == pytest.approx(0.75)
    assert residual[counts].abs().mean() < RIDGE_MV
    strayed = leads.clone()
    strayed[0, 7, : 2 * QUARTER] += 0.5  # V2, where the page does not show it
    residual, _ = precordial_residual(strayed, shown)
    assert residual[0, 1, : 2 * QUARTER].mean() == pytest.approx(0.5, abs=0.05)
    assert precordial_tie_loss(strayed, shown, ONE, 0.1) > 0.02 > 2 * precordial_tie_loss(leads, shown, ONE, 0.1)


def test_ties_are_fitted_on_each_page_and_held_fixed() -> None:
    """Another heart on the next page changes nothing."""
    leads, shown = torch.cat([lawful(2), lawful(2).flip(1)]), page().expand(2, -1, -1)
    alone, _ = precordial_residual(leads[:1], shown[:1])
    together, _ = precordial_residual(leads, shown)
    torch.testing.assert_close(together[:1], alone)
    leads = leads.requires_grad_()
    grad = torch.autograd.grad(precordial_tie_loss(leads, shown, torch.ones(2).bool(), 0.1), leads)[0]
    assert grad.isfinite().all() and grad[:, 6, :QUARTER].any()


def test_ties_do_not_count_on_whole_leads_lone_leads_or_pages_that_failed() -> None:
    leads = lawful() + torch.randn(1, 12, T, dtype=DOUBLE)
    assert precordial_tie_loss(leads, torch.ones(1, 12, T).bool(), ONE, 0.1) == 0
    lone = torch.zeros(1, 12, T).bool()
    lone[:, 8, :QUARTER] = True
    assert precordial_tie_loss(leads, lone, ONE, 0.1) == 0
    assert precordial_tie_loss(leads, page(), ~ONE, 0.1) == 0 < precordial_tie_loss(leads, page(), ONE, 0.1)
    assert precordial_tie_loss(torch.zeros_like(leads), page(), ONE, 0.1).isfinite()

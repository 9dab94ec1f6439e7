"""Each loss against a slow reference, at its limits, and with rows left out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgscan_ray.config import ObjectiveConfig
from ecgscan_ray.objective.gram import squared_volumes
from ecgscan_ray.objective.objective import Objective
from ecgscan_ray.objective.reconstruction import pearson_per_lead, reconstruction_loss
from ecgscan_ray.objective.soft_leads import lead_residual, soft_lead_loss
from tests.unit.objective.batches import DOUBLE, unit


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), dim=st.integers(3, 40))
def test_volume_equals_determinant_and_is_bounded(seed: int, dim: int) -> None:
    i, s, t = (unit(5, dim, seed + k) for k in range(3))
    stacked = torch.stack([i[:, None].expand(5, 5, dim), s[None].expand(5, 5, dim), t[None].expand(5, 5, dim)], dim=2)
    expected = torch.linalg.det(stacked @ stacked.transpose(-1, -2))
    found = squared_volumes(i, s, t)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    assert found.min() > -1e-12 and found.max() < 1 + 1e-12
    rotation = torch.linalg.qr(torch.randn(dim, dim, dtype=DOUBLE))[0]
    torch.testing.assert_close(squared_volumes(i @ rotation, s @ rotation, t @ rotation), found, atol=1e-10, rtol=0)


def test_volume_of_orthonormal_is_one_and_of_dependent_zero() -> None:
    e = torch.eye(3, dtype=DOUBLE)
    assert squared_volumes(e[:1], e[1:2], e[2:]).item() == pytest.approx(1)
    for image in (e[1:2], -e[1:2], F.normalize(e[1:2] + e[2:], dim=-1)):
        assert squared_volumes(image, e[1:2], e[2:]).item() == pytest.approx(0, abs=1e-15)


def test_pearson_matches_numpy_over_the_mask() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 12, 80, dtype=DOUBLE), torch.randn(2, 12, 80, dtype=DOUBLE)
    mask = torch.zeros(2, 12, 80).bool()
    mask[:, :, 10:50] = True
    mask[1, 3] = False
    r, defined = pearson_per_lead(a, b, mask)
    expected = torch.corrcoef(torch.stack([a[0, 5, 10:50], b[0, 5, 10:50]]))[0, 1]
    torch.testing.assert_close(r[0, 5], expected, atol=1e-6, rtol=0)
    assert not defined[1, 3] and defined.sum() == 23


def test_reconstruction_counts_only_weighted_samples() -> None:
    torch.manual_seed(0)
    target = torch.randn(2, 12, 64)
    weight = torch.zeros(2, 12, 64)
    weight[:, :, :32] = 1
    spoiled = target.clone()
    spoiled[:, :, 40:] += 5  # far from the scored half and its coarser views
    assert reconstruction_loss(spoiled, target, weight) < 1e-5
    spoiled[:, :, 3] += 1
    assert reconstruction_loss(spoiled, target, weight) > 0.01


def test_soft_leads_vanish_on_lawful_leads_and_grow_with_the_fault() -> None:
    one, two = torch.randn(1, 50), torch.randn(1, 50)
    lawful = torch.stack([one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2] + [one] * 6, dim=1)
    assert lead_residual(lawful).abs().max() < 1e-6
    swapped = lawful[:, [0, 1, 2, 3, 5, 4, 6, 7, 8, 9, 10, 11]]
    applies = torch.ones(1).bool()
    assert soft_lead_loss(swapped, applies, 0.02) > 0.1
    assert soft_lead_loss(swapped, ~applies, 0.02) == 0


def test_weights_are_applied_and_scheduled() -> None:
    objective = Objective(ObjectiveConfig(pair_weight=0.5, pair_weight_end=0.1))
    assert objective.weights(0.0)["pair_loss"] == pytest.approx(0.5)
    assert objective.weights(1.0)["pair_loss"] == pytest.approx(0.1)

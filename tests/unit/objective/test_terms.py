"""Each loss against a slow reference, at its limits, and with rows left out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgscan_ray.config import ObjectiveConfig
from ecgscan_ray.objective.contrastive import gather_items, gram_loss, pair_loss
from ecgscan_ray.objective.gram import gram_volume, squared_volumes
from ecgscan_ray.objective.objective import Objective
from ecgscan_ray.objective.reconstruction import pearson_per_lead, reconstruction_loss
from ecgscan_ray.objective.soft_leads import lead_residual, soft_lead_loss

DOUBLE = torch.float64


def unit(rows: int, dim: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, dim, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed)), dim=-1)


def items_of(image, signal, text, **changes):
    rows = len(image)
    batch = {
        "has_signal": torch.ones(rows).bool(),
        "has_text": torch.ones(rows).bool(),
        "patient_key": torch.arange(rows),
        "report_key": torch.arange(rows),
    } | changes
    return gather_items({"image_features": image, "signal_features": signal, "text_features": text}, batch)


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


@pytest.mark.parametrize("case", ["identical", "opposite", "teachers equal", "zero image"])
def test_value_and_gradient_are_finite_where_the_volume_vanishes(case: str) -> None:
    base = unit(4, 8, 0)
    raw = {"image": base.clone(), "signal": base.clone(), "text": unit(4, 8, 1)}
    if case == "opposite":
        raw["image"] = -raw["image"]
    if case == "teachers equal":
        raw["text"] = base.clone()
    if case == "zero image":
        raw["image"] = torch.zeros_like(base)
    raw = {name: value.requires_grad_() for name, value in raw.items()}
    items = items_of(raw["image"], raw["signal"], raw["text"])
    loss = gram_loss(items, torch.tensor(14.0)) + pair_loss(items, torch.tensor(14.0))
    loss.backward()
    assert loss.isfinite() and all(value.grad.isfinite().all() for value in raw.values())


def test_sign_is_free_for_the_volume_and_fixed_by_the_pair_term() -> None:
    i, s, t = (unit(6, 12, k) for k in range(3))
    scale = torch.tensor(10.0, dtype=DOUBLE)
    plus, minus = items_of(i, s, t), items_of(-i, s, t)
    torch.testing.assert_close(gram_loss(plus, scale), gram_loss(minus, scale))
    assert abs(pair_loss(plus, scale) - pair_loss(minus, scale)) > 1e-3


def slow_cross_entropy(scores: torch.Tensor, allowed: torch.Tensor, rows: list[int]) -> torch.Tensor:
    losses = []
    for row in rows:
        columns = [c for c in range(scores.shape[1]) if allowed[row, c]]
        losses.append(-scores[row, row] + torch.logsumexp(scores[row, columns], 0))
    return torch.stack(losses).mean()


def test_masks_leave_out_rows_columns_and_false_negatives() -> None:
    i, s, t = (unit(5, 7, k) for k in range(3))
    has_text = torch.tensor([1, 1, 0, 1, 1]).bool()
    patient = torch.tensor([1, 2, 3, 1, -1])
    report = torch.tensor([1, 2, -1, 4, 2])
    items = items_of(i, s, t, has_text=has_text, patient_key=patient, report_key=report)
    allowed = torch.ones(5, 5).bool() & has_text[None]
    for a, b in ((0, 3), (1, 4)):
        allowed[a, b] = allowed[b, a] = False
    rows, scale = [0, 1, 3, 4], torch.tensor(9.0, dtype=DOUBLE)
    score = -scale * gram_volume(i, s, t)
    expected = 0.5 * (slow_cross_entropy(score, allowed, rows) + slow_cross_entropy(score.T, allowed, rows))
    torch.testing.assert_close(gram_loss(items, scale), expected)


def test_no_text_at_all_gives_zero_not_nan() -> None:
    i, s, t = (unit(4, 7, k).requires_grad_() for k in range(3))
    loss = gram_loss(items_of(i, s, t, has_text=torch.zeros(4).bool()), torch.tensor(9.0))
    loss.backward()
    assert loss.item() == 0 and i.grad.isfinite().all()


def test_bf16_features_keep_the_loss_within_a_percent() -> None:
    i, s, t = (unit(32, 64, k).float() for k in range(3))
    exact = gram_loss(items_of(i, s, t), torch.tensor(14.0))
    rough = gram_loss(items_of(i.bfloat16(), s.bfloat16(), t.bfloat16()), torch.tensor(14.0))
    assert rough.dtype == torch.float32 and abs(rough - exact) < 0.01 * exact


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

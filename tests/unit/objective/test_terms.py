"""Each loss against a slow reference, at its limits, and with rows left out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgscan_ray.config import ObjectiveConfig
from ecgscan_ray.objective.contrastive import pair_losses, weighted_mean
from ecgscan_ray.objective.gram import squared_volumes
from ecgscan_ray.objective.objective import Objective
from ecgscan_ray.objective.reconstruction import pearson_per_lead, reconstruction_loss
from tests.unit.objective.batches import DOUBLE, ROWS, items_of, joint_batch, unit


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), dim=st.integers(3, 40))
def test_volume_equals_determinant_and_is_bounded(seed: int, dim: int) -> None:
    i, s, t = (unit(5, dim, seed + k) for k in range(3))
    stacked = torch.stack([i[:, None].expand(5, 5, dim), s[None].expand(5, 5, dim), t[None].expand(5, 5, dim)], dim=2)
    expected = torch.linalg.det(stacked @ stacked.transpose(-1, -2))
    volumes = squared_volumes(i, s, t)
    torch.testing.assert_close(volumes, expected, atol=1e-12, rtol=0)
    assert volumes.min() > -1e-12 and volumes.max() < 1 + 1e-12
    rotation = torch.linalg.qr(torch.randn(dim, dim, dtype=DOUBLE))[0]
    torch.testing.assert_close(squared_volumes(i @ rotation, s @ rotation, t @ rotation), volumes, atol=1e-10, rtol=0)


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


def test_weights_are_applied_and_scheduled() -> None:
    schedules = {
        "pair": {"final_factor": 0.2},
        "gram": {"warmup": 0.5},
        "soft_lead": {"warmup": 0.5, "final_factor": 3.0},
    }
    objective = Objective(ObjectiveConfig(pair_weight=0.5, gram_weight=2.0, soft_lead_weight=1.0, schedules=schedules))
    assert [objective.weights(at)["pair_loss"] for at in (0.0, 1.0)] == pytest.approx([0.5, 0.1])
    assert [objective.weights(at)["gram_loss"] for at in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0, 1, 2, 2])
    assert [objective.weights(at)["soft_lead_loss"] for at in (0.0, 0.25, 1.0)] == pytest.approx([0, 0.75, 3])
    assert Objective(ObjectiveConfig()).weights(0.0)["gram_loss"] == 1
    assert Objective(ObjectiveConfig(triple="triangle", schedules=schedules)).weights(0.0)["triangle_loss"] == 0


def outputs() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What a model gives, with gradient, and its batch."""
    raw, batch = joint_batch()
    scale = torch.tensor(8.0, dtype=DOUBLE)
    raw |= {"gram_logit_scale": scale, "pair_logit_scale": scale, "pair_logit_bias": -scale}
    return {name: value.requires_grad_() for name, value in raw.items()}, batch


@pytest.mark.parametrize("triple", ["gram", "triangle"])
def test_loss_is_the_sum_of_what_is_logged_weighted(triple: str) -> None:
    config = ObjectiveConfig(triple=triple, pair_weight=0.7, schedules={"pair": {"final_factor": 0.1}})
    output, batch = outputs()
    objective = Objective(config)
    losses = objective(output, batch, progress=0.5)
    weights = objective.weights(0.5)
    assert weights.keys() == {name for name in losses if name.endswith("_loss")} and f"{triple}_loss" in weights
    for name, weight in weights.items():
        weighted = losses[name.replace("_loss", "_weighted")]
        assert not weighted.requires_grad
        torch.testing.assert_close(weighted, weight * losses[name].detach())
    torch.testing.assert_close(
        losses["loss"].detach(), sum(value for name, value in losses.items() if name.endswith("_weighted"))
    )


def test_pair_term_is_the_mean_of_its_pairs_by_weight() -> None:
    items = items_of(*(unit(5, 7, k) for k in range(3)))
    scale = torch.tensor(9.0, dtype=DOUBLE)
    losses = pair_losses(items, scale)
    assert list(losses) == ["image_signal", "image_text", "signal_text"]
    equal = weighted_mean(losses, dict.fromkeys(losses, 1.0))
    torch.testing.assert_close(equal, torch.stack(list(losses.values())).mean())
    weighted = weighted_mean(
        pair_losses(items, scale, ["image_signal", "image_text"]), {"image_signal": 3, "image_text": 1}
    )
    torch.testing.assert_close(weighted, 0.75 * losses["image_signal"] + 0.25 * losses["image_text"])


def test_pair_weights_of_zero_are_refused() -> None:
    with pytest.raises(ValueError, match="pair_weights requires"):
        ObjectiveConfig(pair_weights={"image_text": 0.0})


def test_a_page_without_signal_is_held_to_the_lead_laws_alone() -> None:
    output, batch = outputs()
    batch |= {"has_signal": torch.zeros(ROWS).bool(), "law_ok": torch.ones(ROWS).bool()}
    losses = Objective(ObjectiveConfig())(output, batch)
    assert losses["reconstruction_loss"] == 0 and losses["gram_loss"] == 0 and losses["soft_lead_loss"] > 0
    grad = torch.autograd.grad(losses["loss"], output["redrawn_mv"])[0]
    page_ok = batch["page_ok"]
    assert (grad[page_ok][:, :6].abs().sum((1, 2)) > 0).all()  # limb leads, on every page that was drawn
    assert not grad[page_ok][:, 6:].any() and not grad[~page_ok].any()


def test_a_lead_that_was_not_recorded_is_left_out_of_the_reconstruction() -> None:
    output, batch = outputs()
    batch["valid"][2:4, 7] = False
    losses = Objective(ObjectiveConfig())(output, batch | {"has_signal": torch.ones(ROWS).bool()})
    grad = torch.autograd.grad(losses["reconstruction_loss"], output["redrawn_mv"])[0]
    assert not grad[2:4, 7].any() and grad[2:4, 8].any() and grad[0, 7].any()


def test_without_reports_text_terms_are_zero_and_finite() -> None:
    output, batch = outputs()
    batch["has_text"] = torch.zeros(ROWS).bool()
    losses = Objective(ObjectiveConfig(pair_weight=2.0))(output, batch)
    assert all(torch.isfinite(value) for value in losses.values())
    assert losses["gram_loss"] == 0
    losses["loss"].backward()
    assert all(torch.isfinite(value.grad).all() for value in output.values() if value.grad is not None)
    assert not output["text_features"].grad.any()
    alone = ObjectiveConfig(gram_weight=0.0, pair_weights={"image_signal": 1.0})
    assert not alone.uses_text and ObjectiveConfig().uses_text
    torch.testing.assert_close(Objective(alone)(output, batch)["pair_loss"], 3 * losses["pair_loss"])


def test_which_losses_use_text() -> None:
    assert not ObjectiveConfig(gram_weight=0, pair_weight=0).uses_text
    assert ObjectiveConfig(gram_weight=0, pair_weight=1).uses_text
    assert ObjectiveConfig(gram_weight=1, pair_weight=0).uses_text
    assert not ObjectiveConfig(gram_weight=0, pair_weights={"image_signal": 1.0, "image_text": 0.0}).uses_text

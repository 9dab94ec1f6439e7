"""The block-wise losses: against a slow reference and ``torch.linalg.det``, by gradcheck, masked, at their limits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from ecgscan_ray.objective import blockwise, gram_loss, info_nce_loss, siglip_loss, triangle_loss
from ecgscan_ray.objective.contrastive import GatheredFeatures, pair_losses, triplet_loss
from ecgscan_ray.objective.gram import EPS, gram_volume
from ecgscan_ray.objective.triangle import triangle_area
from tests.unit.objective.batches import DOUBLE, items_of, unit

Loss = Callable[..., torch.Tensor]
SCALE = torch.tensor(9.0, dtype=DOUBLE)
BIAS = torch.tensor(-3.0, dtype=DOUBLE)

LOSSES: dict[str, Loss] = {
    "gram": lambda items, scale, **k: triplet_loss(items, scale, "gram", **k),
    "triangle": lambda items, scale, **k: triplet_loss(items, scale, "triangle", **k),
    "infonce": lambda items, scale, **k: pair_losses(items, scale, **k)["image_text"],
    "siglip": lambda items, scale, **k: pair_losses(items, scale, logit_bias=BIAS.to(scale.dtype), **k)["image_text"],
}
MASKS = {
    "has_text": torch.tensor([1, 1, 0, 1, 1, 1, 1]).bool(),
    "has_signal": torch.tensor([1, 1, 1, 1, 1, 0, 1]).bool(),
    "page_ok": torch.tensor([1, 1, 1, 1, 1, 1, 0]).bool(),
    "recording_key": torch.tensor([0, 1, 2, 3, 4, 5, 6]),
    "patient_key": torch.tensor([1, 2, 3, 1, -1, -1, 4]),
    "report_key": torch.tensor([1, 2, -1, 4, 2, 5, 6]),
}


def scores(kind: str, i: torch.Tensor, s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Scores of every image with every column, from determinants and distances."""
    n = len(i)
    if kind in ("infonce", "siglip"):
        return i @ t.T
    stacked = torch.stack([i[:, None].expand(n, n, -1), s[None].expand(n, n, -1), t[None].expand(n, n, -1)], dim=2)
    if kind == "triangle":  # half the area of the parallelogram of two sides
        stacked = stacked[:, :, 1:] - stacked[:, :, :1]
    squared = torch.linalg.det(stacked @ stacked.mT) / (4 if kind == "triangle" else 1)
    return -(squared.clamp_min(0) + EPS).sqrt()


def slow_loss(kind: str, logits: torch.Tensor, allowed: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """Row by row and column by column, as one writes it on paper."""
    losses = []
    for row in rows:
        if kind == "siglip":
            signs = [(c, 1.0 if c == row else -1.0) for c in range(len(logits)) if allowed[row, c]]
            losses.append(-sum(F.logsigmoid(sign * logits[row, c]) for c, sign in signs))
            continue
        for z, may in ((logits[row], allowed[row]), (logits[:, row], allowed[:, row])):
            losses.append(-0.5 * (z[row] - torch.logsumexp(z[may], 0)))
    return torch.stack(losses).sum() / len(rows)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", LOSSES)
def test_value_and_gradient_equal_a_slow_reference_at_any_block_size(kind: str, masked: bool) -> None:
    vectors = [unit(7, 5, k).requires_grad_() for k in range(3)]
    scale = SCALE.clone().requires_grad_()
    allowed = torch.ones(7, 7).bool()
    rows = list(range(7))
    if masked:
        rows = [0, 1, 3, 4] if kind in ("gram", "triangle") else [0, 1, 3, 4, 5]
        present = torch.tensor([row in rows for row in range(7)])
        allowed = present[:, None] & present
        for a, b in ((0, 3), (1, 4)):
            allowed[a, b] = allowed[b, a] = False
    logits = scale * scores(kind, *(F.normalize(v, dim=-1) for v in vectors)) + (BIAS if kind == "siglip" else 0)
    expected = slow_loss(kind, logits, allowed, rows)
    expected_grads = torch.autograd.grad(expected, [*vectors, scale], allow_unused=True)
    for block_rows in (None, 1, 3, 7):
        items = items_of(*vectors, **(MASKS if masked else {}))
        loss = LOSSES[kind](items, scale, block_rows=block_rows)
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
        grads = torch.autograd.grad(loss, [*vectors, scale], allow_unused=True)
        for grad, reference in zip(grads, expected_grads, strict=True):
            assert (grad is None) == (reference is None)
            if grad is not None:
                torch.testing.assert_close(grad, reference, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", LOSSES)
def test_gradcheck(kind: str) -> None:
    vectors = [
        torch.randn(7, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(k)).requires_grad_() for k in range(3)
    ]

    def loss(scale: torch.Tensor, *features: torch.Tensor) -> torch.Tensor:
        return LOSSES[kind](items_of(*features, **MASKS), scale, block_rows=3)

    assert torch.autograd.gradcheck(loss, (SCALE.clone().requires_grad_(), *vectors))


def test_siglip_learns_its_bias() -> None:
    items = items_of(*(unit(7, 5, k) for k in range(3)), **MASKS)
    bias = BIAS.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda b: pair_losses(items, SCALE, ["image_text"], b, block_rows=2)["image_text"], bias
    )


def test_kept_scores_serve_more_than_one_backward() -> None:
    vectors = [unit(6, 5, k).requires_grad_() for k in range(3)]
    loss = triplet_loss(items_of(*vectors), SCALE)
    first = torch.autograd.grad(loss, vectors, retain_graph=True)
    copies = [grad.clone() for grad in first]
    second = torch.autograd.grad(2 * loss, vectors)
    for grad, copy, twice in zip(first, copies, second, strict=True):
        torch.testing.assert_close(grad, copy, rtol=0, atol=0)
        torch.testing.assert_close(twice, 2 * grad, rtol=0, atol=0)


def test_large_batches_are_taken_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the scores do not fit they are computed twice: nothing of size N x N is held from forward to backward."""
    monkeypatch.setattr(blockwise, "DENSE_SCORES", 50)
    monkeypatch.setattr(blockwise, "BLOCK_SCORES", 40)
    items = items_of(*(unit(10, 5, k) for k in range(3)))
    plan = blockwise.BlockPlan(None, items.pair_mask("image"))  # type: ignore[arg-type]
    assert not plan.dense and list(plan.blocks()) == [(0, 4), (4, 8), (8, 10)]


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize(
    "case", ["identical", "opposite", "teachers equal", "teachers opposite", "one line", "zero image", "all zero"]
)
def test_value_and_gradient_are_finite_at_the_limits(kind: str, case: str, dtype: torch.dtype) -> None:
    base, other = unit(4, 8, 0).to(dtype), unit(4, 8, 1).to(dtype)
    cases = {
        "identical": (base, base, other),
        "opposite": (-base, base, other),
        "teachers equal": (other, base, base),
        "teachers opposite": (other, base, -base),
        "one line": (base[:1].expand(4, 8), -base[:1].expand(4, 8), base[:1].expand(4, 8)),
        "zero image": (torch.zeros_like(base), base, other),
        "all zero": (torch.zeros_like(base),) * 3,
    }
    vectors = [v.clone().requires_grad_() for v in cases[case]]
    for temperature in (1.0, 0.01):  # at the coldest, exp of the logits' range underflows in fp32
        scale = torch.tensor(1 / temperature, dtype=dtype, requires_grad=True)
        loss = LOSSES[kind](items_of(*vectors), scale)
        grads = torch.autograd.grad(loss, [scale, *vectors], allow_unused=True)
        assert loss.isfinite() and all(g.isfinite().all() for g in grads if g is not None)


def test_nothing_to_compare_gives_zero_not_nan() -> None:
    nobody = {"has_text": torch.zeros(4).bool()}
    for kind, loss in LOSSES.items():
        vectors = [unit(4, 7, k).requires_grad_() for k in range(3)]
        value = loss(items_of(*vectors, **nobody), SCALE)
        value.backward()
        assert value.item() == 0 and not vectors[0].grad.any(), kind


def test_same_recording_patient_or_report_is_no_negative_by_default() -> None:
    """Two rows that share a key do not see each other; unknown keys (-1) share nothing."""
    vectors = [unit(4, 6, k) for k in range(3)]
    shared = torch.tensor([5, 5, -1, -1])
    free = items_of(*vectors)
    expected = torch.eye(4).bool().logical_not() & False
    expected[0, 1] = expected[1, 0] = True
    assert not free.pair_mask("image").excluded(0, 4).any()
    for key in ("recording_key", "patient_key", "report_key"):
        excluded = items_of(*vectors, **{key: shared}).pair_mask("image").excluded(0, 4)
        torch.testing.assert_close(excluded, expected, msg=key)
        unmasked = items_of(*vectors, {"mask_false_negatives": False}, **{key: shared})
        assert (
            triplet_loss(unmasked, SCALE)
            == triplet_loss(free, SCALE)
            != triplet_loss(items_of(*vectors, **{key: shared}), SCALE)
        )


def items_in(dtype: torch.dtype) -> GatheredFeatures:
    return items_of(*(unit(256, 128, k).to(dtype) for k in range(3)))


@pytest.mark.parametrize("kind", LOSSES)
def test_bf16_features_cost_two_parts_in_a_thousand(kind: str) -> None:
    """Inputs rounded to bf16, arithmetic in fp32: value within 0.2 %, and the result is fp32."""
    scale = torch.tensor(14.0)
    exact, rough = (LOSSES[kind](items_in(dtype), scale) for dtype in (torch.float32, torch.bfloat16))
    assert rough.dtype == torch.float32 and abs(rough - exact) < 2e-3 * exact


@pytest.mark.parametrize("kind", LOSSES)
def test_bf16_features_keep_the_gradients_direction(kind: str) -> None:
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        vectors = [unit(256, 128, k).to(dtype).requires_grad_() for k in range(3)]
        loss = LOSSES[kind](items_of(*vectors), torch.tensor(14.0))
        grads.append(torch.autograd.grad(loss, vectors[0])[0].float().flatten())
    assert F.cosine_similarity(*grads, dim=0) > 0.999


@pytest.mark.parametrize("kind", ["gram", "triangle"])
def test_scores_equal_the_formula_and_are_flat_where_a_square_is_negative(kind: str) -> None:
    """Rounding can make a squared volume or area negative; images longer than 1 do so here."""
    signal, text = unit(9, 4, 1), unit(9, 4, 2)
    image = (1.3 * unit(9, 4, 0)).requires_grad_()
    s, t, st = image @ signal.T, image @ text.T, (signal * text).sum(-1)
    p, q, r = 1 - s, 1 - t, 1 - st
    squared, score = {
        "gram": (1 + 2 * s * t * st - s**2 - t**2 - st**2, gram_volume),
        "triangle": ((2 * p * q + 2 * q * r + 2 * r * p - p**2 - q**2 - r**2) / 4, triangle_area),
    }[kind]
    assert (squared < -0.01).any() and (squared > 0.01).any()
    values, expected = score(image, signal, text), (squared.clamp_min(0) + EPS).sqrt()
    torch.testing.assert_close(values, expected)
    weight = torch.randn(9, 9, dtype=DOUBLE)
    gradients = (torch.autograd.grad(v, image, weight, retain_graph=True)[0] for v in (values, expected))
    torch.testing.assert_close(*gradients)


def test_losses_of_bare_features_are_those_of_gathered_ones() -> None:
    """The public functions on one process, without masks."""
    image, signal, text = (unit(6, 5, k) for k in range(3))
    items = items_of(image, signal, text)
    losses = {
        "gram": gram_loss(image, signal, text, SCALE),
        "triangle": triangle_loss(image, signal, text, SCALE),
        "infonce": info_nce_loss(image, text, SCALE),
        "siglip": siglip_loss(image, text, SCALE, BIAS),
    }
    for kind, loss in losses.items():
        torch.testing.assert_close(loss, LOSSES[kind](items, SCALE), msg=kind)

"""The block-wise losses: against a slow reference and ``torch.linalg.det``, by gradcheck, masked, at their limits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from ecgscan_ray.objective import blockwise
from ecgscan_ray.objective.contrastive import GatheredFeatures, pair_losses, triple_loss
from ecgscan_ray.objective.scores import EPS, Area, Volume
from tests.unit.objective.batches import DOUBLE, items_of, unit

Loss = Callable[..., torch.Tensor]
SCALE = torch.tensor(9.0, dtype=DOUBLE)
BIAS = torch.tensor(-3.0, dtype=DOUBLE)

LOSSES: dict[str, Loss] = {
    "gram": lambda items, scale, **k: triple_loss(items, scale, "gram", **k),
    "triangle": lambda items, scale, **k: triple_loss(items, scale, "triangle", **k),
    "infonce": lambda items, scale, **k: pair_losses(items, scale, **k)["image_text"],
    "siglip": lambda items, scale, **k: pair_losses(items, scale, bias=BIAS.to(scale.dtype), **k)["image_text"],
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


def slow_loss(
    kind: str, logits: torch.Tensor, allowed: torch.Tensor, rows: list[int], smoothing: float
) -> torch.Tensor:
    """Row by row and column by column, as one writes it on paper."""
    losses = []
    for own in rows:
        if kind == "siglip":
            signs = [(c, 1.0 if c == own else -1.0) for c in range(len(logits)) if allowed[own, c]]
            losses.append(-sum(F.logsigmoid(sign * logits[own, c]) for c, sign in signs))
            continue
        for z, may in ((logits[own], allowed[own]), (logits[:, own], allowed[:, own])):
            chosen = z[may]
            log_probability = chosen - torch.logsumexp(chosen, 0)
            right = z[own] - torch.logsumexp(chosen, 0)
            losses.append(-0.5 * ((1 - smoothing) * right + smoothing * log_probability.mean()))
    return torch.stack(losses).sum() / len(rows)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("kind", "smoothing"), [(k, s) for k in LOSSES for s in (0.0, 0.2) if k != "siglip" or not s])
def test_value_and_gradient_equal_a_slow_reference_at_any_block_size(kind: str, smoothing: float, masked: bool) -> None:
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
    expected = slow_loss(kind, logits, allowed, rows, smoothing)
    expected_grads = torch.autograd.grad(expected, [*vectors, scale], allow_unused=True)
    for block_rows in (None, 1, 3, 7):
        items = items_of(*vectors, **(MASKS if masked else {}))
        found = LOSSES[kind](items, scale, block_rows=block_rows, **({"smoothing": smoothing} if smoothing else {}))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        grads = torch.autograd.grad(found, [*vectors, scale], allow_unused=True)
        for mine, reference in zip(grads, expected_grads, strict=True):
            assert (mine is None) == (reference is None)
            if mine is not None:
                torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", LOSSES)
def test_gradcheck(kind: str) -> None:
    vectors = [
        torch.randn(7, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(k)).requires_grad_() for k in range(3)
    ]

    def loss(scale: torch.Tensor, *features: torch.Tensor) -> torch.Tensor:
        smoothing = {} if kind == "siglip" else {"smoothing": 0.1}
        return LOSSES[kind](items_of(*features, **MASKS), scale, block_rows=3, **smoothing)

    assert torch.autograd.gradcheck(loss, (SCALE.clone().requires_grad_(), *vectors))


def test_siglip_learns_its_bias() -> None:
    items = items_of(*(unit(7, 5, k) for k in range(3)), **MASKS)
    bias = BIAS.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda b: pair_losses(items, SCALE, ["image_text"], b, block_rows=2)["image_text"], bias
    )


def test_kept_scores_serve_more_than_one_backward() -> None:
    vectors = [unit(6, 5, k).requires_grad_() for k in range(3)]
    loss = triple_loss(items_of(*vectors), SCALE)
    first = torch.autograd.grad(loss, vectors, retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(loss, vectors), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_large_batches_are_taken_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is computed anew: nothing of the size N x N is held from forward to backward."""
    monkeypatch.setattr(blockwise, "DENSE_SCORES", 50)
    monkeypatch.setattr(blockwise, "BLOCK_SCORES", 40)
    items = items_of(*(unit(10, 5, k) for k in range(3)))
    plan = blockwise.BlockPlan(None, items.comparison("image"))  # type: ignore[arg-type]
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
        found = loss(items_of(*vectors, **nobody), SCALE)
        found.backward()
        assert found.item() == 0 and not vectors[0].grad.any(), kind


def test_same_recording_patient_or_report_is_no_negative_unless_told() -> None:
    """Two rows that share a key do not see each other; unknown keys (-1) share nothing."""
    vectors = [unit(4, 6, k) for k in range(3)]
    shared = torch.tensor([5, 5, -1, -1])
    free = items_of(*vectors)
    expected = torch.eye(4).bool().logical_not() & False
    expected[0, 1] = expected[1, 0] = True
    assert not free.comparison("image").excluded(0, 4).any()
    for key in ("recording_key", "patient_key", "report_key"):
        excluded = items_of(*vectors, **{key: shared}).comparison("image").excluded(0, 4)
        torch.testing.assert_close(excluded, expected, msg=key)
        unmasked = items_of(*vectors, {"mask_false_negatives": False}, **{key: shared})
        assert (
            triple_loss(unmasked, SCALE)
            == triple_loss(free, SCALE)
            != triple_loss(items_of(*vectors, **{key: shared}), SCALE)
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


@pytest.mark.parametrize("kind", ["volume", "area"])
def test_derivatives_of_a_block_of_scores_hold_beyond_the_possible_too(kind: str) -> None:
    """Rounding can make a squared volume or area negative: there the score is flat."""
    torch.manual_seed(0)
    products = (torch.rand(2, 6, 5, dtype=DOUBLE) * 2.4 - 1.2).requires_grad_()
    column = torch.rand(5, dtype=DOUBLE).requires_grad_()
    if kind == "volume":
        score, squared = Volume(), column * (1 - products[0] ** 2 - products[1] ** 2)
    else:
        p, q, r = 1 - products[0], 1 - products[1], 1 - column
        score, squared = Area(), (2 * p * q + 2 * q * r + 2 * r * p - p**2 - q**2 - r**2) / 4
    assert (squared < -0.01).any() and (squared > 0.01).any()
    reference, grad = -(squared.clamp_min(0) + EPS).sqrt(), torch.randn(6, 5, dtype=DOUBLE)
    value = score.value(products.detach(), column.detach())
    torch.testing.assert_close(value, reference)
    pulled = score.pull(products.detach(), column.detach(), value, grad)
    for found, expected in zip(pulled, torch.autograd.grad(reference, (products, column), grad), strict=True):
        torch.testing.assert_close(found, expected)

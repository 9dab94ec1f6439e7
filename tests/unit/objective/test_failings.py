"""Failure modes of the volume alone, and their remedies: sign, plane, text, start, hubs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ecgscan_ray.objective.contrastive import MODALITIES, pair_losses, triplet_loss, weighted_mean
from ecgscan_ray.objective.gram import gram_volume, squared_volumes
from ecgscan_ray.objective.metrics import batch_metrics, hub_size
from tests.unit.objective.batches import DOUBLE, flags, items_of, unit

SCALE = torch.tensor(1 / 0.07, dtype=DOUBLE)
PAGE_PAIRS = ["image_signal", "image_text"]


def pair_loss(image: torch.Tensor, signal: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    losses = pair_losses(items_of(image, signal, text), SCALE, PAGE_PAIRS)
    return weighted_mean(losses, dict.fromkeys(PAGE_PAIRS, 1.0))


def volume_loss(image: torch.Tensor, signal: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    return triplet_loss(items_of(image, signal, text), SCALE)


def teachers(rows: int, dim: int, shared: float = 0.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Signals and reports that agree in part, ``shared`` times a direction common to all in them."""
    base, common = unit(rows, dim, seed), unit(1, dim, seed + 1)
    return tuple(F.normalize(base + 0.8 * unit(rows, dim, seed + k) + shared * common, dim=-1) for k in (2, 3))


def aligned(start: torch.Tensor, signal: torch.Tensor, text: torch.Tensor, pair_weight: float) -> torch.Tensor:
    """Images after a few hundred steps of descent on free vectors."""
    image = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([image], lr=0.05)
    for _ in range(150):
        loss = volume_loss(image, signal, text) + pair_weight * pair_loss(image, signal, text)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return F.normalize(image.detach(), dim=-1)


def test_sign_is_free_for_the_volume_and_fixed_by_the_pair_term() -> None:
    signal, text = teachers(24, 16)
    start = F.normalize(unit(24, 16, 9) - 0.5 * signal, dim=-1)  # turned away
    torch.testing.assert_close(volume_loss(start, signal, text), volume_loss(-start, signal, text))
    alone, remedied = (aligned(start, signal, text, weight) for weight in (0.0, 0.25))
    assert (alone * signal).sum(-1).lt(0).float().mean() > 0.8
    assert (remedied * signal).sum(-1).gt(0).all()
    for image, expected in ((alone, 0.8), (remedied, 0.0)):
        negative = metrics(image, signal, text)["negative_diagonals"]
        assert negative > expected if expected else negative == 0


def test_the_volume_knows_a_plane_and_the_pair_term_a_direction() -> None:
    signal, text = unit(8, 16, 0), unit(8, 16, 1)
    images = [F.normalize(a * signal + b * text, dim=-1) for a, b in ((1, 1), (1, -1), (-1, -1), (1, 0))]
    for image in images:
        assert squared_volumes(image, signal, text).diagonal().abs().max() < 1e-12
    losses = [pair_loss(image, signal, text).item() for image in images]
    assert losses[0] < min(losses[1:]) - 0.1


def test_the_volume_forgets_the_text_where_page_and_signal_agree() -> None:
    signal, text = teachers(8, 16)
    other_text = unit(8, 16, 7)
    for words in (text, other_text):
        assert squared_volumes(signal, signal, words).diagonal().abs().max() < 1e-12
    assert pair_loss(signal, signal, text) < pair_loss(signal, signal, other_text) - 0.1


def test_a_volume_gives_a_fresh_embedding_no_direction() -> None:
    """At the start its logits hardly differ, and its gradient does not point to the matching signal and report."""
    image, signal, text = (unit(128, 256, k) for k in range(3))
    volume_sd = (SCALE * gram_volume(image, signal, text)).std()
    assert volume_sd < 0.15 * (SCALE * image @ signal.T).std()
    towards = F.normalize(signal + text, dim=-1)
    cosines = {}
    for name, loss in {
        "volume": volume_loss,
        "remedied": lambda *v: volume_loss(*v) + 0.5 * pair_loss(*v),
    }.items():
        leaf = image.clone().requires_grad_()
        step = -torch.autograd.grad(loss(leaf, signal, text), leaf)[0]
        cosines[name] = F.cosine_similarity(step, towards, dim=-1).mean()
    assert cosines["volume"].abs() < 0.3 and cosines["remedied"] > 0.9


@pytest.mark.parametrize("shared", [3.0])
def test_teachers_with_a_common_direction_make_hubs_and_centring_unmakes_them(shared: float) -> None:
    signal, text = teachers(128, 64, shared)
    free_signal, free_text = teachers(128, 64, 0.0)
    image = F.normalize(free_signal + free_text + 2.0 * unit(128, 64, 11), dim=-1)
    sizes = {}
    for centred in (False, True):
        items = items_of(image, signal, text, {"center_targets": centred})
        columns = items.columns
        assert columns["signal"].norm(dim=-1).sub(1).abs().max() < 1e-12
        sizes[centred] = hub_size(gram_volume(items.rows["image"], columns["signal"], columns["text"]))
    assert sizes[False] > 3 * sizes[True]


def metrics(
    image: torch.Tensor, signal: torch.Tensor, text: torch.Tensor, **changes: torch.Tensor
) -> dict[str, torch.Tensor]:
    rows = len(image)
    features = dict(zip(MODALITIES, (image, signal, text), strict=True))
    output = {f"{name}_features": value for name, value in features.items()}
    output |= {"redrawn_mv": torch.zeros(rows, 12, 50), "gram_logit_scale": SCALE, "pair_logit_scale": SCALE}
    masks = {name: torch.ones(rows, 12, 50).bool() for name in ("shown", "derivable", "unseen", "valid")}
    return batch_metrics(output, flags(rows, **changes) | masks | {"centred_mv": torch.zeros(rows, 12, 50)})


def test_metrics_are_of_rows_that_have_what_is_measured() -> None:
    signal, text = teachers(6, 16)
    image = F.normalize(signal + 0.3 * unit(6, 16, 5), dim=-1)
    gone = torch.tensor([1, 1, 1, 1, 0, 0]).bool()
    expected = metrics(image[:4], signal[:4], text[:4])
    spoiled = text.clone()
    spoiled[4:] = -image[4:]
    measured = metrics(image, signal, spoiled, has_text=gone)
    for name in (
        "volume_matching",
        "volume_other",
        "cosine_image_text",
        "cosine_signal_text",
        "hub_volume",
        "hub_text",
    ):
        torch.testing.assert_close(measured[name], expected[name], msg=name)
    volumes = gram_volume(image[:4], signal[:4], text[:4]).float()
    torch.testing.assert_close(measured["volume_other"], volumes[~torch.eye(4).bool()].mean())
    nobody = metrics(image, signal, text, has_text=torch.zeros(6).bool(), has_signal=torch.zeros(6).bool())
    assert all(value.isfinite() for value in nobody.values()) and nobody["hub_volume"] == 0


def test_a_hub_is_the_most_popular_column() -> None:
    distance = torch.ones(5, 5)
    distance[:, 3] = torch.tensor([0.0, 0, 0, 2, 2])
    assert hub_size(distance) == 3

"""Finding the page: the loss is least at the truth, says so in every part, and leaves out pages that could not be drawn."""

from __future__ import annotations

import torch

from ecgscan_ray.objective.frame import frame_loss, vote_divergence

TRUTH = torch.tensor([[[0.1, 0.3], [0.9, 0.3], [0.9, 0.8], [0.1, 0.8]]])
EDGES = torch.tensor([[[0.1, 0.3], [0.5, 0.3], [0.9, 0.8]]])


def votes(truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Places on a line through the truth; logits that are right."""
    steps = torch.linspace(-0.05, 0.05, 21)
    places = truth[:, :, None] + steps[:, None] * torch.tensor([1.0, 0.0])
    return -0.5 * (steps / 0.005).square().expand(1, truth.shape[1], 21).clone(), places


def output() -> dict[str, torch.Tensor]:
    near, near_places = votes(TRUTH)
    edge, edge_places = votes(EDGES)
    return {
        "frame_guess": torch.stack([TRUTH, torch.zeros_like(TRUTH)], 1), "layout_logits": torch.tensor([[20.0, 0.0]]),
        "near_logits": near, "near_places": near_places, "edge_logits": edge, "edge_places": edge_places,
        "edge_truth": EDGES, "edge_counts": torch.ones(1, 3),
    }  # fmt: skip


BATCH = {"frame_corners": TRUTH, "layout": torch.tensor([0]), "page_ok": torch.tensor([True])}


def test_nothing_to_learn_at_the_truth() -> None:
    assert frame_loss(output(), BATCH) < 1e-4


def test_every_part_counts() -> None:
    for name in ("frame_guess", "layout_logits", "near_logits", "edge_logits"):
        wrong = output()
        wrong[name] = wrong[name].flip(1) if name in ("frame_guess", "layout_logits") else wrong[name].roll(3, -1)
        assert frame_loss(wrong, BATCH) > 0.1, name


def test_a_page_that_could_not_be_drawn_does_not_count() -> None:
    wrong = output() | {"layout_logits": torch.tensor([[0.0, 20.0]])}
    assert frame_loss(wrong, BATCH | {"page_ok": torch.tensor([False])}) == 0


def test_votes_are_least_wrong_at_the_truth() -> None:
    logits, places = votes(TRUTH)
    divergences = [vote_divergence(logits.roll(k, -1), places, TRUTH).sum().item() for k in (-4, -1, 0, 1, 4)]
    assert divergences[2] == min(divergences) and divergences[0] > divergences[1] and divergences[4] > divergences[3]

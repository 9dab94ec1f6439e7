"""Loss of the page frame: least at the truth, in every part, and without pages that could not be drawn."""

from __future__ import annotations

import torch

from ecgscan_ray.objective.frame import frame_loss, vote_divergence

TRUTH = torch.tensor([[[0.1, 0.3], [0.9, 0.3], [0.9, 0.8], [0.1, 0.8]]])
EDGES = torch.tensor([[[0.1, 0.3], [0.5, 0.3], [0.9, 0.8]]])


def votes(truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions on a line through the truth; logits that peak there."""
    steps = torch.linspace(-0.05, 0.05, 21)
    xy = truth[:, :, None] + steps[:, None] * torch.tensor([1.0, 0.0])
    return -0.5 * (steps / 0.005).square().expand(1, truth.shape[1], 21).clone(), xy


def output() -> dict[str, torch.Tensor]:
    corner_logits, corner_xy = votes(TRUTH)
    edge_logits, edge_xy = votes(EDGES)
    return {
        "frame_guess": torch.stack([TRUTH, torch.zeros_like(TRUTH)], 1), "layout_logits": torch.tensor([[20.0, 0.0]]),
        "corner_logits": corner_logits, "corner_xy": corner_xy, "edge_logits": edge_logits, "edge_xy": edge_xy,
        "edge_truth": EDGES, "edge_counts": torch.ones(1, 3),
    }  # fmt: skip


def loss(output: dict[str, torch.Tensor], page_ok: bool = True) -> torch.Tensor:
    return frame_loss(output, TRUTH, torch.tensor([0]), torch.tensor([page_ok]))


def test_nothing_to_learn_at_the_truth() -> None:
    assert loss(output()) < 1e-4


def test_every_part_counts() -> None:
    for name in ("frame_guess", "layout_logits", "corner_logits", "edge_logits"):
        wrong = output()
        wrong[name] = wrong[name].flip(1) if name in ("frame_guess", "layout_logits") else wrong[name].roll(3, -1)
        assert loss(wrong) > 0.1, name


def test_a_page_that_could_not_be_drawn_does_not_count() -> None:
    wrong = output() | {"layout_logits": torch.tensor([[0.0, 20.0]])}
    assert loss(wrong, page_ok=False) == 0


def test_votes_are_least_wrong_at_the_truth() -> None:
    logits, xy = votes(TRUTH)
    divergences = [vote_divergence(logits.roll(k, -1), xy, TRUTH).sum().item() for k in (-4, -1, 0, 1, 4)]
    assert divergences[2] == min(divergences) and divergences[0] > divergences[1] and divergences[4] > divergences[3]

"""Classifiers of recordings: windows that are learned from, windows that are scored."""

from __future__ import annotations

import pytest
import torch

from ecgscan_ray.config import load
from ecgscan_ray.config.finetune import FinetuneConfig
from ecgscan_ray.config.settings import Config
from ecgscan_ray.model.classifier import PageClassifier, all_windows, random_window

LEADS = torch.arange(3 * 12 * 100, dtype=torch.float32).reshape(3, 12, 100)


def classifier(first_weights: str | None = None) -> PageClassifier:
    config = load(Config, "laptop")
    task = FinetuneConfig(
        task="superclass",
        classes={"NORM": ("NORM",), "MI": ("IMI",)},
        input="recordings",
        first_weights=first_weights,
    )
    return PageClassifier(config.model_copy(update={"finetune": task}))


def test_windows_that_are_scored_cover_a_recording_and_overlap_by_half() -> None:
    windows = all_windows(LEADS, 40)
    assert windows.shape == (3, 4, 12, 40)
    for number in range(4):
        assert torch.equal(windows[:, number], LEADS[..., 20 * number : 20 * number + 40])


def test_windows_that_are_learned_from_lie_anywhere_with_all_leads_of_the_same_moment() -> None:
    torch.manual_seed(0)
    firsts = set()
    for _ in range(300):
        windows = random_window(LEADS, 40)
        assert windows.shape == (3, 1, 12, 40)
        for leads, (window,) in zip(LEADS, windows, strict=True):
            first = int(window[0, 0] - leads[0, 0])
            assert torch.equal(window, leads[:, first : first + 40])
            firsts.add(first)
    assert firsts == set(range(61)), "every place, first and last too"


def test_a_recording_shorter_than_a_window_is_one_window() -> None:
    assert torch.equal(all_windows(LEADS, 250), LEADS[:, None])
    assert torch.equal(random_window(LEADS, 250), LEADS[:, None])


def test_a_class_has_the_score_of_the_window_that_shows_it_best() -> None:
    model = classifier().eval()
    recordings = torch.randn(2, 12, 1000, generator=torch.Generator().manual_seed(0))
    whole = model({"centred_mv": recordings})["logits"]  # type: ignore[typeddict-item]
    starts = range(0, 751, 125)
    each = torch.stack(
        [model({"centred_mv": recordings[..., s : s + 250]})["logits"] for s in starts]  # type: ignore[typeddict-item]
    )
    assert whole.shape == (2, 2)
    torch.testing.assert_close(whole, each.amax(0))
    assert not torch.allclose(whole, each.mean(0))


@pytest.mark.parametrize("first_weights", [None, "digest"])
def test_constant_masks_count_nothing_unless_the_first_weights_know_them(first_weights: str | None) -> None:
    model = classifier(first_weights)
    model({"centred_mv": torch.randn(2, 12, 1000)})["logits"].sum().backward()  # type: ignore[typeddict-item]
    gradient = model.page.signal_encoder.signal.body.stem.weight.grad
    assert gradient is not None and gradient.shape[1] == 24 and gradient[:, :12].any()
    assert bool(gradient[:, 12:].any()) == (first_weights is not None)

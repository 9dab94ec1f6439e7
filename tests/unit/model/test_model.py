"""Towers and decoder: shapes, gradients everywhere, several layouts, other towers by name, errors that name the nearest."""

from __future__ import annotations

import pytest
import torch

from ecgscan_ray.errors import ConfigError
from ecgscan_ray.model.ecgscan import ECGScan
from ecgscan_ray.model.output import FrameOutput, ModelOutput
from tests.tiny import tiny_config


def a_batch(config, rows: int = 4) -> dict[str, torch.Tensor]:
    page = config.page
    return {
        "image": torch.randint(0, 255, (rows, page.channels, page.height, page.width), dtype=torch.uint8),
        "centred_mv": torch.randn(rows, 12, config.model.sig_len),
        "token_ids": torch.randint(4, 90, (rows, 10)),
        "attention_mask": torch.ones(rows, 10, dtype=torch.uint8),
        "frame_corners": torch.tensor([[0.1, 0.3], [0.9, 0.3], [0.9, 0.9], [0.1, 0.9]]).expand(rows, 4, 2),
        "layout": torch.arange(rows) % len(page.layouts),
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"page__layouts": {"3x4+1": 0.5, "6x2": 0.3, "12x1": 0.2}, "model__signal__kind": "transformer1d"},
        {"page__layouts": {"12x1": 1.0}},
        {"page__layouts": {"3x4/cabrera": 0.5, "3x4+1/simultaneous": 0.5}, "page__paper_speed_mm_per_s": 50.0},
        {"page__channels": 3, "model__image__name": "resnet10t", "model__image__kwargs": {"channels": [8, 8, 8, 8]}},
        {
            "model__image__name": "vit_tiny_patch16_224",
            "model__image__kwargs": {"depth": 1, "embed_dim": 24, "num_heads": 2},
        },
    ],
)
def test_forward_and_backward(changes) -> None:
    config = tiny_config(**changes)
    model = ECGScan(config, 100)
    output = model(a_batch(config))
    assert output["image_features"].shape == output["signal_features"].shape == output["text_features"].shape == (4, 16)
    assert output["redrawn_mv"].shape == (4, 12, 1000)
    torch.testing.assert_close(output["image_features"].norm(dim=-1), torch.ones(4))
    total = sum(value.float().square().sum() for name, value in output.items() if name != "image_features")
    (total + (output["image_features"] * torch.randn(4, 16)).sum()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize(("pair", "absent"), [("infonce", {"pair_logit_bias"}), ("siglip", set())])
def test_the_output_has_the_keys_of_its_type(pair: str, absent: set[str]) -> None:
    config = tiny_config(objective__pair=pair)
    keys = (ModelOutput.__annotations__.keys() | FrameOutput.__annotations__.keys()) - absent
    assert ECGScan(config, 100)(a_batch(config)).keys() == keys


def test_a_report_without_tokens_gives_numbers() -> None:
    config = tiny_config()
    batch = a_batch(config)
    batch["attention_mask"][0] = 0
    assert ECGScan(config, 100)(batch)["text_features"].isfinite().all()


def test_unknown_tower_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'convnext_atto'"):
        ECGScan(tiny_config(model__image__name="convnext_ato"), 100)

"""Blocks of the towers that are computed again, or compiled: the same loss, less memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ecgscan_ray.config import Config
from ecgscan_ray.errors import ConfigError
from ecgscan_ray.model.ecgscan import ECGScan
from ecgscan_ray.training.towers import checkpoint_activations, compile_blocks, repeated_blocks
from tests.tiny import tiny_config
from tests.unit.model.test_model import a_batch

VIT = {"name": "vit_tiny_patch16_224", "kwargs": {"depth": 3, "embed_dim": 24, "num_heads": 2}}
TOWERS: dict[str, Any] = {
    "model__image": VIT,
    "model__signal": {"kind": "transformer1d", "width": 16, "depth": 2},
    "model__text__depth": 2,
    "model__text__dropout": 0.1,
}


def test_blocks_are_the_layers_and_residual_blocks_of_all_towers() -> None:
    names = {module: name for name, module in ECGScan(tiny_config(**TOWERS), 100).named_modules()}
    found = sorted(names[block] for block in repeated_blocks(next(iter(names))))
    assert found == [
        *(f"page.signal_encoder.signal.body.layers.layers.{k}" for k in range(2)),
        *(f"page.tower.backbone.blocks.{k}" for k in range(3)),
        *(f"text_encoder.text.body.layers.layers.{k}" for k in range(2)),
    ]
    model = ECGScan(tiny_config(), 100)
    names = {module: name for name, module in model.named_modules()}
    found = [names[block] for block in repeated_blocks(model) if "backbone" in names[block]]
    assert found == [f"page.tower.backbone.stages.{k}" for k in range(4)], "of one block each"


def loss_and_gradients(config: Config, prepare: Any, batch: Any) -> tuple[float, list[Tensor], int]:
    """A loss, its gradients, and the bytes that are kept for the backward pass."""
    torch.manual_seed(0)
    model = ECGScan(config, 100).train()
    prepare(model)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(batch)
        loss = sum(value.float().square().mean() for value in output.values())
        loss = loss + (output["image_features"] * output["signal_features"]).sum() + output["text_features"].sum()
    loss.backward()
    return loss.item(), [p.grad for p in model.parameters() if p.grad is not None], sum(kept.values())


def test_activations_computed_again_give_the_same_loss_with_less_memory() -> None:
    config = tiny_config(**TOWERS)
    batch = a_batch(config)
    loss, grads, kept = loss_and_gradients(config, lambda model: None, batch)
    loss_again, grads_again, kept_again = loss_and_gradients(config, checkpoint_activations, batch)
    assert loss_again == loss and kept_again < 0.95 * kept
    for found, expected in zip(grads_again, grads, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.verify
def test_compiled_blocks_give_the_same_loss() -> None:
    config = tiny_config(**TOWERS, model__text__dropout=0.0)
    batch = a_batch(config)
    loss, grads, _ = loss_and_gradients(config, lambda model: None, batch)
    compiled_loss, compiled_grads, _ = loss_and_gradients(config, compile_blocks, batch)
    assert compiled_loss == pytest.approx(loss, rel=1e-6)
    for found, expected in zip(compiled_grads, grads, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_batch_norm_and_activations_computed_again_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match=r"training\.activation_checkpointing: the model has batch norm"):
        checkpoint_activations(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))

"""Learning rates of the image tower's layers as timm has them, frozen layers, fused kernels."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from ecgscan_ray.config import Config
from ecgscan_ray.errors import ConfigError
from ecgscan_ray.model.ecgscan import ECGScan
from ecgscan_ray.training.optimizer import build_optimizer, set_learning_rate
from ecgscan_ray.training.towers import freeze_layers, train_mode
from tests.tiny import tiny_config

VIT = {"name": "vit_tiny_patch16_224", "kwargs": {"depth": 3, "embed_dim": 24, "num_heads": 2}}


def model_with_vit(**changes: Any) -> tuple[Config, ECGScan]:
    config = tiny_config(model__image=VIT, **changes)
    return config, ECGScan(config, 100)


def test_layers_learn_at_the_rates_that_timm_gives_them() -> None:
    config, model = model_with_vit(training__layer_decay=0.5)
    backbone = model.page.tower.backbone  # type: ignore[union-attr]
    timms = param_groups_layer_decay(backbone, layer_decay=0.5)
    expected = {parameter: group["lr_scale"] for group in timms for parameter in group["params"]}
    optimizer = build_optimizer(model, config.training)
    set_learning_rate(optimizer, 3.0)
    rates = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert rates.keys() == set(model.parameters())
    assert {p: rate for p, rate in rates.items() if rate != 3.0 * expected.get(p, 1.0)} == {}
    assert len(set(expected.values())) == 4, "stem and three blocks; the last norm goes with the third"
    assert optimizer.param_groups[0]["lr"] == 3.0, "which is the one that is logged"


def test_frozen_layers_stay_and_all_others_move() -> None:
    config, model = model_with_vit()
    freeze_layers(model, 2)
    frozen = {name for name, p in model.page.tower.backbone.named_parameters() if not p.requires_grad}  # type: ignore[union-attr]
    assert {name.split(".")[0] for name in frozen} == {"cls_token", "pos_embed", "patch_embed", "blocks"}
    assert {name[:8] for name in frozen if name.startswith("blocks")} == {"blocks.0"}
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    optimizer = build_optimizer(model, config.training)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    same = {name for name, tensor in model.named_parameters() if torch.equal(tensor, before[name])}
    assert same == {f"page.tower.backbone.{name}" for name in frozen}


def test_batch_norms_that_are_frozen_keep_their_statistics() -> None:
    config = tiny_config(model__image={"name": "test_byobnet"})
    model = ECGScan(config, 100)
    freeze_layers(model, 2)
    train_mode(model)
    backbone = model.page.tower.backbone  # type: ignore[union-attr]
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.training for norm in norms} == {False, True}
    assert all(norm.training == norm.weight.requires_grad for norm in norms)


@pytest.mark.parametrize(("count", "message"), [(3, None), (4, "4 of 4 layers"), (99, "99 of 4 layers")])
def test_not_every_layer_can_be_frozen(count: int, message: str | None) -> None:
    _, model = model_with_vit()
    if message is None:
        freeze_layers(model, count)
    else:
        with pytest.raises(ConfigError, match=message):
            freeze_layers(model, count)


def test_the_layers_of_an_encoder_of_leads_are_those_of_its_signal_tower() -> None:
    config = tiny_config(model__input="leads", training__layer_decay=0.5)
    model = ECGScan(config, 100)
    optimizer = build_optimizer(model, config.training)
    scale = {p: group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    body = model.page.signal_encoder.signal.body
    assert scale[body.stem.weight] == 0.25
    assert [scale[block.conv1.weight] for block in body.blocks] == [0.5, 1.0]
    assert scale[model.page.content_head.weight] == 1.0
    freeze_layers(model, 1)
    assert not body.stem.weight.requires_grad and body.blocks[0].conv1.weight.requires_grad


def test_without_a_tower_there_are_no_layers() -> None:
    config = tiny_config(training__layer_decay=0.9)
    with pytest.raises(ConfigError, match=r"training\.layer_decay: the model has no tower with layers"):
        build_optimizer(nn.Linear(3, 3), config.training)


def test_fused_kernels_make_the_same_steps() -> None:
    """On a CPU, where they are there too, though not used: their last bits are others."""
    torch.manual_seed(0)
    grads = torch.randn(20, 5, 7)
    weights = []
    for fused in (False, True):
        parameter = nn.Parameter(torch.ones(5, 7))
        optimizer = torch.optim.AdamW([parameter], lr=1e-2, betas=(0.9, 0.98), weight_decay=0.1, fused=fused)
        for grad in grads:
            parameter.grad = grad.clone()
            optimizer.step()
        weights.append(parameter.detach())
    torch.testing.assert_close(*weights, rtol=1e-6, atol=1e-7)
    assert build_optimizer(nn.Linear(2, 2), tiny_config().training).defaults["fused"] is None


def test_timms_models_have_the_layers_that_are_counted() -> None:
    for name in ("resnet10t", "convnext_atto", "test_byobnet"):
        model = nn.ModuleDict({"tower": timm.create_model(name, num_classes=0)})
        freeze_layers(model, 1)
        assert 0 < sum(not p.requires_grad for p in model.parameters()) < len(list(model.parameters()))

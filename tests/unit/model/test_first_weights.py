"""First weights of the image tower from a file: as timm loads them, and as the tower that they come from computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ecgscan_ray import text
from ecgscan_ray.config import Config
from ecgscan_ray.errors import ConfigError
from ecgscan_ray.model.image import ImageTower
from ecgscan_ray.runs.checkpoints import TrainingState
from ecgscan_ray.tasks.loading import load_checkpoint
from ecgscan_ray.tasks.pretrain import Pretrain
from ecgscan_ray.training.checkpoint import Snapshot, save_checkpoint
from ecgscan_ray.training.optimizer import build_optimizer
from tests.tiny import tiny_config

NAME, SMALL = "vit_base_patch16_clip_224", {"depth": 2, "embed_dim": 32, "num_heads": 2}
OPEN_CLIP = (
    ("patch_embed.proj", "conv1"),
    ("norm_pre", "ln_pre"),
    ("blocks.", "transformer.resblocks."),
    ("norm1", "ln_1"),
    ("norm2", "ln_2"),
    ("attn.qkv.", "attn.in_proj_"),
    ("attn.proj", "attn.out_proj"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
    ("norm.", "ln_post."),
)


def clip_layout(tower: nn.Module) -> dict[str, Tensor]:
    """A timm ViT's weights as open_clip names them, with its projection and a text tower beside."""
    state = dict(tower.state_dict())
    named = {
        "class_embedding": state.pop("cls_token")[0, 0],
        "positional_embedding": state.pop("pos_embed")[0],
        "proj": torch.randn(32, 16),
    }
    for name, tensor in state.items():
        for ours, theirs in OPEN_CLIP:
            name = name.replace(ours, theirs)
        named[name] = tensor
    return {f"visual.{name}": tensor.clone() for name, tensor in named.items()} | {"text_projection": torch.ones(2)}


@pytest.fixture(scope="module")
def original() -> nn.Module:
    """A CLIP tower for colour pictures of 224 x 224."""
    torch.manual_seed(3)
    return timm.create_model(NAME, num_classes=0, **SMALL).eval()


@pytest.fixture(scope="module")
def file(original: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "open_clip_model.safetensors"
    save_file(clip_layout(original), path)
    return path


def with_file(path: Path, **changes: Any) -> Config:
    return tiny_config(model__image={"name": NAME, "kwargs": SMALL, "path": str(path)}, **changes)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_clip_tower_sees_pages_of_its_size_as_before(original: nn.Module, file: Path, channels: int) -> None:
    config = with_file(file, page__height=224, page__width=224, page__channels=channels)
    tower = ImageTower(config.model.image, config.page).eval()
    image = torch.randn(2, channels, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(tower(image)[1], original(image.expand(2, 3, 224, 224)), rtol=1e-4, atol=1e-5)
    clip_mean, clip_std = original.pretrained_cfg["mean"], original.pretrained_cfg["std"]
    expected = clip_mean if channels == 3 else [sum(clip_mean) / 3]
    assert tower.mean.flatten().tolist() == pytest.approx(expected)
    assert tower.std.flatten().tolist() == pytest.approx(clip_std if channels == 3 else [sum(clip_std) / 3])


def test_positions_are_interpolated_and_colours_folded_as_timm_does(file: Path) -> None:
    config = with_file(file)
    tower = ImageTower(config.model.image, config.page)
    timms = timm.create_model(
        *(NAME, True),
        pretrained_cfg_overlay={"file": str(file)},
        num_classes=0,
        in_chans=1,
        img_size=(96, 128),
        **SMALL,
    )
    ours = tower.backbone.state_dict()
    assert ours["pos_embed"].shape == (1, 1 + 6 * 8, 32) and ours["patch_embed.proj.weight"].shape[1] == 1
    for name, tensor in timms.state_dict().items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=0, msg=name)


def test_weights_of_another_model_are_refused(original: nn.Module, tmp_path: Path) -> None:
    part = clip_layout(original)
    del part["visual.transformer.resblocks.1.mlp.c_fc.weight"]
    save_file(part, tmp_path / "part.safetensors")
    save_file({"vision_model.encoder.weight": torch.ones(2)}, tmp_path / "other.safetensors")
    (tmp_path / "text.bin").write_text("no weights")
    for name, message in (
        ("part.safetensors", r"1 parameters are missing or not finite, e\.g\. blocks\.1\.mlp\.fc1\.weight"),
        ("other.safetensors", "parameters are missing"),
        ("text.bin", "not weights of this model"),
        ("absent", "timm cannot build"),
    ):
        config = with_file(tmp_path / name)
        with pytest.raises(ConfigError, match=message):
            ImageTower(config.model.image, config.page)


def test_a_trained_run_keeps_the_normalisation_of_its_first_weights(file: Path, tmp_path: Path) -> None:
    """The file may be gone by then."""
    config = with_file(file)
    tokenizer = text.fit_tokenizer(["sinusrhythmus"], 300)
    model = Pretrain().build_model(config, tokenizer)
    snapshot = Snapshot.of(model, build_optimizer(model, config.training))
    save_checkpoint(tmp_path, snapshot, config, tokenizer.to_str(), TrainingState(1, 12, config.digest(), "pretrain"))
    tower = load_checkpoint(tmp_path).model.page.tower
    assert tower.mean.item() == model.page.tower.mean.item() != 1.0  # type: ignore[union-attr]

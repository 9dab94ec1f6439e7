"""Image tower: any timm model by name or local folder; a pooled vector, and maps for the decoder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.models import load_pretrained
from torch import Tensor, nn

from ecgscan_ray.config import ImageTowerConfig, PageConfig
from ecgscan_ray.errors import ConfigError, near_miss

# Fixed numbers, saved with every encoder, not fitted to any split. White paper becomes 0: that is what convolutions pad
# with, and what timm's preprocessing fills margins with, so that a padded page is the same page everywhere.
PAGE_MEAN, PAGE_STD = 1.0, 0.15


class ImageTower(nn.Module):
    """A timm backbone with the page's normalisation inside.

    Args:
        config: Name, keyword arguments, or local folder.
        page: Page size and channels.

    Raises:
        ConfigError: Unknown model name, or a page size the model does not take.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ImageTowerConfig, page: PageConfig) -> None:
        super().__init__()
        self.backbone: Any = create_backbone(config, page)
        mean, std = normalisation(self.backbone, config, page.channels)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        with torch.no_grad():
            self.backbone.eval()
            probe = torch.zeros(1, page.channels, page.height, page.width)
            maps, pooled = self._maps(probe)
            self.backbone.train()
        self.map_channels, self.pooled_dim = tuple(m.shape[1] for m in maps), pooled.shape[1]

    def _maps(self, x: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        final, intermediates = self.backbone.forward_intermediates(x, output_fmt="NCHW")
        pooled = self.backbone.forward_head(final, pre_logits=True)
        height = x.shape[-2]

        def last_of(stride: int) -> Tensor:  # a ViT has only its patch grid
            fine_enough = [m for m in intermediates if height / m.shape[-2] <= stride + 0.5]
            return fine_enough[-1] if fine_enough else intermediates[-1]

        return (last_of(4), last_of(8), intermediates[-1]), pooled

    def normalise(self, image: Tensor) -> Tensor:
        """(N, C, H, W) uint8 -> the backbone's normalisation, fp32."""
        x = (image.float() / 255 - self.mean) / self.std
        return x.contiguous(memory_format=torch.channels_last)

    def forward(self, normalised: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """Maps and pooled features of a batch of pages.

        Args:
            normalised: (N, C, H, W).

        Returns:
            Maps (N, F, h, w) of stride 4, of stride 8 and the last one (or the nearest strides), pooled features (N, P).
        """
        return self._maps(normalised)


_LOADS_FILES = frozenset({"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"})
"""timm's arguments that load files: settings name weights by ``path`` alone, and download nothing."""


def create_backbone(config: ImageTowerConfig, page: PageConfig) -> nn.Module:
    """The timm model, without classifier, for the page's channels (and size, where the model is tied to one).

    Raises:
        ConfigError: Unknown model name, settings it does not take, or weights that are not its own.
    """
    file = config.path if config.path and Path(config.path).is_file() else None
    name = f"local-dir:{config.path}" if config.path and not file else config.name
    arguments = {"pretrained": name != config.name, "num_classes": 0, "in_chans": page.channels, **config.kwargs}
    if files := sorted(_LOADS_FILES & config.kwargs.keys()):
        fix = "Set model.image.path to a folder or a file of weights."
        raise ConfigError(f"{', '.join(files)} cannot be given here", where="model.image.kwargs", fix=fix)
    if (not config.path or file) and not timm.is_model(config.name):
        raise ConfigError(
            f"timm has no model '{config.name}'",
            where="model.image.name",
            fix=near_miss(config.name, timm.list_models()),
        )
    try:
        if {"vit", "deit", "eva", "beit", "swin"} & set(config.name.replace("_", " ").split()):
            arguments.setdefault("img_size", (page.height, page.width))
        backbone = timm.create_model(name, **arguments)
    except (TypeError, AssertionError, ValueError, RuntimeError, OSError) as error:
        raise ConfigError(f"timm cannot build '{name}': {error}", where="model.image") from error
    if file:
        _load_file(backbone, file, page.channels)
    return backbone


def _load_file(backbone: nn.Module, path: str, channels: int) -> None:
    """Weights of a checkpoint file, converted by timm's own filter for this kind of model; every parameter gets one.

    Raises:
        ConfigError: The file cannot be read, or lacks some of the model's parameters.
    """
    convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    settings = {**cast(dict[str, Any], backbone.pretrained_cfg), "file": path, "custom_load": False, "source": ""}
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.fill_(float("nan"))
    try:
        load_pretrained(backbone, settings, num_classes=0, in_chans=channels, filter_fn=convert, strict=False)
    except Exception as error:  # timm and torch raise any class on files of other models
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise ConfigError(f"not weights of this model ({reason})", where=path, fix=_FIX_FILE) from error
    missing = [name for name, parameter in backbone.named_parameters() if not parameter.isfinite().all()]
    if missing:
        what = f"not weights of this model ({len(missing)} parameters are missing or not finite, e.g. {missing[0]})"
        raise ConfigError(what, where=path, fix=_FIX_FILE)


_FIX_FILE = "Give a checkpoint of timm or open_clip, and in model.image.name the timm model that it is of."


def normalisation(backbone: nn.Module, config: ImageTowerConfig, channels: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation on a scale of 0 to 1: those that first weights were trained with, else ours.

    Where the page has other channels than these weights, they are averaged over the colours.
    """
    settings = getattr(backbone, "pretrained_cfg", None) or {}
    if not config.path or not settings.get("mean"):
        return [PAGE_MEAN] * channels, [PAGE_STD] * channels
    mean, std = list(settings["mean"]), list(settings["std"])
    if len(mean) != channels:
        mean, std = [sum(mean) / len(mean)] * channels, [sum(std) / len(std)] * channels
    return mean, std

"""Signal tower: a 1-D ResNet or transformer over twelve leads, which keeps time for the heads."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgscan_ray.config import SignalTowerConfig


class _Block(nn.Module):
    """Pre-activation residual block; group norm, so that no statistics cross rows or workers."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels_in)
        self.conv1 = nn.Conv1d(channels_in, channels_out, 7, stride, 3, bias=False)
        self.norm2 = nn.GroupNorm(8, channels_out)
        self.conv2 = nn.Conv1d(channels_out, channels_out, 7, 1, 3, bias=False)
        self.skip = (
            nn.Conv1d(channels_in, channels_out, 1, stride) if stride > 1 or channels_in != channels_out else None
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        y = self.conv2(F.relu(self.norm2(y)))
        return y + (x if self.skip is None else self.skip(x))


class ResNet1d(nn.Module):
    """Stem of stride 4, then ``depth`` blocks, each of stride 2 and (up to 4 x width) wider: (N, C, T) -> (N, F, t)."""

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv1d(channels, width, 15, 4, 7)
        widths = [width] + [min(width * 2 ** (k // 2 + 1), 4 * width) for k in range(depth)]
        self.blocks = nn.Sequential(
            *(_Block(a, b, 2 if k else 1) for k, (a, b) in enumerate(itertools.pairwise(widths)))
        )
        self.channels = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.blocks(self.stem(x)))


class Transformer1d(nn.Module):
    """Patches of 0.25 s of all leads, sinusoidal positions, ``depth`` encoder layers: (N, C, T) -> (N, F, t)."""

    def __init__(self, channels: int, width: int, depth: int, patch: int) -> None:
        super().__init__()
        self.patch = nn.Conv1d(channels, width, patch, patch)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, depth, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.channels = width

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).transpose(1, 2)
        return self.layers(x + sinusoid(x.shape[1], x.shape[2], x.device)).transpose(1, 2)


def sinusoid(length: int, width: int, device: torch.device) -> Tensor:
    """Fixed sine and cosine codes of positions 0..length-1: (length, width)."""
    position = torch.arange(length, device=device)[:, None]
    rate = torch.exp(-torch.arange(0, width, 2, device=device) / width * 9.2)
    code = torch.zeros(length, width, device=device)
    code[:, 0::2], code[:, 1::2] = torch.sin(position * rate), torch.cos(position * rate)[:, : width // 2]
    return code


class SignalTower(nn.Module):
    """Twelve leads in mV to a map over time. Missing samples are 0; amplitude is kept (mV, no per-record scaling).

    Args:
        config: Kind and size.
        fs: Hz.
        channels: C, 12 for leads alone, 24 for leads and their masks.
    """

    def __init__(self, config: SignalTowerConfig, fs: int, channels: int = 12) -> None:
        super().__init__()
        if config.kind == "resnet1d":
            self.body: nn.Module = ResNet1d(channels, config.width, config.depth)
        else:
            self.body = Transformer1d(channels, config.width, config.depth, max(fs // 4, 1))
        self.channels = self.body.channels

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Its layers as timm's models give theirs: patterns of parameters' names, for layer-wise learning rates."""
        blocks = [(r"^body\.(?:blocks|layers\.layers)\.(\d+)", None), (r"^body\.layers\.norm", (99999,))]
        return {"stem": r"^body\.(?:stem|patch)", "blocks": blocks}

    def forward(self, signal_mv: Tensor) -> Tensor:
        """(N, C, T), mV, centred -> (N, F, t)."""
        return self.body(signal_mv)

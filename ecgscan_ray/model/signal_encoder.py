"""Leads in mV to an embedding of two parts: content (what the heart does) and timing (when it does it)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgscan_ray.config import AugmentConfig, ModelConfig
from ecgscan_ray.model.signal import SignalTower

START_ERROR_S = 0.02
"""By how much recordings are moved before they are compared with leads as read: the rows of 21 real pictures were found to
begin 19 ms (standard deviation) too early or too late."""


class TimingHead(nn.Module):
    """A map over time to one vector that depends on when things happen: the map's changes over bins of time.

    Args:
        channels: Channels of the map, F.
        bins: Number of bins.
        dim: Size of the vector.
    """

    def __init__(self, channels: int, bins: int, dim: int) -> None:
        super().__init__()
        self.bins = bins
        self.reduce = nn.Conv1d(channels, 32, 1)
        self.mix = nn.Sequential(nn.LayerNorm(32 * bins), nn.Linear(32 * bins, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, features: Tensor) -> Tensor:
        """(N, F, t) -> (N, D)."""
        pooled = F.adaptive_avg_pool1d(self.reduce(features), self.bins)
        return self.mix((pooled - pooled.mean(-1, keepdim=True)).flatten(1))


class MeanMaxPool(nn.Module):
    """Mean and peak of each channel of a map, whenever they occur: (N, F, t) -> (N, 2 F).

    Args:
        channels: Channels of the map, F.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2 * channels)

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(torch.cat([features.mean(-1), features.amax(-1)], dim=1))


class SignalEncoder(nn.Module):
    """Signal tower and heads. It embeds recordings, and pages by their leads.

    With ``model.input`` = leads the tower also sees which samples are known, in twelve more channels.

    Args:
        config: Model settings.
        augment: Augmentation of the leads, while training.
    """

    def __init__(self, config: ModelConfig, augment: AugmentConfig) -> None:
        super().__init__()
        self.timing_share, self.augment, self.fs = config.timing_share, augment, config.signal_fs
        self.with_masks = config.input == "leads"
        self.signal = SignalTower(config.signal, config.signal_fs, 24 if self.with_masks else 12)
        self.mean_max = MeanMaxPool(self.signal.channels)
        # linear: deeper heads memorise the training recordings
        self.content_head = nn.Linear(2 * self.signal.channels, config.content_dim)
        self.timing_head = TimingHead(self.signal.channels, 32, config.timing_dim)

    def pool(self, signal_mv: Tensor, known: float = 1.0) -> tuple[Tensor, Tensor]:
        """Leads in mV, centred, missing samples 0: (N, 12, T) -> pooled channels (N, 2 F), timing (N, timing_dim).

        Args:
            signal_mv: The leads.
            known: What the masks say of every sample, where the tower sees them: 1 that it is known.
        """
        leads = signal_mv
        if self.training:
            leads = augmented(self.moved(signal_mv) if self.with_masks else signal_mv, self.augment)
        return self.pool_map(self.feature_map(leads, torch.full_like(leads, known)))

    def moved(self, signal_mv: Tensor) -> Tensor:
        """Leads (N, 12, T), each recording moved by whole samples, its ends held."""
        n, leads, length = signal_mv.shape
        shift = torch.randn(n, 1, 1, device=signal_mv.device) * START_ERROR_S * self.fs
        index = (torch.arange(length, device=signal_mv.device) + shift.round().long()).clamp(0, length - 1)
        return signal_mv.gather(-1, index.expand(-1, leads, -1))

    def pool_read(self, leads_mv: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
        """Leads as read, 0 where nothing was read, and what was read: (N, 12, T) each -> as ``pool``."""
        return self.pool_map(self.feature_map(leads_mv, shown))

    def feature_map(self, signal_mv: Tensor, known: Tensor) -> Tensor:
        """Leads and which samples of them are known, (N, 12, T) each -> the tower's map (N, F, t)."""
        parts = [signal_mv, known.to(signal_mv.dtype)] if self.with_masks else [signal_mv]
        return self.signal(torch.cat(parts, 1))

    def pool_map(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The tower's map (N, F, t) to the same two."""
        # detached: any map shows when beats come, and the tower is to learn what they are
        return self.mean_max(features), self.timing_head(features.detach())

    def forward(self, signal_mv: Tensor) -> Tensor:
        """Leads as in ``pool`` to (N, D) of unit norm in fp32."""
        return self.embed(*self.pool(signal_mv))

    def forward_map(self, features: Tensor) -> Tensor:
        """The tower's map (N, F, t) to (N, D) of unit norm in fp32."""
        return self.embed(*self.pool_map(features))

    def embed(self, pooled: Tensor, timing: Tensor) -> Tensor:
        """What ``pool`` gives to (N, D) of unit norm in fp32."""
        return self.join(self.content_head(pooled), timing)

    def join(self, content: Tensor, timing: Tensor) -> Tensor:
        """Both parts as one unit vector: (N, D) in fp32."""
        return join(content, timing, self.timing_share)


def join(content: Tensor, timing: Tensor, timing_share: float) -> Tensor:
    """Content (N, content_dim) and timing (N, timing_dim) as one unit vector (N, D) in fp32.

    Args:
        timing_share: Timing's share of a cosine between two such vectors.
    """
    parts = (
        (1 - timing_share) ** 0.5 * F.normalize(content.float(), dim=-1),
        timing_share**0.5 * F.normalize(timing.float(), dim=-1),
    )
    return torch.cat(parts, dim=-1)


def augmented(signal_mv: Tensor, config: AugmentConfig) -> Tensor:
    """Leads missing, another gain, more noise: (N, 12, T) -> the same shape."""
    n, leads, _ = signal_mv.shape

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, device=signal_mv.device, dtype=signal_mv.dtype)

    missing = uniform(n, leads, 1) < config.lead_dropout * uniform(n, 1, 1)
    gain = torch.exp(config.gain * torch.randn(n, 1, 1, device=signal_mv.device, dtype=signal_mv.dtype))
    noise = config.noise_mv * uniform(n, 1, 1) * torch.randn_like(signal_mv)
    return (signal_mv * gain + noise).masked_fill(missing, 0.0)

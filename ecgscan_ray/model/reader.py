"""Leads in mV to an embedding of two parts: what the heart does (level), and when (timing)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgscan_ray.config import AugmentConfig, ModelConfig
from ecgscan_ray.model.signal import SignalTower


class TimingHead(nn.Module):
    """A map over time to one vector that tells when things happen: its changes, stretch by stretch.

    Args:
        channels: Channels of the map.
        bins: Stretches of time.
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
    """A map over time to what is there, whenever: the mean and the peak of each channel. (N, F, t) -> (N, 2 F).

    Args:
        channels: Channels of the map, F.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2 * channels)

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(torch.cat([features.mean(-1), features.amax(-1)], dim=1))


class SignalEncoder(nn.Module):
    """Signal tower and heads. Pages are read by it too, by their redrawn leads.

    Args:
        config: Model settings.
        augment: What is done to leads before they are embedded while training.
    """

    def __init__(self, config: ModelConfig, augment: AugmentConfig) -> None:
        super().__init__()
        self.timing_share, self.augment = config.timing_share, augment
        self.signal = SignalTower(config.signal, config.signal_fs)
        self.heart = MeanMaxPool(self.signal.channels)
        # linear: deeper heads learn the training recordings by heart
        self.content_head = nn.Linear(2 * self.signal.channels, config.content_dim)
        self.signal_timing = TimingHead(self.signal.channels, 32, config.timing_dim)

    def read(self, signal_mv: Tensor) -> tuple[Tensor, Tensor]:
        """Leads in mV, centred, missing samples 0: (N, 12, T) -> what the heart does (N, 2 F), and when (N, D - L)."""
        return self.pool_map(self.signal(augmented(signal_mv, self.augment) if self.training else signal_mv))

    def pool_map(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The tower's map (N, F, t) to the same two."""
        # when beats come is easily told from anything; the tower itself is to learn what they are
        return self.heart(features), self.signal_timing(features.detach())

    def forward(self, signal_mv: Tensor) -> Tensor:
        """Leads as above to (N, D) of unit norm in fp32."""
        return self._embed(*self.read(signal_mv))

    def embed_map(self, features: Tensor) -> Tensor:
        """The tower's map to the same."""
        return self._embed(*self.pool_map(features))

    def _embed(self, heart: Tensor, timing: Tensor) -> Tensor:
        return self.join(self.content_head(heart), timing)

    def join(self, level: Tensor, timing: Tensor) -> Tensor:
        """Both parts as one unit vector: (N, D) in fp32."""
        return join(level, timing, self.timing_share)


def join(level: Tensor, timing: Tensor, timing_share: float) -> Tensor:
    """Level (N, L) and timing (N, D - L) as one unit vector (N, D) in fp32; the share is timing's in a cosine."""
    parts = (
        (1 - timing_share) ** 0.5 * F.normalize(level.float(), dim=-1),
        timing_share**0.5 * F.normalize(timing.float(), dim=-1),
    )
    return torch.cat(parts, dim=-1)


def augmented(signal_mv: Tensor, config: AugmentConfig) -> Tensor:
    """Leads as another electrode, another amplifier, another cart would have recorded them: (N, 12, T) -> the same shape."""
    n, leads, _ = signal_mv.shape

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, device=signal_mv.device, dtype=signal_mv.dtype)

    missing = draw(n, leads, 1) < config.lead_dropout * draw(n, 1, 1)
    gain = torch.exp(config.gain * torch.randn(n, 1, 1, device=signal_mv.device, dtype=signal_mv.dtype))
    noise = config.noise_mv * draw(n, 1, 1) * torch.randn_like(signal_mv)
    return (signal_mv * gain + noise).masked_fill(missing, 0.0)

"""ECGScan: three towers with trainable projections into one space, and a decoder that redraws the twelve leads."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgscan_ray.config import Config, ModelConfig, PageConfig
from ecgscan_ray.model.decoder import Decoder
from ecgscan_ray.model.image import ImageTower
from ecgscan_ray.model.signal import SignalTower
from ecgscan_ray.model.text import TextTower


class GridHead(nn.Module):
    """A feature map to one vector that still knows where on the page things were.

    Args:
        channels: Channels of the map.
        grid: Cells along height and width.
        dim: Size of the vector.
    """

    def __init__(self, channels: int, grid: tuple[int, int], dim: int) -> None:
        super().__init__()
        self.grid = grid
        self.reduce = nn.Conv2d(channels, 32, 1)
        cells = 32 * math.prod(grid)
        self.mix = nn.Sequential(nn.LayerNorm(cells), nn.Linear(cells, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, features: Tensor) -> Tensor:
        """(N, F, h, w) -> (N, D)."""
        return self.mix(F.adaptive_avg_pool2d(self.reduce(features), self.grid).flatten(1))


class TimeHead(nn.Module):
    """A map over time to one vector: what changes over time, bin by bin, beside what is there all the time.

    All hearts look alike on average; taken apart, the changes (which beat where) tell recordings apart from the first step.

    Args:
        channels: Channels of the map.
        bins: Stretches of time.
        dim: Size of the vector.
    """

    def __init__(self, channels: int, bins: int, dim: int) -> None:
        super().__init__()
        self.bins, reduced = bins, 32
        self.reduce = nn.Conv1d(channels, reduced, 1)
        self.norm_change, self.norm_level = nn.LayerNorm(reduced * bins), nn.LayerNorm(reduced)
        self.mix = nn.Sequential(nn.Linear(reduced * bins + reduced, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, features: Tensor) -> Tensor:
        """(N, F, t) -> (N, D)."""
        pooled = F.adaptive_avg_pool1d(self.reduce(features), self.bins)
        level = pooled.mean(-1)
        change = (pooled - level[..., None]).flatten(1)
        return self.mix(torch.cat([self.norm_change(change), self.norm_level(level)], dim=1))


class CellHead(nn.Module):
    """The decoder's states of all (lead, stretch of time) cells to one vector: what is where in the heart, not on the page.

    Args:
        states: Size of a state.
        cells: Number of cells, Q.
        dim: Size of the vector.
    """

    def __init__(self, states: int, cells: int, dim: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(states, 12)
        self.mix = nn.Sequential(nn.LayerNorm(12 * cells), nn.Linear(12 * cells, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, states: Tensor) -> Tensor:
        """(N, Q, S) -> (N, D)."""
        return self.mix(self.reduce(states).flatten(1))


class PageEncoder(nn.Module):
    """All that reads pages: backbone, decoder, and what embeds them. This is what users take away.

    A page's embedding has four parts, added: the backbone's pooled features and its last map, the decoder's states, and the
    redrawn leads as the signal tower sees them. The last makes page and recording comparable as soon as anything is redrawn
    at all; the others carry what a redrawing loses.

    Args:
        config: Model settings.
        page: Page settings.
    """

    def __init__(self, config: ModelConfig, page: PageConfig) -> None:
        super().__init__()
        self.tower = ImageTower(config.image, page)
        self.decoder = Decoder(config, page, self.tower.map_channels)
        self.cells = CellHead(self.decoder.state_dim, self.decoder.num_queries, config.embed_dim)
        self.places = GridHead(self.tower.map_channels[-1], (5, 7), config.embed_dim)
        self.pooled = nn.Linear(self.tower.pooled_dim, config.embed_dim)
        self.signal = SignalTower(config.signal, config.signal_fs)
        self.signal_head = TimeHead(self.signal.channels, 32, config.embed_dim)

    def forward(self, image: Tensor, truth: tuple[Tensor, Tensor] | None = None) -> dict[str, Tensor]:
        """Read pages.

        Args:
            image: (N, C, H, W), uint8.
            truth: While training: the frame's corners (N, 4, 2) and the layout (N,) as the renderer made them.

        Returns:
            ``image_features`` (N, D) of unit norm in fp32, ``pooled`` backbone features (N, P), ``redrawn_mv``
            (N, 12, T); of the frame (``frame.Found``) ``frame_guess``, ``layout_logits``, ``near_logits``,
            ``near_places``, ``end_logits``, ``end_places``, ``frame_corners``.
        """
        normalised = self.tower.normalise(image)
        maps, pooled = self.tower(normalised)
        redrawn, states, found = self.decoder(normalised, maps, truth)
        # detached: the redrawn leads answer to the recording alone, or contrast would bend them away from mV
        seen = self.project_signal(redrawn.detach())
        projected = seen + self.cells(states) + self.places(maps[-1]) + self.pooled(pooled)
        return {
            "image_features": F.normalize(projected.float(), dim=-1),
            "pooled": pooled.float(),
            "redrawn_mv": redrawn.float(),
            "frame_corners": found.corners,
            "frame_guess": found.guess,
            "layout_logits": found.layout_logits,
            "near_logits": found.near.logits,
            "near_places": found.near.places,
            "end_logits": found.ends.logits,
            "end_places": found.ends.places,
        }

    def project_signal(self, signal_mv: Tensor) -> Tensor:
        """Leads in mV, centred, missing samples 0: (N, 12, T) -> (N, D), not normalised."""
        return self.signal_head(self.signal(signal_mv))


class ECGScan(nn.Module):
    """The whole model.

    Args:
        config: The run's settings.
        vocab_size: Tokens of the tokenizer (small text tower only).
    """

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        model = config.model
        self.page = PageEncoder(model, config.page)
        self.text = TextTower(model.text, vocab_size)
        self.text_head = nn.Sequential(
            nn.Linear(self.text.dim, model.embed_dim), nn.GELU(), nn.Linear(model.embed_dim, model.embed_dim)
        )
        scale = math.log(1 / config.objective.temperature)
        self.gram_log_scale = nn.Parameter(torch.tensor(scale))
        self.pair_log_scale = nn.Parameter(torch.tensor(scale))
        self.max_log_scale = math.log(1 / config.objective.temperature_min)

    def encode_image(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pages to features.

        Args:
            image: (N, C, H, W), uint8.

        Returns:
            image_features (N, D) of unit norm in fp32, pooled backbone features (N, P), redrawn_mv (N, 12, T).
        """
        output = self.page(image)
        return output["image_features"], output["pooled"], output["redrawn_mv"]

    def encode_signal(self, signal_mv: Tensor) -> Tensor:
        """Leads in mV, centred, missing samples 0: (N, 12, T) -> (N, D) of unit norm."""
        return F.normalize(self.page.project_signal(signal_mv).float(), dim=-1)

    def encode_text(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask (N, L) -> (N, D) of unit norm."""
        return F.normalize(self.text_head(self.text(token_ids, attention_mask)).float(), dim=-1)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch on the device to everything the objective wants."""
        return {
            **self.page(batch["image"], (batch["frame_corners"], batch["layout"]) if self.training else None),
            "signal_features": self.encode_signal(batch["centred_mv"]),
            "text_features": self.encode_text(batch["token_ids"], batch["attention_mask"]),
            "gram_logit_scale": self.gram_log_scale.exp(),
            "pair_logit_scale": self.pair_log_scale.exp(),
        }

    @torch.no_grad()
    def clamp_scales(self) -> None:
        """Keep the learnable logit scales within their range; called after each optimiser step."""
        for scale in (self.gram_log_scale, self.pair_log_scale):
            scale.clamp_(0.0, self.max_log_scale)

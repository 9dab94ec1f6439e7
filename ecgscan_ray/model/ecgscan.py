"""ECGScan: three towers with trainable projections into one space, and a decoder that redraws the twelve leads."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ecgscan_ray.config import Config
from ecgscan_ray.model.decoder import Decoder
from ecgscan_ray.model.image import ImageTower
from ecgscan_ray.model.signal import SignalTower
from ecgscan_ray.model.text import TextTower


class GridHead(nn.Module):
    """A feature map to one vector that still knows where things were: reduce channels, pool to a grid, mix.

    Args:
        channels: Channels of the map.
        grid: Cells along each axis of the map, (h, w) or (t,).
        dim: Size of the vector.
    """

    def __init__(self, channels: int, grid: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.grid, reduced = grid, 32
        self.reduce = (nn.Conv2d if len(grid) == 2 else nn.Conv1d)(channels, reduced, 1)
        cells = reduced * math.prod(grid)
        self.mix = nn.Sequential(nn.LayerNorm(cells), nn.Linear(cells, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, features: Tensor) -> Tensor:
        pool = F.adaptive_avg_pool2d if len(self.grid) == 2 else F.adaptive_avg_pool1d
        return self.mix(pool(self.reduce(features), self.grid).flatten(1))


class Centre(nn.Module):
    """Takes out what all rows share, so that cosines are about differences and no vector becomes everybody's neighbour.

    Pages look alike, and so do hearts: without this every fresh embedding points the same way, and contrast begins late.
    In training the mean is that of the global batch (without gradient: the same for any number of workers), in evaluation
    a running one.

    Args:
        dim: Size of the vectors.
    """

    def __init__(self, dim: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, vectors: Tensor) -> Tensor:
        """(N, D) -> (N, D), fp32."""
        vectors = vectors.float()
        if not self.training:
            return vectors - self.mean
        with torch.no_grad():
            mean = vectors.mean(0)
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(mean)
                mean /= dist.get_world_size()
            # the first batches count in full, or the zeros at the start would
            self.seen += 1
            self.mean.lerp_(mean, max(self.momentum, 1 / float(self.seen)))
        return vectors - mean


class ECGScan(nn.Module):
    """The whole model.

    Args:
        config: The run's settings.
        vocab_size: Tokens of the tokenizer (small text tower only).
    """

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        model = config.model
        self.image = ImageTower(model.image, config.page)
        self.signal = SignalTower(model.signal, model.signal_fs)
        self.text = TextTower(model.text, vocab_size)
        self.image_head = GridHead(self.image.final_channels, (5, 8), model.embed_dim)
        self.image_global = nn.Linear(self.image.pooled_dim, model.embed_dim)
        self.signal_head = GridHead(self.signal.channels, (32,), model.embed_dim)
        self.text_head = nn.Sequential(nn.Linear(self.text.dim, model.embed_dim), nn.GELU(), nn.Linear(model.embed_dim, model.embed_dim))
        self.decoder = Decoder(model, config.page, self.image.fine_channels, self.image.final_channels)
        self.centres = nn.ModuleDict({name: Centre(model.embed_dim) for name in ("image", "signal", "text")})
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
        output = self._read_page(image)
        return output["image_features"], output["pooled"], output["redrawn_mv"]

    def _read_page(self, image: Tensor) -> dict[str, Tensor]:
        final, fine, pooled = self.image(image)
        projected = self.image_head(final) + self.image_global(pooled)
        redrawn, corners, layout_logits = self.decoder(fine, final)
        return {
            "image_features": F.normalize(self.centres["image"](projected), dim=-1),
            "pooled": pooled,
            "redrawn_mv": redrawn.float(),
            "frame_corners": corners,
            "layout_logits": layout_logits,
        }

    def encode_signal(self, signal_mv: Tensor) -> Tensor:
        """Leads in mV, centred, missing samples 0: (N, 12, T) -> (N, D) of unit norm."""
        return F.normalize(self.centres["signal"](self.signal_head(self.signal(signal_mv))), dim=-1)

    def encode_text(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask (N, L) -> (N, D) of unit norm."""
        return F.normalize(self.centres["text"](self.text_head(self.text(token_ids, attention_mask))), dim=-1)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch on the device to everything the objective wants."""
        return {
            **self._read_page(batch["image"]),
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

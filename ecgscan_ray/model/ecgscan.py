"""ECGScan: three towers with trainable projections into one space, and a decoder that redraws the twelve leads."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgscan_ray.config import AugmentConfig, Config, ModelConfig, PageConfig
from ecgscan_ray.model.decoder import Decoder
from ecgscan_ray.model.frame import apply_homography
from ecgscan_ray.model.image import ImageTower
from ecgscan_ray.model.reader import SignalEncoder
from ecgscan_ray.model.teacher import FrozenTeacher
from ecgscan_ray.model.text import TextEncoder


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

    An embedding has two parts. *Level* says what the heart does, whenever it does it: from the backbone's pooled features, and
    from the redrawn leads as the signal tower sees them. *Timing* says when: from the backbone's last map, the decoder's states
    and the redrawn leads. Reports know nothing of timing, and have their say in the level alone: given both, contrast with
    reports learns a few hundred recordings by their beats, and nothing about hearts.

    Args:
        config: Model settings.
        page: Page settings.
        augment: What is done to leads before they are embedded while training; the default where it is not trained.
    """

    def __init__(self, config: ModelConfig, page: PageConfig, augment: AugmentConfig | None = None) -> None:
        super().__init__()
        level, timing = config.content_dim, config.timing_dim
        self.embed_dim, self.signal_fs = config.embed_dim, config.signal_fs
        self.tower = ImageTower(config.image, page)
        self.decoder = Decoder(config, page, self.tower.map_channels)
        self.cells = CellHead(self.decoder.state_dim, self.decoder.num_queries, timing)
        self.places = GridHead(self.tower.map_channels[-1], (5, 7), timing)
        self.dropout = nn.Dropout(0.5)
        self.page_level = nn.Linear(self.tower.pooled_dim, level)
        self.reader = SignalEncoder(config, augment or AugmentConfig())
        self.feature_dim = self.tower.pooled_dim + 2 * self.reader.signal.channels

    def forward(self, image: Tensor, truth: tuple[Tensor, Tensor] | None = None) -> dict[str, Tensor]:
        """Read pages.

        Args:
            image: (N, C, H, W), uint8.
            truth: While training: the frame's corners (N, 4, 2) and the layout (N,) as the renderer made them.

        Returns:
            ``image_features`` (N, D) of unit norm in fp32, ``features`` (N, P) for a classifier of one's own (the
            backbone's pooled ones, and what the signal tower finds in the redrawn leads), ``redrawn_mv`` (N, 12, T);
            of the frame (``frame.Found``) ``frame_guess``, ``layout_logits``, ``near_logits``,
            ``near_places``, ``edge_logits``, ``edge_places``, ``edge_counts``, ``frame_corners``, and ``edge_truth``
            (N, K, 2), where the edges of strips lie in the true frame.
        """
        normalised = self.tower.normalise(image)
        maps, pooled = self.tower(normalised)
        redrawn, states, found = self.decoder(normalised, maps, truth)
        # detached: the redrawn leads answer to the recording alone, or contrast would bend them away from mV
        heart, timing = self.reader.read(redrawn.detach())
        level = self.reader.content_head(heart) + self.page_level(self.dropout(pooled))
        timing = timing + self.cells(states) + self.places(maps[-1])
        return {
            "image_features": self.reader.join(level, timing),
            "features": torch.cat([pooled, heart], dim=1).float(),
            "redrawn_mv": redrawn.float(),
            "frame_corners": found.corners,
            "frame_guess": found.guess,
            "layout_logits": found.layout_logits,
            "near_logits": found.near.logits,
            "near_places": found.near.places,
            "edge_logits": found.edges.logits,
            "edge_places": found.edges.places,
            "edge_counts": found.edges.counts,
            "edge_truth": apply_homography(truth[0] if truth else found.corners, found.edge_uv),
        }


class ECGScan(nn.Module):
    """The whole model: all towers trained together, or pages aligned to a frozen teacher.

    Args:
        config: The run's settings.
        vocab_size: Tokens of the tokenizer (small text tower only).
    """

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        model = config.model
        self.page = PageEncoder(model, config.page, config.training.augment)
        self.teacher = FrozenTeacher(config, vocab_size) if config.teacher.digest else None
        self.report = None if self.teacher else TextEncoder(model, vocab_size, config.training.augment)
        objective = config.objective
        scale = math.log(1 / objective.temperature)
        self.gram_log_scale = nn.Parameter(torch.tensor(scale), requires_grad=objective.learn_temperature)
        self.pair_log_scale = nn.Parameter(torch.tensor(scale), requires_grad=objective.learn_temperature)
        self.pair_bias = nn.Parameter(torch.tensor(objective.siglip_bias)) if objective.pair == "siglip" else None
        self.max_log_scale = math.log(1 / config.objective.temperature_min)

    def encode_image(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pages to features.

        Args:
            image: (N, C, H, W), uint8.

        Returns:
            image_features (N, D) of unit norm in fp32, features (N, P) for a classifier, redrawn_mv (N, 12, T).
        """
        output = self.page(image)
        return output["image_features"], output["features"], output["redrawn_mv"]

    def encode_signal(self, signal_mv: Tensor) -> Tensor:
        """Leads in mV, centred, missing samples 0: (N, 12, T) -> (N, D) of unit norm."""
        if self.teacher:
            return self.teacher.project_signal(self.teacher.embed_signal(signal_mv))
        return self.page.reader(signal_mv)

    def encode_text(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask (N, L) -> (N, D) of unit norm, 0 in the timing part."""
        if self.teacher:
            return self.teacher.project_report(self.teacher.embed_report(token_ids, attention_mask))
        assert self.report is not None  # one of the two is there
        return self.report(token_ids, attention_mask)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch on the device to everything the objective wants.

        Where the batch brings what the teacher says (``teacher_signal``, ``teacher_report``), the teacher is not asked.
        """
        if self.teacher and "teacher_signal" in batch:
            signal = self.teacher.project_signal(batch["teacher_signal"])
            report = self.teacher.project_report(batch["teacher_report"])
        else:
            signal = self.encode_signal(batch["centred_mv"])
            report = self.encode_text(batch["token_ids"], batch["attention_mask"])
        return {
            **self.page(batch["image"], (batch["frame_corners"], batch["layout"]) if self.training else None),
            "signal_features": signal,
            "text_features": report,
            "gram_logit_scale": self.gram_log_scale.exp(),
            "pair_logit_scale": self.pair_log_scale.exp(),
            **({} if self.pair_bias is None else {"pair_logit_bias": self.pair_bias}),
        }

    @torch.no_grad()
    def clamp_scales(self) -> None:
        """Keep the learnable logit scales within their range; called after each optimiser step."""
        for scale in (self.gram_log_scale, self.pair_log_scale):
            scale.clamp_(0.0, self.max_log_scale)

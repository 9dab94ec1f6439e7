"""ECGScan: three towers with trainable projections into one space, and a decoder that redraws the twelve leads in mV."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgscan_ray.batch import DeviceBatch
from ecgscan_ray.config import AugmentConfig, Config, ModelConfig, PageConfig
from ecgscan_ray.model.decoder import Decoder
from ecgscan_ray.model.frame import apply_homography
from ecgscan_ray.model.image import ImageTower
from ecgscan_ray.model.leads import LeadsEncoder
from ecgscan_ray.model.output import ModelOutput, PageOutput, PictureOutput
from ecgscan_ray.model.signal_encoder import SignalEncoder
from ecgscan_ray.model.teacher import MAX_LOG_SCALE, FrozenTeacher
from ecgscan_ray.model.text import TextEncoder

SIGLIP_BIAS = -10.0
"""Where SigLIP's learnable bias starts (arXiv 2303.15343): most pairs are negatives."""


class GridHead(nn.Module):
    """A feature map to one vector that keeps where on the page things are.

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
    """The decoder's states of all (lead, time) cells to one vector: it keeps lead and time, not the position on the page.

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
    """Image backbone, decoder, and the heads that embed a page: what is exported for users.

    An embedding has two parts. *Content* is what the heart does, whenever it does it: from the backbone's pooled features, and
    from the signal tower's pooled features of the redrawn leads. *Timing* is when: from the backbone's last map, the decoder's
    states and the redrawn leads. The text loss sees only the content part. If it also saw timing, it would memorise recordings
    by beat position instead of learning diagnoses.

    Args:
        config: Model settings.
        page: Page settings.
        augment: Augmentation of the leads, while training; the default where it is not trained.
    """

    def __init__(self, config: ModelConfig, page: PageConfig, augment: AugmentConfig | None = None) -> None:
        super().__init__()
        content, timing = config.content_dim, config.timing_dim
        self.embed_dim, self.signal_fs, self.sig_len = config.embed_dim, config.signal_fs, config.sig_len
        self.tower = ImageTower(config.image, page)
        self.decoder = Decoder(config, page, self.tower.map_channels)
        self.cell_head = CellHead(self.decoder.state_dim, self.decoder.num_queries, timing)
        self.grid_head = GridHead(self.tower.map_channels[-1], (5, 7), timing)
        self.dropout = nn.Dropout(0.5)
        self.content_head = nn.Linear(self.tower.pooled_dim, content)
        self.signal_encoder = SignalEncoder(config, augment or AugmentConfig())
        self.feature_dim = self.tower.pooled_dim + 2 * self.signal_encoder.signal.channels

    def forward(self, image: Tensor, truth: tuple[Tensor, Tensor] | None = None) -> PictureOutput:
        """Embed pages and redraw their leads.

        Args:
            image: (N, C, H, W), uint8.
            truth: While training: the frame's corners (N, 4, 2) and the layout (N,) as the renderer made them.
        """
        normalised = self.tower.normalise(image)
        maps, pooled = self.tower(normalised)
        redrawn, states, frame = self.decoder(normalised, maps, truth)
        # detached: the redrawn leads are fitted to the recording alone, or contrast would bend them away from mV
        signal_pooled, signal_timing = self.signal_encoder.pool(redrawn.detach())
        content = self.signal_encoder.content_head(signal_pooled) + self.content_head(self.dropout(pooled))
        timing = signal_timing + self.cell_head(states) + self.grid_head(maps[-1])
        return {
            "image_features": self.signal_encoder.join(content, timing),
            "features": torch.cat([pooled, signal_pooled], dim=1).float(),
            "redrawn_mv": redrawn.float(),
            "frame_corners": frame.corners,
            "frame_guess": frame.guess,
            "layout_logits": frame.layout_logits,
            "corner_logits": frame.corner_votes.logits,
            "corner_xy": frame.corner_votes.xy,
            "edge_logits": frame.edge_votes.logits,
            "edge_xy": frame.edge_votes.xy,
            "edge_counts": frame.edge_votes.counts,
            "edge_truth": apply_homography(truth[0] if truth else frame.corners, frame.edge_uv),
        }


class ECGScan(nn.Module):
    """The model: all towers trained together, or pages aligned to a frozen teacher.

    Args:
        config: The run's settings.
        vocab_size: Tokens of the tokenizer (small text tower only).
    """

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        model = config.model
        self.page: PageEncoder | LeadsEncoder
        if model.input == "leads":
            self.page = LeadsEncoder(model, config.training.augment)
        else:
            self.page = PageEncoder(model, config.page, config.training.augment)
        self.teacher = FrozenTeacher(config, vocab_size) if config.teacher.run else None
        self.text_encoder = None if self.teacher else TextEncoder(model, vocab_size, config.training.augment)
        objective = config.objective
        scale = math.log(1 / objective.temperature)
        self.gram_log_scale = nn.Parameter(torch.tensor([scale]))  # of shape (1,): FSDP shares out no scalars
        self.pair_log_scale = nn.Parameter(torch.tensor([scale]))
        self.pair_bias = nn.Parameter(torch.tensor([SIGLIP_BIAS])) if objective.pair == "siglip" else None

    def encode_page(self, batch: DeviceBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Pages to features.

        Args:
            batch: Pictures or leads as read, by ``model.input``.

        Returns:
            image_features (N, D) of unit norm in fp32, features (N, P) for a classifier, redrawn_mv (N, 12, T).
        """
        output = self._page(batch)
        return output["image_features"], output["features"], output["redrawn_mv"]

    def _page(self, batch: DeviceBatch) -> PageOutput:
        if isinstance(self.page, LeadsEncoder):
            return self.page(batch["leads_mv"], batch["leads_shown"])
        return self.page(batch["image"], (batch["frame_corners"], batch["layout"]) if self.training else None)

    def encode_signal(self, signal_mv: Tensor) -> Tensor:
        """Leads in mV, centred, missing samples 0: (N, 12, T) -> (N, D) of unit norm."""
        if self.teacher:
            return self.teacher.project_signal(self.teacher.embed_signal(signal_mv))
        return self.page.signal_encoder(signal_mv)

    def encode_text(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask (N, L) -> (N, D) of unit norm, 0 in the timing part."""
        if self.teacher:
            return self.teacher.project_report(self.teacher.embed_report(token_ids, attention_mask))
        assert self.text_encoder is not None  # absent only with a teacher
        return self.text_encoder(token_ids, attention_mask)

    def forward(self, batch: DeviceBatch) -> ModelOutput:
        """A batch on the device to what the objective needs.

        Where the batch holds the teacher's embeddings (``teacher_signal``, ``teacher_report``), its encoders do not run.
        """
        if self.teacher and "teacher_signal" in batch:
            signal = self.teacher.project_signal(batch["teacher_signal"])
            report = self.teacher.project_report(batch["teacher_report"])
        else:
            signal = self.encode_signal(batch["centred_mv"])
            report = self.encode_text(batch["token_ids"], batch["attention_mask"])
        output: ModelOutput = {
            **self._page(batch),
            "signal_features": signal,
            "text_features": report,
            "gram_logit_scale": self.gram_log_scale[0].exp(),
            "pair_logit_scale": self.pair_log_scale[0].exp(),
        }
        if self.pair_bias is not None:
            output["pair_logit_bias"] = self.pair_bias[0].clone()  # FSDP warns of views
        return output

    @torch.no_grad()
    def clamp_scales(self) -> None:
        """Keep the learnable logit scales within their range; called after each optimiser step."""
        for scale in (self.gram_log_scale, self.pair_log_scale):
            scale.clamp_(0.0, MAX_LOG_SCALE)

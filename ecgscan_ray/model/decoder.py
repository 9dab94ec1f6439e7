"""From a page's feature maps to the twelve leads in mV: queries (lead, stretch of time) that know where layouts draw things.

For each query and each layout the places within the *trace frame* are known (10 s wide, from the first row's zero line to the
last one's): where the lead itself is drawn at that time (or, where it is not shown then, the nearest time at which it is),
and where the page shows *any* lead at that time (the rhythm strip, if there is one). Features are read there by bilinear
sampling. Which layout the page has, and where in the picture its frame lies, is told by the page alone.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgscan_ray.config import ModelConfig, PageConfig
from ecgscan_ray.paper.layout import PAGE_SECONDS, nominal_frame, timed
from ecgscan_ray.recording.leads import LEADS

NUM_OFFSETS = 4
"""Places read along each stretch of time."""


def frame_places(page: PageConfig, layout: str, num_segments: int, segment_s: float) -> np.ndarray:
    """Where in the trace frame to look for each (lead, segment).

    Args:
        page: Page settings.
        layout: Layout name.
        num_segments: Segments a lead, K.
        segment_s: Seconds a segment.

    Returns:
        (12, K, 2 * NUM_OFFSETS, 2): u, v in 0..1; first the lead's own places, then those of the rhythm.
    """
    drawn = timed(layout, page.paper_speed_mm_per_s)
    last_row = max(drawn.rows - 1, 1)
    spread = (np.arange(NUM_OFFSETS) - (NUM_OFFSETS - 1) / 2) / NUM_OFFSETS * segment_s
    places = np.zeros((len(LEADS), num_segments, 2, NUM_OFFSETS, 2), np.float32)
    for k in range(num_segments):
        middle = (k + 0.5) * segment_s
        # how far each strip is from showing this moment, and among equals the longest strip first
        distance = [(max(s.start_s - middle, middle - s.stop_s, 0.0), s.start_s - s.stop_s) for s in drawn.strips]
        rhythm = min(range(len(drawn.strips)), key=lambda s: distance[s])
        for lead in range(len(LEADS)):
            own = [s for s, strip in enumerate(drawn.strips) if strip.lead == lead] or [rhythm]
            for which, index in enumerate((min(own, key=lambda s: distance[s]), rhythm)):
                strip = drawn.strips[index]
                times = np.clip(middle + spread, strip.start_s, strip.stop_s)
                places[lead, k, which, :, 0] = (strip.x_s + times - strip.start_s) / PAGE_SECONDS
                places[lead, k, which, :, 1] = strip.row / last_row
    return places.reshape(len(LEADS), num_segments, -1, 2)


class Frame(nn.Module):
    """Where the page's trace frame lies in the picture, and which layout it has.

    Args:
        page: Page settings.
        channels: Channels of the final map.
    """

    def __init__(self, page: PageConfig, channels: int) -> None:
        super().__init__()
        nominal = np.stack([nominal_frame(page, name) for name in page.layouts])
        self.register_buffer("nominal", torch.from_numpy(nominal).float(), persistent=False)  # (M, 4, 2)
        self.reduce = nn.Conv2d(channels, 32, 1)
        self.hidden = nn.Linear(32 * 6 * 8, 128)
        self.out = nn.Linear(128, 8 + len(nominal))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, final: Tensor) -> tuple[Tensor, Tensor]:
        """(N, F, h, w) -> corners (N, M, 4, 2) as fractions of the picture for each layout, layout logits (N, M)."""
        grid = F.interpolate(self.reduce(final), (6, 8), mode="bilinear", align_corners=False).flatten(1)
        found = self.out(F.relu(self.hidden(grid))).float()
        return self.nominal + 0.1 * found[:, None, :8].unflatten(2, (4, 2)), found[:, 8:]


class Decoder(nn.Module):
    """Feature maps -> redrawn leads.

    Args:
        config: Model settings (rate, seconds, decoder width and segment).
        page: Page settings; its layouts give the nominal places.
        map_channels: Channels of the three maps of the image tower; the last tells the frame.
    """

    places: Tensor

    def __init__(self, config: ModelConfig, page: PageConfig, map_channels: tuple[int, ...]) -> None:
        super().__init__()
        width, self.sig_len = config.decoder.width, config.sig_len
        num_segments = round(config.signal_seconds / config.decoder.segment_s)
        places = [frame_places(page, name, num_segments, config.decoder.segment_s) for name in page.layouts]
        places_uv = torch.from_numpy(np.stack(places)).flatten(1, 2)
        self.register_buffer("places", places_uv, persistent=False)  # (M, queries, offsets, 2)
        self.num_queries, num_places = places_uv.shape[1:3]
        self.state_dim = 3 * width
        self.frame = Frame(page, map_channels[-1])
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in map_channels)
        self.fuse = nn.Conv2d(width, width, 3, padding=1)
        self.query = nn.Parameter(torch.randn(self.num_queries, self.state_dim) * 0.02)
        self.hidden = nn.Linear(num_places * width, self.state_dim)
        self.out = nn.Linear(self.state_dim, -(-self.sig_len // num_segments))
        self.smooth = nn.Conv1d(12, 12, 9, padding=4, groups=12, bias=False)
        nn.init.dirac_(self.smooth.weight, groups=12)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Redraw the leads.

        Args:
            maps: (N, C, h, w) each, finest first.

        Returns:
            leads (N, 12, T) in mV, states (N, Q, S) of the cells (lead by lead, in time), corners of the trace frame
            (N, M, 4, 2) for each layout, layout logits (N, M).
        """
        corners, logits = self.frame(maps[-1])
        share = logits.softmax(-1)
        size = maps[0].shape[-2:]
        features = torch.zeros((), device=maps[0].device)
        for lateral, m in zip(self.lateral, maps, strict=True):
            drawn = lateral(m)
            same = drawn.shape[-2:] == size
            features = features + (drawn if same else F.interpolate(drawn, size, mode="bilinear", align_corners=False))
        features = F.relu(self.fuse(F.relu(features)))
        parts = []
        for index, uv in enumerate(self.places):
            sampled = F.grid_sample(
                features,
                (2 * inside(corners[:, index], uv) - 1).to(features.dtype),
                mode="bilinear",
                padding_mode="border",
                align_corners=False,
            )  # (N, width, queries, offsets)
            parts.append(sampled if len(self.places) == 1 else share[:, index, None, None, None] * sampled)
        read = torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
        states = F.relu(self.hidden(read.permute(0, 2, 3, 1).flatten(2)) + self.query)
        leads = self.out(states).view(len(states), 12, -1)[..., : self.sig_len]
        return self.smooth(leads), states, corners, logits


def inside(corners: Tensor, uv: Tensor) -> Tensor:
    """Places in a frame by bilinear interpolation of its corners.

    Args:
        corners: (N, 4, 2): start and end of the first row, end and start of the last.
        uv: (Q, P, 2), 0..1 along the rows and from the first row to the last.

    Returns:
        (N, Q, P, 2).
    """
    u, v = uv.unbind(-1)
    weights = torch.stack([(1 - u) * (1 - v), u * (1 - v), u * v, (1 - u) * v], dim=-1)
    return torch.einsum("qpc,ncd->nqpd", weights, corners)

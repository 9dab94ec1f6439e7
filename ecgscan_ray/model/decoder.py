"""From a page's feature map to the twelve leads in mV: queries (lead, stretch of time) that know where layouts draw things.

For each query and each layout the nominal places on the page are known: where the lead itself is drawn at that time (or,
where it is not shown then, the nearest time at which it is), and where the page shows *any* lead at that time (the rhythm
strip, if there is one). Features are read there by bilinear sampling. Which layout the page has, and how the page lies in
the picture (an affine map), is told by the page alone, from its pooled features, and learned from the reconstruction.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgscan_ray.config import ModelConfig, PageConfig
from ecgscan_ray.paper.layout import strip_boxes, windows_of
from ecgscan_ray.recording.leads import LEADS

NUM_OFFSETS = 3
"""Places read around each nominal one: before, at, after."""


def nominal_places(page: PageConfig, layout: str, num_segments: int, segment_s: float) -> np.ndarray:
    """Where to look for each (lead, segment).

    Args:
        page: Page settings.
        layout: Layout name.
        num_segments: Segments a lead, K.
        segment_s: Seconds a segment.

    Returns:
        (12, K, 2 * NUM_OFFSETS, 2): x, y as fractions of the image; first the lead's own places, then those of the rhythm.
    """
    windows, boxes = windows_of(layout), strip_boxes(page, layout)
    places = np.zeros((len(LEADS), num_segments, 2, NUM_OFFSETS, 2), np.float32)
    spread = (np.arange(NUM_OFFSETS) - (NUM_OFFSETS - 1) / 2) / NUM_OFFSETS * segment_s

    def place(strip: int, times: np.ndarray) -> np.ndarray:
        start, stop = windows[strip][1:]
        x0, y0, x1, y1 = boxes[strip]
        share = (np.clip(times, start, stop) - start) / (stop - start)
        return np.stack([x0 + share * (x1 - x0), np.full_like(share, (y0 + y1) / 2)], -1)

    length = [stop - start for _, start, stop in windows]
    for k in range(num_segments):
        middle = (k + 0.5) * segment_s
        showing = [s for s, (lead, start, stop) in enumerate(windows) if lead >= 0 and start <= middle <= stop]
        rhythm = max(showing, key=lambda s: length[s]) if showing else 0
        for lead in range(len(LEADS)):
            own = [s for s, window in enumerate(windows) if round(window[0]) == lead]
            if not own:  # a layout without this lead
                own = [rhythm]
            nearest = min(own, key=lambda s: max(windows[s][1] - middle, middle - windows[s][2], 0) * 100 - length[s])
            places[lead, k, 0] = place(nearest, middle + spread)
            places[lead, k, 1] = place(rhythm, middle + spread)
    return places.reshape(len(LEADS), num_segments, -1, 2)


class Decoder(nn.Module):
    """Fine feature map and pooled features -> redrawn leads.

    Args:
        config: Model settings (rate, seconds, decoder width and segment).
        page: Page settings; its layouts give the nominal places.
        channels: Channels of the fine map.
        context_channels: Channels of the final map, which is added to the fine one.
        pooled_dim: Size of the pooled features.
    """

    def __init__(self, config: ModelConfig, page: PageConfig, channels: int, context_channels: int, pooled_dim: int) -> None:
        super().__init__()
        width, self.sig_len = config.decoder.width, config.sig_len
        self.num_segments = round(config.signal_seconds / config.decoder.segment_s)
        self.samples = -(-self.sig_len // self.num_segments)
        places = [nominal_places(page, name, self.num_segments, config.decoder.segment_s) for name in page.layouts]
        grid = torch.from_numpy(np.stack(places)) * 2 - 1  # grid_sample's range
        self.register_buffer("places", grid.flatten(1, 2), persistent=False)  # (layouts, queries, offsets, 2)
        self.reduce = nn.Conv2d(channels, width, 3, padding=1)
        self.context = nn.Conv2d(context_channels, width, 1)
        self.layout = nn.Linear(pooled_dim, len(places))
        self.pose = nn.Linear(pooled_dim, 6)
        for head in (self.layout, self.pose):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        num_queries = grid.shape[1] * grid.shape[2]
        self.query = nn.Parameter(torch.randn(num_queries, 2 * width) * 0.02)
        self.hidden = nn.Linear(grid.shape[3] * width, 2 * width)
        self.out = nn.Linear(2 * width, self.samples)
        self.smooth = nn.Conv1d(12, 12, 9, padding=4, groups=12)
        nn.init.dirac_(self.smooth.weight, groups=12)
        nn.init.zeros_(self.smooth.bias)

    def forward(self, fine: Tensor, final: Tensor, pooled: Tensor) -> Tensor:
        """(N, C, h, w), (N, F, h', w'), (N, P) -> (N, 12, T), mV."""
        count = len(fine)
        context = F.interpolate(self.context(final), fine.shape[-2:], mode="bilinear", align_corners=False)
        features = F.gelu(self.reduce(fine) + context)
        # small steps: a pose is a few per cent of the page
        pose = 0.1 * torch.tanh(self.pose(pooled)).view(count, 2, 3)
        share = self.layout(pooled).softmax(-1)
        read = 0.0
        for index, places in enumerate(self.places):
            queries, offsets = places.shape[:2]
            flat = places.reshape(1, -1, 2)
            moved = flat + flat @ pose[:, :, :2].transpose(1, 2) + pose[:, None, :, 2]
            sampled = F.grid_sample(
                features, moved.view(count, queries, offsets, 2), mode="bilinear", padding_mode="border", align_corners=False
            )  # (N, width, queries, offsets)
            read = read + share[:, index, None, None, None] * sampled
        read = read.permute(0, 2, 3, 1).flatten(2)
        hidden = F.gelu(self.hidden(read) + self.query)
        leads = self.out(hidden).view(count, 12, -1)[..., : self.sig_len]
        return self.smooth(leads)

"""From a page to the twelve leads in mV: find the rows, read along them, put each lead at its time, fill in what is not shown.

1. The frame (``frame.py``) says where the rows lie. They are sampled straight and to scale: a column is a stretch of time, a
   place in it an amplitude. Small convolutions turn each column into features and into the height of its ink.
2. The layout says which lead and which second each column is. What the page shows goes to its (lead, time) cell.
3. A lead's other cells are filled by analogy: where the rhythm looked like this, what did the lead do? (Attention from the
   rhythm at one time to the rhythm at the times at which the lead is shown.)
4. A last layer sees all leads of one moment, so that lead algebra can be learned.

Letters: N pages, M layouts, R rows, W columns of a row, C features, T samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgscan_ray.config import ModelConfig, PageConfig
from ecgscan_ray.model.frame import Found, Frame, RowGrid, read_rows
from ecgscan_ray.paper.layout import PAGE_SECONDS, TRACE_MM, timed
from ecgscan_ray.recording.leads import LEADS


@dataclass(frozen=True)
class Group:
    """Leads that a page shows at the same times.

    Attributes:
        leads: Their indices.
        shown: Columns of time at which they are shown.
        source: (leads, shown) where: row * W + column.
    """

    leads: list[int]
    shown: np.ndarray
    source: np.ndarray


@dataclass(frozen=True)
class Places:
    """What one layout draws where, in columns.

    Attributes:
        rows: R.
        groups: All leads, each once.
        rhythm: (W,) int, row * W + column of the longest strip shown at that time.
        flip: (R, W), -1 where the page shows the lead upside down, else 1.
    """

    rows: int
    groups: list[Group]
    rhythm: np.ndarray
    flip: np.ndarray


def places_of(layout: str, speed_mm_per_s: float, columns: int) -> Places:
    """Columns of a layout: time in ``columns`` equal parts of 10 s, and as many columns along each row."""
    drawn = timed(layout, speed_mm_per_s)
    source = np.full((len(LEADS), columns), -1)
    rhythm = np.full(columns, -1)
    flip = np.ones((drawn.rows, columns), np.float32)
    time = (np.arange(columns) + 0.5) / columns * PAGE_SECONDS
    for strip in sorted(drawn.strips, key=lambda s: s.stop_s - s.start_s):  # the longest last: it stays
        shown = (strip.start_s <= time) & (time < strip.stop_s)
        along = (strip.x_s + time[shown] - strip.start_s) * speed_mm_per_s / TRACE_MM
        index = strip.row * columns + np.minimum(along * columns, columns - 1).astype(int)
        source[strip.lead, shown] = rhythm[shown] = index
        flip.reshape(-1)[index] = strip.sign
    rhythm = np.where(rhythm < 0, rhythm.max(), rhythm)  # past the end of fast paper
    alike: dict[bytes, list[int]] = {}
    for lead in range(len(LEADS)):
        alike.setdefault((source[lead] >= 0).tobytes(), []).append(lead)
    groups = []
    for leads in alike.values():
        shown = np.flatnonzero(source[leads[0]] >= 0)
        groups.append(Group(leads, shown, source[leads][:, shown]))
    return Places(drawn.rows, groups, rhythm, flip)


class Decoder(nn.Module):
    """Pages -> redrawn leads.

    Args:
        config: Model settings (rate, seconds, and the ``decoder`` section).
        page: Page settings; its layouts are those that can be read.
        map_channels: Channels of the three maps of the image tower; the last tells the frame.
    """

    def __init__(self, config: ModelConfig, page: PageConfig, map_channels: tuple[int, ...]) -> None:
        super().__init__()
        own, width = config.decoder, config.decoder.width
        self.columns = round(config.signal_seconds * own.columns_per_s)
        self.per_column = config.signal_fs // own.columns_per_s
        self.cells = round(config.signal_seconds / own.segment_s)
        self.num_queries, self.state_dim = len(LEADS) * self.cells, width
        self.frame = Frame(page, map_channels[-1])
        self.places = [places_of(name, page.paper_speed_mm_per_s, self.columns) for name in page.layouts]
        self.grid = RowGrid(page)
        self.register_buffer("heights_mv", torch.linspace(-own.read_mv, own.read_mv, own.read_px), persistent=False)
        c1, c2, c3 = max(width // 6, 4), max(width // 3, 8), max(width // 2, 8)
        self.read_1 = nn.Conv2d(page.channels, c1, 5, (2, 1), 2)
        self.ink = nn.Conv2d(c1, 1, 3, 1, 1)
        self.read_2 = nn.Conv2d(c1, c2, 3, (2, 1), 1)
        self.read_3 = nn.Conv2d(c2, c3, 3, (2, 1), 1)
        self.lateral = nn.ModuleList(nn.Conv2d(channels, c3, 1) for channels in map_channels[1:])
        self.column = nn.Conv1d(c3 * -(-own.read_px // 8) + 1 + c3, width, 5, padding=2)
        self.along = nn.Conv1d(width, width, 5, padding=2)
        self.query, self.key = (nn.Conv1d(width, 32, 9, padding=4) for _ in range(2))
        self.lead = nn.Parameter(torch.randn(width, len(LEADS), 1) * 0.1)
        self.unseen = nn.Parameter(torch.randn(width, 1, 1) * 0.1)
        self.over_time = nn.Conv2d(width + 1, width, (1, 3), padding=(0, 1))
        self.out = nn.Conv2d(width, self.per_column, 1)
        samples = self.per_column * len(LEADS)
        self.together = nn.Sequential(
            nn.Conv1d(samples + len(LEADS), 2 * samples, 1), nn.ReLU(), nn.Conv1d(2 * samples, samples, 1)
        )
        for last in (self.out, self.together[-1]):
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(last.bias)
        for index, places in enumerate(self.places):
            order = [lead for group in places.groups for lead in group.leads]
            shown = np.zeros((len(LEADS), self.columns), bool)
            for group in places.groups:
                shown[np.ix_(group.leads, group.shown)] = True
            self._keep(f"order_{index}", np.argsort(order))
            self._keep(f"shown_{index}", shown)
            self._keep(f"flip_{index}", places.flip)
            self._keep(f"rhythm_{index}", places.rhythm)
            for number, group in enumerate(places.groups):
                self._keep(f"source_{index}_{number}", group.source.reshape(-1))
                own = np.zeros((self.columns, len(group.shown)), np.float32)
                own[group.shown, np.arange(len(group.shown))] = 1
                self._keep(f"own_{index}_{number}", own)

    def _keep(self, name: str, values: np.ndarray) -> None:
        self.register_buffer(name, torch.from_numpy(values), persistent=False)

    def forward(
        self, image: Tensor, maps: tuple[Tensor, ...], truth: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Found]:
        """Redraw the leads.

        Args:
            image: (N, C, H, W), normalised.
            maps: (N, F, h, w) each, finest first.
            truth: True frame corners (N, 4, 2) and layout (N,), where to read while training: what is read there then
                fits the recording from the first step on, whatever the frame found yet.

        Returns:
            leads (N, 12, T) in mV, states (N, Q, S) of the cells (lead by lead, in time), the frame found.
        """
        found = self.frame(image, maps[-1], truth[1] if truth else None)
        corners, layout = truth or (found.corners.detach(), found.layout_logits.argmax(-1))
        context = self._context(maps)
        leads = image.new_zeros(len(image), len(LEADS), self.columns * self.per_column)
        states = image.new_zeros(len(image), self.num_queries, self.state_dim)
        for index in range(len(self.places)):
            pages = (layout == index).nonzero().squeeze(1)
            if len(pages):
                drawn, state = self._read(index, image[pages], context[pages], corners[pages])
                leads, states = leads.index_copy(0, pages, drawn), states.index_copy(0, pages, state)
        return leads, states, found

    def _context(self, maps: tuple[Tensor, ...]) -> Tensor:
        """What the image tower knows, on the map of stride 8: (N, C, h, w)."""
        middle, last = self.lateral[0](maps[1]), self.lateral[1](maps[2])
        if last.shape[-2:] != middle.shape[-2:]:
            last = F.interpolate(last, middle.shape[-2:], mode="bilinear", align_corners=False)
        return F.relu(middle + last)

    def _read(self, index: int, image: Tensor, context: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
        """Pages of one layout: (n, 12, T) in mV and (n, Q, S)."""
        rows = self.places[index].rows
        features, height = self._columns(index, image, context, corners)
        read = torch.cat([features, height], 1).unflatten(0, (-1, rows)).transpose(1, 2).flatten(2)  # (n, C + 1, R * W)
        cells = self._fill(index, read)
        shown = getattr(self, f"shown_{index}")
        states = torch.cat([cells[:, :-1] + (self.lead + self.unseen * ~shown), cells[:, -1:]], 1)
        states = F.relu(self.over_time(states))
        drawn = (self.out(states) + cells[:, -1:]).permute(0, 2, 3, 1)  # (n, 12, W, samples)
        moment = torch.cat([drawn.transpose(2, 3).flatten(1, 2), shown.to(drawn.dtype).expand(len(drawn), -1, -1)], 1)
        drawn = drawn.flatten(2) + self.together(moment).unflatten(1, (len(LEADS), -1)).transpose(2, 3).flatten(2)
        states = F.adaptive_avg_pool2d(states, (len(LEADS), self.cells)).flatten(2).transpose(1, 2)
        return drawn.to(image.dtype), states.to(image.dtype)

    def _columns(self, index: int, image: Tensor, context: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n * R, C, W) of every column and the height of its ink (n * R, 1, W) in mV."""
        rows, width = self.places[index].rows, self.columns
        u = (torch.arange(width, device=image.device) + 0.5) / width
        row = torch.arange(rows, device=image.device) / max(rows - 1, 1)
        heights = self.heights_mv[:, None] * getattr(self, f"flip_{index}")[:, None]  # (R, heights, W)
        strips = read_rows(image, self.grid(corners, u, row, heights))
        near = F.relu(self.read_1(strips))
        fine = self.read_3(F.relu(self.read_2(near)))
        share = self.ink(near).squeeze(1).float().softmax(1)
        height = torch.einsum("bhw,h->bw", share, self.heights_mv[::2])[:, None]
        seen = read_rows(context, self.grid(corners, u, row, torch.zeros_like(heights[:, :1]))).squeeze(2)
        columns = torch.cat([F.relu(fine).flatten(1, 2), height.to(fine.dtype), seen], 1)
        return F.relu(self.along(F.relu(self.column(columns)))), height

    def _fill(self, index: int, read: Tensor) -> Tensor:
        """Every (lead, time) cell (n, C + 1, 12, W) from the columns read (n, C + 1, R * W).

        What is shown is taken as it is. At other times a lead is a mixture of what it did when it was shown, by how alike
        the rhythm was.
        """
        rhythm = read[:, :-1, getattr(self, f"rhythm_{index}")]
        query, key = self.query(rhythm).transpose(1, 2), self.key(rhythm)
        parts = []
        for number, group in enumerate(self.places[index].groups):
            known = read[..., getattr(self, f"source_{index}_{number}")].unflatten(2, (len(group.leads), -1))
            if len(group.shown) < self.columns:
                own = getattr(self, f"own_{index}_{number}")  # (W, shown)
                alike = (query @ key[..., own.argmax(0)] / query.shape[-1] ** 0.5).softmax(-1)
                mixture = torch.where(own.any(1, keepdim=True), own.to(alike.dtype), alike).transpose(1, 2)
                known = (known.flatten(1, 2) @ mixture).unflatten(1, (-1, len(group.leads)))
            parts.append(known)
        # a layout that shows everything has nothing to fill, and still touches these weights: DDP wants none unused
        untouched = 0 * (query.mean() + key.mean())
        return torch.cat(parts, 2)[:, :, getattr(self, f"order_{index}")] + untouched

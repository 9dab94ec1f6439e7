"""From a page to the twelve leads in mV: find the rows, sample them, put each lead at its time, infer what is not shown.

1. The frame (``frame.py``) gives the position of the rows. They are sampled straight and to scale: a column is a stretch of
   time, a height in it an amplitude. Small convolutions turn each column into features and into the height of its trace.
2. The layout gives the lead and the second of each column. What the page shows goes to its (lead, time) cell.
3. A lead's other cells are filled by attention from the rhythm strip at one time to the rhythm strip at the times at which the
   lead is shown: where the rhythm looked like this, what did the lead do?
4. A last layer sees all leads of one moment, and a mixture of them that depends on which of them are shown at that moment, so
   that the lead laws can be learned: what is shown corrects what is inferred, and not the other way round.

Letters: N pages, M layouts, R rows, W columns of a row, C features, T samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgscan_ray.config import ModelConfig, PageConfig
from ecgscan_ray.model.frame import Frame, FramePrediction, RowSampler, sample_rows
from ecgscan_ray.paper.layout import PAGE_SECONDS, TRACE_MM, timed
from ecgscan_ray.recording.leads import LEADS

ALGEBRA_GAIN = 10.0
"""Adam moves every weight by about the learning rate per step; the mixing weights are to move ten times as far."""


class LeadGroup(nn.Module):
    """Leads that a page shows at the same times.

    Args:
        leads: Their indices.
        shown: (W,) bool, the columns of time at which they are shown.
        source: (leads, shown) int, where: row * W + column.
    """

    source: Tensor
    identity: Tensor
    """(W, shown): 1 where a column of time is itself shown."""

    def __init__(self, leads: list[int], shown: np.ndarray, source: np.ndarray) -> None:
        super().__init__()
        self.leads, self.complete = leads, bool(shown.all())
        self.register_buffer("source", torch.from_numpy(source), persistent=False)
        identity = np.eye(len(shown), dtype=np.float32)[:, shown]
        self.register_buffer("identity", torch.from_numpy(identity), persistent=False)


class LayoutGrid(nn.Module):
    """Where one layout shows which lead, in columns: W equal parts of 10 s of time, and as many columns along each row.

    Args:
        layout: Name.
        speed_mm_per_s: Paper speed.
        columns: W.
    """

    groups: nn.ModuleList
    """``LeadGroup``s that hold each lead once."""
    rhythm: Tensor
    """(W,) int, row * W + column of the longest strip shown at that time."""
    flip: Tensor
    """(R, W), -1 where the page shows the lead upside down, else 1."""
    shown: Tensor
    """(12, W) bool."""
    order: Tensor
    """(12,) int, index of each lead among those of the groups, one group after the other."""
    row: Tensor
    """(R,) 0 = first row .. 1 = last."""

    def __init__(self, layout: str, speed_mm_per_s: float, columns: int) -> None:
        super().__init__()
        timed_layout = timed(layout, speed_mm_per_s)
        source = np.full((len(LEADS), columns), -1)
        rhythm = np.full(columns, -1)
        flip = np.ones((timed_layout.rows, columns), np.float32)
        time = (np.arange(columns) + 0.5) / columns * PAGE_SECONDS
        for strip in sorted(timed_layout.strips, key=lambda s: s.stop_s - s.start_s):  # the longest last: it stays
            during = (strip.start_s <= time) & (time < strip.stop_s)
            position = (strip.x_s + time[during] - strip.start_s) * speed_mm_per_s / TRACE_MM
            index = strip.row * columns + np.minimum(position * columns, columns - 1).astype(int)
            source[strip.lead, during] = rhythm[during] = index
            flip.reshape(-1)[index] = strip.sign
        shown = source >= 0
        same_times: dict[bytes, list[int]] = {}
        for lead in range(len(LEADS)):
            same_times.setdefault(shown[lead].tobytes(), []).append(lead)
        groups = [LeadGroup(leads, shown[leads[0]], source[leads][:, shown[leads[0]]]) for leads in same_times.values()]
        self.rows, self.groups = timed_layout.rows, nn.ModuleList(groups)
        buffers = {
            "rhythm": np.where(rhythm < 0, rhythm.max(), rhythm),  # past the end of fast paper
            "flip": flip,
            "shown": shown,
            "order": np.argsort([lead for group in groups for lead in group.leads]),
            "row": (np.arange(timed_layout.rows) / max(timed_layout.rows - 1, 1)).astype(np.float32),
        }
        for name, values in buffers.items():
            self.register_buffer(name, torch.from_numpy(values), persistent=False)


class Decoder(nn.Module):
    """Pages -> redrawn leads.

    Args:
        config: Model settings (rate, seconds, and the ``decoder`` section).
        page: Page settings; its layouts are those that can be read.
        map_channels: Channels of the three maps of the image tower; the frame is found on the last one.
    """

    heights_mv: Tensor

    def __init__(self, config: ModelConfig, page: PageConfig, map_channels: tuple[int, ...]) -> None:
        super().__init__()
        settings, width = config.decoder, config.decoder.width
        self.columns = round(PAGE_SECONDS * settings.columns_per_s)
        self.samples_per_column = config.signal_fs // settings.columns_per_s
        self.cells = round(PAGE_SECONDS / settings.cell_s)
        self.num_queries, self.state_dim = len(LEADS) * self.cells, width
        self.frame = Frame(page, map_channels[-1])
        layouts = [LayoutGrid(name, page.paper_speed_mm_per_s, self.columns) for name in page.layouts]
        self.layouts = nn.ModuleList(layouts)
        self.sampler = RowSampler(page)
        heights_mv = torch.linspace(-settings.sample_range_mv, settings.sample_range_mv, settings.sample_rows)
        self.register_buffer("heights_mv", heights_mv, persistent=False)
        c1, c2, c3 = max(width // 6, 4), max(width // 3, 8), max(width // 2, 8)
        self.row_conv_1 = nn.Conv2d(page.channels, c1, 5, (2, 1), 2)
        self.trace_attention = nn.Conv2d(c1, 1, 3, 1, 1)
        self.row_conv_2 = nn.Conv2d(c1, c2, 3, (2, 1), 1)
        self.row_conv_3 = nn.Conv2d(c2, c3, 3, (2, 1), 1)
        self.lateral = nn.ModuleList(nn.Conv2d(channels, c3, 1) for channels in map_channels[1:])
        self.column = nn.Conv1d(c3 * -(-settings.sample_rows // 8) + 1 + c3, width, 5, padding=2)
        self.column_conv = nn.Conv1d(width, width, 5, padding=2)
        self.query, self.key = (nn.Conv1d(width, 32, 9, padding=4) for _ in range(2))
        self.lead = nn.Parameter(torch.randn(width, len(LEADS), 1) * 0.1)
        self.unseen = nn.Parameter(torch.randn(width, 1, 1) * 0.1)
        self.time_conv = nn.Conv2d(width + 1, width, (1, 3), padding=(0, 1))
        self.out = nn.Conv2d(width, self.samples_per_column, 1)
        samples = self.samples_per_column * len(LEADS)
        mixed = nn.Conv1d(2 * samples, samples, 1)
        self.per_moment_mlp = nn.Sequential(nn.Conv1d(samples + len(LEADS), 2 * samples, 1), nn.ReLU(), mixed)
        for last in (self.out, mixed):
            for parameter in last.parameters():
                nn.init.normal_(parameter, std=0.01)
        self.lead_mixing = nn.Linear(len(LEADS), len(LEADS) ** 2)  # which leads are shown -> 12 x 12 weights
        for parameter in self.lead_mixing.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, image: Tensor, maps: tuple[Tensor, ...], truth: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, FramePrediction]:
        """Redraw the leads.

        Args:
            image: (N, C, H, W), normalised.
            maps: (N, F, h, w) each, finest first.
            truth: True frame corners (N, 4, 2) and layout (N,), while training: the rows sampled there fit the recording
                from the first step on, before the frame is found well.

        Returns:
            leads (N, 12, T) in mV, states (N, Q, S) of the cells (lead by lead, in time), the frame.
        """
        frame = self.frame(image, maps[-1], truth[1] if truth else None)
        corners, layout = truth or (frame.corners.detach(), frame.layout_logits.argmax(-1))
        context = self._context(maps)
        leads = image.new_zeros(len(image), len(LEADS), self.columns * self.samples_per_column)
        states = image.new_zeros(len(image), self.num_queries, self.state_dim)
        for index, grid in enumerate(cast(Iterable[LayoutGrid], self.layouts)):
            if torch.compiler.is_exporting():  # no index of data-dependent size: every page in every layout
                redrawn, state = self._redraw(grid, image, context, corners)
                selected = (layout == index)[:, None, None]
                leads, states = torch.where(selected, redrawn, leads), torch.where(selected, state, states)
                continue
            pages = (layout == index).nonzero().squeeze(1)
            if len(pages):
                redrawn, state = self._redraw(grid, image[pages], context[pages], corners[pages])
                leads, states = leads.index_copy(0, pages, redrawn), states.index_copy(0, pages, state)
        return leads, states, frame

    def shown(self, layout: Tensor) -> Tensor:
        """Which samples pages of these layouts show: (N,) int -> (N, 12, T) bool."""
        shown = torch.stack([grid.shown for grid in cast(Iterable[LayoutGrid], self.layouts)])
        return shown[layout].repeat_interleave(self.samples_per_column, -1)

    def _context(self, maps: tuple[Tensor, ...]) -> Tensor:
        """The image tower's last two maps joined at stride 8: (N, C, h, w)."""
        middle, last = self.lateral[0](maps[1]), self.lateral[1](maps[2])
        if last.shape[-2:] != middle.shape[-2:]:
            last = F.interpolate(last, middle.shape[-2:], mode="bilinear", align_corners=False)
        return F.relu(middle + last)

    def _redraw(self, grid: LayoutGrid, image: Tensor, context: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
        """Pages of one layout: (n, 12, T) in mV and (n, Q, S)."""
        features, height = self._columns(grid, image, context, corners)
        columns = torch.cat([features, height], 1).unflatten(0, (-1, grid.rows)).transpose(1, 2)
        cells = self.fill_cells(grid, columns.flatten(2))  # (n, C + 1, R * W)
        shown = grid.shown
        states = torch.cat([cells[:, :-1] + (self.lead + self.unseen * ~shown), cells[:, -1:]], 1)
        states = F.relu(self.time_conv(states))
        leads = (self.out(states) + cells[:, -1:]).permute(0, 2, 3, 1)  # (n, 12, W, samples)
        moment = torch.cat([leads.transpose(2, 3).flatten(1, 2), shown.to(leads.dtype).expand(len(leads), -1, -1)], 1)
        leads = leads + self.per_moment_mlp(moment).unflatten(1, (len(LEADS), -1)).transpose(2, 3)
        leads = self.mix_leads(leads, shown).flatten(2)
        states = F.adaptive_avg_pool2d(states, (len(LEADS), self.cells)).flatten(2).transpose(1, 2)
        return leads.to(image.dtype), states.to(image.dtype)

    def mix_leads(self, leads: Tensor, shown: Tensor) -> Tensor:
        """Leads (n, 12, W, samples) in mV, each corrected by the others of its moment, given what is shown (12, W) then."""
        with torch.autocast(leads.device.type, enabled=False):  # the lead laws are to hold to microvolts
            flags = shown.T.to(self.lead_mixing.weight.dtype)
            mixture = ALGEBRA_GAIN * self.lead_mixing(flags).unflatten(1, (len(LEADS), len(LEADS)))
            leads = leads.to(mixture.dtype)
            return leads + torch.einsum("wkl,nlws->nkws", mixture, leads)

    def _columns(self, grid: LayoutGrid, image: Tensor, context: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n * R, C, W) of every column and the height of its trace (n * R, 1, W) in mV."""
        u = (torch.arange(self.columns, device=image.device) + 0.5) / self.columns
        heights = self.heights_mv[:, None] * grid.flip[:, None]  # (R, heights, W)
        strips = sample_rows(image, self.sampler(corners, u, grid.row, heights))
        coarse = F.relu(self.row_conv_1(strips))
        fine = self.row_conv_3(F.relu(self.row_conv_2(coarse)))
        attention = self.trace_attention(coarse).squeeze(1).float().softmax(1)
        height = torch.einsum("bhw,h->bw", attention, self.heights_mv[::2])[:, None]
        zero_line = self.sampler(corners, u, grid.row, torch.zeros_like(heights[:, :1]))
        row_context = sample_rows(context, zero_line).squeeze(2)
        columns = torch.cat([F.relu(fine).flatten(1, 2), height.to(fine.dtype), row_context], 1)
        return F.relu(self.column_conv(F.relu(self.column(columns)))), height

    def fill_cells(self, grid: LayoutGrid, columns: Tensor) -> Tensor:
        """Every (lead, time) cell (n, C + 1, 12, W) from the columns of the rows (n, C + 1, R * W).

        What is shown is copied. At other times a lead is a mixture of its shown columns, weighted by the similarity of the
        rhythm.
        """
        rhythm = columns[:, :-1, grid.rhythm]
        query, key = self.query(rhythm).transpose(1, 2), self.key(rhythm)
        parts = []
        for group in cast(Iterable[LeadGroup], grid.groups):
            known = columns[..., group.source.flatten()].unflatten(2, group.source.shape)
            if not group.complete:
                similarity = (query @ key[..., group.identity.argmax(0)] / query.shape[-1] ** 0.5).softmax(-1)
                is_shown = group.identity.any(1, keepdim=True)
                mixture = torch.where(is_shown, group.identity.to(similarity.dtype), similarity).mT
                known = (known.flatten(1, 2) @ mixture).unflatten(1, (-1, len(group.leads)))
            parts.append(known)
        # a layout that shows everything needs no attention; its weights stay in the graph, so that DDP finds none unused
        untouched = 0 * (query.mean() + key.mean())
        return torch.cat(parts, 2)[:, :, grid.order] + untouched

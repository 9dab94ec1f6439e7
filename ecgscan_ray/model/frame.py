"""Where on the picture a page's traces lie: layout and trace frame, told by the page alone, in three looks.

A heart beat is 2 px wide on a page of 160x208, and a decoder that reads 1 px beside it learns nothing but blur. So the whole
page gives a first guess, a patch around each corner a second, and the ends of all rows together a third, each from the place
that the one before gave. The second and third are votes over many small places, which learn faster than coordinates.

Letters: N pages, M layouts, R rows, K things voted on, P places, C corners told by each. Places are fractions of the
picture's width and height; the corners are those of ``paper.layout.frame_mm``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgscan_ray.config import PageConfig
from ecgscan_ray.paper.layout import TRACE_MM, find_layout, nominal_frame, page_to_image

PATCH_SHARE, PATCH_PX = 0.2, 28
"""Side of the patch around a corner, as a share of the picture's sides, and in places."""
END_SHARE, END_PX = 0.16, 48
"""Stretch of a row looked at around either end, as a share of the row, and in places."""
END_MV, END_HEIGHTS = 1.5, 24
"""How far up and down a row's end is looked at, and in how many places."""
ENDS = ((0, 3), (1, 2))
"""Corners at the start and at the end of the rows."""


class Votes(NamedTuple):
    """Where something may lie.

    Attributes:
        logits: (N, K, P).
        places: (N, K, P, C, 2), where its corners then lie.
    """

    logits: Tensor
    places: Tensor

    def mean(self) -> Tensor:
        """(N, K, C, 2)."""
        return torch.einsum("nkp,nkpcx->nkcx", self.logits.softmax(-1), self.places)


class Found(NamedTuple):
    """What a page tells about its frame.

    Attributes:
        corners: (N, 4, 2), after the last look; for the likeliest layout.
        guess: (N, M, 4, 2), the first guess for each layout.
        layout_logits: (N, M).
        near: K = 4 corners, C = 1.
        ends: K = 2 ends of the rows, C = 2 (first row, last row).
    """

    corners: Tensor
    guess: Tensor
    layout_logits: Tensor
    near: Votes
    ends: Votes


class RowGrid(nn.Module):
    """Places along and across the rows of a frame, to scale: mV up and down.

    Args:
        page: Page settings.
    """

    def __init__(self, page: PageConfig) -> None:
        super().__init__()
        sx, sy, _, _ = page_to_image(page)
        self.size_mm = (page.width / sx, page.height / sy)
        self.mm_per_mv = page.gain_mm_per_mv

    def forward(self, corners: Tensor, u: Tensor, row: Tensor, height_mv: Tensor) -> Tensor:
        """Where they lie in the picture.

        Args:
            corners: (N, 4, 2).
            u: (W,), 0..1 along the row.
            row: (R,) or (N, R), 0 = first row .. 1 = last.
            height_mv: (..., H, 1) or (..., R, H, W) mV above the row's zero line.

        Returns:
            (N, R, H, W, 2).
        """
        a, b, c, d = (corners * corners.new_tensor(self.size_mm)).unbind(1)
        across, down = (b - a).norm(dim=-1) + (c - d).norm(dim=-1), (d - a).norm(dim=-1) + (c - b).norm(dim=-1)
        # the length of a row is known: so is the scale, and from it the distance of the first and the last row on paper
        between_mm = TRACE_MM * down / across.clamp_min(1e-3)
        per_mv = self.mm_per_mv / between_mm.clamp_min(1e-3)
        v = row[..., None, None] - per_mv[:, None, None, None] * height_mv
        v = v.expand(*v.shape[:-1], len(u))
        return inside(corners, torch.stack([u.expand_as(v), v], dim=-1))


def read_rows(image: Tensor, places: Tensor) -> Tensor:
    """The picture (N, F, h, w) at places (N, R, H, W, 2): (N * R, F, H, W)."""
    rows = places.shape[1]
    read = F.grid_sample(
        image, (2 * places.flatten(1, 2) - 1).to(image.dtype), padding_mode="border", align_corners=False
    )
    return read.unflatten(2, (rows, -1)).transpose(1, 2).flatten(0, 1)


class Frame(nn.Module):
    """Finds the frame.

    Args:
        page: Page settings; its layouts are those that can be told apart.
        channels: Channels of the image tower's final map.
    """

    nominal: Tensor
    patch: Tensor
    rows: Tensor
    has_row: Tensor
    heights: Tensor

    def __init__(self, page: PageConfig, channels: int) -> None:
        super().__init__()

        def keep(name: str, values: np.ndarray) -> None:
            self.register_buffer(name, torch.from_numpy(values), persistent=False)

        counts = np.array([find_layout(name).rows for name in page.layouts])
        number = np.arange(counts.max())
        keep("nominal", np.stack([nominal_frame(page, name) for name in page.layouts]).astype(np.float32))
        keep("rows", (number / np.maximum(counts - 1, 1)[:, None]).astype(np.float32))  # (M, R)
        keep("has_row", (number < counts[:, None]).astype(np.float32))
        steps = ((np.arange(PATCH_PX) + 0.5) / PATCH_PX - 0.5).astype(np.float32) * PATCH_SHARE
        keep("patch", np.stack(np.meshgrid(steps, steps, indexing="xy"), axis=-1))  # (px, px, 2)
        keep("heights", np.linspace(END_MV, -END_MV, END_HEIGHTS, dtype=np.float32)[:, None])
        self.reduce = nn.Conv2d(channels, 32, 1)
        self.hidden = nn.Linear(32 * 6 * 8, 128)
        self.first = nn.Linear(128, 8 + len(counts))
        self.second = nn.Sequential(
            nn.Conv2d(page.channels, 8, 5, 1, 2), nn.ReLU(),
            nn.Conv2d(8, 12, 5, 1, 4, dilation=2), nn.ReLU(),
            nn.Conv2d(12, 4, 5, 1, 4, dilation=2),
        )  # fmt: skip
        self.grid = RowGrid(page)
        self.third = nn.Sequential(
            nn.Conv2d(page.channels, 12, 5, (2, 1), 2), nn.ReLU(),
            nn.Conv2d(12, 16, 5, (2, 1), 2), nn.ReLU(), nn.Flatten(1, 2),
            nn.Conv1d(16 * (END_HEIGHTS // 4), 32, 9, padding=4), nn.ReLU(),
            nn.Conv1d(32, 2, 9, padding=4),
        )  # fmt: skip
        for last in (self.first, self.second[-1], self.third[-1]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, image: Tensor, final: Tensor, layout: Tensor | None = None) -> Found:
        """Find it.

        Args:
            image: (N, C, H, W), normalised.
            final: (N, F, h, w), the image tower's final map.
            layout: (N,) where it is known (while training), instead of the likeliest.
        """
        cells = F.interpolate(self.reduce(final), (6, 8), mode="bilinear", align_corners=False).flatten(1)
        told = self.first(F.relu(self.hidden(cells))).float()
        guess, logits = self.nominal + 0.1 * told[:, None, :8].unflatten(2, (4, 2)), told[:, 8:]
        layout = logits.argmax(-1) if layout is None else layout
        near = self._near(image, guess[torch.arange(len(image), device=image.device), layout].detach())
        ends = self._ends(image, near.mean().squeeze(2).detach(), layout)
        start, end = ends.mean().unbind(1)
        return Found(torch.stack([start[:, 0], end[:, 0], end[:, 1], start[:, 1]], 1), guess, logits, near, ends)

    def _near(self, image: Tensor, corners: Tensor) -> Votes:
        """Votes in a patch around each corner."""
        places = corners[:, :, None, None] + self.patch  # (N, 4, px, px, 2)
        votes = self.second(read_rows(image, places)).unflatten(0, (-1, 4))  # (N, corner, kind, px, px)
        return Votes(votes.diagonal(dim1=1, dim2=2).permute(0, 3, 1, 2).flatten(2).float(), places.flatten(2, 3)[..., None, :])

    def _ends(self, image: Tensor, corners: Tensor, layout: Tensor) -> Votes:
        """Votes along the rows, to which all rows add."""
        steps = (torch.arange(END_PX, device=image.device) + 0.5) / END_PX - 0.5
        u = torch.stack([END_SHARE * steps, 1 + END_SHARE * steps])  # (2, P)
        outer = torch.tensor([0.0, 1.0], device=image.device)
        votes, places = [], []
        for end in range(2):
            strips = read_rows(image, self.grid(corners, u[end], self.rows[layout], self.heights))
            logits = self.third(strips)[:, end].unflatten(0, (len(image), -1)).float()  # (N, R, P)
            votes.append((logits * self.has_row[layout][..., None]).sum(1))
            v = outer.expand(END_PX, 2)
            places.append(inside(corners, torch.stack([u[end, :, None].expand_as(v), v], -1)[None]))
        return Votes(torch.stack(votes, 1), torch.stack(places, 1))


def inside(corners: Tensor, uv: Tensor) -> Tensor:
    """Places in a frame seen in perspective: the homography that takes the unit square to the corners.

    Args:
        corners: (N, 4, 2): where (0, 0), (1, 0), (1, 1) and (0, 1) of the square lie, a convex quadrilateral.
        uv: (N or 1, ..., 2): along the rows, and from the first row to the last.

    Returns:
        (N, ..., 2).
    """

    def cross(p: Tensor, q: Tensor) -> Tensor:
        return (p[:, :1] * q[:, 1:] - p[:, 1:] * q[:, :1]).expand(-1, 2)

    a, b, c, d = corners.unbind(1)
    right, bottom, bend = b - c, d - c, a - b + c - d
    area = cross(right, bottom)
    area = torch.where(area.abs() < 1e-6, torch.full_like(area, 1e-6), area)
    g, h = cross(bend, bottom) / area, cross(right, bend) / area
    origin, across, down, g, h = (
        value.view(len(corners), *(1,) * (uv.ndim - 2), 2) for value in (a, b - a + g * b, d - a + h * d, g, h)
    )
    u, v = uv[..., :1], uv[..., 1:]
    return (origin + across * u + down * v) / (1 + g * u + h * v)

"""Where a page's traces lie in the image: layout and trace frame, from the page alone, in three looks.

A QRS complex is 2 px wide on a page of 160x208, and a decoder that samples 1 px off learns nothing but blur. So the whole page
gives a first guess, a patch around each corner a second, and the positions where strips begin and end a third, each around the
result of the one before. The second and third are votes over many small positions, which learn faster than coordinates. In the
third, all strips together give one homography: a row is twice as long as the frame is high, so the corners alone do not fix
its perspective well enough.

Letters: N pages, M layouts, R rows, K things voted on, P positions. Positions (xy) are fractions of the image's width and
height; uv are fractions of the frame; the corners are those of ``paper.layout.frame_mm``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgscan_ray.config import PageConfig
from ecgscan_ray.paper.layout import TRACE_MM, nominal_frame, page_to_image, timed

PATCH_SHARE, PATCH_PX = 0.2, 28
"""Side of the patch around a corner, as a share of the image's sides, and in positions."""
EDGE_SHARE, EDGE_PX = 0.11, 32
"""Stretch of a row sampled around the edge of a strip, as a share of the row, and in positions."""
EDGE_MV, EDGE_HEIGHTS = 1.5, 24
"""How far up and down an edge is sampled, mV, and at how many heights."""
CORNER_ERROR_Y = 0.004
"""Usual error of a corner's height after the second look, as a share of the frame's height."""


class Votes(NamedTuple):
    """Logits over positions.

    Attributes:
        logits: (N, K, P).
        xy: (N, K, P, 2).
        counts: (N, K), 0 for what the layout does not have.
    """

    logits: Tensor
    xy: Tensor
    counts: Tensor


class FramePrediction(NamedTuple):
    """A page's frame as it is found.

    Attributes:
        corners: (N, 4, 2), after the last look; for the layout known or likeliest; without gradient.
        guess: (N, M, 4, 2), the first guess for each layout.
        layout_logits: (N, M).
        corner_votes: Votes on the K = 4 corners.
        edge_votes: Votes on the edges of strips.
        edge_uv: (N, K, 2), where these lie in the frame.
    """

    corners: Tensor
    guess: Tensor
    layout_logits: Tensor
    corner_votes: Votes
    edge_votes: Votes
    edge_uv: Tensor


def strip_edges(layout: str, speed_mm_per_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Where the strips of a layout begin and end.

    Returns:
        u, v in the frame, float32 (K, 2); kind (K,): 0 = a row begins, 1 = one lead follows another, 2 = a row ends.
    """
    timed_layout = timed(layout, speed_mm_per_s)
    rows: dict[int, set[float]] = {}
    for strip in timed_layout.strips:
        ends = strip.x_s, strip.x_s + strip.stop_s - strip.start_s
        rows.setdefault(strip.row, set()).update(round(x * speed_mm_per_s / TRACE_MM, 6) for x in ends)
    uv, kind = [], []
    for row, edge_u in sorted(rows.items()):
        for u in sorted(edge_u):
            uv.append((u, row / max(timed_layout.rows - 1, 1)))
            kind.append(0 if u == min(edge_u) else 2 if u == max(edge_u) else 1)
    return np.array(uv, np.float32), np.array(kind)


class RowSampler(nn.Module):
    """Positions along and across the rows of a frame, to scale: mV up and down.

    Args:
        page: Page settings.
    """

    def __init__(self, page: PageConfig) -> None:
        super().__init__()
        sx, sy, _, _ = page_to_image(page)
        self.size_mm = (page.width / sx, page.height / sy)
        self.mm_per_mv = page.gain_mm_per_mv

    def forward(self, corners: Tensor, u: Tensor, row: Tensor, height_mv: Tensor) -> Tensor:
        """Their positions in the image.

        Args:
            corners: (N, 4, 2) xy.
            u: 0..1 along the row; (W,), or more axes that broadcast to (N, R, H, W).
            row: (R,) or (N, R), 0 = first row .. 1 = last.
            height_mv: mV above the row's zero line; (H, 1) or more axes that broadcast to (N, R, H, W).

        Returns:
            (N, R, H, W, 2) xy.
        """
        a, b, c, d = (corners * corners.new_tensor(self.size_mm)).unbind(1)
        across, down = (b - a).norm(dim=-1) + (c - d).norm(dim=-1), (d - a).norm(dim=-1) + (c - b).norm(dim=-1)
        # the length of a row is known: so is the scale, and from it the distance of the first and the last row on paper
        between_mm = TRACE_MM * down / across.clamp_min(1e-3)
        per_mv = self.mm_per_mv / between_mm.clamp_min(1e-3)
        v = row[..., None, None] - per_mv[:, None, None, None] * height_mv
        v = v.expand(*v.shape[:-1], u.shape[-1])
        return apply_homography(corners, torch.stack([u.expand_as(v), v], dim=-1))


def sample_rows(image: Tensor, xy: Tensor) -> Tensor:
    """The image (N, F, h, w) at positions xy (N, R, H, W, 2): (N * R, F, H, W)."""
    rows = xy.shape[1]
    grid = (2 * xy.flatten(1, 2) - 1).to(image.dtype)
    samples = F.grid_sample(image, grid, padding_mode="border", align_corners=False)
    return samples.unflatten(2, (rows, -1)).transpose(1, 2).flatten(0, 1)


class Frame(nn.Module):
    """Finds the frame.

    Args:
        page: Page settings; its layouts are those that can be recognised.
        channels: Channels of the image tower's final map.
    """

    nominal: Tensor
    patch: Tensor
    heights: Tensor
    steps: Tensor
    edge_uv: Tensor
    edge_kind: Tensor
    edge_counts: Tensor

    def __init__(self, page: PageConfig, channels: int) -> None:
        super().__init__()

        def constant(name: str, values: np.ndarray) -> None:
            self.register_buffer(name, torch.from_numpy(values), persistent=False)

        layout_edges = [strip_edges(name, page.paper_speed_mm_per_s) for name in page.layouts]
        max_edges = max(len(kind) for _, kind in layout_edges)
        constant(
            "edge_uv", np.stack([np.pad(uv, ((0, max_edges - len(uv)), (0, 0))) for uv, _ in layout_edges])
        )  # (M, K, 2)
        constant("edge_kind", np.stack([np.pad(kind, (0, max_edges - len(kind))) for _, kind in layout_edges]))
        constant(
            "edge_counts", np.stack([np.arange(max_edges) < len(kind) for _, kind in layout_edges]).astype(np.float32)
        )
        constant("nominal", np.stack([nominal_frame(page, name) for name in page.layouts]).astype(np.float32))
        patch = ((np.arange(PATCH_PX) + 0.5) / PATCH_PX - 0.5).astype(np.float32) * PATCH_SHARE
        constant("patch", np.stack(np.meshgrid(patch, patch, indexing="xy"), axis=-1))  # (px, px, 2)
        constant("steps", ((np.arange(EDGE_PX) + 0.5) / EDGE_PX - 0.5).astype(np.float32) * EDGE_SHARE)
        constant("heights", np.linspace(EDGE_MV, -EDGE_MV, EDGE_HEIGHTS, dtype=np.float32)[:, None])
        self.reduce = nn.Conv2d(channels, 32, 1)
        self.hidden = nn.Linear(32 * 6 * 8, 128)
        self.first = nn.Linear(128, 8 + len(layout_edges))
        second, third = nn.Conv2d(12, 4, 5, 1, 4, dilation=2), nn.Conv1d(32, 3, 9, padding=4)
        self.second = nn.Sequential(
            nn.Conv2d(page.channels, 8, 5, 1, 2), nn.ReLU(),
            nn.Conv2d(8, 12, 5, 1, 4, dilation=2), nn.ReLU(),
            second,
        )  # fmt: skip
        self.sampler = RowSampler(page)
        self.third = nn.Sequential(
            nn.Conv2d(page.channels, 12, 5, (2, 1), 2), nn.ReLU(),
            nn.Conv2d(12, 16, 5, (2, 1), 2), nn.ReLU(), nn.Flatten(1, 2),
            nn.Conv1d(16 * (EDGE_HEIGHTS // 4), 32, 9, padding=4), nn.ReLU(),
            third,
        )  # fmt: skip
        for last in (self.first, second, third):  # all positions equally likely at the start
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def forward(self, image: Tensor, final: Tensor, layout: Tensor | None = None) -> FramePrediction:
        """Find the frame.

        Args:
            image: (N, C, H, W), normalised.
            final: (N, F, h, w), the image tower's final map.
            layout: (N,) the true layout, while training; none = the likeliest.
        """
        cells = F.interpolate(self.reduce(final), (6, 8), mode="bilinear", align_corners=False).flatten(1)
        estimate = self.first(F.relu(self.hidden(cells))).float()
        guess, logits = self.nominal + 0.1 * estimate[:, None, :8].unflatten(2, (4, 2)), estimate[:, 8:]
        layout = logits.argmax(-1) if layout is None else layout
        votes = self._corner_votes(image, guess[torch.arange(len(image), device=image.device), layout].detach())
        with torch.no_grad():
            corners = torch.einsum("nkp,nkpx->nkx", votes.logits.softmax(-1), votes.xy)
        edge_votes = self._edge_votes(image, corners, layout)
        edge_uv = self.edge_uv[layout]
        return FramePrediction(
            self.fit_corners(corners, edge_votes, edge_uv), guess, logits, votes, edge_votes, edge_uv
        )

    def _corner_votes(self, image: Tensor, corners: Tensor) -> Votes:
        """Votes in a patch around each corner."""
        xy = corners[:, :, None, None] + self.patch  # (N, 4, px, px, 2)
        votes = self.second(sample_rows(image, xy)).unflatten(0, (-1, 4))  # (N, corner, kind, px, px)
        logits = votes.diagonal(dim1=1, dim2=2).permute(0, 3, 1, 2).flatten(2).float()
        return Votes(logits, xy.flatten(2, 3), torch.ones_like(logits[..., 0]))

    def _edge_votes(self, image: Tensor, corners: Tensor, layout: Tensor) -> Votes:
        """Votes along the rows around every edge of a strip."""
        uv, kind = self.edge_uv[layout], self.edge_kind[layout]
        u = uv[..., :1] + self.steps  # (N, K, P)
        strips = sample_rows(image, self.sampler(corners, u[:, :, None], uv[..., 1], self.heights))
        votes = self.third(strips).unflatten(0, (len(image), -1)).float()  # (N, K, kinds, P)
        logits = votes.gather(2, kind[..., None, None].expand(-1, -1, 1, EDGE_PX)).squeeze(2)
        xy = apply_homography(corners, torch.stack([u, uv[..., 1:].expand_as(u)], -1))
        return Votes(logits, xy, self.edge_counts[layout])

    @torch.no_grad()
    def fit_corners(self, corners: Tensor, edge_votes: Votes, uv: Tensor) -> Tensor:
        """The corners after moving the frame by the homography that takes the edges to the positions voted for.

        Weighted least squares, linear in its eight numbers for a small move: each vote counts by its inverse variance, and
        each corner's height is held by its usual error.
        """
        share = edge_votes.logits.softmax(-1)
        moved = share @ self.steps  # (N, K)
        variance = share @ self.steps.square() - moved.square() + (EDGE_SHARE / EDGE_PX) ** 2
        square = corners.new_tensor([(0, 0), (1, 0), (1, 1), (0, 1)]).expand(len(corners), 4, 2)
        rows = torch.cat([_homography_jacobian(uv)[0], _homography_jacobian(square)[1]], 1).double()  # (N, K + 4, 8)
        weight = torch.cat(
            [edge_votes.counts / variance, torch.full_like(corners[..., 0], CORNER_ERROR_Y**-2)], 1
        ).double()
        value = torch.cat([moved, torch.zeros_like(corners[..., 0])], 1).double()
        normal = rows.mT @ (weight[..., None] * rows) + 1e-3 * torch.eye(8, dtype=rows.dtype, device=rows.device)
        a, b, c, d, e, f, g, h = (
            torch.linalg.solve(normal, rows.mT @ (weight * value)[..., None])
            .squeeze(-1)
            .to(corners.dtype)[:, :, None]
            .unbind(1)
        )
        u, v = square.unbind(-1)
        moved_uv = torch.stack([u + a + b * u + c * v, v + d + e * u + f * v], -1) / (1 + g * u + h * v)[..., None]
        return apply_homography(corners, moved_uv)


def _homography_jacobian(uv: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of u and of v of points in the eight numbers of a homography near the identity: two (N, K, 8)."""
    u, v = uv.unbind(-1)
    one, zero = torch.ones_like(u), torch.zeros_like(u)
    along = torch.stack([one, u, v, zero, zero, zero, -u * u, -u * v], -1)
    down = torch.stack([zero, zero, zero, one, u, v, -u * v, -v * v], -1)
    return along, down


def apply_homography(corners: Tensor, uv: Tensor) -> Tensor:
    """Positions in a frame seen in perspective: the homography that takes the unit square to the corners.

    Args:
        corners: (N, 4, 2) xy of (0, 0), (1, 0), (1, 1) and (0, 1) of the square, a convex quadrilateral.
        uv: (N or 1, ..., 2): along the rows, and from the first row to the last.

    Returns:
        (N, ..., 2) xy.
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

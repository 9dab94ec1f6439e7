"""A picture to a page in millimetres."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from ecgscan_ray.precision import fast_cpu_autocast
from ecgscan_ray.rectification import grid_fit
from ecgscan_ray.rectification.channels import PAGE_STRIDE
from ecgscan_ray.rectification.networks import PageNet
from ecgscan_ray.rectification.page_map import PageMap, flat_map, inverted
from ecgscan_ray.rectification.pose import MOST_PAGE_MM, Pose, to_tensor
from ecgscan_ray.rectification.samples import PAGE_PX, cells

CELL_MM = PAGE_STRIDE / PAGE_PX
MAX_SIDE_PX = 1280
"""Of what ``PageNet`` sees: 427 mm."""
LEAST_SEEN = 0.2
"""Of a grid that is followed: below it, phases are noise that would bend the page."""


@dataclass(frozen=True)
class PageSheet:
    """A rectified page and what is printed on it.

    Attributes:
        page_map: Page mm to px.
        marks: float32 (16, h, w) probabilities of row, start, pulse and the 13 labels at the points of ``at``.
        at: float64 (h, w, 2) page mm.
        grid: Share of the 5 mm lines' belief that lies near one smooth surface, across and down, 0..1.
        agreement: float64 (h, w) in 0..1: how well the lines agree with the map at the points of ``at``.
    """

    page_map: PageMap
    marks: np.ndarray
    at: np.ndarray
    grid: tuple[float, float]
    agreement: np.ndarray

    @property
    def seen(self) -> float:
        """How well the printed grid is seen and followed, 0..1."""
        return float(min(self.grid) * np.median(self.agreement))


@torch.inference_mode()
def look(net: PageNet, image: np.ndarray, page_map: PageMap) -> tuple[np.ndarray, np.ndarray]:
    """``PageNet`` on the page as ``page_map`` flattens it: its output (C, h, w), and the places of its cells (h, w, 2) in the
    map's mm."""
    x0, y0, x1, y1 = page_map.box_mm
    size = (_padded(y1 - y0), _padded(x1 - x0))
    picture = page_map.cut(image, (x0, y0), size, PAGE_PX)
    with fast_cpu_autocast():
        out = net(to_tensor(picture[None]))[0].float().numpy()
    return out, (cells(size, PAGE_STRIDE) + 0.5) / PAGE_PX + (x0, y0)


def _padded(side_mm: float) -> int:
    """px of a side as the network takes it."""
    return int(np.clip(math.ceil(side_mm * PAGE_PX / 32) * 32, 64, MAX_SIDE_PX))


def fit_grid(out: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, tuple[float, float], np.ndarray]:
    """Page mm (h, w, 2) of the cells, the strength of the 5 mm lines across and down, and agreement (h, w)."""
    mm, strength, agreements = np.empty_like(at), [], []
    for axis in (0, 1):
        z = out[2 * axis] + 1j * out[2 * axis + 1]
        start, strong = grid_fit.grown(z, at, axis, 5.0)
        mm[..., axis], agreement = grid_fit.follow(z, at, 5.0, start)
        strength.append(strong)
        agreements.append(agreement)
    return mm, (strength[0], strength[1]), np.minimum(*agreements)


def printed(out: np.ndarray) -> np.ndarray:
    """bool (h, w): cells of the page that have a grid; all, where the page has none. Desks have edges that look like rows."""
    belief = cv2.GaussianBlur(np.hypot(out[0], out[1]) * np.hypot(out[2], out[3]), (0, 0), 1.5)
    inside = (belief > 0.25).astype(np.uint8)
    if inside.mean() < 0.2:
        return np.ones_like(belief, bool)
    return cv2.morphologyEx(inside, cv2.MORPH_OPEN, np.ones((7, 7), np.uint8)).astype(bool)


def rectify(net: PageNet, image: np.ndarray, pose: Pose, passes: int = 2) -> PageSheet:
    """The page in millimetres.

    Args:
        net: Trained.
        image: uint8 (H, W, 3).
        pose: One of ``find_poses``.
        passes: The second one looks at the page that the first made flat.
    """
    page_map = flat_map(pose.matrix, pose.box_mm, CELL_MM)
    for _ in range(passes):
        out, at = look(net, image, page_map)
        mm, grid, agreement = fit_grid(out, at)
        if np.ptp(mm, axis=(0, 1)).max() > MOST_PAGE_MM or min(grid) * np.median(agreement) < LEAST_SEEN:
            mm, grid = at, (0.0, 0.0)  # no grid that could be followed
        step = inverted(np.eye(3), at, mm, CELL_MM)
        # composed: page mm -> mm of the map before -> coarse mm
        page_map = PageMap(pose.matrix, step.origin, step.step, page_map.to_coarse(step.coarse_mm))
    marks = 1 / (1 + np.exp(-out[8:])) * printed(out)
    return PageSheet(page_map, marks, mm, grid, agreement)

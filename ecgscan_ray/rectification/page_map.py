"""The map from a page's millimetres to a picture's pixels: a homography, then a smooth displacement on a lattice."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ecgscan_ray.rectification.samples import NODE, resample


@dataclass(frozen=True)
class PageMap:
    """Attributes:
    matrix: Homography from the coarse pose's mm to index coordinates of the picture, px.
    origin: x and y of the lattice's first point, mm.
    step: Of the lattice, mm.
    coarse_mm: float64 (h, w, 2) coarse mm of each of its points.
    """

    matrix: np.ndarray
    origin: tuple[float, float]
    step: float
    coarse_mm: np.ndarray

    @property
    def box_mm(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 of what the lattice covers."""
        h, w = self.coarse_mm.shape[:2]
        x, y = self.origin
        return x, y, x + (w - 1) * self.step, y + (h - 1) * self.step

    def to_coarse(self, mm: np.ndarray) -> np.ndarray:
        """Page mm (..., 2) to the coarse pose's mm; beyond the lattice as at its edge."""
        where = (np.asarray(mm, np.float64) - self.origin) / self.step
        h, w = self.coarse_mm.shape[:2]
        inside = np.clip(where, 0, (w - 1.001, h - 1.001))
        i = np.floor(inside).astype(int)
        f = inside - i
        x, y = i[..., 0], i[..., 1]
        fx, fy = f[..., :1], f[..., 1:]
        c = self.coarse_mm
        value = (c[y, x] * (1 - fx) + c[y, x + 1] * fx) * (1 - fy) + (
            c[y + 1, x] * (1 - fx) + c[y + 1, x + 1] * fx
        ) * fy
        return value + (where - inside) * self.step

    def to_pixels(self, mm: np.ndarray) -> np.ndarray:
        """Page mm (..., 2) to index coordinates of the picture, px."""
        coarse = self.to_coarse(mm)
        return cv2.perspectiveTransform(coarse.reshape(1, -1, 2), self.matrix).reshape(coarse.shape)

    def cut(
        self, image: np.ndarray, corner_mm: tuple[float, float], size: tuple[int, int], px_per_mm: float
    ) -> np.ndarray:
        """A part of the page, flat: uint8 (*size, 3), sampled once from the picture."""
        rows, columns = size[0] // NODE + 2, size[1] // NODE + 2
        x, y = (np.arange(n) * NODE / px_per_mm for n in (columns, rows))
        mm = np.stack(np.meshgrid(corner_mm[0] + x, corner_mm[1] + y), -1)
        return resample(image, self.to_pixels(mm), size, (90, 90, 90))


def flat_map(matrix: np.ndarray, box_mm: tuple[float, float, float, float], step: float) -> PageMap:
    """The coarse pose alone."""
    x0, y0, x1, y1 = box_mm
    x, y = np.arange(x0, x1 + step, step), np.arange(y0, y1 + step, step)
    return PageMap(matrix, (x0, y0), step, np.stack(np.meshgrid(x, y), -1))


def inverted(matrix: np.ndarray, at: np.ndarray, mm: np.ndarray, step: float) -> PageMap:
    """The map, given the page's mm (h, w, 2) at a regular lattice ``at`` (h, w, 2) of coarse mm."""
    flat_at, flat_mm = at.reshape(-1, 2), mm.reshape(-1, 2)
    design = np.column_stack([flat_at, np.ones(len(flat_at))])
    coefficients = np.linalg.lstsq(design, flat_mm, rcond=None)[0]  # mm = at @ A + b
    rest = (flat_mm - design @ coefficients).reshape(mm.shape).astype(np.float32)
    back = np.linalg.inv(coefficients[:2])
    corners = flat_mm.min(0), flat_mm.max(0)
    x, y = (np.arange(a, b + step, step) for a, b in zip(*corners, strict=True))
    wanted = np.stack(np.meshgrid(x, y), -1)
    cell, first = at[0, 1, 0] - at[0, 0, 0], at[0, 0]
    coarse = (wanted - coefficients[2]) @ back
    for _ in range(8):
        where = ((coarse - first) / cell).astype(np.float32)
        error = cv2.remap(rest, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        coarse = (wanted - coefficients[2] - error) @ back
    return PageMap(matrix, (float(x[0]), float(y[0])), step, coarse)

"""The inked plane of a page: traces, pulses, boxes and glyphs by area coverage, then blended over the paper.

A pixel's ink is the exact vertical overlap of the pen with ``k`` sub-columns. In each sub-column the polyline is its
lowest and highest point, so the peak of an R wave is never lost, whatever the sampling rate. The kernels come from
numba where it can be imported (wheels for all our platforms; a C extension would need a compiler), else from numpy with
the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType
from typing import Literal

import numpy as np

from ecgscan_ray.errors import ConfigError

FAR = 1 << 22
PAD = 512


@lru_cache
def kernels(kind: Literal["auto", "compiled", "plain"] = "auto") -> ModuleType:
    """The module with the drawing kernels.

    Raises:
        ConfigError: ``compiled`` was asked for and numba cannot be imported.
    """
    from ecgscan_ray.paper import plain

    if kind == "plain":
        return plain
    try:
        from ecgscan_ray.paper import compiled
    except ImportError as error:
        if kind == "auto":
            return plain
        raise ConfigError(
            f"numba cannot be imported ({error})", where="page kernels", fix="pip install numba"
        ) from error
    return compiled


def sub_columns(px_per_mm: float, times: int = 1) -> int:
    """Sub-columns per pixel: more for thin pens on small pages, fewer for pages that are shrunk afterwards.

    Args:
        px_per_mm: Scale of the canvas.
        times: How much larger the canvas is than the image.
    """
    return 8 if px_per_mm < 2 * times and times == 1 else 4 if px_per_mm < 5 else 2


def snapped_pen(width_px: float, k: int) -> float:
    """The nearest width that is an odd number of sub-columns: those are drawn without error on steep strokes."""
    return (2 * max(0, round((width_px * k - 1) / 2)) + 1) / k


@lru_cache(maxsize=512)
def pen(width_px: float, k: int) -> np.ndarray:
    """int32 (D + 1,) half height of a round pen of 2 D + 1 sub-columns, 1/256 px, at whole distances in sub-columns.

    A sub-column's range holds points up to half a sub-column from its middle. The pen's height is taken that much
    farther out; otherwise steep strokes would be 1/k px too wide.
    """
    radius = snapped_pen(width_px, k) * k / 2
    offsets = [0.25, *(distance + 0.5 for distance in range(1, math.ceil(radius)))]
    return np.array([round(math.sqrt(max(0.0, radius**2 - x**2)) / k * 256) for x in offsets], np.int32)


class Ink:
    """The plane on which one page's ink is summed, reused from page to page.

    Args:
        height: Rows.
        width: Columns.
        k: Sub-columns per pixel.
        kind: Which kernels.
    """

    def __init__(self, height: int, width: int, k: int, kind: Literal["auto", "compiled", "plain"] = "auto") -> None:
        self.k, self._kernels = k, kernels(kind)
        self._plane = (np.zeros((height, width), np.uint16), np.zeros(height * width, np.int32), np.zeros(1, np.int64))
        self._scratch = np.zeros((4, width * k + 2 * PAD), np.int32)
        self._scratch[0], self._scratch[1] = FAR, -FAR
        self.size = (height, width)

    def strips(self, signal: np.ndarray, strips: np.ndarray, scales: np.ndarray, half: np.ndarray) -> None:
        """See ``compiled.deposit_strips``."""
        self._kernels.deposit_strips(*self._plane, signal, strips, scales, half, self.k, self._scratch)

    def paths(self, points: np.ndarray, half: np.ndarray) -> None:
        """Paths through float64 (P, n, 2) points in px, x never falling."""
        self._kernels.deposit_paths(*self._plane, points, half, self.k, self._scratch)

    def boxes(self, boxes: np.ndarray) -> None:
        """Filled float64 (B, 4) boxes x0, y0, x1, y1 in px."""
        self._kernels.deposit_boxes(*self._plane, boxes, self.k)

    def text(self, pixels: np.ndarray, table: np.ndarray, lines: Sequence[str], starts: np.ndarray) -> None:
        """Lines of ASCII text in a face of ``marks.Face``; float64 (L, 2) starts of their base lines, px."""
        codes = np.frombuffer("".join(lines).encode("ascii", "replace"), np.uint8)
        counts = np.array([len(line) for line in lines])
        self._kernels.deposit_text(*self._plane, pixels, table, codes, counts, starts, self.k)

    def compose(self, image: np.ndarray, ink: np.ndarray) -> None:
        """Blend ``ink`` uint8 (C,) over ``image`` uint8 (H, W, >= C) and clear the plane."""
        self._kernels.compose(*self._plane, image, ink, self.k)

    def cover(self) -> np.ndarray:
        """uint8 (H, W) coverage so far, 0..255; clears the plane."""
        image = np.zeros((*self.size, 1), np.uint8)
        self.compose(image, np.array([255], np.uint8))
        return image[..., 0]

    def medians(self, signal: np.ndarray, strips: np.ndarray) -> np.ndarray:
        """See ``compiled.strip_medians``; beyond +-10 mV the exact median, and 0 where a strip has no finite sample."""
        medians = self._kernels.strip_medians(signal, strips)
        for s, median in enumerate(medians.tolist()):
            if math.isnan(median):
                medians[s] = 0.0
            elif abs(median) >= 10:
                lead, start, stop = strips[s, :3]
                medians[s] = np.nanmedian(signal[lead, start:stop].astype(np.float64))
        return medians

    def any_infinite(self, signal: np.ndarray) -> bool:
        """Whether the signal holds an infinite value."""
        return bool(self._kernels.any_infinite(signal))

"""The millimetres of a page without a grid: its rows are ``TRACE_MM`` long, whatever the paper speed.

The coarse pose knows the scale to some hundredths, which over a row is much of a beat. From where the rows begin and end, found
in the ink as ``start`` does, the page is scaled across, and as much down. Perspective and bends that the pose left remain: the
ends of single rows are too uncertain to tell them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import median_filter

from ecgscan_ray.paper.layout import TRACE_MM
from ecgscan_ray.reading.rows import Rows
from ecgscan_ray.reading.start import find_start
from ecgscan_ray.rectification.page_map import PageMap

STEADY_MM = 3.0
"""Shorter pieces of presence, and gaps in it, are left out."""
LARGEST_STRETCH = 0.15
"""Rows that are longer or shorter than this are not whole."""


@dataclass(frozen=True)
class Ends:
    """Where the rows begin and end on a page whose scale is not known.

    Attributes:
        start: x and y in the middle of the rows' start, mm.
        stop: x of their end, mm.
    """

    start: np.ndarray
    stop: float

    @property
    def stretch(self) -> float:
        """mm as taken so far for each true mm."""
        return float(self.stop - self.start[0]) / TRACE_MM


def find_ends(rows: Rows) -> Ends | None:
    """Of the rows; None where they are not whole."""
    step = float(rows.x_mm[1] - rows.x_mm[0])
    present = median_filter(rows.present, (1, round(STEADY_MM / step) | 1)) > 0.5
    if not present.any(1).all():
        return None
    starts = rows.x_mm[present.argmax(1)]
    stops = rows.x_mm[::-1][present[:, ::-1].argmax(1)]
    start = find_start(rows, float(np.median(starts)))
    stop = -find_start(_mirrored(rows), -float(np.median(stops)))
    ends = Ends(np.array([start, rows.zero_mm.mean()]), stop)
    return ends if abs(ends.stretch - 1) < LARGEST_STRETCH else None


def _mirrored(rows: Rows) -> Rows:
    up, belief, present, pictures = (
        np.ascontiguousarray(array)
        for array in (rows.up_mm[:, ::-1], rows.belief[:, ::-1], rows.present[:, ::-1], rows.pictures[:, :, ::-1])
    )
    return Rows(-rows.x_mm[::-1], up, belief, present, rows.zero_mm, pictures)


def scaled(page_map: PageMap, ends: Ends) -> PageMap:
    """The map on which every row is ``TRACE_MM`` long; the rows' start stays where it is."""
    h, w = page_map.coarse_mm.shape[:2]
    mm = page_map.origin + page_map.step * np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1)
    before = ends.start + (mm - ends.start) * ends.stretch
    return PageMap(page_map.matrix, page_map.origin, page_map.step, page_map.to_coarse(before))


def scaled_rows(rows_mm: tuple[float, ...], ends: Ends) -> tuple[float, ...]:
    """y of the rows on the scaled page, mm."""
    return tuple(float(ends.start[1] + (y - ends.start[1]) / ends.stretch) for y in rows_mm)

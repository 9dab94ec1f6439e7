"""A picture to leads in mV: pose, grid, layout, rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ecgscan_ray.errors import InputError
from ecgscan_ray.reading.leads import Found, PageReading, StripReading
from ecgscan_ray.reading.network import RowNet
from ecgscan_ray.reading.rows import Rows, read_rows
from ecgscan_ray.rectification.layout_fit import FoundLayout, find_layout_of, marks_on_page
from ecgscan_ray.rectification.networks import CoarseNet, PageNet
from ecgscan_ray.rectification.page_map import PageMap
from ecgscan_ray.rectification.pose import find_pose
from ecgscan_ray.rectification.rectify import PageSheet, rectify

FS = 500.0
"""Sampling rate of what is read, Hz: a column at 4 px/mm and 25 mm/s is 10 ms; heights in between are interpolated."""
MIN_GRID = 0.3
"""Strength of the 5 mm lines below which a page counts as one without a grid."""


@dataclass(frozen=True)
class Networks:
    """The three networks of a reader."""

    coarse: CoarseNet
    page: PageNet
    row: RowNet


@dataclass(frozen=True)
class Stated:
    """What the user states of the page; None = from the page."""

    speed_mm_per_s: float | None = None
    gain_mm_per_mv: float | None = None
    layout: str | None = None


def read_page(networks: Networks, image: np.ndarray, stated: Stated = Stated()) -> PageReading:
    """Read one page.

    Args:
        networks: Trained.
        image: uint8 (H, W, 3).
        stated: What is known of the page.

    Raises:
        InputError: There is no page in the picture, or no row, grid or layout is found on it.
    """
    pose = find_pose(networks.coarse, image)
    if pose is None:
        raise InputError("no ECG page found in the picture")
    sheet = rectify(networks.page, image, pose)
    marks, first = marks_on_page(sheet.marks, sheet.at, sheet.page_map.box_mm)
    box = sheet.page_map.box_mm
    layout = find_layout_of(marks, first, (box[0] + box[2]) / 2 - 125)
    if layout is None:
        raise InputError("no rows of an ECG found on the page")
    rows = read_rows(networks.row, image, sheet.page_map, layout.left, np.array(layout.rows_mm))
    return _assembled(rows, layout, sheet, pose.turns, stated)


def _assembled(rows: Rows, found: FoundLayout, sheet: PageSheet, turns: int, stated: Stated) -> PageReading:
    speed = Found(stated.speed_mm_per_s or 25.0, "given" if stated.speed_mm_per_s else "assumed", 1.0)
    gain = Found(stated.gain_mm_per_mv or 10.0, "given" if stated.gain_mm_per_mv else "assumed", 1.0)
    strips = []
    for strip in found.layout.strips:
        count = round((strip.stop_s - strip.start_s) * FS)
        x = found.left + (strip.x_s + np.arange(count) / FS) * float(speed.value)
        up = np.interp(x, rows.x_mm, rows.up_mm[strip.row])
        belief = np.interp(x, rows.x_mm, rows.belief[strip.row] * rows.present[strip.row]).astype(np.float32)
        mv = (up - np.median(up)) / float(gain.value) * strip.sign
        here = (rows.x_mm >= x[0]) & (rows.x_mm <= x[-1])
        mm = np.stack([rows.x_mm[here], rows.zero_mm[strip.row] - rows.up_mm[strip.row, here]], -1)
        strips.append(
            StripReading(strip, mv.astype(np.float32), belief, sheet.page_map.to_pixels(mm).astype(np.float32))
        )
    layout = Found(found.layout.name, "labels", 1.0)
    return PageReading(
        tuple(strips), FS, layout, speed, gain, turns, _scale(sheet.page_map), float(min(sheet.grid)), ()
    )


def _scale(page_map: PageMap) -> tuple[float, float]:
    x0, y0, x1, y1 = page_map.box_mm
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    px = page_map.to_pixels(middle + np.array([(0.0, 0.0), (5.0, 0.0), (0.0, 5.0)]))
    across, down = np.linalg.norm(px[1:] - px[0], axis=1) / 5
    return float(across), float(down)

"""A picture to leads in mV: pose, grid, layout, rows, scale."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ecgscan_ray.errors import InputError
from ecgscan_ray.paper.layout import CHEST, TRACE_MM, timed
from ecgscan_ray.reading.lead_laws import mismatch, settled
from ecgscan_ray.reading.leads import Found, PageReading, StripReading
from ecgscan_ray.reading.network import RowNet
from ecgscan_ray.reading.printed_scale import LEAST_TEXT_PX_PER_MM, read_printed_scale
from ecgscan_ray.reading.quality import ASSUMED, NO_GRID, quality
from ecgscan_ray.reading.rows import Rows, read_rows
from ecgscan_ray.reading.scale import NOTHING, read_scale
from ecgscan_ray.reading.start import find_start
from ecgscan_ray.reading.without_grid import find_ends, scaled, scaled_rows
from ecgscan_ray.rectification.layout_fit import FoundLayout, find_layout_of, marks_on_page
from ecgscan_ray.rectification.networks import CoarseNet, PageNet
from ecgscan_ray.rectification.page_map import PageMap
from ecgscan_ray.rectification.pose import Pose, find_poses, halves, parts_beside
from ecgscan_ray.rectification.rectify import PageSheet, rectify

FS = 500.0
"""Sampling rate of what is read, Hz: a column is 5 ms at 25 mm/s; heights in between are interpolated."""
RECENTRED_MM = 1.0
"""Rows whose middle lies further than this from where they were sought are read again around it."""

LEAST_SCORE = 7.0
"""Log-likelihood ratio of a layout, for each of its strips. On 155 rendered photographs the right layout had 8.4 or more, on a
page that was read upside down the best had 5.9."""

ONE_PAGE = 0.8
"""Least belief in the pose of a page: two pages of one size are seen as none, or as a mixture of both, believed with 0.58."""
TWO_PAGES = "two ECG pages in one picture: each needs a picture of its own"

BESIDE_MM = 1.1
"""Pulses that end this near to the start are printed right beside the traces; others end 1.8 mm before it."""
MARGIN = 1.2
"""Scale of the doubt in a layout, over its margin. Of 215 rendered photographs the layout was right on 6 of 7 with a margin below
2, and on all others."""


@dataclass(frozen=True)
class Networks:
    """The three networks of a reader.

    Attributes:
        digest: sha256 of the file that they come from; empty where they come from none.
    """

    coarse: CoarseNet
    page: PageNet
    row: RowNet
    digest: str = ""


@dataclass(frozen=True)
class Stated:
    """What the user states of the page; None = from the page."""

    speed_mm_per_s: float | None = None
    gain_mm_per_mv: float | None = None
    layout: str | None = None


@dataclass(frozen=True)
class _Page:
    """What was found of a page before its scale: millimetres, layout, rows, pose."""

    sheet: PageSheet
    layout: FoundLayout
    rows: Rows
    pose: Pose


def read_page(networks: Networks, image: np.ndarray, stated: Stated = Stated()) -> PageReading:
    """Read one page.

    Args:
        networks: Trained.
        image: uint8 (H, W, 3).
        stated: What is known of the page.

    Raises:
        InputError: There is no page in the picture, no rows of an ECG on it, or another page beside it.
    """
    page = _find_page(networks, image, stated.layout)
    if isinstance(page, InputError) or page.pose.belief < ONE_PAGE:
        is_alone = not all(_is_page(networks, half) for half in halves(image))
    else:
        is_alone = not any(_is_page(networks, part) for part in parts_beside(image, page.pose))
    if not is_alone:
        raise InputError(TWO_PAGES)
    if isinstance(page, InputError):
        raise page
    return _assembled(image, page, stated)


def _find_page(networks: Networks, image: np.ndarray, layout: str | None = None) -> _Page | InputError:
    """The likeliest page, or why there is none."""
    poses = find_poses(networks.coarse, image)
    if not poses:
        return InputError("no ECG page found in the picture")
    pages = [page for pose in poses if (page := _found(networks, image, pose, layout)) is not None]
    if not pages:
        return InputError("no rows of an ECG found on the page")
    page = max(pages, key=lambda page: page.layout.score)
    if page.layout.score < LEAST_SCORE * len(page.layout.layout.strips):
        return InputError("no lead names of a known layout found on the page")
    return page


def _is_page(networks: Networks, image: np.ndarray) -> bool:
    return isinstance(_find_page(networks, image), _Page)


def _found(networks: Networks, image: np.ndarray, pose: Pose, layout: str | None) -> _Page | None:
    """The page in one of its poses; None where it has no rows."""
    sheet = rectify(networks.page, image, pose)
    box = sheet.page_map.box_mm
    marks, first = marks_on_page(sheet.marks, sheet.at, box)
    page_layout = find_layout_of(marks, first, (box[0] + box[2] - TRACE_MM) / 2, layout)
    if page_layout is None:
        return None
    rows, left = _read_rows(networks.row, image, sheet.page_map, page_layout)
    if sheet.seen < NO_GRID and (ends := find_ends(rows)) is not None:
        sheet = replace(sheet, page_map=scaled(sheet.page_map, ends))
        page_layout = replace(page_layout, left=float(ends.start[0]), rows_mm=scaled_rows(page_layout.rows_mm, ends))
        rows, left = _read_rows(networks.row, image, sheet.page_map, page_layout)
    return _Page(sheet, settled(replace(page_layout, left=left), rows), rows, pose)


def _read_rows(net: RowNet, image: np.ndarray, page_map: PageMap, page_layout: FoundLayout) -> tuple[Rows, float]:
    """The rows, and x of their start, mm."""
    rows = _read_centred(net, image, page_map, page_layout)
    return rows, _beside_pulse(rows, find_start(rows, page_layout.left))


def _beside_pulse(rows: Rows, left: float) -> float:
    """The start again: where pulses end right beside it, the traces begin there, without a gap that could be seen."""
    stop = read_scale(rows, left).pulse_stop
    return left if stop is None or abs(stop - left) > BESIDE_MM else stop


def _read_centred(net: RowNet, image: np.ndarray, page_map: PageMap, page_layout: FoundLayout) -> Rows:
    rows = read_rows(net, image, page_map, page_layout.left, np.array(page_layout.rows_mm))
    sure = (rows.belief > 0.5) & (rows.present > 0.5)
    middles = [np.median(up[ok]) if ok.sum() > 50 else 0.0 for up, ok in zip(rows.up_mm, sure, strict=True)]
    shift = np.clip(middles, -8, 8)
    off = np.abs(shift) > RECENTRED_MM
    if not off.any():
        return rows
    return rows.replaced(off, read_rows(net, image, page_map, page_layout.left, (rows.zero_mm - shift)[off]))


def _assembled(image: np.ndarray, page: _Page, stated: Stated) -> PageReading:
    rows, page_layout, sheet = page.rows, page.layout, page.sheet
    px_per_mm = _scale(sheet.page_map)
    pulses, text = read_scale(rows, page_layout.left), NOTHING
    is_open = (stated.speed_mm_per_s or pulses.speed) is None or (stated.gain_mm_per_mv or pulses.gain) is None
    if is_open and min(px_per_mm) >= LEAST_TEXT_PX_PER_MM:
        text = read_printed_scale(image, sheet.page_map, rows.zero_mm)
    sources = (("pulse", pulses), ("text", text))
    speed = _first(stated.speed_mm_per_s, [(by, scale.speed, scale.agreement) for by, scale in sources], 25.0)
    gain = _first(stated.gain_mm_per_mv, [(by, scale.gain, scale.agreement) for by, scale in sources], 10.0)
    chest = text.chest if pulses.gain is None else pulses.chest
    layout = timed(page_layout.layout.name, float(speed.value))
    strips = []
    for strip in layout.strips:
        count = round((strip.stop_s - strip.start_s) * FS)
        x = page_layout.left + (strip.x_s + np.arange(count) / FS) * float(speed.value)
        up = np.interp(x, rows.x_mm, rows.up_mm[strip.row])
        belief = np.interp(x, rows.x_mm, rows.belief[strip.row] * rows.present[strip.row]).astype(np.float32)
        factor = chest if strip.lead >= CHEST else 1.0
        shown = np.interp(x, rows.x_mm, rows.present[strip.row]) >= 0.5
        mv = (up - np.median(up[shown] if shown.any() else up)) / (float(gain.value) * factor) * strip.sign
        mv[~shown] = np.nan
        here = (rows.x_mm >= x[0]) & (rows.x_mm <= x[-1])
        mm = np.stack([rows.x_mm[here], rows.zero_mm[strip.row] - rows.up_mm[strip.row, here]], -1)
        pixels = sheet.page_map.to_pixels(mm).astype(np.float32)
        strips.append(StripReading(strip, mv.astype(np.float32), belief, pixels))
    name = Found(page_layout.layout.name, "given" if stated.layout else "labels", _confidence(page_layout))
    worth, reasons = _worth(page, strips, (name, speed, gain))
    return PageReading(tuple(strips), FS, name, speed, gain, page.pose.turns, px_per_mm, worth, reasons)


def _first(stated: float | None, found: list[tuple[str, float | None, float]], usual: float) -> Found:
    """What the user states; else the first value that was found, with how, and its confidence; else the usual."""
    if stated is not None:
        return Found(stated, "given", 1.0)
    for by, value, confidence in found:
        if value is not None:
            return Found(value, by, confidence)
    return Found(usual, "assumed", ASSUMED)


def _confidence(page_layout: FoundLayout) -> float:
    """Share of pages on which a layout with this margin was right."""
    return float(1 - 0.5 * np.exp(-max(page_layout.margin, 0.0) / MARGIN))


def _worth(
    page: _Page, strips: list[StripReading], values: tuple[Found, Found, Found]
) -> tuple[float, tuple[str, ...]]:
    broken = mismatch(page.rows, page.layout.left, page.layout.layout)
    belief = float(np.mean([reading.belief.mean() for reading in strips]))
    return quality(broken, page.sheet.seen, belief, values)


def _scale(page_map: PageMap) -> tuple[float, float]:
    x0, y0, x1, y1 = page_map.box_mm
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    px = page_map.to_pixels(middle + np.array([(0.0, 0.0), (5.0, 0.0), (0.0, 5.0)]))
    across, down = np.linalg.norm(px[1:] - px[0], axis=1) / 5
    return float(across), float(down)

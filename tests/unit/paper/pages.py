"""Signals and references that the tests of the paper share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ecgscan_ray.config import PageConfig
from ecgscan_ray.paper import page_key
from ecgscan_ray.paper.layout import Geometry, Layout, Strip, layout_geometry, page_to_image, timed
from ecgscan_ray.paper.trace import Ink, pen, sub_columns
from ecgscan_ray.paper.truth import strip_tables
from tests.records import beat_mv


@dataclass(frozen=True)
class Sheet:
    """The least that can be drawn."""

    id: str
    signal_mv: np.ndarray
    fs: float


def beats(fs: float = 100.0, seconds: float = 10.0, seed: int = 0, bpm: float = 72.0) -> np.ndarray:
    """float32 (12, T): twelve made-up leads with P, QRS and T waves."""
    beat = beat_mv(np.arange(round(fs * seconds)) / fs % (60 / bpm))
    return (np.random.default_rng(seed).uniform(-1.2, 1.6, (12, 1)) * beat).astype(np.float32)


def sheet(fs: float = 100.0, seconds: float = 10.0, seed: int = 0, name: str = "made/1") -> Sheet:
    return Sheet(name, beats(fs, seconds, seed), fs)


def traces_only(
    signal: np.ndarray,
    fs: float,
    page: PageConfig,
    layout_name: str,
    pen_px: float,
    kind: str = "auto",
    k: int | None = None,
) -> tuple[np.ndarray, Layout, Geometry]:
    """uint8 (H, W) coverage by the traces alone on an undistorted page, 0 mV on the zero line."""
    sx, sy, _, _ = page_to_image(page)
    k = k or sub_columns(math.sqrt(sx * sy))
    layout = timed(layout_name, page.paper_speed_mm_per_s)
    where = layout_geometry(page, layout, "left")
    ink = Ink(page.height, page.width, k, kind)
    places, scales = strip_tables(layout, where, signal.shape[1], fs, (sx, sy, k), page.width)
    ink.strips(np.ascontiguousarray(signal), places, scales, pen(pen_px, k))
    return ink.cover(), layout, where


def reference(
    signal: np.ndarray, fs: float, page: PageConfig, layout: Layout, where: Geometry, pen_px: float, times: int = 16
) -> np.ndarray:
    """float (H, W) 0..255: the same traces by the distance of ``times`` x ``times`` points a pixel to every segment."""
    total = np.zeros((page.height, page.width))
    for strip in layout.strips:
        cover, y, x = strip_reference(signal, fs, page, strip, where, pen_px, times)
        total[y : y + cover.shape[0], x : x + cover.shape[1]] += cover
    return np.minimum(total, 1) * 255


def strip_reference(
    signal: np.ndarray, fs: float, page: PageConfig, strip: Strip, where: Geometry, pen_px: float, times: int = 16
) -> tuple[np.ndarray, int, int]:
    """One strip of ``reference``: float (h, w) 0..1, and the row and column of the page where it begins."""
    sx, sy, _, _ = page_to_image(page)
    number = np.arange(
        max(0, math.ceil(strip.start_s * fs) - 1), min(signal.shape[1], math.floor(strip.stop_s * fs) + 2)
    )
    xs = (where.start(strip) + (number / fs - strip.start_s) * where.speed) * sx
    ys = (where.baseline(strip) - signal[strip.lead, number].astype(float) * where.gain_of(strip)) * sy
    begin, end = where.start(strip) * sx, where.stop(strip) * sx
    left, right = max(0, int(begin - pen_px) - 1), min(page.width, int(end + pen_px) + 2)
    top, bottom = max(0, int(np.nanmin(ys) - pen_px) - 1), min(page.height, int(np.nanmax(ys) + pen_px) + 2)
    inked = np.zeros(((bottom - top) * times, (right - left) * times), bool)
    xs, ys, begin, end = xs - left, ys - top, begin - left, end - left
    for x0, y0, x1, y1 in zip(xs, ys, xs[1:], ys[1:], strict=False):
        low, high = max(x0, begin), min(x1, end)
        if not low <= high or math.isnan(y0 + y1):
            continue
        slope = (y1 - y0) / (x1 - x0)
        _stroke(inked, (low, y0 + slope * (low - x0)), (high, y0 + slope * (high - x0)), pen_px / 2, times)
    return inked.reshape(bottom - top, times, right - left, times).mean((1, 3)), top, left


def _stroke(inked: np.ndarray, a: tuple[float, float], b: tuple[float, float], radius: float, times: int) -> None:
    """Set all points within ``radius`` px of the segment from a to b."""
    x0, x1 = (round((v) * times) for v in (min(a[0], b[0]) - radius - 0.1, max(a[0], b[0]) + radius + 0.1))
    y0, y1 = (round((v) * times) for v in (min(a[1], b[1]) - radius - 0.1, max(a[1], b[1]) + radius + 0.1))
    x0, y0, x1, y1 = max(0, x0), max(0, y0), min(inked.shape[1], x1), min(inked.shape[0], y1)
    if x0 >= x1 or y0 >= y1:
        return
    x, y = ((np.arange(p, q) + 0.5) / times for p, q in ((x0, x1), (y0, y1)))
    dx, dy = b[0] - a[0], b[1] - a[1]
    along = ((x[None, :] - a[0]) * dx + (y[:, None] - a[1]) * dy) / max(dx * dx + dy * dy, 1e-12)
    along = np.clip(along, 0, 1)
    far = (x[None, :] - a[0] - along * dx) ** 2 + (y[:, None] - a[1] - along * dy) ** 2
    inked[y0:y1, x0:x1] |= far <= radius * radius


def centroids(cover: np.ndarray) -> np.ndarray:
    """float (W,) mean row of each column's ink, index coordinates; NaN without ink."""
    weight = cover.astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weight * np.arange(len(cover))[:, None]).sum(0) / weight.sum(0)


def sheets_and_keys(count: int) -> tuple[list[Sheet], np.ndarray]:
    sheets = [sheet(seed=i, name=f"made/{i}") for i in range(count)]
    return sheets, np.array([page_key(1, 0, s.id, 0) for s in sheets], np.uint64)

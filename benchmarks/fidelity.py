"""How true the traces are, against a drawing supersampled 16 times in both directions."""

from __future__ import annotations

import itertools
import math

import numpy as np

from ecgscan_ray.config import PageConfig
from ecgscan_ray.paper import Renderer
from ecgscan_ray.paper.layout import Geometry, page_to_image
from ecgscan_ray.paper.truth import masks, sample_ranges
from tests.unit.paper.pages import Sheet, beats, centroids, reference, strip_reference, traces_only

PEN_PX = 0.875
"""The pen of clean pages at encoder sizes: ``canvas.MIN_PEN_PX`` snapped to whole sub-columns."""


def noisy(fs: float, seed: int = 0) -> np.ndarray:
    """float32 (12, T) beats at 72 a minute with 10 uV of noise."""
    signal = beats(fs, seed=seed)
    return (signal + 0.01 * np.random.default_rng(seed).standard_normal(signal.shape)).astype(np.float32)


def small_page(height: int, width: int) -> dict[str, float]:
    """Ink ratio, grey RMS (levels over the page), decode RMSE of the 10 s strip as a ratio to the reference's own, its
    median error (uV), loss of peaks (px) and bias (px)."""
    page, fs = PageConfig(height=height, width=width), 500.0
    sx, sy, _, _ = page_to_image(page)
    signal = noisy(fs)
    cover, layout, where = traces_only(signal, fs, page, "3x4+1", PEN_PX)
    wanted = reference(signal, fs, page, layout, where, PEN_PX)
    rhythm = layout.strips[12]
    middle = where.baseline(rhythm) * sy
    band = slice(round(middle - 18 * sy), round(middle + 18 * sy))
    columns = np.arange(round((where.left + 2) * sx), round((where.left + 248) * sx))
    at = ((columns + 0.5) / sx - where.left) / where.speed
    truth = np.interp(at, np.arange(signal.shape[1]) / fs, signal[rhythm.lead])
    errors = [
        1e3 * ((middle - 0.5 - band.start - centroids(c[band][:, columns])) / sy / where.gain - truth)
        for c in (cover, wanted)
    ]
    ours, own = (float(np.sqrt(np.mean(error**2))) for error in errors)
    edges = np.arange(columns[0], columns[-1] + 2) / sx
    number = np.clip(((edges - where.left) / where.speed * fs).astype(int), 0, signal.shape[1] - 1)
    extreme = np.array([signal[rhythm.lead, a : b + 1].max() for a, b in itertools.pairwise(number)])
    top = middle - extreme * where.gain * sy - band.start
    first = (cover[band][:, columns] > 0).argmax(0)
    flat = []
    for mv in np.linspace(-0.4, 0.4, 65):
        cover, _, _ = traces_only(np.full((12, 1000), mv, np.float32), 100.0, page, "3x4", PEN_PX)
        row = (where_of(page).baseline(layout.strips[0]) - mv * 10) * sy - 0.5
        rows = slice(round(row) - 8, round(row) + 9)
        flat.append(centroids(cover[rows, 60:90]).mean() + rows.start - row)
    return {
        "ink_ratio": float(cover.sum() / wanted.sum()),
        "grey_rms": float(np.sqrt(np.mean((cover - wanted) ** 2))),
        "decode_rmse_uv": ours,
        "decode_rmse_ratio": ours / own,
        "decode_median_uv": float(np.median(np.abs(errors[0]))),
        "peak_loss_px": float(np.maximum(0, first - np.ceil(top)).max()),
        "bias_px": float(abs(np.mean(flat))),
    }


def where_of(page: PageConfig) -> Geometry:
    """Geometry of ``traces_only``'s 3x4 page."""
    return traces_only(np.zeros((12, 10), np.float32), 1.0, page, "3x4", PEN_PX)[2]


def large_page() -> dict[str, float]:
    """A 100 Hz recording on 2200x1700, decoded from the soft masks of its strips at its own sample times."""
    page = PageConfig(height=1700, width=2200, channels=3, effects="clean")
    recording = Sheet("bench/100", noisy(100.0), 100.0)
    pages = Renderer(page).render([recording], np.array([17], np.uint64))
    truth = pages.truth[0]
    where, layout = truth.geometry, truth.layout_at_speed()
    sx, sy, _, _ = page_to_image(page)
    pen_px = truth.pen_mm * math.sqrt(sx * sy)
    first, last = sample_ranges(layout, 1000, 100.0)
    errors: tuple[list, list] = ([], [])
    for s, (strip, mask) in enumerate(zip(layout.strips, masks(truth, recording.signal_mv, 100.0), strict=True)):
        if strip.rhythm:
            continue
        offset = truth.offsets_mv[s]
        shifted = recording.signal_mv - np.float32(offset)
        cover, y, x = strip_reference(shifted, 100.0, page, strip, where, pen_px)
        number = np.arange(first[s] + 3, last[s] - 3)
        at = (where.start(strip) + (number / 100.0 - strip.start_s) * where.speed) * sx - 0.5
        for residuals, image, top, left in ((errors[0], mask, 0, 0), (errors[1], cover, y, x)):
            line = centroids(image)
            row = np.interp(at - left, np.arange(len(line)), np.nan_to_num(line)) + top + 0.5
            mv = (where.baseline(strip) - row / sy) / where.gain_of(strip)
            residuals.append(1e3 * (mv - shifted[strip.lead, number]))
    ours, own = (np.concatenate(residuals) for residuals in errors)
    rmse = [float(np.sqrt(np.mean(error**2))) for error in (ours, own)]
    return {
        "decode_median_uv": float(np.median(np.abs(ours))),
        "decode_rmse_uv": rmse[0],
        "decode_rmse_ratio": rmse[0] / rmse[1],
    }

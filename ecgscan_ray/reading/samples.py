"""Training samples of the row reader, cut from rendered pages with the errors that a rectifier leaves."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import resample_poly

from ecgscan_ray.paper import marks
from ecgscan_ray.paper.key import Draws
from ecgscan_ray.paper.layout import TRACE_MM
from ecgscan_ray.rectification.samples import NODE, Drawn, nodes, resample, smooth_noise

ROW_PX = 4.0
"""px/mm down of what ``RowNet`` sees."""
COLUMN_PX = 8.0
"""px/mm across: twice as many."""
ROW_HEIGHT = 240
"""Its height, px."""
CUT_HEIGHT = round(ROW_HEIGHT * COLUMN_PX / ROW_PX)
"""Height of what is cut out of the picture at ``COLUMN_PX`` both ways, px."""


SHARP_FS = 500.0
"""Hz of recordings that pages are printed from."""
SHARP_S = 0.008
"""Width of the smoothing whose difference is added, s."""


def halved(picture: np.ndarray) -> np.ndarray:
    """uint8 (CUT_HEIGHT, W, 3) as ``RowNet`` sees it, (ROW_HEIGHT, W, 3): each two rows of pixels are averaged."""
    return cv2.resize(picture, (picture.shape[1], ROW_HEIGHT), interpolation=cv2.INTER_AREA)


def sharpened(rng: np.random.Generator, signal_mv: np.ndarray, fs: float) -> tuple[np.ndarray, float]:
    """The recording at 500 Hz with peaks as high as such recordings have; pages are printed from these, archives hold 100 Hz.

    A lead with missing samples, or a recording of 400 Hz or more, stays as it is.

    Args:
        rng: Decides how much is added.
        signal_mv: (12, T).
        fs: Hz.
    """
    if fs >= SHARP_FS * 0.8 or not np.isfinite(signal_mv).all():
        return signal_mv, fs
    up = round(SHARP_FS / fs)
    wide = resample_poly(signal_mv, up, 1, axis=1, padtype="line")
    slow = gaussian_filter1d(wide, SHARP_S * fs * up, axis=1)
    return (wide + rng.uniform(0, 1.2) * (wide - slow)).astype(np.float32), fs * up


def row_height_mm(source: Drawn, row: int, x_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """y of the row's ink on the page at places ``x_mm``, mm, NaN where there is none: the trace, and the calibration pulse.
    And which of it is trace."""
    truth = source.truth
    layout, where = truth.layout_at_speed(), truth.geometry
    y, trace = np.full(x_mm.shape, np.nan), np.zeros(x_mm.shape, bool)
    if truth.pulse != "none" and row in marks.pulse_rows(Draws(truth.key), layout.rows):
        corner = np.array([marks.pulse_start(truth.pulse, where), where.first + row * where.pitch])
        path = corner + marks.pulse_path(where)
        inside = (x_mm >= path[0, 0]) & (x_mm <= path[-1, 0])
        y[inside] = np.interp(x_mm[inside], path[:, 0] + 1e-9 * np.arange(len(path)), path[:, 1])
    for strip, offset in zip(layout.strips, truth.offsets_mv, strict=True):
        if strip.row != row or offset is None:
            continue
        seconds = (x_mm - where.start(strip)) / where.speed + strip.start_s
        shown = (seconds >= strip.start_s) & (seconds < strip.stop_s)
        samples = np.arange(source.signal_mv.shape[1])
        rise = (np.interp(seconds[shown] * source.fs, samples, source.signal_mv[strip.lead]) - offset) * where.gain_of(
            strip
        )
        y[shown] = where.baseline(strip) - (rise if where.reach is None else np.clip(rise, -where.reach, where.reach))
        trace |= shown & np.isfinite(y)
    return y, trace


def row_sample(
    rng: np.random.Generator, source: Drawn, row: int, width: int = 1024
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A part of a row, rectified up to the grid's error.

    Returns:
        uint8 (240, W, 3); float32 (W,) height of the ink, px from the top, NaN = none; bool (W,) whether it is trace.
    """
    truth = source.truth
    where, size, width_mm = truth.geometry, (CUT_HEIGHT, width), width / COLUMN_PX
    begin = where.left - 14 + rng.uniform(0, max(1.0, TRACE_MM + 28 - width_mm))
    zero = where.first + row * where.pitch + rng.normal(0, 1.5)
    seen = (nodes(size) + 0.5) / COLUMN_PX + (begin, zero - ROW_HEIGHT / 2 / ROW_PX)
    mm = seen.copy()
    mm[..., 0] = begin + (seen[..., 0] - begin) * (1 + rng.normal(0, 0.006))
    mm[..., 1] += (seen[..., 0] - begin - width_mm / 2) * rng.normal(0, 0.004)
    size_mm = rng.choice([0.0, 0.1, 0.2, 0.4])
    if size_mm:  # what the grid's fit leaves: smooth along the row, the same over its height
        for axis in (0, 1):
            wave = smooth_noise(rng, (1, seen.shape[1]), rng.uniform(8, 40) / (NODE / COLUMN_PX), size_mm)
            mm[..., axis] += wave
    picture = halved(resample(source.image, truth.to_pixels(mm), size, (90, 90, 90)))
    # the columns' own places: a column of the picture is a line on the page, nearly upright
    columns = np.arange(width)
    nodes_at = np.arange(seen.shape[1]) * NODE - 0.5
    x = np.interp(columns, nodes_at, mm[0, :, 0])
    shift = np.interp(columns, nodes_at, (mm[..., 1] - seen[..., 1])[0])
    y, trace = row_height_mm(source, row, x)
    return picture, ((y - shift - (zero - ROW_HEIGHT / 2 / ROW_PX)) * ROW_PX - 0.5).astype(np.float32), trace

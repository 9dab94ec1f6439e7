"""Where the rows of a page begin, to a tenth of a millimetre: from there a sample's time is counted.

The marks know it to a millimetre. There, in most rows at once, ink sets in along the height that was read. A calibration pulse
before it is ink too, so a gap of half a millimetre must be seen.
"""

from __future__ import annotations

import cv2
import numpy as np

from ecgscan_ray.reading.rows import Rows
from ecgscan_ray.reading.samples import ROW_HEIGHT, ROW_PX

REACH_MM = 3.0
"""The marks are right to 2 mm on 97 of 100 rendered photographs."""
GAP_MM = 0.6
"""Before the start, without ink: what lies between a calibration pulse and a trace."""
RUN_MM = 2.5
"""Behind the start, without a gap: longer than a pulse's foot."""
PRESENCE_WEIGHT = 0.6
"""Of the network's own presence, which often reaches some millimetres too far. With it 97 of 100 starts are right to 0.5 mm,
without it 93, by it alone 74."""
DISTANCE_WEIGHT = 0.1
"""Per mm**2 from where the marks have the start."""


def find_start(rows: Rows, left: float) -> float:
    """x where the traces begin, page mm.

    Args:
        rows: As read.
        left: The same from the marks, right to ``REACH_MM``.
    """
    step = float(rows.x_mm[1] - rows.x_mm[0])
    gap, run = round(GAP_MM / step), round(RUN_MM / step)
    begin = rows.x_mm - step / 2
    places = np.flatnonzero(np.abs(begin - left) < REACH_MM)
    places = places[(places >= gap) & (places + run + gap <= len(begin))]
    if not len(places):
        return left
    score = -DISTANCE_WEIGHT * (begin[places] - left) ** 2
    for share, weight in ((_inked(rows, left), 1.0), (rows.present.mean(0), PRESENCE_WEIGHT)):
        mean = np.convolve(share, np.full(gap, 1 / gap), "valid")  # of the columns from each one on
        behind = np.lib.stride_tricks.sliding_window_view(mean, run).min(1)
        score += weight * (behind[places] - mean[places - gap])
    return float(begin[places[score.argmax()]])


def _inked(rows: Rows, left: float) -> np.ndarray:
    """(W,) how dark the traces are in each column, relative to their own columns: 0 = as paper, 1 = as ink; mean of the rows."""
    columns = np.arange(len(rows.x_mm), dtype=np.float32)
    trace = rows.x_mm > left + REACH_MM
    total = np.zeros(len(columns))
    for picture, up in zip(rows.pictures, rows.up_mm, strict=True):
        grey = cv2.transform(picture.astype(np.float32), np.full((1, 3), 1 / 3))
        height = ((ROW_HEIGHT - 1) / 2 - up * ROW_PX).astype(np.float32)
        line = np.min(
            [cv2.remap(grey, columns[None], (height + d)[None], cv2.INTER_LINEAR)[0] for d in (-1, 0, 1)], axis=0
        )
        dark = 1 - line / np.maximum(_paper(grey), 20)
        total += np.clip(dark / max(float(np.median(dark[trace])), 0.02), -0.2, 1.2)
    return total / len(rows.pictures)


def _paper(grey: np.ndarray) -> np.ndarray:
    """(W,) brightness of the paper: most of a column, and of its neighbours within 3 mm."""
    bright = np.percentile(grey[::4], 65, axis=0)
    return np.median(np.lib.stride_tricks.sliding_window_view(np.pad(bright, 24, mode="edge"), 49), axis=-1)

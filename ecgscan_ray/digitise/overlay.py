"""A page with the trace as read drawn over it, for the eye."""

from __future__ import annotations

import cv2
import numpy as np

from ecgscan_ray.reading.leads import PageReading, StripReading

MAX_WIDTH, MAX_HEIGHT = 2000, 4000
"""Of the picture, px; a larger page is scaled down."""
_STOPS = (0.0, 0.5, 0.75, 1.0)
_COLOURS = ((214, 32, 32), (230, 140, 0), (30, 160, 60), (0, 90, 220))
"""RGB by belief: red, orange, green, blue."""
_SHADES = 16
"""Different colours of one strip: pieces of nearly equal belief are drawn together."""


def draw_overlay(image: np.ndarray, reading: PageReading) -> np.ndarray:
    """uint8 (h + line, w, 3): the page, its traces coloured by belief, names of leads; below it how it was read.

    Args:
        image: uint8 (H, W, 3) that was read.
        reading: Of it.
    """
    height, width = image.shape[:2]
    scale = min(1.0, MAX_WIDTH / width, MAX_HEIGHT / height)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        page = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    else:
        page = np.ascontiguousarray(image).copy()
    factors = np.array([page.shape[1] / width, page.shape[0] / height])
    thickness = max(1, round(page.shape[1] / 1000))
    for strip in reading.strips:
        _draw_strip(page, strip, (strip.pixels + 0.5) * factors - 0.5, thickness)
    return np.concatenate([page, _line(reading, page.shape[1])])


def _draw_strip(page: np.ndarray, strip: StripReading, points: np.ndarray, thickness: int) -> None:
    count = len(points)
    if not count or not len(strip.mv):
        return
    at = np.linspace(0, len(strip.mv) - 1, count)
    belief = np.interp(at, np.arange(len(strip.belief)), strip.belief)
    read = np.isfinite(points).all(1) & np.isfinite(strip.mv)[np.rint(at).astype(int)]
    shade = np.where(read, np.rint(np.clip(belief, 0, 1) * (_SHADES - 1)), -1).astype(int)
    starts = np.flatnonzero(np.diff(shade, prepend=shade[0] - 1))
    for start, stop in zip(starts, [*starts[1:], count], strict=True):
        if shade[start] < 0:
            continue
        stop = min(stop + (stop < count and shade[min(stop, count - 1)] >= 0), count)  # up to the next piece
        piece = np.clip(np.rint(points[start:stop] * 16), -(2**30), 2**30).astype(np.int32)
        cv2.polylines(page, [piece[:, None]], False, _colour(shade[start]), thickness, cv2.LINE_AA, shift=4)
    if read.any():
        x, y = points[np.flatnonzero(read)[0]]
        text = page.shape[1] / 2200
        anchor = (int(np.clip(x, -(2**15), 2**15)), int(np.clip(y + 60 * text, -(2**15), 2**15)))
        cv2.putText(
            page, strip.strip.label, anchor, cv2.FONT_HERSHEY_SIMPLEX, text, (150, 0, 150), thickness, cv2.LINE_AA
        )


def _colour(shade: int) -> tuple[float, float, float]:
    belief = shade / (_SHADES - 1)
    red, green, blue = (float(np.interp(belief, _STOPS, channel)) for channel in zip(*_COLOURS, strict=True))
    return red, green, blue


def _line(reading: PageReading, width: int) -> np.ndarray:
    """Layout, speed, gain and quality in a line of its own: nothing of the page is covered."""
    text = (
        f"{reading.layout.text} ({reading.layout.by})   {reading.speed.text} mm/s ({reading.speed.by})   "
        f"{reading.gain.text} mm/mV ({reading.gain.by})   quality {reading.quality:.2f}"
    )
    if reading.reasons:
        text += f"   {'; '.join(reading.reasons)}"
    text = text.encode("ascii", "replace").decode()
    size = min(width / 2400, 1.0)
    (wide, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    size *= min(1.0, 0.97 * width / max(wide, 1))
    line = np.full((max(12, round(40 * width / 2000)), width, 3), 255, np.uint8)
    origin = (round(0.01 * width), round(0.7 * len(line)))
    cv2.putText(line, text, origin, cv2.FONT_HERSHEY_SIMPLEX, size, (30, 30, 30), 1, cv2.LINE_AA)
    return line

"""Paper speed and gain as they are printed above or below the rows: ``25 mm/s  10 mm/mV``.

The text is read by RapidOCR (extra ``ocr``), which is slow beside the rest of a reading: it is asked only where no calibration
pulse says the scale.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any

import cv2
import numpy as np

from ecgscan_ray.reading.scale import GAINS, NOTHING, SPEEDS, Scale
from ecgscan_ray.rectification.page_map import PageMap

LEAST_TEXT_PX_PER_MM = 4.0
"""Text of 1.7 mm is 7 px high in the picture; smaller is not read, and not worth a second."""
PX_PER_MM = 8.0
"""Text of 1.7 mm is 14 px high."""
FROM_ROW_MM = 6.0
"""Text lies this far from the middle of the first and the last row at least."""
LEAST_BAND_MM = 3.0
LONGEST_STROKE_MM = 4.0, 6.0
"""Down and across: longer dark lines are the grid's, or a trace's, and not of a letter."""
DARKEST = 99.7
"""Percentile of what is left that becomes black."""
LONGEST_SIDE_PX = 2400
"""Text is looked for at this size at most; RapidOCR's own setting enlarges low and wide pictures."""
MOST_TEXTS = 100
"""Pieces of text that are read of each part of a page; a wooden desk may look like hundreds."""
TRUST_PRINTED = 0.98
"""Least share of right scales among those read as text. On 30 rendered photographs of which no pulse was read, 19 were read, all
right; the others show no text, or only a part of it, or are too blurred."""

_NUMBER = r"\d+(?:[.,]\d+)?"
_SPEED = re.compile(rf"({_NUMBER})\s*mm\s*/\s*s", re.IGNORECASE)
_GAIN = re.compile(rf"({_NUMBER})(?:\s*/\s*({_NUMBER}))?\s*mm\s*/\s*mv", re.IGNORECASE)
_CHEST = re.compile(rf"chest\s*:?\s*({_NUMBER})\s*mm\s*/\s*mv", re.IGNORECASE)


def read_printed_scale(image: np.ndarray, page_map: PageMap, rows_mm: np.ndarray) -> Scale:
    """The scale that the page's text states; nothing where it states none, two different ones or one of no standard, and
    where the extra ``ocr`` is not installed.

    Args:
        image: uint8 (H, W, 3).
        page_map: From the page's mm to the picture.
        rows_mm: (R,) y of the rows' zero lines, mm.
    """
    if not _is_installed():
        return NOTHING
    for band in _bands(image, page_map, rows_mm):
        scale = stated_scale(" ".join(_read_text(without_lines(band))))
        if scale.speed is not None or scale.gain is not None:
            return scale
    return NOTHING


def stated_scale(text: str) -> Scale:
    """What a text says of speed and gain."""
    text = text.replace("rn", "m")  # how OCR reads a blurred m
    speeds = {_standard(speed, SPEEDS) for speed in _SPEED.findall(text)}
    chests = {_standard(chest, GAINS) for chest in _CHEST.findall(text)}
    pairs = _GAIN.findall(_CHEST.sub(" ", text))
    chests |= {_standard(chest, GAINS) for _, chest in pairs if chest}
    gain, chest = _only({_standard(limb, GAINS) for limb, _ in pairs}), _only(chests)
    ratio = 1.0 if chest is None or gain is None else chest / gain
    if len(chests) > 1 or ratio not in (0.5, 1.0):
        gain = None
    return Scale(_only(speeds), gain, 1.0 if gain is None else ratio, TRUST_PRINTED, None)


def without_lines(band: np.ndarray) -> np.ndarray:
    """Dark text on white, uint8 (h, w, 3), without the grid: lines longer than a letter are taken out."""
    dark = 255 - band.max(-1)
    tall, wide = (round(stroke * PX_PER_MM) | 1 for stroke in LONGEST_STROKE_MM)  # odd: an even kernel shifts the lines
    lines = np.maximum(
        cv2.morphologyEx(dark, cv2.MORPH_OPEN, np.ones((tall, 1), np.uint8)),
        cv2.morphologyEx(dark, cv2.MORPH_OPEN, np.ones((1, wide), np.uint8)),
    )
    left = cv2.subtract(dark, lines).astype(np.float32)
    left *= 255 / (np.percentile(left, DARKEST) + 1)
    return cv2.cvtColor(255 - np.clip(left, 0, 255).astype(np.uint8), cv2.COLOR_GRAY2BGR)


def _bands(image: np.ndarray, page_map: PageMap, rows_mm: np.ndarray) -> Iterator[np.ndarray]:
    """What lies below the rows, then what lies above them, flat: uint8 (h, w, 3)."""
    x0, y0, x1, y1 = page_map.box_mm
    for top, bottom in ((max(rows_mm) + FROM_ROW_MM, y1), (y0, min(rows_mm) - FROM_ROW_MM)):
        if bottom - top >= LEAST_BAND_MM:
            size = int((bottom - top) * PX_PER_MM), int((x1 - x0) * PX_PER_MM)
            yield page_map.cut(image, (x0, top), size, PX_PER_MM)


@cache
def _is_installed() -> bool:
    return all(find_spec(module) is not None for module in ("rapidocr", "onnxruntime"))


@cache
def _engine() -> Any:
    """RapidOCR with the models that its package brings, on one thread: pages are read by a process for each core."""
    from rapidocr import RapidOCR

    settings: dict[str, Any] = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
    settings |= {"Det.limit_type": "max", "Det.limit_side_len": LONGEST_SIDE_PX, "Det.max_candidates": MOST_TEXTS}
    return RapidOCR(params=settings | {"Global.log_level": "error"})


def _read_text(picture: np.ndarray) -> tuple[str, ...]:
    return _engine()(picture, use_cls=False).txts or ()


def _standard(text: str, standards: tuple[float, ...]) -> float | None:
    """None = a number of no standard: a misread one."""
    value = float(text.replace(",", "."))
    return value if value in standards else None


def _only(values: set[float | None]) -> float | None:
    return next(iter(values)) if len(values) == 1 else None

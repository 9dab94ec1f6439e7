"""A reader of pages without networks: what it does is written in the page's first pixel. And its pages and tables."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ecgscan_ray.digitise import Options
from ecgscan_ray.errors import InputError
from ecgscan_ray.paper.layout import find_layout
from ecgscan_ray.reading.leads import Found, PageReading, StripReading

FS = 500.0
BLANK, RAISES, DIES, POOR = 3, 7, 11, 100
"""Values of the first pixel, of a page that is refused, whose reading fails or ends its process, and of a poor one."""
SLOW_S = 0.3
CALLS = "ECGSCAN_FAKE_READER_CALLS"
"""Environment variable with a file to which every reading adds a byte."""
SIZE = (120, 200)
"""Height and width of the pictures in px."""


def read(image: np.ndarray, options: Options) -> PageReading:
    """A sine on every strip of 3x4+1, drawn across the picture's middle; strip V6 is not read in its last second."""
    assert image.ndim == 3 and image.dtype == np.uint8
    if os.environ.get(CALLS):
        with Path(os.environ[CALLS]).open("ab") as file:
            file.write(b".")
    order = int(image[0, 0, 0])
    if order == BLANK:
        raise InputError("no ECG page found in the picture")
    if order == RAISES:
        raise ZeroDivisionError("a fault\nof the reader")
    if order == DIES:
        os._exit(9)
    return reading(image.shape[:2], options, 0.4 if order == POOR else 0.9)


def reading(size: tuple[int, int], options: Options = Options(), quality: float = 0.9) -> PageReading:
    height, width = size
    layout = find_layout(options.layout or "3x4+1")
    strips = []
    for number, strip in enumerate(layout.strips):
        count = round((strip.stop_s - strip.start_s) * FS)
        mv = np.sin(np.arange(count) / 40 + number).astype(np.float32) * (1 + number / 10)
        if number == 11:
            mv[-500:] = np.nan
        x = width * (0.05 + 0.9 * (strip.x_s + np.arange(0, count, 5) / FS) / 10)
        y = height * (0.2 + 0.2 * strip.row) - 0.02 * height * np.nan_to_num(mv[::5])
        belief = np.full(count, 0.9 if strip.row else 0.1, np.float32)
        strips.append(StripReading(strip, mv, belief, np.stack([x, y], -1).astype(np.float32)))
    speed = Found(options.speed_mm_per_s or 25.0, "given" if options.speed_mm_per_s else "grid", 0.8)
    gain = Found(options.gain_mm_per_mv or 10.0, "given" if options.gain_mm_per_mv else "pulse", 1.0)
    found = Found(layout.name, "given" if options.layout else "labels", 0.98)
    reasons = () if quality > 0.5 else ("faint trace",)
    return PageReading(tuple(strips), FS, found, speed, gain, 1, (7.9, 7.8), quality, reasons)


def load(threads: int) -> Callable[[np.ndarray, Options], PageReading]:
    assert threads >= 1
    return read


def load_slow(threads: int) -> Callable[[np.ndarray, Options], PageReading]:
    def read_slowly(image: np.ndarray, options: Options) -> PageReading:
        time.sleep(SLOW_S)
        return read(image, options)

    return read_slowly


def page(first: int = 240, size: tuple[int, int] = SIZE) -> Image.Image:
    pixels = np.full((*size, 3), 240, np.uint8)
    pixels[0, 0] = first
    return Image.fromarray(pixels)


def save(path: Path, first: int = 240) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    page(first).save(path)


def table(out: Path) -> dict[tuple[str, int], dict[str, str]]:
    """Rows of ``pages.csv`` by file and page."""
    with (out / "pages.csv").open(newline="", encoding="utf-8") as file:
        return {(row["file"], int(row["page"])): row for row in csv.DictReader(file)}


def num_calls(calls: Path) -> int:
    return calls.stat().st_size

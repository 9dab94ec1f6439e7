"""A page of HTML with every picture and what was read drawn over it, worst first."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from benchmarks.photographs import Photograph
from benchmarks.reading_error import ReadingError
from ecgscan_ray.digitise import draw_overlay
from ecgscan_ray.reading.leads import PageReading

WIDTH = 1400
QUALITY = 85


def write_sheet(
    folder: Path,
    photos: Sequence[Photograph],
    readings: Sequence[PageReading | None],
    reasons: Sequence[str],
    errors: Sequence[ReadingError],
) -> None:
    """Write ``index.html`` and a JPEG for each picture; what is there is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for k in sorted(range(len(photos)), key=lambda k: errors[k].snr_db):
        image, reading, error = photos[k].pixels(), readings[k], errors[k]
        drawn = image if reading is None else draw_overlay(image, reading)
        name = f"{photos[k].path.stem}.jpg"
        _write(folder / name, drawn)
        strips = reading.strips if reading else ()
        each = ", ".join(f"{s.strip.label} {db:.0f}" for s, db in zip(strips, error.strips_db, strict=True))
        text = f"{photos[k].path.name}: {error.snr_db:.1f} dB, one shift {error.snr_one_shift_db:.1f} dB. {each}{reasons[k]}"
        items.append(f"<figure><figcaption>{html.escape(text)}</figcaption><img src='{name}'></figure>")
    style = "body{font:15px sans-serif;margin:16px} img{max-width:100%} figure{margin:0 0 24px}"
    head = f"<!doctype html><meta charset='utf-8'><title>Pages as read</title><style>{style}</style>"
    (folder / "index.html").write_text("\n".join([head, "<h1>Pages as read, worst first</h1>", *items]) + "\n")


def _write(path: Path, image: np.ndarray) -> None:
    scale = min(1.0, WIDTH / image.shape[1])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(path), small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])

"""Everything inked except the traces: lead labels, calibration pulses, separators, header and footer.

Lettering comes from a bundled glyph atlas (DejaVu, see GLYPHS_LICENCE), so that no font library changes a pixel. All
names, numbers and dates are made up from the page's key: nothing on a page identifies a patient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np

from ecgscan_ray.paper.key import Draws
from ecgscan_ray.paper.layout import TRACE_MM, Geometry, Layout

CAP_FRACTION = 0.729
"""Height of a capital letter as a fraction of the em."""
PULSE_S = 0.2
"""Length of the calibration pulse: 5 mm at 25 mm/s."""
FACES = ("sans", "bold", "mono", "serif")


@dataclass(frozen=True)
class Face:
    """One face at one size: uint8 pixels, int64 (95, 6) table of offset, width, height, left, top, advance / 256 px."""

    pixels: np.ndarray
    table: np.ndarray

    def width(self, text: str) -> float:
        """Width of a line of ASCII text, px."""
        return float(self.table[glyph_codes(text), 5].sum()) / 256.0


@lru_cache
def _atlas() -> dict[str, np.ndarray]:
    with resources.as_file(resources.files("ecgscan_ray.paper") / "glyphs.npz") as path, np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


@lru_cache(maxsize=256)  # many glyphs of a face are equally high
def _shrink(start: int, count: int, scale: float) -> tuple[int, np.ndarray]:
    """First pixel on a scaled axis, and weights float64 (out, count) in 1/4096 that resample ``count`` pixels by area."""
    first = int(np.floor(start * scale))
    last = int(np.ceil((start + count) * scale))
    edges = np.arange(first, last + 1)[:, None] / scale
    begin = np.arange(start, start + count)[None, :]
    overlap = np.minimum(edges[1:], begin + 1) - np.maximum(edges[:-1], begin)
    return first, np.floor(np.maximum(overlap, 0) * scale * 4096 + 0.5)


@lru_cache(maxsize=256)
def _face(name: str, quarter_x: int, quarter_y: int) -> Face:
    pixels, table, em = _atlas()[f"{name}_pixels"], _atlas()[f"{name}_table"], int(_atlas()["em"])
    sx, sy = quarter_x / 4 / em, quarter_y / 4 / em
    parts, rows, offset = [], [], 0
    for start, width, height, left, top, advance in table.tolist():
        scaled_advance = int(advance * sx * 4 + 0.5)
        if not width * height:
            rows.append((offset, 0, 0, 0, 0, scaled_advance))
            continue
        glyph = pixels[start : start + width * height].reshape(height, width).astype(np.float64)
        x, columns = _shrink(left, width, sx)
        y, lines = _shrink(-top, height, sy)
        whole = (lines @ glyph @ columns.T).astype(np.int64)  # products of whole numbers below 2**53 are exact
        small = np.minimum((whole + (1 << 23)) >> 24, 255).astype(np.uint8)
        rows.append((offset, small.shape[1], small.shape[0], x, -y, scaled_advance))
        parts.append(small.ravel())
        offset += small.size
    return Face(np.concatenate(parts), np.array(rows, np.int64))


def face_at(name: str, cap_mm: float, sx: float, sy: float) -> Face:
    """A face whose capitals are ``cap_mm`` high; the em is rounded to quarters of a pixel so that sizes are reused."""
    em = cap_mm / CAP_FRACTION
    return _face(name, max(4, round(em * sx * 4)), max(4, round(em * sy * 4)))


def header_face(draws: Draws, px_per_mm: tuple[float, float]) -> Face:
    """A page's face for header and footer."""
    name, cap_mm = FACES[draws.integer("header_face", 4)], 1.7 + 0.25 * draws.integer("header_size", 4)
    return face_at(name, cap_mm, *px_per_mm)


def glyph_codes(text: str) -> np.ndarray:
    """int64 glyph numbers of an ASCII text."""
    return np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64) - 32


@dataclass(frozen=True)
class LabelStyle:
    """Lead labels: face, capital height mm, and the base line's offset from the strip's start on 0 mV, mm (y up)."""

    face: str
    cap_mm: float
    right_mm: float
    up_mm: float


LABEL_POSITIONS = {"above": (0.5, 2.5, 0.12, 0.26), "below": (0.5, 2.5, -0.05, -0.12), "inset": (3.5, 12.0, 0.12, 0.26)}
"""Position -> range in mm from the strip's start, and range of the height over 0 mV in fractions of the row pitch."""


def label_style(draws: Draws, pitch: float, faces: Mapping[Any, float], positions: Mapping[Any, float]) -> LabelStyle:
    """How a page labels its leads, by weights of ``FACES`` and ``LABEL_POSITIONS``."""
    cap = 2.4 + 0.3 * draws.integer("label_size", 6)  # few sizes, so that faces are reused
    near, far, low, high = LABEL_POSITIONS[draws.pick("label_place", positions)]
    up = draws.uniform("label_rise", low, high) * pitch - (cap if low < 0 else 0.0)
    face = draws.pick("label_face", faces)
    return LabelStyle(face, round(cap, 2), draws.uniform("label_place", near, far), round(up, 2))


def label_starts(style: LabelStyle, layout: Layout, geometry: Geometry) -> np.ndarray:
    """float64 (S, 2) mm of the labels' base line starts."""
    return geometry.origins(layout) + np.array([style.right_mm, -style.up_mm])


_PULSE = np.array([(0.0, 0.0), (1.2, 0.0), (1.2, -1.0), (6.2, -1.0), (6.2, 0.0), (7.4, 0.0)])
_STAIR = np.array([(0.0, 0.0), (1.2, 0.0), (1.2, -1.0), (3.7, -1.0), (3.7, -0.5), (6.2, -0.5), (6.2, 0.0), (7.4, 0.0)])
"""For two gains: the limb leads', then half of it. x in mm at 25 mm/s, y in mV downwards."""


def pulse_mm(geometry: Geometry) -> float:
    """Width of the calibration pulse with its feet and the gap to the trace, mm."""
    return 8.0 + PULSE_S * (geometry.speed - 25.0)


def pulse_start(pulse: str, geometry: Geometry) -> float:
    """x where the pulses begin, mm."""
    return geometry.left - pulse_mm(geometry) if pulse == "left" else geometry.left + TRACE_MM + 0.5


def pulse_rows(draws: Draws, rows: int) -> range:
    """The rows that have a pulse."""
    return range(rows - 1 if draws.chance("pulse_rows", 0.3) else 0, rows)


def pulse_path(geometry: Geometry) -> np.ndarray:
    """A calibration pulse of 1 mV by 200 ms: float64 (n, 2), mm from where it begins on the zero line, y down.

    Where the chest leads have half the gain, the pulse has a step for each gain.
    """
    path = (_PULSE if geometry.chest == 1 else _STAIR).copy()
    longer = PULSE_S * (geometry.speed - 25.0)
    path[:, 0] += np.clip((path[:, 0] - 1.2) / 5.0, 0, 1) * longer
    path[:, 1] *= geometry.gain
    return path


def pulse_paths(pulse: str, rows: range, geometry: Geometry) -> np.ndarray:
    """Calibration pulses at the start or end of ``rows``: float64 (P, n, 2) points, mm."""
    start = np.array([(pulse_start(pulse, geometry), geometry.first + row * geometry.pitch) for row in rows])
    return start[:, None] + pulse_path(geometry)


def separator_boxes(draws: Draws, layout: Layout, geometry: Geometry) -> np.ndarray:
    """float64 (B, 4) x0, y0, x1, y1, mm, of the ticks between one lead and the next."""
    if draws.chance("separator", 0.35):
        return np.zeros((0, 4))
    tall, wide = draws.uniform("gap", 1.5, 3.2), 0.2 + 0.3 * draws.unit("separator")
    middle = geometry.joints(layout)
    if draws.chance("separator", 0.8):
        return middle + np.array([-wide, -tall, wide, tall])
    upper = middle + np.array([-wide, -2 * tall, wide, -tall])
    return np.concatenate([upper, upper + np.array([0, 3 * tall, 0, 3 * tall])])


def scale_text(geometry: Geometry, draws: Draws) -> str:
    """The footer: the scale that this page is drawn at, and made-up device settings."""
    a, b = draws.text(20, 2)
    speed, gain, chest = f"{geometry.speed:g}", f"{geometry.gain:g}", f"{geometry.gain * geometry.chest:g}"
    both = gain if chest == gain else f"{gain}/{chest}"
    band = ("0.05-150 Hz", "0.15-40 Hz", "0.5-40 Hz", "F 50~ 0.05-100 Hz")[a % 4]
    return (
        f"{speed}mm/s    {both}mm/mV    {band}    {b % 900 + 100}.{a % 10}",
        f"Speed: {speed} mm/sec  Limb: {gain} mm/mV  Chest: {chest} mm/mV  {band}",
        f"{speed} mm/s  {both} mm/mV",
    )[b % 3]


def header_lines(draws: Draws) -> tuple[list[str], list[tuple[float, float]]]:
    """Made-up header text and each line's position: x as a fraction of the width, y in lines."""
    n = draws.text(0, 16)
    sex, finding = ("Male", "Female")[n[0] % 2], _STATEMENTS[n[1] % len(_STATEMENTS)]
    day = f"{n[4] % 28 + 1:02d}-{_MONTHS[n[5] % 12]}-{1990 + n[6] % 36} {n[7] % 24:02d}:{n[8] % 60:02d}"
    left = [f"ID: {n[2]:04d}{n[3]:04d}", day, f"{20 + n[9] % 70} yr  {sex}"]
    middle = [
        f"Vent. rate   {45 + n[10] % 90} BPM",
        f"PR interval  {110 + n[11] % 110} ms",
        f"QRS duration {70 + n[12] % 80} ms",
        f"QT/QTc   {340 + n[13] % 110}/{380 + n[14] % 110} ms",
    ]
    right = [finding, _STATEMENTS[n[15] % len(_STATEMENTS)], "Unconfirmed"]
    kind = draws.integer("header", 4)
    blocks = [(left, 0.0), (middle, 0.27), (right, 0.55)][: kind if kind else 1]
    if kind == 1:
        blocks = [(left, 0.0), ([f"Room: {n[9] % 40}", f"Loc: {n[10] % 90}"], 0.4)]
    lines = [line for block, _ in blocks for line in block]
    positions = [(x, float(row)) for block, x in blocks for row in range(len(block))]
    return lines, positions


_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_STATEMENTS = (
    "*** Poor data quality, interpretation may be affected", "Technician: 4711", "Test ind: routine", "Comments:",
    "Standard 12-lead", "Referred by:", "Requested by: Dr. A. Muster", "Unconfirmed diagnosis", "Overread by:",
    "Account: 00-000",
)  # fmt: skip
"""Lines without a diagnosis: the label must not be readable from the page's text."""

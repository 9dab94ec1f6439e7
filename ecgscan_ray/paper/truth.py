"""Ground truth of a page: layout and transform in under 1 kB, expanded to pixels on demand."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from ecgscan_ray.paper import marks, warp
from ecgscan_ray.paper.grid import MAJOR_MM
from ecgscan_ray.paper.layout import CHEST, Geometry, Layout, frame_mm, timed
from ecgscan_ray.paper.trace import Ink, kernels, pen, sub_columns


@dataclass(frozen=True, kw_only=True)
class PageTruth:
    """What was drawn and where it went.

    Attributes:
        recording_id: Of the recording drawn.
        key: The page's key.
        recipe: Version of the rendering from key to pixels.
        opencv: Version of OpenCV that warped it.
        layout: Name in ``LAYOUTS``.
        size: Image height and width, px.
        page_mm: Width and height of the page.
        rows_mm: x of the rows' start, y of the first zero line, row pitch.
        scale: Paper speed mm/s, gain mm/mV, the chest leads' factor, and how far a trace may go from its zero line, mm
            (None = to the page's edge).
        pulse: Calibration pulse: left, right or none.
        pen_mm: Width of the trace.
        label: Face, capital height, right and up from the strip's start, mm.
        grid_mm: x and y of the first 5 mm lines of the printed grid; None = it has none.
        offsets_mv: mV drawn on the zero line, for each strip; None = nothing drawn.
        curl: Amplitudes of the page's waves, mm (``warp.curled``); all 0 = flat.
        matrix: Homography from page mm (continuous) to px (continuous), row by row.
        effects: Names of the effects applied.
    """

    recording_id: str
    key: int
    recipe: int
    opencv: str
    layout: str
    size: tuple[int, int]
    page_mm: tuple[float, float]
    rows_mm: tuple[float, float, float]
    scale: tuple[float, float, float, float | None]
    pulse: str
    pen_mm: float
    label: tuple[str, float, float, float]
    grid_mm: tuple[float, float] | None
    offsets_mv: tuple[float | None, ...]
    curl: tuple[float, ...]
    matrix: tuple[float, ...]
    effects: tuple[str, ...]

    def to_json(self) -> str:
        """Compact JSON, under 1 kB."""
        content = asdict(self) | {
            "matrix": [float(f"{value:.9g}") for value in self.matrix],
            "rows_mm": [round(value, 6) for value in self.rows_mm],
            "pen_mm": round(self.pen_mm, 6),
            "label": [*self.label[:2], *(round(value, 4) for value in self.label[2:])],
        }
        return json.dumps(content, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> PageTruth:
        """Inverse of ``to_json``."""
        content: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()}
        return PageTruth(**content)

    @property
    def homography(self) -> np.ndarray:
        """float64 (3, 3)."""
        return np.array(self.matrix).reshape(3, 3)

    @property
    def geometry(self) -> Geometry:
        """The rows on the page."""
        left, first, pitch = self.rows_mm
        return Geometry(self.page_mm, left, first, pitch, *self.scale)

    def layout_at_speed(self) -> Layout:
        """The layout with the seconds that this paper speed shows."""
        return timed(self.layout, self.scale[0])

    def frame_corners(self) -> np.ndarray:
        """Corners of the trace frame (``layout.frame_mm``) in the picture, float32 (4, 2), fractions of its size."""
        corners = self.to_pixels(frame_mm(self.layout_at_speed(), self.geometry)) + 0.5
        height, width = self.size
        return (corners / (width, height)).astype(np.float32)

    def to_pixels(self, points_mm: np.ndarray) -> np.ndarray:
        """Page mm (..., 2) to index coordinates (..., 2) px: the centre of the first pixel is 0."""
        return warp.map_points(self.homography, warp.curled(points_mm, self.curl, self.page_mm)) - 0.5

    def to_page(self, points: np.ndarray) -> np.ndarray:
        """Index coordinates (..., 2) px to page mm (..., 2): the inverse of ``to_pixels``."""
        sheet = warp.map_points(np.linalg.inv(self.homography), points + 0.5)
        return warp.flattened(sheet, self.curl, self.page_mm) if any(self.curl) else sheet

    def frame_middle(self) -> np.ndarray:
        """float64 (2,) middle of the trace frame (``layout.frame_mm``), page mm."""
        return frame_mm(self.layout_at_speed(), self.geometry)[[0, 2]].mean(0)

    def windows_in_image(self) -> np.ndarray:
        """float32 (S, 3): lead, start_s, stop_s of the part of each strip's zero line inside the image; lead -1 = none."""
        layout, geometry = self.layout_at_speed(), self.geometry
        windows = layout.windows.copy()
        for s, strip in enumerate(layout.strips):
            seconds = np.linspace(strip.start_s, strip.stop_s, 101)
            x = geometry.start(strip) + (seconds - strip.start_s) * geometry.speed
            points = self.to_pixels(np.stack([x, np.full(101, geometry.baseline(strip))], -1)) + 0.5
            inside = np.flatnonzero(((points >= 0) & (points <= self.size[::-1])).all(-1))
            windows[s] = (strip.lead, seconds[inside[0]], seconds[inside[-1]]) if len(inside) > 1 else (-1, 0, 0)
        return windows


@dataclass(frozen=True)
class ExpandedTruth:
    """The truth of one page in pixels, index coordinates.

    Attributes:
        leads: Lead index of each strip, -1 = nothing drawn.
        windows: float32 (S, 3) lead, start_s, stop_s.
        points: For each strip float32 (n, 2) x, y of every sample shown, NaN where missing.
        samples: For each strip int64 (n,) indices of these samples in the recording.
        strip_corners: float32 (S, 4, 2) of each strip's band.
        label_corners: float32 (S, 4, 2) of each lead label.
        grid_nodes: float32 (rows, columns, 2) where the printed grid's 5 mm lines cross; (0, 0, 2) without a grid.
    """

    leads: tuple[int, ...]
    windows: np.ndarray
    points: list[np.ndarray]
    samples: list[np.ndarray]
    strip_corners: np.ndarray
    label_corners: np.ndarray
    grid_nodes: np.ndarray


def sample_ranges(layout: Layout, sig_len: int, fs: float) -> tuple[np.ndarray, np.ndarray]:
    """First and past-last sample in each strip's window, int64 (S,) each: start <= i / fs < stop."""
    start = np.array([s.start_s for s in layout.strips])
    stop = np.array([s.stop_s for s in layout.strips])
    first = np.ceil(start * fs - 1e-9).astype(np.int64)
    last = np.ceil(stop * fs - 1e-9).astype(np.int64)
    return np.minimum(first, sig_len), np.minimum(last, sig_len)


@lru_cache(maxsize=512)
def _shown_samples(layout: Layout, sig_len: int, fs: float) -> list[tuple[int, int, int]]:
    """Lead, first and past-last sample shown of each strip."""
    first, last = sample_ranges(layout, sig_len, fs)
    return [(strip.lead, *pair) for strip, *pair in zip(layout.strips, first.tolist(), last.tolist(), strict=True)]


def blank_strips(layout: Layout, signal_mv: np.ndarray, fs: float) -> list[bool]:
    """Which strips have no sample in the time that they show."""
    shown = _shown_samples(layout, signal_mv.shape[1], fs)
    return [a >= b or (math.isnan(signal_mv[i, a]) and bool(np.isnan(signal_mv[i, a:b]).all())) for i, a, b in shown]


def _corners(boxes: np.ndarray) -> np.ndarray:
    x0, y0, x1, y1 = boxes.T
    return np.stack([np.stack(pair, -1) for pair in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))], 1)


def expand(truth: PageTruth, signal_mv: np.ndarray, fs: float) -> ExpandedTruth:
    """Points, boxes and nodes in pixels.

    Args:
        truth: Of the page.
        signal_mv: float32 (12, T), the recording that was drawn.
        fs: Hz.
    """
    layout, geometry = truth.layout_at_speed(), truth.geometry
    points, samples, bands, labels = [], [], [], []
    first, last = sample_ranges(layout, signal_mv.shape[1], fs)
    face, cap, right, up = truth.label
    glyphs = marks.face_at(face, cap, 10.0, 10.0)
    for s, strip in enumerate(layout.strips):
        number = np.arange(first[s], last[s])
        offset = truth.offsets_mv[s]
        mv = signal_mv[strip.lead, first[s] : last[s]].astype(np.float64) - (np.nan if offset is None else offset)
        x = geometry.start(strip) + (number / fs - strip.start_s) * geometry.speed
        rise = mv * geometry.gain_of(strip)
        y = geometry.baseline(strip) - (
            rise if geometry.reach is None else np.clip(rise, -geometry.reach, geometry.reach)
        )
        points.append(truth.to_pixels(np.stack([x, y], -1)).astype(np.float32))
        samples.append(number)
        middle = geometry.baseline(strip)
        bands.append(
            (geometry.start(strip), middle - geometry.pitch / 2, geometry.stop(strip), middle + geometry.pitch / 2)
        )
        wide = glyphs.width(strip.label) / 10.0
        labels.append(
            (geometry.start(strip) + right, middle - up - cap, geometry.start(strip) + right + wide, middle - up)
        )
    begins = truth.grid_mm or truth.page_mm
    across, down = (np.arange(a, b, MAJOR_MM) for a, b in zip(begins, truth.page_mm, strict=True))
    nodes = np.stack(np.meshgrid(across, down), -1)
    return ExpandedTruth(
        tuple(-1 if o is None else s.lead for s, o in zip(layout.strips, truth.offsets_mv, strict=True)),
        np.array([(s.lead, s.start_s, s.stop_s) for s in layout.strips], np.float32),
        points,
        samples,
        truth.to_pixels(_corners(np.array(bands))).astype(np.float32),
        truth.to_pixels(_corners(np.array(labels))).astype(np.float32),
        truth.to_pixels(nodes).astype(np.float32),
    )


@lru_cache(maxsize=512)
def _strip_samples(layout: Layout, sig_len: int, fs: float) -> tuple[np.ndarray, np.ndarray]:
    """``samples`` and ``numbers`` of ``compiled.strip_tables``, which depend on layout and recording alone.

    One more sample on either side of the window lets the trace reach the window's edges.
    """
    start = np.array([s.start_s for s in layout.strips])
    stop = np.array([s.stop_s for s in layout.strips])
    first = np.maximum(0, np.ceil(start * fs).astype(np.int64) - 1)
    last = np.maximum(first, np.minimum(sig_len, np.floor(stop * fs).astype(np.int64) + 2))
    leads, rows, signs, x_s = np.array([(s.lead, s.row, s.sign, s.x_s) for s in layout.strips]).T
    numbers = np.array([x_s, first / fs - start, stop - start, rows, signs, leads >= CHEST])
    return np.stack([leads.astype(np.int64), first, last], axis=1), numbers


def strip_tables(
    layout: Layout,
    geometry: Geometry,
    sig_len: int,
    fs: float,
    scale: tuple[float, float, int],
    width: int,
    drawing: Literal["auto", "compiled", "plain"] = "auto",
) -> tuple[np.ndarray, np.ndarray]:
    """The tables of ``compiled.deposit_strips`` with all offsets 0.

    Args:
        layout: At the paper speed.
        geometry: Rows on the page.
        sig_len: Samples of the recording.
        fs: Hz.
        scale: px/mm in x and y, and sub-columns per pixel, of the canvas.
        width: Columns of the canvas.
        drawing: Which kernels.

    Returns:
        strips int64 (S, 7), scales float64 (S, 5).
    """
    reach = math.inf if geometry.reach is None else geometry.reach
    rows = (geometry.left, geometry.first, geometry.pitch, geometry.speed, geometry.gain, geometry.chest, reach)
    samples, numbers = _strip_samples(layout, sig_len, fs)
    return kernels(drawing).strip_tables(samples, numbers, rows, fs, (*scale, width))


def masks(truth: PageTruth, signal_mv: np.ndarray, fs: float) -> np.ndarray:
    """uint8 (S, H, W) coverage of each strip's trace in the image, 0..255."""
    layout, geometry = truth.layout_at_speed(), truth.geometry
    corners = truth.to_pixels(_corners(np.array([[0.0, 0.0, *truth.page_mm]])))[0]
    across = float(np.linalg.norm(corners[1] - corners[0])) / truth.page_mm[0]
    down = float(np.linalg.norm(corners[3] - corners[0])) / truth.page_mm[1]
    sx, sy = 2 * across, 2 * down
    canvas = (round(truth.page_mm[1] * sy), round(truth.page_mm[0] * sx))
    k = sub_columns((sx * sy) ** 0.5)
    ink = Ink(*canvas, k)
    strips, scales = strip_tables(layout, geometry, signal_mv.shape[1], fs, (sx, sy, k), canvas[1])
    sheet = warp.Sheet(truth.homography, truth.curl, truth.page_mm, (sx, sy))
    half = pen(truth.pen_mm * (sx * sy) ** 0.5, k)
    covers = np.zeros((len(layout.strips), *truth.size), np.uint8)
    for s, offset in enumerate(truth.offsets_mv):
        if offset is not None:
            scales[s, 2] = offset
            ink.strips(np.ascontiguousarray(signal_mv), strips[s : s + 1], scales[s : s + 1], half)
            sheet.warp_onto(ink.cover(), covers[s])
    return covers

"""The canvas on which pages of one size are drawn, and how a clean page is drawn on it.

What depends on the page's size alone (scale, grids, the plane of ink, memory) is made once and kept from page to page;
what differs from page to page comes in as a ``PageStyle`` and the page's numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ecgscan_ray.config import PageConfig
from ecgscan_ray.paper import damage, marks, warp
from ecgscan_ray.paper.effects import PageEffects
from ecgscan_ray.paper.grid import GridBank
from ecgscan_ray.paper.key import Draws
from ecgscan_ray.paper.layout import PAGES_MM, Geometry, Layout, page_to_image
from ecgscan_ray.paper.trace import Ink, pen, snapped_pen, sub_columns
from ecgscan_ray.paper.truth import blank_strips, strip_tables

MIN_PEN_PX = 0.85
"""Thinnest trace at the size of the image; thinner pens fade below the grid's contrast."""
SUPERSAMPLING = 2
"""Pages that are warped are drawn at this multiple of their size and resampled once."""
NATIVE_PX_PER_MM = 5.0
"""px/mm from which on they are drawn at their own size: a pen of 2 px and more loses nothing to one resampling."""


@dataclass(frozen=True)
class PageStyle:
    """How one page is drawn.

    Attributes:
        layout: At the page's paper speed.
        geometry: Where its rows lie.
        pulse: Calibration pulse: left, right or none.
        label: Of the leads.
        pen_mm: Width of the trace.
        colour: uint8 (C,) of traces and lettering.
    """

    layout: Layout
    geometry: Geometry
    pulse: str
    label: marks.LabelStyle
    pen_mm: float
    colour: np.ndarray


class Canvas:
    """Paper of one size, drawn flat and resampled into the image afterwards.

    Args:
        page: Settings.
        warped: Whether pages are warped: they are drawn larger, and RGB ones with an idle fourth channel.
        drawing: Which kernels.

    Attributes:
        size: Rows and columns.
        px_per_mm: Scale in x and y.
        channels: 1, 3 or 4.
        flat: The undistorted page in the image.
        ink: The plane of ink.
    """

    def __init__(self, page: PageConfig, warped: bool, drawing: Literal["auto", "compiled", "plain"]) -> None:
        sx, sy, left, top = page_to_image(page)
        width_mm, height_mm = PAGES_MM[page.paper]
        self._supersampling = SUPERSAMPLING if warped and math.sqrt(sx * sy) < NATIVE_PX_PER_MM else 1
        self.px_per_mm = cx, cy = sx * self._supersampling, sy * self._supersampling
        self._mean_px_per_mm = math.sqrt(cx * cy)
        self.size = (math.ceil(height_mm * cy - 1e-6), math.ceil(width_mm * cx - 1e-6))
        self.flat = warp.Sheet(warp.scaling(sx, sy, left, top), warp.FLAT, (width_mm, height_mm), self.px_per_mm)
        self.channels = (
            4 if warped and page.channels == 3 else page.channels
        )  # OpenCV warps four twice as fast as three
        self._sub_columns = sub_columns(self._mean_px_per_mm, self._supersampling)
        self._drawing, self._baseline = drawing, page.baseline
        self.ink = Ink(*self.size, self._sub_columns, drawing)
        self._grids = GridBank(*self.size, cx, cy, self.channels, self._supersampling > 1)
        self._memory = np.empty((*self.size, self.channels), np.uint8)  # one for all pages: fresh memory is slow

    def pen_mm(self, width_mm: float) -> float:
        """The width nearest to ``width_mm`` that is drawn without error and is still seen in the image."""
        width_px = max(width_mm * self._mean_px_per_mm, MIN_PEN_PX * self._supersampling)
        return snapped_pen(width_px, self._sub_columns) / self._mean_px_per_mm

    def paper(
        self, draws: Draws, page_effects: PageEffects, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, tuple[float, float] | None]:
        """Blank paper with its grid.

        Args:
            draws: The page's numbers.
            page_effects: The page's effects.
            out: Where to draw; None = the canvas's own memory, which the next page overwrites.

        Returns:
            uint8 (H, W, C), and x and y of the grid's first 5 mm lines (``PageTruth.grid_mm``).
        """
        image = self._memory if out is None else out
        grid_mm: tuple[float, float] | None
        if darkness := page_effects.raw("print"):
            background, grid_mm = self._grids.printed(draws, darkness, image)
        else:
            style = draws.integer("style", self._grids.styles)
            window, grid_mm = self._grids.window(style, draws.unit("phase_x"), draws.unit("phase_y"))
            image[:] = window
            background = self._grids.paper(style)
        if margin_mm := page_effects.raw("rim"):
            damage.blank_margin(image, background, margin_mm, self.px_per_mm)
        return image, grid_mm

    def draw(
        self, image: np.ndarray, draws: Draws, signal_mv: np.ndarray, fs: float, style: PageStyle
    ) -> tuple[float | None, ...]:
        """Ink the page.

        Args:
            image: uint8 (H, W, C), from ``paper``.
            draws: The page's numbers.
            signal_mv: float32 (12, T), contiguous.
            fs: Hz.
            style: How the page is drawn.

        Returns:
            mV on each strip's zero line, None where it has no sample.
        """
        layout, geometry, ink = style.layout, style.geometry, self.ink
        half = pen(round(style.pen_mm * self._mean_px_per_mm, 4), self._sub_columns)
        scale = (*self.px_per_mm, self._sub_columns)
        strips, scales = strip_tables(layout, geometry, signal_mv.shape[1], fs, scale, self.size[1], self._drawing)
        if self._baseline == "median":
            scales[:, 2] = ink.medians(signal_mv, strips)
        ink.strips(signal_mv, strips, scales, half)
        if style.pulse != "none":
            rows = marks.pulse_rows(draws, layout.rows)
            ink.paths(marks.pulse_paths(style.pulse, rows, geometry) * self.px_per_mm, half)
        boxes = marks.separator_boxes(draws, layout, geometry)
        if len(boxes):
            ink.boxes(boxes * (self.px_per_mm * 2))
        self._letter(draws, style)
        ink.compose(image, style.colour)
        offsets = zip(scales[:, 2].round(4).tolist(), blank_strips(layout, signal_mv, fs), strict=True)
        return tuple([None if blank else offset for offset, blank in offsets])

    def _letter(self, draws: Draws, style: PageStyle) -> None:
        """Lead labels, header and footer."""
        layout, geometry, label = style.layout, style.geometry, style.label
        face = marks.face_at(label.face, label.cap_mm, *self.px_per_mm)
        starts = marks.label_starts(label, layout, geometry) * self.px_per_mm
        self.ink.text(face.pixels, face.table, layout.labels, starts)
        lines, starts_mm = [], []
        if draws.chance("header", 0.85):
            x, y = draws.uniform("header_x", 5.0, 25.0), draws.uniform("header_y", 7.0, 14.0)
            line_mm = draws.uniform("header_size", 3.4, 4.6)
            lowest = geometry.first - 0.3 * geometry.pitch
            for line, (column, row) in zip(*marks.header_lines(draws), strict=True):
                if y + row * line_mm < lowest:
                    lines.append(line)
                    starts_mm.append((x + column * (geometry.page_mm[0] - 30), y + row * line_mm))
        if draws.chance("footer", 0.85):
            lines.append(marks.scale_text(geometry, draws))
            starts_mm.append(
                (draws.uniform("footer_x", 8.0, 90.0), geometry.page_mm[1] - draws.uniform("footer_y", 3.5, 8.0))
            )
        if lines:
            small = marks.header_face(draws, self.px_per_mm)
            self.ink.text(small.pixels, small.table, lines, np.array(starts_mm) * self.px_per_mm)

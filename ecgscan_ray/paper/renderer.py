"""Recordings in, pages out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, Protocol, TypeVar

import cv2
import numpy as np

from ecgscan_ray.config import PageConfig
from ecgscan_ray.errors import ConfigError, RecordingError
from ecgscan_ray.paper import camera, damage, effects, marks, warp
from ecgscan_ray.paper.grid import GridBank, luma
from ecgscan_ray.paper.key import RECIPE, Draws, uniforms
from ecgscan_ray.paper.layout import (
    MAX_STRIPS,
    PAGES_MM,
    TRACE_MM,
    Geometry,
    Layout,
    find_layout,
    page_to_image,
    place,
    timed,
)
from ecgscan_ray.paper.trace import Ink, pen, snapped_pen, sub_columns
from ecgscan_ray.paper.truth import PageTruth, blank_strips, strip_tables

MIN_PEN_PX = 0.85
"""Thinnest trace at the size of the image; thinner pens fade below the grid's contrast."""
SUPERSAMPLING = 2
"""Pages that are warped are drawn at this multiple of their size and resampled once."""
NATIVE_PX_PER_MM = 5.0
"""px/mm from which on they are drawn at their own size: a pen of 2 px and more loses nothing to one resampling."""
T = TypeVar("T")
_PULSES = {"left": 0.6, "right": 0.2, "none": 0.2}


class Drawable(Protocol):
    """What the renderer needs of a recording."""

    @property
    def id(self) -> str: ...
    @property
    def signal_mv(self) -> np.ndarray: ...
    @property
    def fs(self) -> float: ...


@dataclass(frozen=True)
class Pages:
    """A batch of pages.

    Attributes:
        image: uint8 (N, H, W, C).
        windows: float32 (N, 16, 3) rows lead index, start_s, stop_s; lead -1 = unused.
        px_per_mm: float32 (N, 2) mean scale in x and y.
        truth: N compact truths, see ``truth.expand``.
    """

    image: np.ndarray
    windows: np.ndarray
    px_per_mm: np.ndarray
    truth: list[PageTruth]


class Renderer:
    """Draws pages of one size and kind; keeps grids and scratch memory from page to page.

    Args:
        page: Settings.
        drawing: ``compiled`` (numba), ``plain`` (numpy, the same bytes), or what can be had.

    Raises:
        ConfigError: A layout or an effect is not known, or all shares are 0.
    """

    def __init__(self, page: PageConfig, drawing: Literal["auto", "compiled", "plain"] = "auto") -> None:
        cv2.setNumThreads(1)  # workers are many; OMP_NUM_THREADS does not reach OpenCV
        self.page = page
        self._layouts = _shares({find_layout(name).name: share for name, share in page.layouts.items()}, "layouts")
        self._speeds = _shares(page.speeds or {page.paper_speed_mm_per_s: 1.0}, "speeds")
        self._gains = _shares(page.gains or {page.gain_mm_per_mv: 1.0}, "gains")
        self._faces = _shares(page.label_faces, "label_faces")
        self._places = _shares(page.label_places, "label_places")
        self._preset = effects.planned(page)
        self._warped = bool(self._preset)
        self._sx, self._sy, ox, oy = page_to_image(page)
        times = SUPERSAMPLING if self._warped and math.sqrt(self._sx * self._sy) < NATIVE_PX_PER_MM else 1
        self._cx, self._cy = self._c = self._sx * times, self._sy * times
        self._scale = np.array(self._c)
        width, height = PAGES_MM[page.paper]
        self._flat = warp.Sheet(warp.scaling(self._sx, self._sy, ox, oy), warp.FLAT, (width, height), self._c)
        self._canvas = (math.ceil(height * self._cy - 1e-6), math.ceil(width * self._cx - 1e-6))
        mean = math.sqrt(self._cx * self._cy)
        self._times, self._mean, self._k = times, mean, sub_columns(mean, times)
        self._ink, self._drawing = Ink(*self._canvas, self._k, drawing), drawing
        # RGB pages get an idle fourth channel for the warp: OpenCV warps four twice as fast as three.
        self._channels = 4 if self._warped and page.channels == 3 else page.channels
        self._picture = np.empty((page.height, page.width, 4), np.uint8) if self._channels == 4 else None
        self._grids = GridBank(*self._canvas, self._cx, self._cy, self._channels, times > 1)
        self._sheet = np.empty((*self._canvas, self._channels), np.uint8)  # one for all pages: fresh memory is slow
        self._noise = camera.NoiseBank(page.height, page.width, page.channels)
        self._cloudy = camera.CloudyBank(page.height, page.width, page.channels, math.sqrt(self._sx * self._sy) / 1.4)
        self._desks = camera.DeskBank(page.height, page.width, self._channels)
        self._blur_scale = min(4.0, max(0.6, math.sqrt(self._sx * self._sy) / 1.4))

    def render(self, recordings: Sequence[Drawable], keys: np.ndarray) -> Pages:
        """Draw one page of each recording.

        Args:
            recordings: N recordings: ``id``, ``signal_mv`` (12, T) float32 with NaN = missing, ``fs`` in Hz.
            keys: uint64 (N,), see ``page_key``: each alone decides how its page looks.

        Raises:
            RecordingError: A recording that cannot be drawn, by its id.
        """
        if len(recordings) != len(keys):
            raise ConfigError(f"{len(recordings)} recordings but {len(keys)} keys", where="Renderer.render")
        count, page = len(recordings), self.page
        image = np.empty((count, page.height, page.width, page.channels), np.uint8)
        windows = np.full((count, MAX_STRIPS, 3), (-1.0, 0.0, 0.0), np.float32)
        px_per_mm = np.empty((count, 2), np.float32)
        numbers = uniforms(np.asarray(keys, np.uint64)) if count else np.empty((0, 0))
        truth = []
        for n, recording in enumerate(recordings):
            found = self._page(recording, Draws(int(keys[n]), numbers[n]), image[n])
            truth.append(found)
            shown = found.layout_at_speed().windows if page.keep_leads else found.windows_in_image()
            windows[n, : len(shown)] = shown
            if None in found.offsets_mv:
                windows[n, [s for s, offset in enumerate(found.offsets_mv) if offset is None], 0] = -1
            px_per_mm[n] = _scale_at(found.homography, found.page_mm)
        return Pages(image, windows, px_per_mm, truth)

    def _page(self, recording: Drawable, draws: Draws, image: np.ndarray) -> PageTruth:
        signal = checked_signal(recording, self._ink)
        plan = effects.PageEffects(draws, self._preset, self.page.strength)
        page, jitter = self.page, self.page.jitter
        speed, gain = draws.pick("speed", self._speeds), draws.pick("gain", self._gains)
        layout = timed(draws.pick("layout", self._layouts), speed)
        pulse = draws.pick("pulse", _PULSES)
        pitch, top, left = (jitter * draws.signed(slot) for slot in ("pitch", "top", "left"))
        where = place(page, layout, pulse, pitch, top, left, header=jitter * max(0.0, draws.signed("max_extra_header")))
        where = replace(
            where,
            speed=speed,
            gain=gain,
            chest=0.5 if draws.chance("chest", page.half_gain_precordial_probability) else 1.0,
            reach=None if page.clip == "page" else where.pitch / 2,
        )
        label = marks.label_style(draws, where.pitch, self._faces, self._places)
        wanted = max(draws.uniform("pen", 0.3, 0.5) * self._mean, MIN_PEN_PX * self._times)
        pen_mm = snapped_pen(wanted, self._k) / self._mean
        canvas, grid_mm = self._paper(draws, plan, None if self._warped or self._canvas != image.shape[:2] else image)
        ink = ink_colour(draws, page.channels, plan.size("pale_ink"))
        offsets = self._draw(canvas, draws, signal, recording.fs, layout, where, (pulse, label, pen_mm), ink)
        if all(offset is None for offset in offsets):
            raise RecordingError("no sample in the time that the page shows", reason="empty", where=recording.id)
        applied: tuple[str, ...] = ()
        if self._warped:
            sheet, applied = self._degrade(canvas, draws, plan, _must_keep(layout, where, pulse), image)
        else:
            sheet = self._undistorted(canvas, image)
        return PageTruth(
            recording.id, draws.key, RECIPE, cv2.__version__, layout.name, (page.height, page.width), where.page_mm,
            (where.left, where.first, where.pitch), (where.speed, where.gain, where.chest, where.reach), pulse, pen_mm,
            (label.face, label.cap_mm, label.right_mm, label.up_mm), grid_mm, offsets, sheet.curl,
            tuple(sheet.matrix.ravel().tolist()), applied,
        )  # fmt: skip

    def _paper(
        self, draws: Draws, plan: effects.PageEffects, out: np.ndarray | None
    ) -> tuple[np.ndarray, tuple[float, float] | None]:
        """uint8 canvas with a grid, in ``out`` where it is given, and where the grid begins (``PageTruth.grid_mm``)."""
        canvas = self._sheet if out is None else out
        grid_mm: tuple[float, float] | None
        if darkness := plan.raw("print"):
            paper, grid_mm = self._grids.printed(draws, darkness, canvas)
        else:
            style = draws.integer("style", self._grids.styles)
            window, grid_mm = self._grids.window(style, draws.unit("phase_x"), draws.unit("phase_y"))
            canvas[:] = window
            paper = self._grids.paper(style)
        if rim_mm := plan.raw("rim"):
            damage.blank_margin(canvas, paper, rim_mm, self._c)
        return canvas, grid_mm

    def _draw(
        self, canvas: np.ndarray, draws: Draws, signal: np.ndarray, fs: float, layout: Layout, where: Geometry,
        style: tuple[str, marks.LabelStyle, float], colour: np.ndarray,
    ) -> tuple[float | None, ...]:  # fmt: skip
        """Ink the page; returns the mV on each strip's zero line, None where it has no sample."""
        pulse, label, pen_mm = style
        ink, scale = self._ink, self._scale
        half = pen(round(pen_mm * self._mean, 4), self._k)
        places, scales = strip_tables(
            layout, where, signal.shape[1], fs, (self._cx, self._cy, self._k), self._canvas[1], self._drawing
        )
        if self.page.baseline == "median":
            scales[:, 2] = ink.medians(signal, places)
        ink.strips(signal, places, scales, half)
        if pulse != "none":
            rows = layout.rows
            ink.paths(marks.pulse_paths(pulse, rows, draws.chance("pulse_rows", 0.3), where) * scale, half)
        boxes = marks.separator_boxes(draws, layout, where)
        if len(boxes):
            ink.boxes(boxes * (self._c * 2))
        self._letter(draws, layout, where, label)
        ink.compose(canvas, colour)
        found = zip(scales[:, 2].round(4).tolist(), blank_strips(layout, signal, fs), strict=True)
        return tuple([None if blank else offset for offset, blank in found])

    def _letter(self, draws: Draws, layout: Layout, where: Geometry, label: marks.LabelStyle) -> None:
        """Lead labels, header and footer."""
        ink, scale = self._ink, self._scale
        face = marks.face_at(label.face, label.cap_mm, self._cx, self._cy)
        ink.text(face.pixels, face.table, layout.labels, marks.label_starts(label, layout, where) * scale)
        small = marks.face_at(
            marks.FACES[draws.integer("header_face", 4)],
            1.7 + 0.25 * draws.integer("header_size", 4),
            self._cx,
            self._cy,
        )
        lines, at = [], []
        if draws.chance("header", 0.85):
            found, places = marks.header_lines(draws)
            x, y = draws.uniform("header_x", 5.0, 25.0), draws.uniform("header_y", 7.0, 14.0)
            step = draws.uniform("header_size", 3.4, 4.6)
            kept = [n for n, (_, row) in enumerate(places) if y + row * step < where.first - 0.3 * where.pitch]
            lines += [found[n] for n in kept]
            at += [(x + places[n][0] * (where.page_mm[0] - 30), y + places[n][1] * step) for n in kept]
        if draws.chance("footer", 0.85):
            lines.append(marks.scale_text(where, draws))
            at.append((draws.uniform("footer_x", 8.0, 90.0), where.page_mm[1] - draws.uniform("footer_y", 3.5, 8.0)))
        if lines:
            ink.text(small.pixels, small.table, lines, np.array(at) * scale)

    def _undistorted(self, canvas: np.ndarray, image: np.ndarray) -> warp.Sheet:
        """Put the page into the image as it is, with whole pixels of margin; returns where it lies."""
        if canvas is image:
            return self._flat
        y, x = (image.shape[0] - canvas.shape[0]) // 2, (image.shape[1] - canvas.shape[1]) // 2
        image[:] = canvas[0, 0]
        image[y : y + canvas.shape[0], x : x + canvas.shape[1]] = canvas
        return replace(self._flat, matrix=warp.scaling(self._sx, self._sy, x, y))

    def _degrade(
        self,
        canvas: np.ndarray,
        draws: Draws,
        plan: effects.PageEffects,
        keep_mm: tuple[float, float, float, float],
        image: np.ndarray,
    ) -> tuple[warp.Sheet, tuple[str, ...]]:
        """Damage the canvas, warp it into the image once, then what the way into a file does; returns where it lies."""
        page = self.page
        pose = self._pose(draws, plan)
        matrix = warp.page_matrix(
            draws, pose, self._flat.page_mm, (page.height, page.width), page_to_image(page, pose.turn % 2 == 1),
            keep_mm if page.keep_leads else None,
        )  # fmt: skip
        sheet = replace(self._flat, matrix=matrix, curl=pose.curl)
        applied = ["warp"]
        applied += [
            name
            for name, there in (
                ("turn", pose.turn),
                ("curl", any(pose.curl)),
                ("crop", plan.size("crop")),
                ("rim", plan.raw("rim")),
                ("print", plan.raw("print")),
                ("pale_ink", plan.size("pale_ink")),
            )
            if there
        ]
        for name, work in _ON_THE_SHEET.items():
            if size := plan.size(name):
                work(canvas, draws, size, self._c)
                applied.append(name)
        if level := plan.raw("threshold"):
            damage.binarize(canvas, level)
            applied.append("threshold")
        if pitch := plan.raw("dither"):
            damage.dithered(canvas, pitch, self._c)
            applied.append("dither")
        kind = page.effects
        picture = image if self._picture is None else self._picture
        picture[:] = self._desks.window(draws, kind in ("scan", "fax"), kind == "screen", kind == "photo")
        sheet.warp_onto(canvas, picture)
        if picture is not image:
            cv2.cvtColor(picture, cv2.COLOR_RGBA2RGB, dst=image)
        self._photograph(image, draws, plan, pose, applied)
        return sheet, tuple(applied)

    def _pose(self, draws: Draws, plan: effects.PageEffects) -> warp.Pose:
        curl = plan.size("curl")
        return warp.Pose(
            turn=1 + draws.integer("turn_size", 3) if plan.raw("turn") else 0,
            rotation_deg=plan.size("rotation") * warp.normal(draws, "rotation", "rotation_2", 3.0),
            perspective=plan.size("perspective"),
            scale=(plan.raw("page_scale") or 1.0) * (1 + plan.size("crop")),
            shift=plan.size("shift"),
            curl=warp.curl_of(draws, curl, PAGES_MM[self.page.paper][0]) if curl else warp.FLAT,
        )

    def _photograph(
        self, image: np.ndarray, draws: Draws, plan: effects.PageEffects, pose: warp.Pose, applied: list[str]
    ) -> None:
        """Light, tone, lens, sensor and compression, in the order in which they happen; adds what it did to ``applied``."""
        shape, channels = image.shape, self.page.channels

        def did(name: str, size: float) -> bool:
            if size:
                applied.append(name)
            return bool(size)

        if did("wrinkle", size := plan.size("wrinkle")):
            camera.light(image, damage.facet_shading(draws, min(size, 0.7)))
        if did("crease", size := plan.size("crease")):
            camera.light(image, damage.crease_shading(draws, min(size, 0.6), shape))
        if did("ring", size := plan.size("ring")):
            camera.light(image, damage.coffee_ring(draws, min(size, 0.8), channels, shape[1] / shape[0]))
        if channels == 3 and did("grade", plan.size("grade") > 0.5):
            cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB, dst=image)
        if did("streak", size := plan.size("streak")):
            damage.streak(image, draws, size)
        field = camera.light_field(draws, plan, channels, warp.slope(pose, PAGES_MM[self.page.paper][0], camera.FIELD))
        if field is not None:
            applied.append("light")
            camera.light(image, field)
        curve = camera.tone_curve(draws, plan.size("gamma"), plan.size("fade"))
        if curve is not None:
            applied.append("tone")
            cv2.LUT(image, curve, dst=image)
        if did("moire", size := plan.size("moire")):
            camera.screen(image, draws, size, self._blur_scale)
        if did("blur", size := plan.size("blur")):
            camera.blur(image, size * self._blur_scale)
        if did("defocus", size := plan.size("defocus")):
            camera.defocus(image, size * self._blur_scale)
        if did("motion", size := plan.size("motion")):
            camera.move(image, size * self._blur_scale, math.pi * draws.unit("motion_angle"))
        if did("downscale", size := plan.size("downscale")):
            camera.downscale(image, min(size, 0.7))
        if did("grain", size := plan.size("grain")):
            self._cloudy.add(image, size, draws)
        if channels == 3 and did("soft_colour", size := plan.size("soft_colour")):
            camera.soften_colour(image, size * self._blur_scale)
        if did("sharpen", size := plan.size("sharpen")):
            camera.sharpen(image, size)
        if did("noise", size := plan.size("noise")):
            self._noise.add(image, size, draws)
        if did("jpeg", quality := plan.raw("jpeg")):
            camera.jpeg(image, 100 - (100 - quality) * self.page.strength)


_ON_THE_SHEET: dict[str, Callable[[np.ndarray, Draws, float, tuple[float, float]], None]] = {
    "writing": damage.handwriting,
    "stamp": damage.stamp_on,
    "thermal": damage.thermal_fade,
    "fold": damage.fold,
    "panels": damage.panels,
    "crumple": damage.crumple,
}


def _shares(shares: dict[T, float], name: str) -> dict[T, float]:
    """Those above 0.

    Raises:
        ConfigError: There is none.
    """
    found = {value: share for value, share in shares.items() if share > 0}
    if not found:
        raise ConfigError("nothing has a share above 0", where=f"page.{name}")
    return found


def _must_keep(layout: Layout, where: Geometry, pulse: str) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 in mm of the traces with labels and pulses."""
    stop = where.left + TRACE_MM + 9.0 if pulse == "right" else max(where.stop(s) for s in layout.strips) + 1.0
    start = where.left - (9.0 if pulse == "left" else 1.0)
    return start, where.first - 0.6 * where.pitch, stop, where.first + (layout.rows - 0.4) * where.pitch


@lru_cache(maxsize=1)
def _inks() -> tuple[tuple[int, int, int], ...]:
    return ((12, 12, 14), (30, 30, 34), (0, 0, 70), (55, 55, 60), (20, 24, 52), (95, 92, 100))


def ink_colour(draws: Draws, channels: int, pale: float = 0.0) -> np.ndarray:
    """uint8 (C,) colour of pen and lettering, by the share ``pale`` nearer to white."""
    chosen = _inks()[min(int(draws.unit("ink") ** 1.5 * 6), 5)]
    colour = tuple(round(c + (255 - c) * min(pale, 0.7)) for c in chosen)
    return np.array(colour if channels == 3 else [round(luma(colour))], np.uint8)


def checked_signal(recording: Drawable, ink: Ink) -> np.ndarray:
    """The recording's signal as contiguous float32 (12, T).

    Raises:
        RecordingError: Wrong shape or rate, infinite values, or nothing to draw at all.
    """
    signal = recording.signal_mv
    if not isinstance(signal, np.ndarray) or signal.ndim != 2 or signal.shape[0] != 12:
        shape = getattr(signal, "shape", type(signal).__name__)
        raise RecordingError(
            f"a signal of shape {shape} cannot be drawn", reason="shape", where=recording.id, fix="Give (12, T)."
        )
    if not (math.isfinite(recording.fs) and 1.0 <= recording.fs <= 1e5):
        raise RecordingError(f"a sampling rate of {recording.fs} Hz cannot be drawn", reason="rate", where=recording.id)
    ready = np.ascontiguousarray(signal, np.float32)
    ready = ready if ready.flags.writeable else ready.copy()  # one compiled form for all
    if ink.any_infinite(ready):
        raise RecordingError("the signal has infinite values", reason="infinite", where=recording.id)
    return ready


def _scale_at(matrix: np.ndarray, page_mm: tuple[float, float]) -> tuple[float, float]:
    """px/mm in x and y at the page's centre."""
    x, y, rows = page_mm[0] / 2, page_mm[1] / 2, matrix.tolist()
    middle, right, below = (warp.map_point(rows, *at) for at in ((x, y), (x + 1, y), (x, y + 1)))
    return math.dist(right, middle), math.dist(below, middle)

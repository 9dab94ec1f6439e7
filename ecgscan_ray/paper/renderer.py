"""Recordings to pages: the choices of each page, and its effects in their order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import cv2
import numpy as np

from ecgscan_ray.config import PageConfig
from ecgscan_ray.errors import ConfigError, RecordingError
from ecgscan_ray.paper import camera, damage, effects, marks, warp
from ecgscan_ray.paper.canvas import Canvas, PageStyle
from ecgscan_ray.paper.grid import luma
from ecgscan_ray.paper.key import RECIPE, Draws, uniforms
from ecgscan_ray.paper.layout import (
    MAX_STRIPS,
    PAGES_MM,
    TRACE_MM,
    find_layout,
    layout_geometry,
    page_to_image,
    positive_weights,
    timed,
)
from ecgscan_ray.paper.trace import Ink
from ecgscan_ray.paper.truth import PageTruth

_PULSE_WEIGHTS = {"left": 0.6, "right": 0.2, "none": 0.2}


class Drawable(Protocol):
    """The part of a recording that the renderer needs."""

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
        windows: float32 (N, 16, 3) lead index, start_s, stop_s of each strip; lead -1 = unused.
        px_per_mm: float32 (N, 2) scale in x and y at the page's centre.
        truth: N compact ground truths, see ``truth.expand``.
    """

    image: np.ndarray
    windows: np.ndarray
    px_per_mm: np.ndarray
    truth: list[PageTruth]


class Renderer:
    """Draws pages of one size; keeps grids and scratch memory from page to page.

    Args:
        page: Settings.
        drawing: Kernels: ``compiled`` (numba), ``plain`` (numpy, the same bytes), or ``auto``: numba where it is installed.

    Raises:
        ConfigError: A layout or an effect is unknown, or all shares of a setting are 0.
    """

    def __init__(self, page: PageConfig, drawing: Literal["auto", "compiled", "plain"] = "auto") -> None:
        cv2.setNumThreads(1)  # workers are many; OMP_NUM_THREADS does not reach OpenCV
        self.page = page
        layouts = {find_layout(name).name: weight for name, weight in page.layouts.items()}
        self._layouts = positive_weights(layouts, "layouts")
        self._speeds = positive_weights(page.speeds or {page.paper_speed_mm_per_s: 1.0}, "speeds")
        self._gains = positive_weights(page.gains or {page.gain_mm_per_mv: 1.0}, "gains")
        self._label_faces = positive_weights(page.label_faces, "label_faces")
        self._label_positions = positive_weights(page.label_places, "label_places")
        self._effects = effects.enabled_effects(page)
        self._canvas = Canvas(page, bool(self._effects), drawing)
        channels = self._canvas.channels
        self._picture = np.empty((page.height, page.width, 4), np.uint8) if channels == 4 else None
        sx, sy, _, _ = page_to_image(page)
        scale = math.sqrt(sx * sy) / 1.4
        self._noise = camera.NoiseBank(page.height, page.width, page.channels)
        self._cloudy = camera.CloudyBank(page.height, page.width, page.channels, scale)
        self._desks = camera.DeskBank(page.height, page.width, channels)
        self._blur_scale = min(4.0, max(0.6, scale))

    def render(self, recordings: Sequence[Drawable], keys: np.ndarray) -> Pages:
        """Draw one page of each recording.

        Args:
            recordings: N recordings: ``id``, ``signal_mv`` (12, T) float32 with NaN = missing, ``fs`` in Hz.
            keys: uint64 (N,), see ``page_key``: a page depends on recording, settings and key alone.

        Raises:
            RecordingError: A recording cannot be drawn.
            ConfigError: There are more or fewer keys than recordings.
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
            page_truth = self._page(recording, Draws(int(keys[n]), numbers[n]), image[n])
            truth.append(page_truth)
            shown = page_truth.layout_at_speed().windows if page.keep_leads else page_truth.windows_in_image()
            windows[n, : len(shown)] = shown
            if None in page_truth.offsets_mv:
                windows[n, [s for s, offset in enumerate(page_truth.offsets_mv) if offset is None], 0] = -1
            px_per_mm[n] = _scale_at(page_truth.homography, page_truth.page_mm)
        return Pages(image, windows, px_per_mm, truth)

    def _page(self, recording: Drawable, draws: Draws, image: np.ndarray) -> PageTruth:
        canvas, signal_mv = self._canvas, checked_signal(recording, self._canvas.ink)
        page_effects = effects.PageEffects(draws, self._effects, self.page.strength)
        style = self._style(draws, page_effects)
        drawn_in_place = not self._effects and canvas.size == image.shape[:2]
        sheet_image, grid_mm = canvas.paper(draws, page_effects, image if drawn_in_place else None)
        offsets_mv = canvas.draw(sheet_image, draws, signal_mv, recording.fs, style)
        if all(offset is None for offset in offsets_mv):
            raise RecordingError("no sample in the time that the page shows", reason="empty", where=recording.id)
        applied: tuple[str, ...] = ()
        if self._effects:
            sheet, applied = self._degrade(sheet_image, draws, page_effects, _must_keep(style), image)
        else:
            sheet = self._undistorted(sheet_image, image)
        geometry, label = style.geometry, style.label
        return PageTruth(
            recording_id=recording.id,
            key=draws.key,
            recipe=RECIPE,
            opencv=cv2.__version__,
            layout=style.layout.name,
            size=(self.page.height, self.page.width),
            page_mm=geometry.page_mm,
            rows_mm=(geometry.left, geometry.first, geometry.pitch),
            scale=(geometry.speed, geometry.gain, geometry.chest, geometry.reach),
            pulse=style.pulse,
            pen_mm=style.pen_mm,
            label=(label.face, label.cap_mm, label.right_mm, label.up_mm),
            grid_mm=grid_mm,
            offsets_mv=offsets_mv,
            curl=sheet.curl,
            matrix=tuple(sheet.matrix.ravel().tolist()),
            effects=applied,
        )

    def _style(self, draws: Draws, page_effects: effects.PageEffects) -> PageStyle:
        """What is printed on the page, and how."""
        page, jitter = self.page, self.page.jitter
        speed, gain = draws.pick("speed", self._speeds), draws.pick("gain", self._gains)
        layout = timed(draws.pick("layout", self._layouts), speed)
        pulse = draws.pick("pulse", _PULSE_WEIGHTS)
        pitch, top, left = (jitter * draws.signed(slot) for slot in ("pitch", "top", "left"))
        header = jitter * max(0.0, draws.signed("max_extra_header"))
        geometry = layout_geometry(page, layout, pulse, pitch, top, left, header)
        geometry = replace(
            geometry,
            speed=speed,
            gain=gain,
            chest=0.5 if draws.chance("chest", page.half_gain_precordial_probability) else 1.0,
            reach=None if page.amplitude_clip == "page" else geometry.pitch / 2,
        )
        return PageStyle(
            layout,
            geometry,
            pulse,
            label=marks.label_style(draws, geometry.pitch, self._label_faces, self._label_positions),
            pen_mm=self._canvas.pen_mm(draws.uniform("pen", 0.3, 0.5)),
            colour=ink_colour(draws, page.channels, page_effects.size("pale_ink")),
        )

    def _undistorted(self, sheet_image: np.ndarray, image: np.ndarray) -> warp.Sheet:
        """Put the page into the image as it is, with whole pixels of margin; returns its pose."""
        flat = self._canvas.flat
        if sheet_image is image:
            return flat
        height, width = self._canvas.size
        y, x = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        image[:] = sheet_image[0, 0]
        image[y : y + height, x : x + width] = sheet_image
        return replace(flat, matrix=warp.scaling(*self._canvas.px_per_mm, x, y))

    def _degrade(
        self,
        sheet_image: np.ndarray,
        draws: Draws,
        page_effects: effects.PageEffects,
        keep_mm: tuple[float, float, float, float],
        image: np.ndarray,
    ) -> tuple[warp.Sheet, tuple[str, ...]]:
        """Damage the sheet, warp it into the image once, then apply what the camera does.

        Returns:
            The warped sheet, and the names of the effects applied.
        """
        page, flat, px_per_mm = self.page, self._canvas.flat, self._canvas.px_per_mm
        pose = self._pose(draws, page_effects)
        undistorted = page_to_image(page, pose.turn % 2 == 1)
        keep = keep_mm if page.keep_leads else None
        matrix = warp.page_matrix(draws, pose, flat.page_mm, (page.height, page.width), undistorted, keep)
        sheet = replace(flat, matrix=matrix, curl=pose.curl)
        applied = ["warp", *_geometric_effects(pose, page_effects)]
        for name, damage_sheet in _ON_THE_SHEET.items():
            if size := page_effects.size(name):
                damage_sheet(sheet_image, draws, size, px_per_mm)
                applied.append(name)
        if threshold := page_effects.raw("threshold"):
            damage.binarize(sheet_image, threshold)
            applied.append("threshold")
        if pitch_mm := page_effects.raw("dither"):
            damage.dither(sheet_image, pitch_mm, px_per_mm)
            applied.append("dither")
        kind = page.effects
        picture = image if self._picture is None else self._picture
        picture[:] = self._desks.window(draws, kind in ("scan", "fax"), kind == "screen", kind == "photo")
        sheet.warp_onto(sheet_image, picture)
        if picture is not image:
            cv2.cvtColor(picture, cv2.COLOR_RGBA2RGB, dst=image)
        self._photograph(image, draws, page_effects, pose, applied)
        return sheet, tuple(applied)

    def _pose(self, draws: Draws, page_effects: effects.PageEffects) -> warp.Pose:
        curl = page_effects.size("curl")
        return warp.Pose(
            turn=1 + draws.integer("turn_size", 3) if page_effects.raw("turn") else 0,
            rotation_deg=page_effects.size("rotation") * warp.normal(draws, "rotation", "rotation_2", 3.0),
            perspective=page_effects.size("perspective"),
            scale=(page_effects.raw("page_scale") or 1.0) * (1 + page_effects.size("crop")),
            shift=page_effects.size("shift"),
            curl=warp.curl_of(draws, curl, PAGES_MM[self.page.paper][0]) if curl else warp.FLAT,
        )

    def _photograph(
        self, image: np.ndarray, draws: Draws, page_effects: effects.PageEffects, pose: warp.Pose, applied: list[str]
    ) -> None:
        """Light, tone, lens, sensor and compression, in physical order; appends their names to ``applied``."""
        shape, channels = image.shape, self.page.channels

        def did(name: str, size: float) -> bool:
            if size:
                applied.append(name)
            return bool(size)

        if did("wrinkle", size := page_effects.size("wrinkle")):
            camera.light(image, damage.facet_shading(draws, min(size, 0.7)))
        if did("crease", size := page_effects.size("crease")):
            camera.light(image, damage.crease_shading(draws, min(size, 0.6), shape))
        if did("ring", size := page_effects.size("ring")):
            camera.light(image, damage.coffee_ring(draws, min(size, 0.8), channels, shape[1] / shape[0]))
        if channels == 3 and did("grade", page_effects.size("grade") > 0.5):
            cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB, dst=image)
        if did("streak", size := page_effects.size("streak")):
            damage.streak(image, draws, size)
        slope = warp.slope(pose, PAGES_MM[self.page.paper][0], camera.FIELD)
        field = camera.light_field(draws, page_effects, channels, slope)
        if field is not None:
            applied.append("light")
            camera.light(image, field)
        curve = camera.tone_curve(draws, page_effects.size("gamma"), page_effects.size("fade"))
        if curve is not None:
            applied.append("tone")
            cv2.LUT(image, curve, dst=image)
        if did("moire", size := page_effects.size("moire")):
            camera.moire(image, draws, size, self._blur_scale)
        if did("blur", size := page_effects.size("blur")):
            camera.blur(image, size * self._blur_scale)
        if did("defocus", size := page_effects.size("defocus")):
            camera.defocus(image, size * self._blur_scale)
        if did("motion", size := page_effects.size("motion")):
            camera.motion_blur(image, size * self._blur_scale, math.pi * draws.unit("motion_angle"))
        if did("downscale", size := page_effects.size("downscale")):
            camera.downscale(image, min(size, 0.7))
        if did("grain", size := page_effects.size("grain")):
            self._cloudy.add(image, size, draws)
        if channels == 3 and did("soft_colour", size := page_effects.size("soft_colour")):
            camera.soften_colour(image, size * self._blur_scale)
        if did("sharpen", size := page_effects.size("sharpen")):
            camera.sharpen(image, size)
        if did("noise", size := page_effects.size("noise")):
            self._noise.add(image, size, draws)
        if did("jpeg", quality := page_effects.raw("jpeg")):
            camera.jpeg(image, 100 - (100 - quality) * self.page.strength)


_ON_THE_SHEET: dict[str, Callable[[np.ndarray, Draws, float, tuple[float, float]], None]] = {
    "writing": damage.handwriting,
    "stamp": damage.stamp_on,
    "thermal": damage.thermal_fade,
    "fold": damage.fold,
    "panels": damage.panels,
    "crumple": damage.crumple,
}


def _geometric_effects(pose: warp.Pose, page_effects: effects.PageEffects) -> list[str]:
    """Effects that were applied before the sheet was damaged: by the pose, and in drawing."""
    sizes = {
        "turn": pose.turn,
        "curl": any(pose.curl),
        "crop": page_effects.size("crop"),
        "rim": page_effects.raw("rim"),
        "print": page_effects.raw("print"),
        "pale_ink": page_effects.size("pale_ink"),
    }
    return [name for name, size in sizes.items() if size]


def _must_keep(style: PageStyle) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 in mm of the traces with labels and pulses."""
    layout, geometry, pulse = style.layout, style.geometry, style.pulse
    wide = marks.pulse_mm(geometry) + 1.0
    stop = geometry.left + TRACE_MM + wide if pulse == "right" else max(geometry.stop(s) for s in layout.strips) + 1.0
    start = geometry.left - (wide if pulse == "left" else 1.0)
    top, bottom = geometry.first - 0.6 * geometry.pitch, geometry.first + (layout.rows - 0.4) * geometry.pitch
    return start, top, stop, bottom


_INKS = ((12, 12, 14), (30, 30, 34), (0, 0, 70), (55, 55, 60), (20, 24, 52), (95, 92, 100))


def ink_colour(draws: Draws, channels: int, pale: float = 0.0) -> np.ndarray:
    """uint8 (C,) colour of pen and lettering, moved towards white by the fraction ``pale``."""
    ink = _INKS[min(int(draws.unit("ink") ** 1.5 * 6), 5)]
    colour = tuple(round(c + (255 - c) * min(pale, 0.7)) for c in ink)
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

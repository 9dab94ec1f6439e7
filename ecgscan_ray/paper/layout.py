"""Layouts as data: where each lead is on the page and which seconds it shows.

Columns follow each other in time and with the rhythm strip, as ECG carts print them; ``.../simultaneous`` shows the same
seconds in every column. A layout that is not in ``LAYOUTS`` is written out as its name, so that ground truth needs no
table: ``I II III | aVR aVL aVF | V1 V2 V3 | V4 V5 V6 + II`` is 3x4+1. A page is measured in millimetres, x to the right
and y down from its upper left corner.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TypeVar

import numpy as np

from ecgscan_ray.config import PageConfig
from ecgscan_ray.errors import ConfigError, near_miss
from ecgscan_ray.recording.leads import LEADS

T = TypeVar("T")

PAGES_MM = {"letter": (279.4, 215.9), "a4": (297.0, 210.0), "strip": (285.0, 112.0)}
"""Width and height of the page, mm, in landscape."""
TRACE_MM = 250.0
"""Width of a full row: 10 s at 25 mm/s."""
PAGE_SECONDS = 10.0
MAX_STRIPS = 16
"""Rows of ``Pages.windows``: the most strips a layout may have."""
BAND_MM = {"letter": (44.0, 12.0), "a4": (44.0, 12.0), "strip": (13.0, 9.0)}
"""Height left free above (header) and below (footer) the rows, mm."""
CHEST = 6
"""The first chest lead's index in ``LEADS``."""
PITCH_FRACTION = 0.93
"""Nominal row pitch as a fraction of the widest that fits."""
LEFT_MM = {"left": 18.0, "none": 14.0, "right": 11.0}
"""Nominal start of the traces by the position of the calibration pulse."""


@dataclass(frozen=True)
class Strip:
    """One lead at one position of the page.

    Attributes:
        lead: Index into ``LEADS``.
        row: Row from the top.
        start_s: First second shown.
        stop_s: Second where it ends.
        x_s: Where it starts on the row, in seconds from the row's start.
        sign: -1 where the page shows the lead inverted (-aVR in Cabrera's order).
        rhythm: A rhythm strip, which repeats a lead over the whole width.
    """

    lead: int
    row: int
    start_s: float
    stop_s: float
    x_s: float
    sign: int = 1
    rhythm: bool = False

    @property
    def label(self) -> str:
        """As printed on the page."""
        return LEADS[self.lead] if self.sign > 0 else "-" + LEADS[self.lead]


@dataclass(frozen=True, eq=False)
class Layout:
    """Strips on rows; each lead once, except for rhythm strips. Compared by identity, so that caches can use it as key."""

    name: str
    rows: int
    columns: int
    strips: tuple[Strip, ...]
    simultaneous: bool = False

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Label of each strip, as printed."""
        return tuple(strip.label for strip in self.strips)

    @cached_property
    def cells(self) -> np.ndarray:
        """float64 (S, 2): start on the row in seconds, row."""
        return np.array([(strip.x_s, strip.row) for strip in self.strips], np.float64)

    @cached_property
    def joints(self) -> np.ndarray:
        """float64 (J, 4): the cells of strips that follow another, each twice, as corners of a box."""
        return np.tile(self.cells[self.cells[:, 0] > 0], 2)

    @cached_property
    def windows(self) -> np.ndarray:
        """float32 (S, 3): lead index, start_s, stop_s."""
        return np.array([(strip.lead, strip.start_s, strip.stop_s) for strip in self.strips], np.float32)


_STANDARD = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
_CABRERA = ("aVL", "I", "-aVR", "II", "aVF", "III", "V1", "V2", "V3", "V4", "V5", "V6")


def make_layout(
    name: str,
    columns: int,
    order: tuple[str, ...] = _STANDARD,
    rhythm: tuple[str, ...] = (),
    simultaneous: bool = False,
) -> Layout:
    """Leads in ``order`` down the columns, then full-width rhythm strips.

    Raises:
        ConfigError: A lead is unknown or doubled, the columns are uneven, or there are too many strips.
    """
    names = [lead.removeprefix("-") for lead in order]
    unknown = [lead for lead in (*names, *rhythm) if lead not in LEADS]
    if unknown:
        raise ConfigError(f"unknown lead '{unknown[0]}'", where=f"layout {name}", fix=near_miss(unknown[0], LEADS))
    doubled = [lead for lead in names if names.count(lead) > 1]
    if doubled or not names:
        fault = f"lead {doubled[0]} occurs twice outside rhythm strips" if doubled else "no lead outside rhythm strips"
        raise ConfigError(fault, where=f"layout {name}")
    if columns < 1 or len(order) % columns or len(order) + len(rhythm) > MAX_STRIPS:
        raise ConfigError(f"{columns} columns and {len(rhythm)} rhythm strips do not fit", where=f"layout {name}")
    rows, cell = len(order) // columns, PAGE_SECONDS / columns
    strips = []
    for index, (lead, lead_name) in enumerate(zip(order, names, strict=True)):
        column, row = divmod(index, rows)
        start = 0.0 if simultaneous else column * cell
        sign = -1 if lead.startswith("-") else 1
        strips.append(Strip(LEADS.index(lead_name), row, start, start + cell, column * cell, sign))
    for row, lead in enumerate(rhythm, start=rows):
        strips.append(Strip(LEADS.index(lead), row, 0.0, PAGE_SECONDS, 0.0, rhythm=True))
    return Layout(name, rows + len(rhythm), columns, tuple(strips), simultaneous)


def _parse_layout(name: str) -> Layout:
    """A layout written out: ``I II III | ... + II``, optionally followed by ``/simultaneous``."""
    text, simultaneous, _ = name.partition("/simultaneous")
    body, _, rhythm = text.partition("+")
    columns = [column.split() for column in body.split("|")]
    if len({len(column) for column in columns}) > 1:
        raise ConfigError("its columns differ in length", where=f"layout {name}")
    order = tuple(lead for column in columns for lead in column)
    return make_layout(name, len(columns), order, tuple(rhythm.split()), bool(simultaneous))


def _all_layouts() -> dict[str, Layout]:
    forms = [
        ("3x4", 4, ()), ("3x4+1", 4, ("II",)), ("3x4+3", 4, ("V1", "II", "V5")), ("6x2", 2, ()), ("6x2+1", 2, ("II",)),
        ("12x1", 1, ()), ("3x4+V1", 4, ("V1",)), ("3x4+V5", 4, ("V5",)),
    ]  # fmt: skip
    layouts = {}
    for name, columns, rhythm in forms:
        layouts[name] = make_layout(name, columns, rhythm=rhythm)
        cabrera = f"{name}/cabrera"
        layouts[cabrera] = make_layout(cabrera, columns, _CABRERA, rhythm)
        if columns > 1:
            simultaneous = f"{name}/simultaneous"
            layouts[simultaneous] = make_layout(simultaneous, columns, rhythm=rhythm, simultaneous=True)
    return layouts


LAYOUTS: dict[str, Layout] = _all_layouts()


@lru_cache(maxsize=256)
def find_layout(name: str) -> Layout:
    """The layout of that name, or the one written out by it.

    Raises:
        ConfigError: There is no such layout; the message names the nearest.
    """
    if name not in LAYOUTS and " " in name.strip():
        return _parse_layout(name)
    if name not in LAYOUTS:
        raise ConfigError(f"no layout named '{name}'", where="page.layouts", fix=near_miss(name, LAYOUTS))
    return LAYOUTS[name]


def positive_weights(weights: dict[T, float], name: str) -> dict[T, float]:
    """Those above 0.

    Raises:
        ConfigError: There is none.
    """
    positive = {value: weight for value, weight in weights.items() if weight > 0}
    if not positive:
        raise ConfigError("nothing has a share above 0", where=f"page.{name}", fix="Give at least one a share above 0.")
    return positive


@lru_cache(maxsize=256)
def timed(name: str, speed_mm_per_s: float) -> Layout:
    """The layout at a paper speed: where 10 s are wider than the page, every strip shows fewer seconds."""
    layout = find_layout(name)
    scale = min(1.0, TRACE_MM / (speed_mm_per_s * PAGE_SECONDS))
    strips = (replace(s, start_s=s.start_s * scale, stop_s=s.stop_s * scale, x_s=s.x_s * scale) for s in layout.strips)
    return layout if scale == 1.0 else replace(layout, strips=tuple(strips))


def windows_of(layout_name: str, speed_mm_per_s: float = 25.0) -> np.ndarray:
    """float32 (S, 3): lead index, start_s, stop_s of every strip."""
    return timed(layout_name, speed_mm_per_s).windows.copy()


@dataclass(frozen=True)
class Geometry:
    """Where the rows of one page are, mm.

    Attributes:
        page_mm: Width and height of the page.
        left: x where the rows start.
        first: y of the first row's zero line.
        pitch: Distance of rows.
        speed: Paper speed, mm/s.
        gain: mm/mV.
        chest: Gain of the chest leads relative to ``gain``.
        reach: How far from its zero line a trace may go, mm; None = to the page's edge.
    """

    page_mm: tuple[float, float]
    left: float
    first: float
    pitch: float
    speed: float
    gain: float
    chest: float = 1.0
    reach: float | None = None

    def gain_of(self, strip: Strip) -> float:
        """mm/mV of the strip, upwards."""
        return strip.sign * self.gain * (self.chest if strip.lead >= CHEST else 1.0)

    def start(self, strip: Strip) -> float:
        """x of the strip's first second, mm."""
        return self.left + strip.x_s * self.speed

    def stop(self, strip: Strip) -> float:
        """x where the strip ends, mm."""
        return self.start(strip) + (strip.stop_s - strip.start_s) * self.speed

    def baseline(self, strip: Strip) -> float:
        """y of 0 mV, mm."""
        return self.first + strip.row * self.pitch

    def origins(self, layout: Layout) -> np.ndarray:
        """float64 (S, 2) mm of every strip's first second on 0 mV."""
        return layout.cells * (self.speed, self.pitch) + (self.left, self.first)

    def joints(self, layout: Layout) -> np.ndarray:
        """float64 (J, 4) mm: the origins of strips that follow another, each as a box without width."""
        return layout.joints * ((self.speed, self.pitch) * 2) + ((self.left, self.first) * 2)


def layout_geometry(
    page: PageConfig,
    layout: Layout,
    pulse: str,
    pitch: float = 0.0,
    top: float = 0.0,
    left: float = 0.0,
    header: float = 0.0,
) -> Geometry:
    """The rows on the page.

    Args:
        page: Settings.
        layout: Layout at the paper speed.
        pulse: Position of the calibration pulse: left, right or none.
        pitch: -1 (narrow rows) .. 1 (wide), 0 = nominal.
        top: -1 (rows high on the page) .. 1 (low).
        left: -1 .. 1, 5 mm to either side.
        header: 0 (nominal) .. 1 (as deep as ``page.max_extra_header`` allows).

    Returns:
        With the settings' speed and gain.
    """
    width, height = PAGES_MM[page.paper]
    above, below = BAND_MM[page.paper]
    band = height - above - below
    extra = page.max_extra_header * header * band
    above, band = above + extra, band - extra
    fraction = PITCH_FRACTION + (1 - PITCH_FRACTION) * pitch
    row_pitch = min(45.0, fraction * band / layout.rows)
    slack = band - row_pitch * layout.rows
    first = above + slack * (1 + top) / 2 + row_pitch / 2
    margin = (width - PAGES_MM["letter"][0]) / 2
    return Geometry(
        (width, height),
        margin + LEFT_MM[pulse] + 5.0 * left,
        first,
        row_pitch,
        page.paper_speed_mm_per_s,
        page.gain_mm_per_mv,
    )


def page_to_image(page: PageConfig, turned: bool = False) -> tuple[float, float, float, float]:
    """px/mm in x and y, and x and y of the undistorted page's corner in the image, px; ``turned`` = portrait."""
    width, height = PAGES_MM[page.paper][:: -1 if turned else 1]
    sx, sy = page.width / width, page.height / height
    if page.fit == "stretch":
        return sx, sy, 0.0, 0.0
    scale = min(sx, sy)
    return scale, scale, (page.width - scale * width) / 2, (page.height - scale * height) / 2


def frame_mm(layout: Layout, geometry: Geometry) -> np.ndarray:
    """Corners of the trace frame on the page, float64 (4, 2) mm: start and end of the first row, end and start of the last.

    A row is 10 s wide at 25 mm/s; the frame ends on the zero lines of the outer rows.
    """
    left, first, right = geometry.left, geometry.first, geometry.left + TRACE_MM
    last = first + max(layout.rows - 1, 1) * geometry.pitch
    return np.array([(left, first), (right, first), (right, last), (left, last)])


def _mean_geometry(page: PageConfig, layout: Layout) -> Geometry:
    """The mean page: over positions of the pulse, and extra headers (on half of the pages, 0 to jitter)."""
    geometry = layout_geometry(page, layout, "left", header=page.jitter / 4)
    return replace(geometry, left=geometry.left - 2.0)


def nominal_frame(page: PageConfig, layout_name: str) -> np.ndarray:
    """Corners of the trace frame on the undistorted page, float32 (4, 2), fractions of the image."""
    layout = timed(layout_name, page.paper_speed_mm_per_s)
    geometry = _mean_geometry(page, layout)
    sx, sy, ox, oy = page_to_image(page)
    corners = frame_mm(layout, geometry) * (sx, sy) + (ox, oy)
    return (corners / (page.width, page.height)).astype(np.float32)


def strip_boxes(page: PageConfig, layout_name: str) -> np.ndarray:
    """float32 (S, 4): x0, y0, x1, y1 of every strip as fractions of the image, nominal and undistorted."""
    layout = timed(layout_name, page.paper_speed_mm_per_s)
    geometry = _mean_geometry(page, layout)
    sx, sy, ox, oy = page_to_image(page)
    boxes = [
        (
            geometry.start(s),
            geometry.baseline(s) - geometry.pitch / 2,
            geometry.stop(s),
            geometry.baseline(s) + geometry.pitch / 2,
        )
        for s in layout.strips
    ]
    scale = np.array([sx / page.width, sy / page.height] * 2)
    return (np.array(boxes) * scale + np.array([ox / page.width, oy / page.height] * 2)).astype(np.float32)

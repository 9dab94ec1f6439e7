"""Grids by area coverage: a bank of styles, each drawn once slightly larger than the page and cut at a random phase.

Lines thinner than a pixel become a tint instead of aliasing; a new grid for each page would cost more than all traces.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from ecgscan_ray.paper.key import Draws

MAJOR_MM = 5.0
BANK_BYTES = 48 << 20
"""Memory of one renderer's bank."""
STYLES = 40
"""Most styles in a bank."""
_BANK_SEED = 0x6772696473

_COLOURS = {
    "red": ((230, 130, 130), (250, 205, 205)),
    "orange": ((240, 170, 120), (252, 220, 190)),
    "green": ((130, 180, 140), (205, 230, 210)),
    "blue": ((130, 150, 210), (205, 215, 240)),
    "grey": ((150, 150, 150), (215, 215, 215)),
    "brown": ((110, 50, 47), (150, 107, 101)),
    "black": ((60, 60, 64), (150, 150, 150)),
}
_COLOUR_WEIGHTS = {"red": 0.42, "orange": 0.14, "green": 0.07, "blue": 0.07, "grey": 0.14, "brown": 0.04, "black": 0.12}
PRINTS = (
    ("full", 0.16, 0.1),
    ("full", 0.25, 0.1),
    ("full", 0.34, 0.12),
    ("full", 0.42, 0.16),
    ("full", 0.2, 0.2),
    ("dots", 0.22, 0.1),
)
"""Kind, and widths of 5 mm and 1 mm lines in mm, of grids whose colours are drawn per page."""
_PRINT_WEIGHTS = dict(enumerate((0.16, 0.24, 0.24, 0.18, 0.08, 0.1)))
_HUE_WEIGHTS = {"red": 0.56, "orange": 0.15, "green": 0.05, "blue": 0.06, "grey": 0.05, "brown": 0.08, "black": 0.05}
_COVERAGE_STEPS = 16
"""Steps of coverage of each kind of line in these grids."""
_KIND_WEIGHTS = {"full": 0.68, "dots": 0.1, "major": 0.16, "none": 0.06}


@dataclass(frozen=True)
class GridStyle:
    """Colours (sRGB 0..255) and line widths (mm) of a grid; kinds are full, dots, major (5 mm lines only) and none."""

    kind: str
    paper: tuple[float, ...]
    major: tuple[float, ...]
    minor: tuple[float, ...]
    major_mm: float
    minor_mm: float


@lru_cache(maxsize=STYLES)
def grid_style(index: int) -> GridStyle:
    """The style with that number: the same in every bank."""
    draws = Draws(_BANK_SEED + index)
    kind = draws.pick("style", _KIND_WEIGHTS)
    major, minor = _COLOURS[draws.pick("ink", _COLOUR_WEIGHTS)]
    white = 252.0 + 6.0 * draws.signed("paper_tone") - 4.0
    warm = draws.uniform("cast_blue", 0.0, 10.0)
    paper = (white, white - 0.4 * warm, white - warm)
    strength = draws.uniform("fade_size", 0.6, 1.1)  # faint prints to strong ones

    def shade(colour: tuple[int, ...]) -> tuple[float, ...]:
        return tuple(min(255.0, p + (c - p) * strength) for p, c in zip(paper, colour, strict=True))

    return GridStyle(
        kind, paper, shade(major), shade(minor), draws.uniform("pen", 0.2, 0.32), draws.uniform("gap", 0.09, 0.16)
    )


def print_colours(draws: Draws, darkness: float) -> np.ndarray:
    """float64 (3, 3) RGB of paper, 5 mm lines and 1 mm lines of a grid whose colours are drawn per page.

    Hues lie between those of the known grids; either kind of line can be as dark as ink or nearly invisible.

    Args:
        draws: The page's numbers.
        darkness: Of the 5 mm lines, 0 = none.
    """
    white = draws.uniform("print_paper", 238.0, 255.0)
    warm = draws.uniform("print_warm", -8.0, 7.0)
    paper = np.array([white + 0.3 * warm, white, white - warm])
    base = np.array(_COLOURS[draws.pick("print_hue", _HUE_WEIGHTS)][0], np.float64)
    # the same hue, from a pale tint to the darkest that a printer gives
    darkest = base - draws.unit("print_tone") ** 0.7 * max(0.0, base.min() - 60.0)
    strong = paper + (darkest - paper) * min(1.0, darkness)
    fine = draws.unit("print_minor")  # office printers lose the 1 mm lines, ECG recorders do not
    weak = paper + (strong - paper) * (0.15 * fine if fine < 0.4 else 0.06 + 0.9 * ((fine - 0.4) / 0.6) ** 2)
    return np.clip(np.stack([paper, strong, weak]), 0.0, 255.0)


def luma(colour: tuple[float, ...]) -> float:
    """Grey value of an sRGB colour."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def line_cover(count: int, px_per_mm: float, every_mm: float, width_mm: float) -> np.ndarray:
    """float64 (count,) coverage of each pixel by lines of ``width_mm`` centred on whole multiples of ``every_mm``."""
    pitch, half = every_mm * px_per_mm, width_mm * px_per_mm / 2

    def inked(x: np.ndarray) -> np.ndarray:
        """Length of line left of x."""
        whole = np.floor((x + half) / pitch)
        return whole * 2 * half + np.minimum(x + half - whole * pitch, 2 * half)

    edges = inked(np.arange(count + 1, dtype=np.float64))
    return np.clip(edges[1:] - edges[:-1], 0.0, 1.0)


def grid_cover(
    kind: str, widths_mm: tuple[float, float], height: int, width: int, sx: float, sy: float
) -> tuple[np.ndarray, np.ndarray]:
    """float32 (height, width) coverage of each pixel by the 5 mm lines, and by the 1 mm lines or dots between them."""
    major = np.zeros((height, width), np.float32)
    minor = np.zeros((height, width), np.float32)
    if kind != "none":
        cx, cy = line_cover(width, sx, MAJOR_MM, widths_mm[0]), line_cover(height, sy, MAJOR_MM, widths_mm[0])
        major = (1 - (1 - cx)[None, :] * (1 - cy)[:, None]).astype(np.float32)
    if kind in ("full", "dots"):
        wide = widths_mm[1] if kind == "full" else 0.3
        cx, cy = line_cover(width, sx, 1.0, wide), line_cover(height, sy, 1.0, wide)
        both = cx[None, :] * cy[:, None]
        minor = (both if kind == "dots" else cx[None, :] + cy[:, None] - both).astype(np.float32)
    return major, minor * (1 - major)


def draw_grid(style: GridStyle, height: int, width: int, sx: float, sy: float, channels: int) -> np.ndarray:
    """uint8 (height, width, channels) paper with its grid; a fourth channel stays empty for the warp."""
    image = np.zeros((height, width, channels), np.uint8)
    major, minor = grid_cover(style.kind, (style.major_mm, style.minor_mm), height, width, sx, sy)
    for channel in range(min(channels, 3)):
        paper, strong, weak = (
            (luma(c) if channels == 1 else c[channel]) for c in (style.paper, style.major, style.minor)
        )
        plane = np.float32(paper) + major * np.float32(strong - paper) + minor * np.float32(weak - paper)
        image[..., channel] = np.clip(plane + np.float32(0.5), 0, 255).astype(np.uint8)
    return image


class GridBank:
    """Grid styles at one size and scale, drawn when first used.

    Args:
        height: Rows of the page.
        width: Columns of the page.
        sx: px/mm in x; ``sy`` in y.
        channels: 1, 3, or 4 (RGB and an empty channel; OpenCV warps these faster).
        soften: For pages that a warp shrinks: blur each line slightly, so that the warp's samples do not step over
            lines of one pixel and break them up.
    """

    def __init__(self, height: int, width: int, sx: float, sy: float, channels: int, soften: bool = False) -> None:
        self._soften = soften
        self._size, self._scale, self._channels = (height, width), (sx, sy), channels
        self._margin = (int(np.ceil(MAJOR_MM * sy)), int(np.ceil(MAJOR_MM * sx)))
        style_bytes = (height + self._margin[0]) * (width + self._margin[1]) * channels
        self.styles = max(4, min(STYLES, BANK_BYTES // style_bytes))
        self._drawn: dict[int, np.ndarray] = {}
        self._covers: dict[int, np.ndarray] = {}

    def window(self, index: int, phase_x: float, phase_y: float) -> tuple[np.ndarray, tuple[float, float] | None]:
        """A read-only view, uint8 (H, W, C), of style ``index`` at a phase in [0, 1) of the 5 mm box, and x and y of its
        first 5 mm lines, mm from the left and upper edge; None where it has no lines."""
        if index not in self._drawn:
            height, width = self._size[0] + self._margin[0], self._size[1] + self._margin[1]
            grid = draw_grid(grid_style(index), height, width, *self._scale, self._channels)
            self._drawn[index] = self._softened(grid)
        part, first = self._part(phase_x, phase_y)
        return self._drawn[index][part], first if grid_style(index).kind != "none" else None

    def _softened(self, grid: np.ndarray) -> np.ndarray:
        spread = np.array([0.25, 0.5, 0.25])
        return cv2.sepFilter2D(grid, -1, spread, spread).reshape(grid.shape) if self._soften else grid

    def _part(self, phase_x: float, phase_y: float) -> tuple[tuple[slice, slice], tuple[float, float]]:
        """The part of a grid that a page shows, and x and y of its first 5 mm lines, mm."""
        y, x = int(phase_y * self._margin[0]), int(phase_x * self._margin[1])
        first = (round(-x / self._scale[0] % MAJOR_MM, 4), round(-y / self._scale[1] % MAJOR_MM, 4))
        return (slice(y, y + self._size[0]), slice(x, x + self._size[1])), first

    def printed(self, draws: Draws, darkness: float, out: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
        """Draw a grid whose colours are drawn per page into ``out``, uint8 (H, W, C).

        The bank keeps the lines' coverage of each pixel; a lookup table of colours, one entry per pair of coverages,
        turns it into a page, so that memory does not grow with the number of prints.

        Returns:
            uint8 (C,) colour of the paper, and x and y of the first 5 mm lines, mm.
        """
        index = draws.pick("style", _PRINT_WEIGHTS)
        if index not in self._covers:
            height, width = self._size[0] + self._margin[0], self._size[1] + self._margin[1]
            kind, *widths = PRINTS[index]
            planes = grid_cover(kind, (widths[0], widths[1]), height, width, *self._scale)
            major, minor = (np.rint(self._softened(plane) * (_COVERAGE_STEPS - 1)).astype(np.uint8) for plane in planes)
            self._covers[index] = major * np.uint8(_COVERAGE_STEPS) + minor
        colours = print_colours(draws, darkness)
        paper, strong, weak = colours @ (0.299, 0.587, 0.114) if self._channels == 1 else colours
        cover = np.arange(_COVERAGE_STEPS) / (_COVERAGE_STEPS - 1)
        shades = paper + np.multiply.outer(cover, strong - paper)[:, None] + np.multiply.outer(cover, weak - paper)
        shades = (np.clip(shades, 0, 255) + 0.5).astype(np.uint8).reshape(_COVERAGE_STEPS**2, -1)
        part, first = self._part(draws.unit("phase_x"), draws.unit("phase_y"))
        code = self._covers[index][part]
        if self._channels == 4:  # all channels of a pixel at once
            table = np.column_stack([shades, np.zeros(len(shades), np.uint8)]).view(np.uint32)[:, 0]
            np.take(table, code, out=out.view(np.uint32)[..., 0], mode="clip")
            return np.append(shades[0], np.uint8(0)), first
        np.take(shades, code, axis=0, out=out, mode="clip")
        return shades[0], first

    def paper(self, index: int) -> np.ndarray:
        """uint8 (C,) colour of style ``index`` between its lines."""
        white = grid_style(index).paper
        shades = [luma(white)] if self._channels == 1 else [*white, -0.5][: self._channels]
        return (np.array(shades) + 0.5).astype(np.uint8)

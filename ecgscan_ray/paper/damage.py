"""Damage to the sheet: folds, creases, wrinkles, stains, handwriting, stamps, thermal fading, copiers and faxes.

What is on the sheet is drawn on the canvas before the warp, so that it moves with the page; soft shading of bent paper is
multiplied into the picture afterwards, which is cheaper. Everything is derived from the page's key.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np

from ecgscan_ray.paper import marks
from ecgscan_ray.paper.camera import UNIT, light
from ecgscan_ray.paper.key import Draws, uniforms
from ecgscan_ray.paper.trace import Ink

_PENS = ((28, 42, 120), (18, 22, 60), (24, 24, 26), (170, 30, 40))
_STAMPS = ((150, 30, 50), (40, 50, 130), (60, 40, 110), (40, 40, 44))
_STAMPED = ("RECEIVED", "COPY", "SCANNED", "FILED", "CARDIOLOGY", "DUPLICATE", "ARCHIVE", "CHECKED")
_COFFEE = np.array([0.55, 0.8, 1.0])
"""How much of each colour a coffee stain absorbs, relative to blue."""


def _extra_uniforms(draws: Draws, salt: int, count: int) -> np.ndarray:
    """float64 (count,) further uniforms of the page, for effects that need more numbers than they have slots."""
    return uniforms(np.array([draws.key ^ (salt << 56)], np.uint64), count)[0]


def _colour(rgb: tuple[int, ...], channels: int) -> np.ndarray:
    """float32 (C,) of an sRGB colour on a canvas of 1, 3 or 4 channels."""
    grey = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]
    return np.array([grey] if channels == 1 else [*rgb, 0][:channels], np.float32)


def _blend(canvas: np.ndarray, cover: np.ndarray, corner: tuple[int, int], colour: np.ndarray, opacity: float) -> None:
    """Ink a part of the canvas: uint8 (h, w) cover, upper left corner at row and column ``corner``, cut at the edges."""
    y, x = corner
    y0, x0 = max(0, y), max(0, x)
    y1, x1 = min(canvas.shape[0], y + cover.shape[0]), min(canvas.shape[1], x + cover.shape[1])
    if y0 >= y1 or x0 >= x1:
        return
    part = canvas[y0:y1, x0:x1]
    weight = cover[y0 - y : y1 - y, x0 - x : x1 - x, None].astype(np.float32) * (opacity / 255)
    part[:] = np.floor(part + (colour - part) * weight + 0.5).astype(np.uint8)


def handwriting(canvas: np.ndarray, draws: Draws, size: float, px_per_mm: tuple[float, float]) -> None:
    """Handwriting: a few illegible words in pen, some underlined or circled. ``size`` = opacity."""
    numbers = _extra_uniforms(draws, 1, 64)
    tall = 4.0 + 4.0 * numbers[0]  # mm, of a line of writing
    lines: list[np.ndarray] = []
    n = 8
    for _ in range(1 + int(3 * numbers[1])):
        letters = 4 + int(9 * numbers[n])
        t = np.linspace(0.0, letters, 12 * letters + 1)
        heights = np.interp(t, np.arange(letters + 1), 0.25 + 0.75 * numbers[n + 1 : n + 2 + letters] ** 2)
        along = 0.8 * t + 0.24 * np.sin(2 * math.pi * t + 6 * numbers[n]) + 0.15 * heights
        up = heights * (0.5 - 0.5 * np.cos(2 * math.pi * t)) + 0.06 * np.sin(1.3 * t)
        lines.append(np.stack([along, -up + 1.25 * len(lines)], -1))
        n += letters + 2
    wide = max(line[:, 0].max() for line in lines)
    if numbers[2] < 0.25:  # underlined
        lines.append(np.array([(0.0, len(lines) - 0.7), (wide, len(lines) - 0.75 + 0.2 * numbers[3])]))
    elif numbers[2] < 0.4:  # circled
        turn = np.linspace(0, 6.6, 50)
        middle = (len(lines) - 1) * 0.6 - 0.3
        ring = np.stack([wide * (0.5 + 0.62 * np.cos(turn)), middle + (0.5 + len(lines)) * 0.75 * np.sin(turn)], -1)
        lines.append(ring)
    height, width = canvas.shape[0] / px_per_mm[1], canvas.shape[1] / px_per_mm[0]
    corner = np.array([draws.unit("writing_x") * 0.8 * width, (0.08 + 0.87 * draws.unit("writing_y") ** 1.5) * height])
    tilt = 0.25 * (numbers[4] - 0.5)
    turned = [line @ np.array([(1.0, tilt), (0.25 * numbers[5], 1.0)]) for line in lines]
    points = [((line * tall * 0.6 + corner) * px_per_mm) for line in turned]
    low = np.floor(np.min([p.min(0) for p in points], 0)).astype(int) - 6
    high = np.ceil(np.max([p.max(0) for p in points], 0)).astype(int) + 7
    low, high = np.maximum(low, 0), np.minimum(high, (canvas.shape[1], canvas.shape[0]))
    if (low >= high).any():
        return
    cover = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
    thick = max(1, round((0.35 + 0.35 * numbers[6]) * math.sqrt(px_per_mm[0] * px_per_mm[1])))
    fixed = [np.round((p - low) * 16).astype(np.int32) for p in points]
    cv2.polylines(cover, fixed, False, 255, thick, cv2.LINE_AA, 4)
    colour = _colour(_PENS[int(numbers[7] * len(_PENS))], canvas.shape[2])
    _blend(canvas, cover, (int(low[1]), int(low[0])), colour, min(1.0, size))


def stamp_on(canvas: np.ndarray, draws: Draws, size: float, px_per_mm: tuple[float, float]) -> None:
    """A rubber stamp: a word and a made-up date in a frame, unevenly inked. ``size`` = opacity."""
    numbers = _extra_uniforms(draws, 2, 96)
    word = _STAMPED[int(numbers[0] * len(_STAMPED))]
    date = f"{1 + int(28 * numbers[1]):02d}.{1 + int(12 * numbers[2]):02d}.{1995 + int(30 * numbers[3])}"
    sx, sy = px_per_mm
    cap = 3.0 + 2.5 * numbers[4]
    face = marks.face_at("bold", cap, sx, sy)
    text_wide = max(face.width(word), face.width(date))
    wide, tall = int(text_wide + 2 * cap * sx), int(4.6 * cap * sy)
    ink = Ink(tall, wide, 2)
    starts = [((wide - face.width(line)) / 2, y * cap * sy) for line, y in ((word, 1.9), (date, 3.7))]
    ink.text(face.pixels, face.table, (word, date), np.array(starts))
    rim = 0.25 * cap
    for x0, y0, x1, y1 in ((0, 0, wide, rim * sy), (0, tall - rim * sy, wide, tall)):
        ink.boxes(np.array([[x0, y0, x1, y1], [x0, y0, x1, y1]], np.float64))
    ink.boxes(np.array([[0.0, 0.0, rim * sx, tall], [wide - rim * sx, 0.0, wide, tall]]))
    angle = math.radians(40 * (numbers[5] - 0.5))
    cos, sin = math.cos(angle), math.sin(angle)
    turn = np.array([(cos, -sin * sx / sy), (sin * sy / sx, cos)])  # a turn in mm
    box = np.abs(turn) @ (wide, tall)
    shift = box / 2 - turn @ (wide / 2, tall / 2)
    out = (int(box[0]) + 1, int(box[1]) + 1)
    cover = cv2.warpAffine(ink.cover(), np.column_stack([turn, shift]), out, flags=cv2.INTER_LINEAR)
    patchy = cv2.resize(numbers[16:80].reshape(8, 8).astype(np.float32), out, interpolation=cv2.INTER_LINEAR)
    cover = (cover * np.clip(1.7 * patchy, 0.15, 1)).astype(np.uint8)
    corner = (
        int((0.02 + 0.8 * draws.unit("stamp_y")) * canvas.shape[0]),
        int((0.02 + 0.8 * draws.unit("stamp_x")) * canvas.shape[1]),
    )
    colour = _colour(_STAMPS[int(numbers[6] * len(_STAMPS))], canvas.shape[2])
    _blend(canvas, cover, corner, colour, min(1.0, size))


def thermal_fade(canvas: np.ndarray, draws: Draws, size: float, px_per_mm: tuple[float, float]) -> None:
    """Thermal print that faded in cloudy patches and in the print head's bands. ``size`` = largest fraction of ink lost."""
    numbers = _extra_uniforms(draws, 3, 64 + 24).astype(np.float32)
    cloud = cv2.resize(numbers[:64].reshape(8, 8), (24, 24), interpolation=cv2.INTER_LINEAR)
    lost = np.clip(0.75 * cloud + 0.35 * numbers[64:, None] - 0.05, 0, 1)
    cv2.bitwise_not(canvas, dst=canvas)
    light(canvas, 1 - min(0.8, size) * lost[..., None])
    cv2.bitwise_not(canvas, dst=canvas)


def binarize(canvas: np.ndarray, threshold: float) -> None:
    """Make the sheet black below the grey value ``threshold`` and white above."""
    channels = canvas.shape[2]
    to_grey = cv2.COLOR_RGBA2GRAY if channels == 4 else cv2.COLOR_RGB2GRAY
    grey = canvas if channels == 1 else cv2.cvtColor(canvas, to_grey)
    _, black = cv2.threshold(grey, threshold, 250, cv2.THRESH_BINARY)
    cv2.merge([black] * channels, dst=canvas)


@lru_cache(maxsize=1)
def _scatter() -> np.ndarray:
    """float64 (64, 64) thresholds in [0, 1) whose dots keep apart from each other at any grey, so that no cell is visible."""
    loose = uniforms(np.arange(64, dtype=np.uint64) + np.uint64(0x646F7473 << 8), 64)
    crowded = sum(np.roll(loose, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1))
    return (np.argsort(np.argsort((loose - crowded / 9).ravel())) / 4096.0).reshape(64, 64)


def dither(canvas: np.ndarray, pitch_mm: float, scale: tuple[float, float]) -> None:
    """Make the sheet black dots on white, ``pitch_mm`` apart at ``scale`` px/mm, as two-level printers show grey."""
    grey = canvas if canvas.shape[2] == 1 else cv2.cvtColor(np.ascontiguousarray(canvas[..., :3]), cv2.COLOR_RGB2GRAY)
    wide, high = (max(1, round(pitch_mm * along)) for along in scale)
    cell = np.kron(40.0 + 195.0 * _scatter(), np.ones((high, wide))).astype(np.uint8)
    times = -(-canvas.shape[0] // cell.shape[0]), -(-canvas.shape[1] // cell.shape[1])
    thresholds = np.tile(cell, times)[: canvas.shape[0], : canvas.shape[1]]
    canvas[:] = np.where(grey.reshape(thresholds.shape) > thresholds, np.uint8(252), np.uint8(20))[..., None]


def blank_margin(canvas: np.ndarray, paper: np.ndarray, width_mm: float, scale: tuple[float, float]) -> None:
    """Paint over the grid up to ``width_mm`` from the edges with ``paper`` uint8 (C,), at ``scale`` px/mm."""
    x, y = (max(1, round(width_mm * along)) for along in scale)
    for part in (canvas[:y], canvas[-y:], canvas[:, :x], canvas[:, -x:]):
        part[:] = paper


def crease_shading(draws: Draws, size: float, shape: tuple[int, ...]) -> np.ndarray:
    """float64 (h, w, 1) brightness factor of short creases: a dark line next to a bright one."""
    numbers = _extra_uniforms(draws, 4, 60)
    scale = min(1.0, 640 / max(shape[:2]))
    height, width = round(shape[0] * scale), round(shape[1] * scale)
    light = np.full((height, width), UNIT, np.float32)
    for n in range(2 + int(6 * numbers[0])):
        x, y, angle, long, deep, bend = numbers[6 * n + 4 : 6 * n + 10]
        half = (0.08 + 0.3 * long) * max(height, width) / 2
        ahead = np.array([math.cos(math.pi * angle), math.sin(math.pi * angle)])
        across = np.array([-ahead[1], ahead[0]])
        t = np.array([-1.0, -0.3, 0.3, 1.0])
        path = np.array([x * width, y * height]) + half * (
            t[:, None] * ahead + 0.12 * (bend - 0.5) * np.cos(3 * t)[:, None] * across
        )
        strength = size * (0.4 + 0.6 * deep)
        for aside, change in ((0.0, -strength), (1.0, 0.45 * strength)):
            points = np.round((path + aside * across) * 16).astype(np.int32)
            cv2.polylines(light, [points], False, UNIT * (1 + change), 1, cv2.LINE_8, 4)
    return cv2.GaussianBlur(light, (3, 3), 0.7)[..., None].astype(np.float64) / UNIT


def coffee_ring(draws: Draws, size: float, channels: int, aspect: float) -> np.ndarray:
    """float64 (160, 160, C) brightness factor of a coffee cup's ring on a page ``aspect`` times as wide as high."""
    numbers = _extra_uniforms(draws, 5, 8)
    light, wide = np.ones((160, 160, channels)), 0.14 + 0.05 * numbers[2]
    rows, columns = (
        slice(max(0, int(160 * (middle - reach))), min(160, int(160 * (middle + reach)) + 1))
        for middle, reach in (
            (numbers[1], wide + 0.05),
            (numbers[0], (wide + 0.05) / aspect),
        )  # unchanged beyond
    )
    y, x = np.mgrid[rows, columns] / 160.0
    x, y = (x - numbers[0]) * aspect, y - numbers[1]
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    rim = (radius - wide - 0.004 * np.sin(3 * angle + 6 * numbers[3])) / 0.008
    worn = 0.55 + 0.45 * np.sin(angle + 6 * numbers[4])
    cover = size * (worn * np.exp(-(rim**2)) + 0.15 * (rim < 0) + 0.08 * np.exp(-((rim + 2.5) ** 2)))
    light[rows, columns] -= cover[..., None] * (_COFFEE if channels == 3 else _COFFEE[1:2])
    return light


def facet_shading(draws: Draws, size: float) -> np.ndarray:
    """float64 (128, 128, 1) brightness factor of crumpled paper: facets, each shaded by its own tilt."""
    shade = _facets(draws.integer("wrinkle_kind", 6))
    shade = shade[:: 1 if draws.chance("wrinkle_x", 0.5) else -1, :: 1 if draws.chance("wrinkle_y", 0.5) else -1]
    return 1.0 - size * shade[:, :, None]


@lru_cache(maxsize=8)
def _facets(kind: int) -> np.ndarray:
    numbers = uniforms(np.arange(14 + 8 * kind, dtype=np.uint64) + np.uint64((kind + 1) << 33), 5)
    y, x = np.mgrid[0:128, 0:128] / 128.0
    stretch = 0.4 + 1.2 * numbers[0, 4]  # long folds on some, round facets on others
    far = (x[..., None] - numbers[:, 0]) ** 2 * stretch + (y[..., None] - numbers[:, 1]) ** 2 / stretch
    near = far.argmin(-1)
    tilt = 3.0 * ((x - numbers[near, 0]) * (numbers[near, 2] - 0.5) + (y - numbers[near, 1]) * (numbers[near, 3] - 0.5))
    return np.clip(0.6 * numbers[near, 4] + tilt, -0.15, 1.0)


FIELD_PX_PER_MM = 2.0
"""Resolution of the shading of bent paper."""
_SHEET_MM = (280.0, 212.0)
"""Width and height for which the shading is computed; it is stretched over the sheet."""
_WARM = np.array([-0.35, 0.0, 0.65, 0.0])
"""How much more of each colour shading in warm light absorbs."""
BENDS = 8
"""Patterns of each kind of bending; mirrored and turned they are four times as many."""


def crumple(canvas: np.ndarray, draws: Draws, size: float, px_per_mm: tuple[float, float]) -> None:
    """A sheet that was crumpled and smoothed: facets with sharp ridges. ``size`` = contrast."""
    _shade(canvas, draws, size, _fold_shading("crumple", draws.integer("crumple_kind", 4 * BENDS) // 4), "crumple_kind")


def panels(canvas: np.ndarray, draws: Draws, size: float, px_per_mm: tuple[float, float]) -> None:
    """A folded sheet, opened again: panels, each shaded by its angle. ``size`` = contrast."""
    _shade(canvas, draws, size, _fold_shading("panels", draws.integer("panels_kind", 4 * BENDS) // 4), "panels_kind")


def _shade(canvas: np.ndarray, draws: Draws, size: float, bent: np.ndarray, slot: str) -> None:
    """Multiply the shading of a bent sheet into the canvas; shaded parts are warmer or cooler."""
    turn, channels = draws.integer(slot, 4 * BENDS) % 4, canvas.shape[2]
    bent = np.ascontiguousarray(bent[:: 1 if turn % 2 else -1, :: 1 if turn // 2 else -1])
    hue = 1 + draws.uniform("shade_hue", -0.3, 1.0) * _WARM if channels > 1 else np.ones(1)
    level = (np.arange(256) - 128.0) / 127.0
    gains = np.clip((1 + min(size, 0.6) * np.multiply.outer(level, hue)) * UNIT + 0.5, 0, 255).astype(np.uint8)
    if channels == 4:
        nodes = np.take(gains.view(np.uint32)[:, 0], bent).view(np.uint8).reshape(*bent.shape, 4)
    else:
        nodes = np.take(gains[:, :channels], bent, axis=0)
    gain = cv2.resize(nodes, (canvas.shape[1], canvas.shape[0]), interpolation=cv2.INTER_LINEAR)
    cv2.multiply(canvas, gain.reshape(canvas.shape), dst=canvas, scale=1 / UNIT)


@lru_cache(maxsize=2 * BENDS)
def _fold_shading(kind: str, index: int) -> np.ndarray:
    """uint8 (h, w) brightness of a bent sheet, 128 = as on a flat one.

    Each fold changes the paper's slope on either side; the slope decays with distance, so that between folds there are
    facets with a gradient. Ridges are slightly brighter.
    """
    numbers = iter(uniforms(np.array([(0x62656E64 + (index << 8)) ^ (len(kind) << 40)], np.uint64), 4096)[0].tolist())
    draw = numbers.__next__
    width, height = (round(side * FIELD_PX_PER_MM) for side in _SHEET_MM)
    light = np.zeros((height, width), np.float32)
    if kind == "panels":
        folds = _panel_folds(index, draw)
    else:
        few = 25 + int(70 * (index / (BENDS - 1)) ** 1.5)
        folds = [
            (draw() * _SHEET_MM[0], draw() * _SHEET_MM[1], math.pi * draw(), 8.0 + 60.0 * draw() ** 2,
             4.0 + 26.0 * draw() ** 2, (0.35 + 0.65 * draw()) * (1 if draw() < 0.5 else -1))
            for _ in range(few)
        ]  # fmt: skip
    for x, y, angle, half, reach, steep in folds:
        box = half + 2.5 * reach
        x0, x1 = (int(np.clip((x + sign * box) * FIELD_PX_PER_MM, 0, width)) for sign in (-1, 1))
        y0, y1 = (int(np.clip((y + sign * box) * FIELD_PX_PER_MM, 0, height)) for sign in (-1, 1))
        if x0 >= x1 or y0 >= y1:
            continue
        across, down = (
            (np.arange(low, high, dtype=np.float32) + 0.5) / FIELD_PX_PER_MM - at
            for low, high, at in ((x0, x1, x), (y0, y1, y))
        )
        along = np.add.outer(down * math.sin(angle), across * math.cos(angle))
        aside = np.add.outer(down * math.cos(angle), -across * math.sin(angle))
        aside += 1.5 * draw() * np.sin(along * (0.05 + 0.1 * draw()))  # no fold is quite straight
        far = np.abs(aside)
        facet = np.clip(aside / 0.4, -1, 1) * np.exp(-far / reach) + (0.5 * draw()) * np.clip(1 - far / 0.7, 0, 1)
        ends = np.clip((half - np.abs(along)) / (0.5 * half), 0, 1) if half < 200 else 1.0
        light[y0:y1, x0:x1] += (steep * facet * ends).astype(np.float32)
    return np.floor(np.tanh(light) * 127 + 128.5).astype(np.uint8)


def _panel_folds(index: int, draw: Callable[[], float]) -> list[tuple[float, float, float, float, float, float]]:
    """Folds over the whole sheet: parallel, as for an envelope, crossed, or one at any angle, e.g. a dog-ear."""
    kind, folds = index % 4, []
    middles = {0: (1 / 3, 2 / 3), 1: (0.5,), 2: (0.5,), 3: (0.15 + 0.7 * draw(),)}[kind]
    upright = draw() < 0.5
    for n, middle in enumerate(middles if kind != 2 else middles * 2):
        angle = (
            math.pi * draw()
            if kind == 3
            else (math.pi / 2 if upright != (n == 1 and kind == 2) else 0.0) + 0.1 * (draw() - 0.5)
        )
        position = middle + 0.06 * (draw() - 0.5)
        sign = (1 if n % 2 else -1) * (1 if draw() < 0.7 else -1)
        folds.append(
            (
                position * _SHEET_MM[0],
                position * _SHEET_MM[1],
                angle,
                1e3,
                30.0 + 130.0 * draw(),
                sign * (0.5 + 0.5 * draw()),
            )
        )
    for _ in range(int(5 * draw())):  # and small folds from handling
        folds.append(
            (
                draw() * _SHEET_MM[0],
                draw() * _SHEET_MM[1],
                math.pi * draw(),
                20.0 + 90.0 * draw(),
                10.0 + 40.0 * draw(),
                0.5 * (draw() - 0.5),
            )
        )
    return folds


def fold(canvas: np.ndarray, draws: Draws, size: float, px_per_mm: tuple[float, float]) -> None:
    """Fold lines across the page: a dark and a bright edge side by side. ``size`` = darkening."""
    profile = np.array([1.0, 1 - 0.4 * size, 1 - size, 1 - 0.2 * size, 1 + 0.35 * size, 1.0])
    kind = draws.integer("fold", 997) % 3
    for axis, slot in ((1, "fold_x"), (0, "fold_y")):
        if kind in (axis, 2):
            width = max(4, round(2.4 * px_per_mm[1 - axis]))
            start = round(canvas.shape[axis] * (0.5 + 0.2 * draws.signed(slot)))
            gain = np.interp(np.linspace(0, 5, width), np.arange(6), profile) * UNIT
            part = canvas[:, start : start + width] if axis else canvas[start : start + width]
            shape = (1, width, 1) if axis else (width, 1, 1)
            nodes = np.broadcast_to(np.clip(gain + 0.5, 0, 255).astype(np.uint8).reshape(shape), part.shape)
            part[:] = cv2.multiply(np.ascontiguousarray(part), nodes.copy(), scale=1 / UNIT).reshape(part.shape)


def streak(image: np.ndarray, draws: Draws, size: float) -> None:
    """A scanner's dirty sensor: a few lines down the image. ``size`` = grey levels."""
    first = draws.uniform("streak_x", 0, 0.9) * image.shape[1]
    for step, sign in ((0.0, 1), (0.031, -1), (0.083, 1)):
        column = int(first + step * image.shape[1])
        part = np.ascontiguousarray(image[:, column : column + 1])
        image[:, column : column + 1] = (cv2.add if sign > 0 else cv2.subtract)(part, (size,) * 4).reshape(part.shape)

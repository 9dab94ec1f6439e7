"""What happened to the page after printing: presets as data, and each effect as a function on uint8 images.

Each effect has a probability and a range of strengths. Light is one luminance field for all colours; a colour cast is
one factor a channel. Blur and noise are set at 1.4 px/mm and follow the image's scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from ecgscan_ray.paper.key import Draws, uniforms


@dataclass(frozen=True)
class Effect:
    """Probability, and range of strength in the unit named in ``PRESETS``."""

    chance: float
    low: float
    high: float


PRESETS: dict[str, dict[str, Effect]] = {
    "clean": {},
    "scan": {
        "rotation": Effect(1.0, 0.6, 1.5),  # standard deviation and limit / 3, degrees
        "perspective": Effect(1.0, 0.0, 0.003),  # share of the page's width
        "page_scale": Effect(1.0, 0.97, 1.02),
        "shift": Effect(1.0, 0.0, 0.01),
        "shading": Effect(0.6, 0.02, 0.1),  # darkening at the darkest corner
        "shadow": Effect(0.25, 0.05, 0.2),
        "cast": Effect(0.4, 0.0, 0.03),
        "gamma": Effect(0.7, 0.0, 0.3),  # log of the exponent
        "blur": Effect(0.8, 0.25, 0.6),  # sigma, px
        "noise": Effect(0.7, 0.5, 3.0),  # grey levels
        "jpeg": Effect(0.6, 60.0, 95.0),  # quality
        "fade": Effect(0.3, 0.05, 0.35),  # ink and grid towards paper
        "streak": Effect(0.2, 3.0, 14.0),  # grey levels
        "grade": Effect(0.35, 0.0, 1.0),  # above 0.5 the colours are lost
    },
    "photo": {
        "rotation": Effect(1.0, 2.0, 4.0),
        "perspective": Effect(1.0, 0.01, 0.05),
        "page_scale": Effect(1.0, 0.86, 1.0),
        "shift": Effect(1.0, 0.0, 0.03),
        "shading": Effect(1.0, 0.08, 0.4),
        "shadow": Effect(0.45, 0.1, 0.45),
        "cast": Effect(0.9, 0.0, 0.08),
        "gamma": Effect(0.9, 0.0, 0.35),
        "blur": Effect(0.95, 0.35, 0.9),
        "motion": Effect(0.1, 1.0, 3.0),  # length, px
        "noise": Effect(0.95, 1.5, 6.0),
        "jpeg": Effect(0.9, 45.0, 92.0),
        "fold": Effect(0.35, 0.04, 0.2),
        "wrinkle": Effect(0.3, 0.05, 0.35),
        "glare": Effect(0.12, 0.1, 0.5),
        "stain": Effect(0.08, 0.05, 0.25),
    },
    "mixed": {
        "rotation": Effect(1.0, 1.2, 1.35),
        "perspective": Effect(1.0, 0.0, 0.025),
        "page_scale": Effect(1.0, 0.92, 1.02),
        "shift": Effect(1.0, 0.0, 0.02),
        "shading": Effect(0.9, 0.04, 0.3),
        "shadow": Effect(0.3, 0.05, 0.35),
        "cast": Effect(0.7, 0.0, 0.06),
        "gamma": Effect(0.8, 0.0, 0.3),
        "blur": Effect(0.85, 0.25, 0.7),
        "motion": Effect(0.04, 1.0, 2.0),
        "noise": Effect(0.85, 1.0, 5.0),
        "jpeg": Effect(0.55, 50.0, 92.0),
        "fold": Effect(0.15, 0.03, 0.15),
        "wrinkle": Effect(0.12, 0.05, 0.25),
        "glare": Effect(0.06, 0.1, 0.4),
        "stain": Effect(0.05, 0.05, 0.2),
        "fade": Effect(0.15, 0.05, 0.3),
        "grade": Effect(0.2, 0.0, 1.0),
    },
}

FIELD = 16
"""Nodes a side of the field of light."""
_UNIT = 170.0
"""Value of an unchanged pixel in the field of light."""
_LINEAR = (np.arange(FIELD) + 0.5) / FIELD
_Y, _X = (plane.ravel() for plane in np.meshgrid(_LINEAR, _LINEAR, indexing="ij"))
_CORNERS = np.stack([(1 - _Y) * (1 - _X), (1 - _Y) * _X, _Y * (1 - _X), _Y * _X])


class Plan:
    """Which effects this page has, and how strong: a view on its draws and a preset."""

    __slots__ = ("_draws", "_preset", "_strength")

    def __init__(self, draws: Draws, preset: dict[str, Effect], strength: float) -> None:
        self._draws, self._preset, self._strength = draws, preset, strength

    def size(self, name: str) -> float:
        """Strength of the effect on this page, 0 where it has none (scaled by ``PageConfig.strength``)."""
        return self.raw(name) * self._strength

    def raw(self, name: str) -> float:
        """The same without the factor, for what is no size: quality, page scale."""
        effect = self._preset.get(name)
        if effect is None or self._strength == 0 or (effect.chance < 1 and not self._draws.chance(name, effect.chance)):
            return 0.0
        return self._draws.uniform(f"{name}_size", effect.low, effect.high)


def light_field(draws: Draws, plan: Plan, channels: int) -> np.ndarray | None:
    """float64 (16, 16, C) factor of light: gradient, shadow, glare and colour cast; none where nothing changes."""
    shading, shadow, glare, cast = (plan.size(name) for name in ("shading", "shadow", "glare", "cast"))
    stain = plan.size("stain")
    if not (shading or shadow or glare or cast or stain):
        return None
    corners = [shading * draws.unit(f"shade_{i}") for i in range(4)]
    light = 1.0 - np.array(corners) @ _CORNERS
    if shadow:
        angle, soft = 2 * math.pi * draws.unit("shadow_angle"), draws.uniform("shadow_soft", 0.03, 0.2)
        across, along = math.cos(angle) / soft, math.sin(angle) / soft
        middle = 0.5 * (across + along) + 0.35 * draws.signed("shadow_place") / soft - 0.5
        light *= 1 - min(0.6, shadow) * np.clip(across * _X + along * _Y - middle, 0, 1)
    if glare:
        light += glare * np.maximum(0, 1 - 12 * ((_X - draws.unit("glare_x")) ** 2 + (_Y - draws.unit("glare_y")) ** 2))
    if stain:
        ring = np.hypot(_X - draws.unit("stain_x"), _Y - draws.unit("stain_y"))
        light -= stain * np.clip(2.5 - 12 * np.abs(ring - 0.12), 0, 1)
    if channels == 1:
        return light.reshape(FIELD, FIELD, 1)
    colour = (1 + cast * draws.signed("cast_red"), 1.0, 1 + cast * draws.signed("cast_blue"))
    return (light[:, None] * np.array(colour)).reshape(FIELD, FIELD, 3)


def lit(image: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Multiply the image by the field of light."""
    nodes = np.clip(field * _UNIT + 0.5, 0, 255).astype(np.uint8)
    gain = cv2.resize(nodes, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)
    if field.shape[2] < image.shape[2]:
        gain = cv2.merge([gain] * image.shape[2])
    return cv2.multiply(image, gain.reshape(image.shape), scale=1 / _UNIT)


def crumpled(draws: Draws, size: float) -> np.ndarray:
    """float64 (128, 128, 1) factor of light on crumpled paper: facets, each lit by its own tilt."""
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


def fold(canvas: np.ndarray, draws: Draws, size: float, px_per_mm: tuple[float, float]) -> None:
    """Fold lines across the page, drawn on the canvas before it is warped: a dark and a bright edge side by side."""
    profile = np.array([1.0, 1 - 0.4 * size, 1 - size, 1 - 0.2 * size, 1 + 0.35 * size, 1.0])
    kind = draws.integer("fold", 997) % 3
    for axis, slot in ((1, "fold_x"), (0, "fold_y")):
        if kind in (axis, 2):
            width = max(4, round(2.4 * px_per_mm[1 - axis]))
            at = round(canvas.shape[axis] * (0.5 + 0.2 * draws.signed(slot)))
            gain = np.interp(np.linspace(0, 5, width), np.arange(6), profile) * _UNIT
            part = canvas[:, at : at + width] if axis else canvas[at : at + width]
            shape = (1, width, 1) if axis else (width, 1, 1)
            nodes = np.broadcast_to(np.clip(gain + 0.5, 0, 255).astype(np.uint8).reshape(shape), part.shape)
            part[:] = cv2.multiply(np.ascontiguousarray(part), nodes.copy(), scale=1 / _UNIT).reshape(part.shape)


def streaked(image: np.ndarray, draws: Draws, size: float) -> np.ndarray:
    """A scanner's dirty sensor: a few lines down the image."""
    at = draws.uniform("streak_x", 0, 0.9) * image.shape[1]
    for step, sign in ((0.0, 1), (0.031, -1), (0.083, 1)):
        column = int(at + step * image.shape[1])
        part = np.ascontiguousarray(image[:, column : column + 1])
        image[:, column : column + 1] = (cv2.add if sign > 0 else cv2.subtract)(part, (size,) * 4).reshape(part.shape)
    return image


def tone_curve(draws: Draws, gamma: float, fade: float) -> np.ndarray | None:
    """uint8 (256,) table of gamma and fading; none where nothing changes."""
    if not (gamma or fade):
        return None
    level = np.arange(256) / 255.0
    level = level ** math.exp(gamma * draws.signed("gamma_sign"))
    level = 1 - (1 - level) * (1 - min(fade, 0.6))
    return np.floor(level * 255 + 0.5).astype(np.uint8)


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur, sigma in px."""
    if sigma < 0.2:
        return image
    side = 3 if sigma < 0.65 else 2 * math.ceil(2 * sigma) + 1
    return cv2.GaussianBlur(image, (side, side), sigma, borderType=cv2.BORDER_REPLICATE)


def moved(image: np.ndarray, length: float, angle: float) -> np.ndarray:
    """Motion blur along a line of ``length`` px."""
    side = 2 * math.ceil(length / 2) + 1
    kernel = np.zeros((side, side), np.float32)
    for step in np.linspace(-length / 2, length / 2, 4 * side):
        kernel[round(side // 2 + step * math.sin(angle)), round(side // 2 + step * math.cos(angle))] += 1
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)


def jpeg(image: np.ndarray, quality: float) -> np.ndarray:
    """There and back through JPEG (RGB or grey)."""
    _, data = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, int(max(5, min(100, quality)))))
    back = cv2.imdecode(data, cv2.IMREAD_COLOR if image.shape[2] == 3 else cv2.IMREAD_GRAYSCALE)
    return np.asarray(back).reshape(image.shape)


class NoiseBank:
    """Sensor noise drawn once; a page takes a window of it at a random place.

    Args:
        height: Rows of the image.
        width: Columns.
        channels: 1 or 3.
    """

    LEVELS = (1.0, 2.0, 3.0, 4.5, 6.5, 9.0)
    SPARE = 61

    def __init__(self, height: int, width: int, channels: int) -> None:
        self._shape = (height, width, channels)
        self._planes: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def add(self, image: np.ndarray, sd: float, draws: Draws) -> np.ndarray:
        """The image with noise of the nearest level to ``sd`` grey levels."""
        level = min(range(len(self.LEVELS)), key=lambda i: abs(self.LEVELS[i] - sd))
        more, less = self._plane(level)
        y, x = draws.integer("noise_y", self.SPARE), draws.integer("noise_x", self.SPARE)
        window = (slice(y, y + self._shape[0]), slice(x, x + self._shape[1]))
        return cv2.subtract(cv2.add(image, more[window]), less[window]).reshape(image.shape)

    def _plane(self, level: int) -> tuple[np.ndarray, np.ndarray]:
        if level not in self._planes:
            height, width, channels = self._shape
            shape = (height + self.SPARE, width + self.SPARE)
            seeds = np.arange(shape[0], dtype=np.uint64) + np.uint64((level + 1) << 40)
            count = shape[1] * (1 + channels) * 2
            # The mean of two uniforms: near enough to a bell, and exact on every machine.
            grain = uniforms(seeds, count).reshape(shape[0], shape[1], 1 + channels, 2).sum(-1) - 1.0
            grain = (grain[..., :1] + 0.5 * grain[..., 1:]) / 1.118 if channels == 3 else grain[..., 1:]
            steps = np.floor(grain * (self.LEVELS[level] * 2.45) + 0.5).astype(np.int16)
            self._planes[level] = (np.maximum(steps, 0).astype(np.uint8), np.maximum(-steps, 0).astype(np.uint8))
        return self._planes[level]


class DeskBank:
    """What lies under and around the page: a few surfaces, drawn once, cut at a random place.

    Args:
        height: Rows of the image.
        width: Columns.
        channels: 1, 3 or 4.
    """

    SPARE = 48
    COLOURS = (
        (60, 62, 68),
        (120, 84, 58),
        (200, 196, 190),
        (35, 33, 34),
        (96, 104, 118),
        (228, 228, 226),
        (150, 118, 84),
    )

    def __init__(self, height: int, width: int, channels: int) -> None:
        self._shape = (height, width, channels)
        self._drawn: dict[int, np.ndarray] = {}

    def window(self, draws: Draws, plain: bool) -> np.ndarray:
        """A fresh copy uint8 (H, W, C); ``plain`` gives the lid of a scanner."""
        index = 5 if plain else draws.integer("desk", len(self.COLOURS))
        if index not in self._drawn:
            self._drawn[index] = self._draw(index)
        y, x = draws.integer("desk_y", self.SPARE), draws.integer("desk_x", self.SPARE)
        return self._drawn[index][y : y + self._shape[0], x : x + self._shape[1]].copy()

    def _draw(self, index: int) -> np.ndarray:
        height, width, channels = self._shape
        size = (width + self.SPARE, height + self.SPARE)
        coarse = uniforms(np.arange(24, dtype=np.uint64) + np.uint64(index << 20), 12).astype(np.float32)
        grain = uniforms(np.arange(96, dtype=np.uint64) + np.uint64((index << 20) + 500), 24).astype(np.float32)
        tone = 0.75 + 0.3 * cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR)
        tone += (0.3 if index in (1, 6) else 0.08) * (cv2.resize(grain, size, interpolation=cv2.INTER_LINEAR) - 0.5)
        colour = np.zeros(channels, np.float32)
        red, green, blue = self.COLOURS[index]
        colour[:3] = (red, green, blue) if channels > 1 else 0.299 * red + 0.587 * green + 0.114 * blue
        return np.clip(tone[..., None] * colour, 0, 255).astype(np.uint8)

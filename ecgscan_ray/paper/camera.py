"""Effects of photographing or scanning a page: light, tone, screen, lens, sensor, compression.

Each changes a uint8 image in place. Light is one luminance field for all colours; a colour cast is one factor per channel.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from ecgscan_ray.paper.effects import PageEffects
from ecgscan_ray.paper.key import Draws, uniforms

FIELD = 16
"""Nodes per side of the light field."""
UNIT = 170.0
"""Value of an unchanged pixel in the light field."""
_LINEAR = (np.arange(FIELD) + 0.5) / FIELD
_Y, _X = (plane.ravel() for plane in np.meshgrid(_LINEAR, _LINEAR, indexing="ij"))
_WARMER = np.array([0.5, 0.0, -1.0])
"""How much more of each colour warmer light has."""
_PINKER = np.array([1.0, 0.0, 0.7])
_CORNERS = np.stack([(1 - _Y) * (1 - _X), (1 - _Y) * _X, _Y * (1 - _X), _Y * _X])


def light_field(
    draws: Draws, page_effects: PageEffects, channels: int, slope: np.ndarray | None = None
) -> np.ndarray | None:
    """float64 (16, 16, C) brightness factor: gradient, shadow, glare and colour cast; None where nothing changes.

    Args:
        draws: The page's numbers.
        page_effects: The page's effects.
        channels: 1 or 3.
        slope: float64 (16,) slope of a curled page along its width, per column of the field.
    """
    shading, shadow, glare, cast = (page_effects.size(name) for name in ("shading", "shadow", "glare", "cast"))
    stain, edge = page_effects.size("stain"), page_effects.size("edge")
    exposure, white, two_lights = (page_effects.size(name) for name in ("exposure", "white_balance", "two_lights"))
    flat = not (shading or shadow or glare or cast or stain or edge or exposure or white or two_lights)
    if flat and slope is None:
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
    if edge:
        side = draws.integer("edge_side", 4)
        far = (_X, _Y, 1 - _X, 1 - _Y)[side]
        light *= 1 - min(0.9, edge) * np.exp(-far / (0.03 + 0.1 * (draws.unit("edge_side") * 4 - side)))
    if slope is not None:
        light *= 1 + np.clip(slope[(_X * FIELD).astype(int)], -0.3, 0.3)
    if exposure:
        light *= 1 - min(0.6, exposure)
    if channels == 1:
        return light.reshape(FIELD, FIELD, 1)
    colour = np.array((1 + cast * draws.signed("cast_red"), 1.0, 1 + cast * draws.signed("cast_blue")))
    if white:
        tint = draws.uniform("white_balance_tint", -0.6, 0.15)  # greenish more often than pink
        colour = colour * (1 + white * draws.signed("white_balance_hue") * _WARMER + 0.04 * tint * _PINKER)
    if two_lights:  # parts in the first light's shade are lit by the second: lamps are warmer than windows
        depth = light.max() - light
        weight = (two_lights * draws.signed("two_lights_hue") / max(depth.max(), 0.05)) * depth[:, None]
        return (light[:, None] * colour * (1 + weight * _WARMER)).reshape(FIELD, FIELD, 3)
    return (light[:, None] * colour).reshape(FIELD, FIELD, 3)


def light(image: np.ndarray, field: np.ndarray) -> None:
    """Multiply the image by the light field."""
    nodes = np.clip(field * UNIT + 0.5, 0, 255).astype(np.uint8)
    gain = cv2.resize(nodes, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)
    if field.shape[2] < image.shape[2]:
        gain = cv2.merge([gain] * image.shape[2])
    cv2.multiply(image, gain.reshape(image.shape), dst=image, scale=1 / UNIT)


def tone_curve(draws: Draws, gamma: float, fade: float) -> np.ndarray | None:
    """uint8 (256,) lookup table of gamma and fading; None where nothing changes."""
    if not (gamma or fade):
        return None
    value = np.arange(256) / 255.0
    value = value ** math.exp(gamma * draws.signed("gamma_sign"))
    value = 1 - (1 - value) * (1 - min(fade, 0.6))
    return np.floor(value * 255 + 0.5).astype(np.uint8)


def blur(image: np.ndarray, sigma: float) -> None:
    """Gaussian blur, sigma in px."""
    if sigma >= 0.2:
        side = 3 if sigma < 0.65 else 2 * math.ceil(2 * sigma) + 1
        cv2.GaussianBlur(image, (side, side), sigma, dst=image, borderType=cv2.BORDER_REPLICATE)


def motion_blur(image: np.ndarray, length: float, angle: float) -> None:
    """Motion blur along a line of ``length`` px."""
    side = 2 * math.ceil(length / 2) + 1
    kernel = np.zeros((side, side), np.float32)
    for step in np.linspace(-length / 2, length / 2, 4 * side):
        kernel[round(side // 2 + step * math.sin(angle)), round(side // 2 + step * math.cos(angle))] += 1
    cv2.filter2D(image, -1, kernel / kernel.sum(), dst=image, borderType=cv2.BORDER_REPLICATE)


def defocus(image: np.ndarray, radius: float) -> None:
    """Defocus blur: a disc of ``radius`` px."""
    side = 2 * math.ceil(radius) + 1
    y, x = np.mgrid[0:side, 0:side] - side // 2
    kernel = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1).astype(np.float32)
    cv2.filter2D(image, -1, kernel / kernel.sum(), dst=image, borderType=cv2.BORDER_REPLICATE)


def sharpen(image: np.ndarray, amount: float) -> None:
    """Sharpening as cameras and scanners apply it: ``amount`` of the detail finer than 1 px is added again."""
    soft = cv2.GaussianBlur(image, (5, 5), 1.0, borderType=cv2.BORDER_REPLICATE)
    cv2.addWeighted(image, 1 + amount, soft, -amount, 0, dst=image)


def soften_colour(image: np.ndarray, reach: float) -> None:
    """Blur chroma, but not luma, over ``reach`` px, as chroma subsampling does."""
    if reach < 1.2:
        return
    side = (image.shape[1], image.shape[0])
    fewer = image if reach < 3.0 else np.ascontiguousarray(image[::2, ::2])
    small = cv2.resize(
        fewer, (max(4, round(side[0] / reach)), max(4, round(side[1] / reach))), interpolation=cv2.INTER_AREA
    )
    colour = cv2.cvtColor(small, cv2.COLOR_RGB2YCrCb)[..., 1:]
    spread = np.empty_like(image)
    cv2.mixChannels(
        [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], cv2.resize(colour, side)], [spread], [0, 0, 1, 1, 2, 2]
    )
    cv2.cvtColor(spread, cv2.COLOR_YCrCb2RGB, dst=image)


def downscale(image: np.ndarray, fraction: float) -> None:
    """The picture after it was sent at a smaller size: each side shrunk by ``fraction``, and enlarged again."""
    height, width = image.shape[:2]
    size = (max(8, round(width * (1 - fraction))), max(8, round(height * (1 - fraction))))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    cv2.resize(small, (width, height), dst=image, interpolation=cv2.INTER_LINEAR)


def moire(image: np.ndarray, draws: Draws, size: float, scale: float) -> None:
    """Moire of a photographed screen: two slow waves of brightness, shifted from colour to colour.

    Args:
        image: uint8 (H, W, C).
        draws: The page's numbers.
        size: Contrast.
        scale: Of the image, 1 at 1.4 px/mm.
    """
    height, width, channels = image.shape
    angle, pitch = math.pi * draws.unit("moire_angle"), scale * (3.0 + 22.0 * draws.unit("moire_pitch") ** 2)
    gain = np.empty(image.shape, np.uint8)
    for channel in range(channels):
        plane = np.ones((height, width), np.float32)
        for n, (turn, stretch) in enumerate(((0.0, 1.0), (0.45 * math.pi, 1.7))):
            step = 2 * math.pi / (pitch * stretch)
            bend = 1 + 0.5 * draws.signed("moire_pitch")  # the screen is seen at an angle: the waves widen across it
            x = np.arange(width) * (step * math.cos(angle + turn)) * np.linspace(1, bend, width)
            y = np.arange(height) * (step * math.sin(angle + turn)) + (0.8 * channel + n)
            # sin(x + y) as two outer products
            wave = np.stack([np.sin(y), np.cos(y)], 1) @ np.stack([np.cos(x), np.sin(x)])
            plane += (0.5 * min(size, 0.5)) * wave.astype(np.float32)
        gain[..., channel] = np.clip(plane * UNIT + 0.5, 0, 255)
    cv2.multiply(image, gain, dst=image, scale=1 / UNIT)


def jpeg(image: np.ndarray, quality: float) -> None:
    """Encode and decode as JPEG (RGB or grey)."""
    _, data = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, int(max(5, min(100, quality)))))
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR if image.shape[2] == 3 else cv2.IMREAD_GRAYSCALE)
    image[:] = np.asarray(decoded).reshape(image.shape)


class NoiseBank:
    """Sensor noise, made once; a page takes a window of it at a random position.

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

    def add(self, image: np.ndarray, sd: float, draws: Draws) -> None:
        """Add the noise whose standard deviation is nearest to ``sd`` grey levels."""
        level = min(range(len(self.LEVELS)), key=lambda i: abs(self.LEVELS[i] - sd))
        positive, negative = self._plane(level)
        y, x = draws.integer("noise_y", self.SPARE), draws.integer("noise_x", self.SPARE)
        window = (slice(y, y + self._shape[0]), slice(x, x + self._shape[1]))
        cv2.add(image, positive[window], dst=image)
        cv2.subtract(image, negative[window], dst=image)

    def _plane(self, level: int) -> tuple[np.ndarray, np.ndarray]:
        if level not in self._planes:
            steps = np.floor(self._grain(level) * (self.LEVELS[level] * 2.45) + 0.5).astype(np.int16)
            self._planes[level] = (np.maximum(steps, 0).astype(np.uint8), np.maximum(-steps, 0).astype(np.uint8))
        return self._planes[level]

    def _grain(self, level: int) -> np.ndarray:
        """float64 (H, W, C) noise with a standard deviation of 1 / 2.45."""
        height, width, channels = self._shape
        shape = (height + self.SPARE, width + self.SPARE)
        seeds = np.arange(shape[0], dtype=np.uint64) + np.uint64((level + 1) << 40)
        count = shape[1] * (1 + channels) * 2
        # The sum of two uniforms: close to a normal distribution, and exact on every machine.
        grain = uniforms(seeds, count).reshape(shape[0], shape[1], 1 + channels, 2).sum(-1) - 1.0
        return (grain[..., :1] + 0.5 * grain[..., 1:]) / 1.118 if channels == 3 else grain[..., 1:]


class CloudyBank(NoiseBank):
    """Noise of a camera after its processing: correlated in luma, and more coarsely in chroma.

    Args:
        height: Rows of the image.
        width: Columns.
        channels: 1 or 3.
        scale: Of the image, 1 at 1.4 px/mm: multiplies the correlation lengths.
    """

    LIGHT = ((0.0, 1.0), (0.7, 0.5), (1.6, 0.6), (4.0, 0.8))
    """Correlation length, px at 1.4 px/mm (0 = independent pixels), and weight of each octave."""
    COLOUR = ((1.0, 1.1), (3.0, 0.9))

    def __init__(self, height: int, width: int, channels: int, scale: float) -> None:
        super().__init__(height, width, channels)
        self._scale = scale

    def _grain(self, level: int) -> np.ndarray:
        light = self._clouds(level, 0, self.LIGHT)
        light /= 2.45 * light.std()
        if self._shape[2] == 1:
            return light[..., None]
        red, blue = (self._clouds(level, 1 + n, self.COLOUR) for n in range(2))
        grain = np.stack([light + red - 0.1 * blue, light - 0.35 * red - 0.1 * blue, light + blue], -1)
        return grain

    def _clouds(self, level: int, plane: int, octaves: tuple[tuple[float, float], ...]) -> np.ndarray:
        height, width = self._shape[0] + self.SPARE, self._shape[1] + self.SPARE
        total = np.zeros((height, width))
        for n, (size, weight) in enumerate(octaves):
            step = max(1.0, size * self._scale)
            rows, columns = (max(2, round(side / step)) for side in (height, width))
            seeds = np.arange(rows, dtype=np.uint64) + np.uint64(((level + 1) << 44) + (plane << 36) + (n << 32))
            nodes = uniforms(seeds, 2 * columns).reshape(rows, columns, 2).sum(-1) - 1.0
            total += weight * cv2.resize(nodes, (width, height), interpolation=cv2.INTER_CUBIC)
        return total


class DeskBank:
    """The background behind the page: a few surfaces, each made once, cut at a random position.

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
        # as sharp as the page
        (158, 118, 82),
        (132, 92, 60),
        (176, 142, 106),
        (50, 50, 54),
        (72, 66, 104),
        (206, 204, 200),
        (112, 112, 116),
    )
    SOFT = 7
    """How many of them, from the first on, have no fine grain."""
    WOODEN = (1, 6, 7, 8, 9)

    def __init__(self, height: int, width: int, channels: int) -> None:
        self._shape = (height, width, channels)
        self._drawn: dict[int, np.ndarray] = {}

    def window(self, draws: Draws, plain: bool, dark: bool = False, fine: bool = False) -> np.ndarray:
        """A read-only view, uint8 (H, W, C).

        Args:
            draws: The page's numbers.
            plain: A scanner's lid.
            dark: A screen's frame.
            fine: A surface with grain as sharp as the page.
        """
        index = 5 if plain else 3 if dark else draws.integer("desk", self.SOFT)
        index += self.SOFT if fine else 0
        if index not in self._drawn:
            self._drawn[index] = self._draw(index)
        y, x = draws.integer("desk_y", self.SPARE), draws.integer("desk_x", self.SPARE)
        return self._drawn[index][y : y + self._shape[0], x : x + self._shape[1]]

    def _draw(self, index: int) -> np.ndarray:
        height, width, channels = self._shape
        size = (width + self.SPARE, height + self.SPARE)
        wooden = index in self.WOODEN

        def octave(salt: int, rows: int, columns: int) -> np.ndarray:
            seeds = np.arange(max(1, rows), dtype=np.uint64) + np.uint64((index << 20) + salt)
            return cv2.resize(uniforms(seeds, max(1, columns)).astype(np.float32), size, interpolation=cv2.INTER_LINEAR)

        if index < self.SOFT:
            tone = 0.75 + 0.3 * octave(0, 24, 12)
            tone += (0.3 if wooden else 0.08) * (octave(500, 96, 24) - 0.5)
        else:
            long, wide = ((24, 1), (1, 24), (2, 2))[index % 2 if wooden else 2]  # fibres of wood, or a weave
            tone = 0.92 + 0.16 * octave(0, 12, 3)
            tone += (0.2 if wooden else 0.08) * (octave(500, size[1] // (5 * wide), size[0] // (5 * long)) - 0.5)
            tone += (0.16 if wooden else 0.15) * (octave(90000, size[1] // (2 * wide), size[0] // (2 * long)) - 0.5)
        colour = np.zeros(channels, np.float32)
        red, green, blue = self.COLOURS[index]
        colour[:3] = (red, green, blue) if channels > 1 else 0.299 * red + 0.587 * green + 0.114 * blue
        return np.clip(tone[..., None] * colour, 0, 255).astype(np.uint8)

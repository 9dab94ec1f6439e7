"""Counter-based randomness of a page: one key, one vector of uniforms, a slot for every parameter.

A page's parameters depend on its key alone: not on batch, worker, order or global random state. A new
parameter gets a new slot at the end and moves no other.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import TypeVar

import numpy as np

T = TypeVar("T")

RECIPE = 1
"""Version of the rendering from key to pixels; it is hashed into every key, so another recipe gives other pages."""

SLOTS = (
    # what is printed
    "layout style phase_x phase_y pitch top left pulse pulse_rows gap separator label_place label_size label_face "
    "label_rise pen ink header header_x header_y header_size header_face footer footer_x footer_y margin "
    "margin_size paper_tone "
    # pose of the page
    "rotation rotation_size rotation_2 perspective perspective_size corner_0 corner_1 corner_2 corner_3 corner_4 "
    "corner_5 corner_6 corner_7 page_scale page_scale_size shift shift_size shift_x shift_y curl curl_size curl_0 "
    "curl_1 curl_2 curl_3 turn desk desk_x desk_y "
    # light and colour
    "shading shading_size shade_0 shade_1 shade_2 shade_3 shadow shadow_size shadow_angle shadow_place "
    "shadow_soft glare glare_size glare_x glare_y cast cast_size cast_red cast_blue gamma gamma_size gamma_sign "
    "fade fade_size grade grade_size "
    # damage
    "fold fold_size fold_x fold_y wrinkle wrinkle_size wrinkle_kind wrinkle_x wrinkle_y stain stain_size stain_x "
    "stain_y streak streak_size streak_x stamp stamp_size stamp_x stamp_y writing writing_size writing_x "
    "writing_y "
    # the camera
    "blur blur_size motion motion_size motion_angle noise noise_size noise_x noise_y threshold threshold_size "
    "moire moire_size moire_angle moire_pitch jpeg jpeg_size " + " ".join(f"text_{index}" for index in range(24)) +
    # later
    " speed gain chest turn_size crop crop_size crease crease_size ring ring_size thermal thermal_size edge edge_size "
    "edge_side defocus defocus_size downscale downscale_size sharpen sharpen_size "
    "max_extra_header pale_ink pale_ink_size rim rim_size dither dither_size "
    "print print_size print_minor print_hue print_tone print_paper print_warm grain grain_size exposure exposure_size "
    "two_lights two_lights_size two_lights_hue crumple crumple_size crumple_kind panels panels_size panels_kind "
    "shade_hue soft_colour soft_colour_size white_balance white_balance_size white_balance_hue "
    "white_balance_tint"
).split()
_SLOT = {name: index for index, name in enumerate(SLOTS)}

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def page_key(seed: int, epoch: int, recording_id: str, view: int) -> int:
    """The 64-bit key of one page: a hash of seed, epoch, recording id, view and recipe version."""
    numbers = struct.pack("<qqqq", RECIPE, seed, epoch, view)
    return int.from_bytes(hashlib.blake2b(numbers + recording_id.encode(), digest_size=8).digest(), "little")


def uniforms(keys: np.ndarray, count: int = len(SLOTS)) -> np.ndarray:
    """Splitmix64 of each key.

    Args:
        keys: uint64 (N,).
        count: Numbers per key.

    Returns:
        float64 (N, count) in [0, 1).
    """
    counter = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    z = np.asarray(keys, np.uint64)[:, None] + counter[None, :]
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


class Draws:
    """The random numbers of one page, by the name of their slot."""

    __slots__ = ("_values", "key")

    def __init__(self, key: int, values: np.ndarray | None = None) -> None:
        self.key = int(key)
        self._values: list[float] = (uniforms(np.array([key], np.uint64))[0] if values is None else values).tolist()

    def unit(self, slot: str) -> float:
        """Uniform in [0, 1)."""
        return self._values[_SLOT[slot]]

    def uniform(self, slot: str, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * self._values[_SLOT[slot]]

    def signed(self, slot: str) -> float:
        """Uniform in [-1, 1)."""
        return 2.0 * self._values[_SLOT[slot]] - 1.0

    def integer(self, slot: str, count: int) -> int:
        """One of 0 .. count-1."""
        return int(self._values[_SLOT[slot]] * count)

    def chance(self, slot: str, probability: float) -> bool:
        """True with this probability."""
        return self._values[_SLOT[slot]] < probability

    def pick(self, slot: str, weights: Mapping[T, float]) -> T:
        """One of the keys by its weight; weights need not add up to 1."""
        remainder = self._values[_SLOT[slot]] * sum(weights.values())
        for name, weight in weights.items():
            remainder -= weight
            if remainder < 0:
                return name
        return name

    def text(self, first: int, count: int) -> list[int]:
        """Integers in 0..9999 for made-up text, from slots ``text_<first>`` on."""
        start = _SLOT["text_0"] + first
        return [int(value * 10000) for value in self._values[start : start + count]]

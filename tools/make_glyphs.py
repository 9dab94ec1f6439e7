"""Make ``glyphs.npz``, the atlas of lettering, from the DejaVu fonts (Bitstream Vera licence, see GLYPHS_LICENCE).

Run with the folder that holds the DejaVu fonts: ``python -m tools.make_glyphs FOLDER``. Needs Pillow.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageFont

import ecgscan_ray.paper

FACES = {
    "sans": "DejaVuSans.ttf",
    "bold": "DejaVuSans-Bold.ttf",
    "mono": "DejaVuSansMono.ttf",
    "serif": "DejaVuSerif.ttf",
}
EM = 40
"""Pixels an em in the atlas."""


def draw_face(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """uint8 pixels of ASCII 32..126 and int32 (95, 6): offset, width, height, left, top, advance in 1/64 px."""
    font = ImageFont.truetype(str(path), EM)
    pixels, rows, offset = [], [], 0
    for code in range(32, 127):
        mask, (left, top) = font.getmask2(chr(code), mode="L", anchor="ls")
        width, height = mask.size
        glyph = np.asarray(list(mask), np.uint8) if width * height else np.zeros(0, np.uint8)
        rows.append((offset, width, height, left, -top, round(font.getlength(chr(code)) * 64)))
        pixels.append(glyph)
        offset += glyph.size
    return np.concatenate(pixels), np.array(rows, np.int32)


if __name__ == "__main__":
    arrays: dict[str, Any] = {"em": np.array(EM)}
    for face, name in FACES.items():
        arrays[f"{face}_pixels"], arrays[f"{face}_table"] = draw_face(Path(sys.argv[1]) / name)
    np.savez_compressed(Path(ecgscan_ray.paper.__file__).with_name("glyphs.npz"), **arrays)

"""Pictures of any kind as pages in the encoder's size: read, turned upright, fitted as a whole, never cropped."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image, ImageOps

from ecgscan_ray.config import PageConfig
from ecgscan_ray.errors import InputError

Picture = str | os.PathLike | Image.Image | np.ndarray
"""A page: path of an image file, PIL image, or uint8 array (H, W), (H, W, 1) or (H, W, 3) RGB; any size."""


def read_picture(image: Picture) -> np.ndarray:
    """Upright uint8 (H, W) grey or (H, W, 3) RGB; transparent parts become white.

    Raises:
        InputError: Not a readable image, or an array of another shape or type.
    """
    if isinstance(image, np.ndarray):
        shaped = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3))
        if image.dtype != np.uint8 or image.size == 0 or not shaped:
            what = f"an array of {image.dtype} {image.shape}"
            raise InputError(what, where="image", fix="Give uint8 of (H, W), (H, W, 1) or (H, W, 3).")
        return image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    if isinstance(image, Image.Image):
        return _pixels(image)
    try:
        with Image.open(image) as opened:
            return _pixels(opened)
    except FileNotFoundError:
        raise InputError("no such file", where=image) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"not readable as an image ({type(error).__name__})", where=image) from None


def _pixels(image: Image.Image) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":  # 16 or 32 bits: bring the range used to 8
        values = np.asarray(image, np.float64)
        largest = max(float(values.max(initial=0)), 1e-9)
        top = 65535.0 if image.mode.startswith("I") and largest > 255 else largest
        return np.clip(values * (255 / top), 0, 255).astype(np.uint8)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("L" if image.mode in ("1", "L") else "RGB"))


def fit_page(pixels: np.ndarray, page: PageConfig) -> np.ndarray:
    """The whole picture as uint8 (H, W, C): stretched to the size, or centred on white (``page.fit`` = ``pad``).

    With Pillow's own arithmetic throughout, which timm's and transformers' preprocessing share: pixel for pixel the same.
    """
    image = Image.fromarray(pixels).convert("L" if page.channels == 1 else "RGB")
    width, height = page.width, page.height
    if page.fit == "pad":
        scale = min(height / image.height, width / image.width)
        width = max(1, min(width, round(image.width * scale)))
        height = max(1, min(height, round(image.height * scale)))
    if image.size != (width, height):
        image = image.resize(
            (width, height), Image.Resampling.BILINEAR
        )  # a filter as wide as the step where it shrinks
    fitted = Image.new(image.mode, (page.width, page.height), "white")
    fitted.paste(image, ((page.width - width) // 2, (page.height - height) // 2))
    return np.array(fitted).reshape(page.height, page.width, page.channels)

"""Pictures of any kind as pages in the encoder's size: read, turned upright, fitted as a whole, never cropped."""

from __future__ import annotations

import os

import cv2
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
    """The whole picture as uint8 (H, W, C): stretched to the size, or centred on white (``page.fit`` = ``pad``)."""
    if page.channels == 1 and pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    elif page.channels == 3 and pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    height, width = page.height, page.width
    if page.fit == "pad":
        scale = min(height / pixels.shape[0], width / pixels.shape[1])
        height = max(1, min(height, round(pixels.shape[0] * scale)))
        width = max(1, min(width, round(pixels.shape[1] * scale)))
    if pixels.shape[:2] != (height, width):
        shrinks = height * width < pixels.shape[0] * pixels.shape[1]
        # area coverage keeps thin traces when a large photograph becomes small
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        pixels = cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=method)
    top, left = (page.height - height) // 2, (page.width - width) // 2
    fitted = np.full((page.height, page.width, page.channels), 255, np.uint8)
    fitted[top : top + height, left : left + width] = pixels.reshape(height, width, page.channels)
    return fitted

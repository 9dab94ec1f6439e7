"""A picture as a page in the encoder's size: the whole of it, never cropped."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ecgscan_ray.config import PageConfig


def fit_page(pixels: np.ndarray, page: PageConfig) -> np.ndarray:
    """The whole picture as uint8 (H, W, C): stretched to the size, or centred on white (``page.fit`` = ``pad``).

    Uses Pillow's arithmetic, as timm's and transformers' preprocessing do: the same pixels.
    """
    image = Image.fromarray(pixels).convert("L" if page.channels == 1 else "RGB")
    width, height = page.width, page.height
    if page.fit == "pad":
        scale = min(height / image.height, width / image.width)
        width = max(1, min(width, round(image.width * scale)))
        height = max(1, min(height, round(image.height * scale)))
    if image.size != (width, height):
        # a filter as wide as the step where it shrinks
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    fitted = Image.new(image.mode, (page.width, page.height), "white")
    fitted.paste(image, ((page.width - width) // 2, (page.height - height) // 2))
    return np.array(fitted).reshape(page.height, page.width, page.channels)

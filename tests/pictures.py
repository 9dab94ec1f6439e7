"""A small page as files of every kind, and what is read of them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from ecgscan_ray.errors import InputError
from ecgscan_ray.pictures import read_pages

PAPER = 240


def page() -> np.ndarray:
    """A grey page with a grid and a trace."""
    grey = np.full((60, 80), PAPER, np.uint8)
    grey[::10], grey[:, ::10], grey[30:33] = 200, 200, 10
    return grey


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def only(data: bytes) -> np.ndarray:
    """The one page of a file."""
    (found,) = read_pages(data)
    assert isinstance(found, np.ndarray), found
    return found


def refused(data: bytes) -> str:
    (found,) = read_pages(data)
    assert isinstance(found, InputError), "was read"
    assert "\n" not in str(found)
    return found.what

"""Mutated pictures, through what ``embed`` reads of a file: every page, or its reason; nothing else."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecgscan_ray.pictures import read_file, read_pages
from tests.fuzz.harness import fuzz, mutate

pytestmark = pytest.mark.verify

_GREY = np.full((90, 120), 240, np.uint8)
_GREY[::9], _GREY[:, ::9], _GREY[40:43] = 200, 200, 10
_COLOUR = np.stack([_GREY, _GREY // 2, _GREY // 3], -1)
_DEEP = _GREY.astype(np.uint16) * 257

KINDS: list[tuple[str, np.ndarray, dict]] = [
    ("PNG", _COLOUR, {}),
    ("PNG", _DEEP, {}),
    ("JPEG", _COLOUR, {}),
    ("JPEG", _GREY, {"progressive": True}),
    ("TIFF", _COLOUR, {"compression": "tiff_lzw"}),
    ("TIFF", _DEEP, {}),
    ("TIFF", _GREY, {"save_all": True, "append_images": [Image.fromarray(_GREY)] * 2}),
    ("TIFF", _GREY > 100, {"compression": "group4"}),
    ("TIFF", _COLOUR, {"compression": "jpeg"}),
    ("WEBP", _COLOUR, {}),
    ("BMP", _COLOUR, {}),
    ("GIF", _GREY, {}),
    ("PPM", _COLOUR, {}),
    ("JPEG2000", _COLOUR, {}),
    ("AVIF", _COLOUR, {}),
    ("PDF", _COLOUR, {"save_all": True, "append_images": [Image.fromarray(_GREY)]}),
]


@cache
def _original(kind: int) -> bytes:
    name, pixels, options = KINDS[kind]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, name, **options)
    return buffer.getvalue()


@cache
def _pages(kind: int) -> list[np.ndarray]:
    pages = list(read_pages(_original(kind)))
    assert all(isinstance(page, np.ndarray) for page in pages)
    return pages  # type: ignore[return-value]


def _make(number: int, folder: Path) -> Path:
    kind = number % len(KINDS)
    path = folder / f"{kind}.picture"
    path.write_bytes(mutate(_original(kind), np.random.default_rng(number)))
    return path


def _attempt(path: Path) -> str:
    expected = _pages(int(path.stem))
    found = list(read_pages(read_file(path), where=path))
    for page in found:
        if not isinstance(page, np.ndarray):
            raise page
        assert page.dtype == np.uint8 and page.ndim in (2, 3) and page.size
    same = len(found) == len(expected) and all(map(np.array_equal, found, expected))
    return "same" if same else "other"


def test_fifteen_hundred_pictures(tmp_path: Path) -> None:
    tally = fuzz("pictures", _make, _attempt, 1500, tmp_path)
    assert not tally.findings, tally.findings[:20]

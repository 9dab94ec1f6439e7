"""Mutated pictures of every format that is read, as files of a folder that is embedded."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecgscan_ray.errors import InputError
from ecgscan_ray.pictures import read_pages
from tests.fuzz.harness import fuzz, mutate

pytestmark = pytest.mark.verify

_KINDS = ("PNG", "PNG 16", "JPEG", "JPEG progressive", "TIFF", "TIFF 16", "TIFF pages", "TIFF group4", "TIFF jpeg")
_KINDS += ("WEBP", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "PCX", "GIF animation", "MPO", "PNG palette")
MUTANTS_EACH = 79


@cache
def _good(name: str) -> bytes:
    rng, (kind, _, variant) = np.random.default_rng(len(name)), name.partition(" ")
    grey = np.clip(rng.normal(230, 6, (96, 128)), 0, 255)
    grey[::8], grey[40:43] = 190, 20
    image = Image.fromarray(np.stack([grey, grey - 10, grey - 12], -1).clip(0, 255).astype(np.uint8))
    options: dict = {}
    match variant:
        case "16":
            image = Image.fromarray((grey * 16).astype(np.uint16))
        case "progressive":
            options = {"progressive": True}
        case "pages" | "animation":
            options = {"save_all": True, "append_images": [image.convert("L").rotate(n) for n in (3, 5)]}
        case "group4":
            image, options = image.convert("1"), {"compression": "group4"}
        case "jpeg":
            options = {"compression": "jpeg"}
        case "palette":
            image = image.quantize(40)
    if kind == "MPO":
        options = {"save_all": True, "append_images": [image.resize((32, 24))]}
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@cache
def _pages_of(name: str) -> tuple[bytes, ...] | None:
    """The pages of the good file; ``None`` where it is refused itself (an animation)."""
    pages = list(read_pages(_good(name)))
    return None if any(isinstance(page, InputError) for page in pages) else tuple(map(_key, pages))


def _key(page: np.ndarray | InputError) -> bytes:
    return b"" if isinstance(page, InputError) else repr(page.shape).encode() + page.tobytes()


def make(number: int, folder: Path) -> Path:
    name = _KINDS[number // MUTANTS_EACH % len(_KINDS)]
    path = folder / f"{name}.picture"
    path.write_bytes(mutate(_good(name), np.random.default_rng(number)))
    return path


def attempt(path: Path) -> str:
    pages = list(read_pages(path))
    assert pages, "a file without a page and without a reason"
    for page in pages:
        if isinstance(page, InputError):
            raise page
    return "same" if tuple(map(_key, pages)) == _pages_of(path.stem) else "other"


@pytest.mark.parametrize("index", range(len(_KINDS)), ids=_KINDS)
def test_mutated_pictures(index: int, tmp_path: Path) -> None:
    first = index * MUTANTS_EACH
    tally = fuzz(_KINDS[index], _From(first), attempt, MUTANTS_EACH, tmp_path)
    assert not tally.findings, tally.findings


class _From:
    """``make`` from a first number on."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __call__(self, number: int, folder: Path) -> Path:
        return make(self.first + number, folder)

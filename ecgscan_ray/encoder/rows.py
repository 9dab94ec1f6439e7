"""Rows of the pages of a file: fitted pixels, an embedding, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ecgscan_ray.config import PageConfig
from ecgscan_ray.digitise.reader import as_rgb
from ecgscan_ray.encoder.encoder import Encoder
from ecgscan_ray.encoder.fit import fit_page
from ecgscan_ray.errors import InputError, UnreachableError
from ecgscan_ray.pictures import PictureFile, printable_name, read_pages


@dataclass
class Row:
    """A page of a file.

    Attributes:
        path: Name of the file, with the number of the page from the second one on.
        pixels: uint8 (H, W, C), until it is embedded.
        error: Why it has no embedding.
        embedding: float32 (P,) or (D,).
    """

    path: str
    pixels: np.ndarray | None = None
    error: str | None = None
    embedding: np.ndarray | None = None


def fitted_rows(file: PictureFile, page: PageConfig) -> Iterator[Row]:
    """The pages of a file in the size that an encoder of pictures takes.

    Raises:
        UnreachableError: Its server does not answer.
    """
    return _rows(file, page)


def embedded_rows(file: PictureFile, encoder: Encoder, projected: bool) -> Iterator[Row]:
    """The pages of a file, each read and embedded by itself: one picture is in memory at a time.

    Raises:
        UnreachableError: Its server does not answer.
    """
    for row in _rows(file, None):
        if row.pixels is not None:
            try:
                row.embedding = encoder.embed(row.pixels, projected=projected)[0]
            except InputError as error:  # no ECG on it
                row.error = error.what
            row.pixels = None
        yield row


def embed_batch(encoder: Encoder, rows: list[Row], projected: bool) -> None:
    """Embed rows of fitted pixels, those that have any, in one forward pass."""
    fitted = [row for row in rows if row.pixels is not None]
    vectors = encoder.embed([row.pixels for row in fitted if row.pixels is not None], projected=projected)
    for row, vector in zip(fitted, vectors, strict=True):
        row.embedding, row.pixels = vector, None


def _rows(file: PictureFile, page: PageConfig | None) -> Iterator[Row]:
    for number, pixels in enumerate(_pages(file), 1):
        row = Row(printable_name(file.name) + (f"#{number}" if number > 1 else ""))
        try:
            if isinstance(pixels, InputError):
                raise pixels
            row.pixels = fit_page(pixels, page) if page else as_rgb(pixels)
        except InputError as error:
            row.error = error.what
        except Exception as error:  # one damaged page never ends the others
            row.error = f"cannot be fitted into the encoder's size ({type(error).__name__})"
        yield row


def _pages(file: PictureFile) -> Iterator[np.ndarray | InputError]:
    try:
        data = file.read()
    except UnreachableError:  # no fault of the file: it would be listed as a bad one
        raise
    except InputError as error:
        yield error
        return
    yield from read_pages(data, where=printable_name(file.name))

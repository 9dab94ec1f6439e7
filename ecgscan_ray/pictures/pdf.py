"""Pages of PDF files as pictures, by PDFium, whose build in ``pypdfium2`` runs no scripts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ecgscan_ray.errors import InputError

DPI = 200
"""Resolution of a page that is drawn with lines, or that shows a picture of a lower resolution: 7.9 px/mm."""
MAX_DPI = 400
"""A scan of a higher resolution is scaled down to this one."""
_POINTS_PER_INCH = 72
_PASSWORD_ERROR = 4
_TAIL_BYTES = 4096
_SCAN_FRACTION = 0.5
"""A picture that covers this much of a page is a scan of it."""


class PdfPages:
    """The pages of a file, drawn one after another.

    Iterating gives uint8 (H, W, 3) RGB, or the error in place of a page that cannot be drawn.

    Args:
        data: Content of the file.
        max_pages: More are refused.
        max_pixels: Of a page, and of the pictures on it together.

    Raises:
        InputError: On iterating: the file is damaged or protected, has no or too many pages, or PDFium is not installed.
    """

    def __init__(self, data: bytes, max_pages: int, max_pixels: int) -> None:
        self._data, self._max_pages, self._max_pixels = data, max_pages, max_pixels

    def __iter__(self) -> Iterator[np.ndarray | InputError]:
        try:
            import pypdfium2
        except ModuleNotFoundError:
            fix = "Run: pip install pypdfium2. Or save each page as PNG."
            raise InputError("a PDF file, for which the package 'pypdfium2' is not installed", fix=fix) from None
        if b"%%EOF" not in self._data[-_TAIL_BYTES:]:  # PDFium would draw what is left of it
            raise InputError("the file is cut off")
        try:
            document = pypdfium2.PdfDocument(self._data)
        except pypdfium2.PdfiumError as error:
            if getattr(error, "err_code", None) == _PASSWORD_ERROR:
                raise InputError("a PDF file with a password", fix="Save it without one.") from None
            raise InputError("a damaged PDF file") from None
        try:
            count = len(document)
            if not 0 < count <= self._max_pages:
                raise InputError(f"more than {self._max_pages} pages" if count else "a PDF file without pages")
            for number in range(count):
                yield self._drawn(document, number)
        finally:
            document.close()

    def _drawn(self, document: Any, number: int) -> np.ndarray | InputError:
        import pypdfium2

        try:
            page = document[number]
            try:
                scale = (1 - 1e-6) * self._dpi(page) / _POINTS_PER_INCH  # PDFium rounds the number of pixels up
                bitmap = page.render(scale=scale, rev_byteorder=True, prefer_bgrx=False)
                try:
                    pixels = bitmap.to_numpy()
                    return np.ascontiguousarray(pixels[..., :3]).copy()
                finally:
                    bitmap.close()
            finally:
                page.close()
        except pypdfium2.PdfiumError:
            return InputError("a damaged page of a PDF file")
        except MemoryError:
            return InputError("too large for the memory")
        except InputError as error:
            return error

    def _dpi(self, page: Any) -> float:
        """Dots per inch at which to draw a page: those of its scan, if it is one.

        Raises:
            InputError: The page, or what it shows, is too large.
        """
        import pypdfium2.raw as raw

        width, height = (side / _POINTS_PER_INCH for side in page.get_size())
        if not width * height > 0:
            raise InputError("a page of a PDF file without a size")
        if width * height * DPI**2 > self._max_pixels:
            raise InputError(f"a page of {width:.0f} x {height:.0f} inches: save it smaller")
        pixels, dpi = 0, float(DPI)
        for image in page.get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE]):
            columns, rows = image.get_px_size()
            pixels += columns * rows
            left, bottom, right, top = (side / _POINTS_PER_INCH for side in image.get_bounds())
            area = (right - left) * (top - bottom)
            if area >= _SCAN_FRACTION * width * height:
                dpi = max(dpi, min(MAX_DPI, (columns * rows / area) ** 0.5))
        if pixels > self._max_pixels:
            raise InputError(f"pictures of {pixels / 1e6:.0f} megapixels on one page of a PDF file: save it smaller")
        return min(dpi, (self._max_pixels / (width * height)) ** 0.5)

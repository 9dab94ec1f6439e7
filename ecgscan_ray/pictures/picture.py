"""Pictures of any kind as arrays: read, turned upright, never cropped.

Files are untrusted: only decoders of pictures are tried, sizes are bounded before anything is decoded, and any failure
of a decoder becomes one ``InputError``.
"""

from __future__ import annotations

import io
import os
import re
import stat
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from ecgscan_ray.errors import InputError
from ecgscan_ray.pictures.depth import eight_bits
from ecgscan_ray.pictures.pdf import PdfPages

Picture = str | os.PathLike | Image.Image | np.ndarray
"""A page: path of an image file, PIL image, or uint8 array (H, W), (H, W, 1) or (H, W, 3) RGB; any size."""

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "AVIF", "JPEG2000", "BMP", "GIF", "PPM", "PCX")
"""Formats that Pillow reads here. Never EPS or WMF, which are programs for an interpreter. PDF and HEIC have other
decoders."""

MAX_PIXELS = 70_000_000
"""Of a page: A3 at 600 dots per inch."""

_MAX_PIXELS_OF = {
    "JPEG": 120_000_000,
    "MPO": 120_000_000,
    "JPEG2000": 40_000_000,
    "WEBP": 40_000_000,
    "AVIF": 40_000_000,
    "HEIF": 50_000_000,
}
"""Other bounds: JPEG files of more than ``MAX_PIXELS`` are decoded at half their size, and the last four decoders hold
several copies of a picture."""

MAX_BYTES = 300 * 2**20
"""Of a file."""

MAX_PAGES = 1000
"""Of a file."""

_PDF = rb".{0,200}?%PDF-"
_HEIC = rb".{4}ftyp(hei|hev|mif1|msf1)"
_NOT_PICTURES = (
    (rb"%!|\xc5\xd0\xd3\xc6", "a PostScript file, which is not run: save the page as PNG"),
    (rb".{128}DICM", "a DICOM file: save the page as PNG"),
    (rb"version https://git-lfs", "the pointer to a file in Git LFS: fetch the file"),
    (rb"\s*<(\?xml|svg|!doctype|html)", "a text (XML, SVG or HTML): save the page as PNG"),
)
_MAX_TEXT = 120
_TIFF_TYPE, _TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SAMPLE_FORMAT, _DNG_VERSION, _ORIENTATION = (
    254,
    258,
    262,
    339,
    50706,
    274,
)
_REDUCED_OR_MASK = 1 | 4


def read_picture(image: Picture) -> np.ndarray:
    """Upright uint8 (H, W) grey or (H, W, 3) RGB; transparent parts become white.

    The depth of a grey picture comes from its values: it is the smallest of 8, 10, 12, 14, 16, 24, 31 and 32 bits that holds
    all but the brightest thousandth of them, whatever type they are stored in. Signed values are shifted by half that
    range. Floating-point values go from 0 to 1, or are taken like integers. A minimum that is white is inverted.
    Colours of 16 bits of which only the lower ones are used are refused, as are values that are not finite.

    Raises:
        InputError: Not a readable picture, a file of several pages (see ``read_pages``), or an array of another shape or
            type.
    """
    if isinstance(image, np.ndarray):
        return _array(image)
    if isinstance(image, Image.Image):
        with _one_line("image"):
            return _pixels(image)
    pages = read_pages(_bytes_of(image), where=image)
    first, second = next(pages), next(pages, None)
    if second is not None:
        fix = "Use read_pages, or 'ecgscan embed', which gives a row for each page."
        raise InputError("a file of several pages", where=image, fix=fix)
    if isinstance(first, InputError):
        raise first
    return first


def read_pages(data: bytes, where: object = None) -> Iterator[np.ndarray | InputError]:
    """Every page of one picture file, one after another.

    Only TIFF and PDF have pages; a TIFF's previews and masks are none. Several frames of other formats are an animation, which
    is refused. Of a camera's JPEG or HEIC with other pictures behind it, the photograph is the page.

    Args:
        data: Content of the file.
        where: Named in errors.

    Yields:
        What ``read_picture`` returns, or the error in place of a page that cannot be read. At least one.
    """
    if re.match(_PDF, data[:256], re.DOTALL):
        yield from _pdf_pages(data, where)
        return
    try:
        with _one_line(where), _open(data) as image:
            frames = _page_frames(image)
            for frame in frames:
                yield _frame(image, frame, len(data), where)
    except InputError as error:
        yield error


def _pdf_pages(data: bytes, where: object) -> Iterator[np.ndarray | InputError]:
    pages = iter(PdfPages(data, MAX_PAGES, MAX_PIXELS))
    while True:
        page: np.ndarray | InputError | None
        try:
            with _one_line(where):
                page = next(pages, None)
        except InputError as error:
            yield error
            return
        if page is None:
            return
        yield InputError(page.what, where=where, fix=page.fix) if isinstance(page, InputError) else page
        del page  # before the next one is drawn


def _frame(image: Image.Image, frame: int, size: int, where: object) -> np.ndarray | InputError:
    try:
        with _one_line(where):
            if frame or image.tell():
                image.seek(frame)
            _refuse_cut_off(image, size)
            return _pixels(image)
    except InputError as error:
        return error


def _array(image: np.ndarray) -> np.ndarray:
    shaped = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3))
    if image.dtype != np.uint8 or image.size == 0 or not shaped:
        what = f"an array of {image.dtype} {image.shape}"
        raise InputError(what, where="image", fix="Give uint8 of (H, W), (H, W, 1) or (H, W, 3).")
    return image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image


def _bytes_of(path: Any) -> bytes:
    if not isinstance(path, str | os.PathLike):
        fix = "Give a path, a PIL image, or a numpy array of uint8 (H, W), (H, W, 1) or (H, W, 3)."
        raise InputError(f"a {type(path).__name__} is no page", where="image", fix=fix)
    return read_file(path)


def read_file(path: str | os.PathLike) -> bytes:
    """The content of a local file of reasonable size.

    Raises:
        InputError: It is absent, cannot be read, is no regular file or too large.
    """
    with _one_line(path):
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
            raise InputError("a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file", where=path)
        refuse_large(status.st_size, path)
        with open(path, "rb") as file:
            return file.read()


def refuse_large(size: int, where: object) -> None:
    """Raises ``InputError`` for a file of more than ``MAX_BYTES``."""
    if size > MAX_BYTES:
        raise InputError(f"a file of {size / 2**20:.0f} MB, at most {MAX_BYTES // 2**20} are read", where=where)


@contextmanager
def _one_line(where: object) -> Iterator[None]:
    """Whatever a decoder raises on a file becomes an ``InputError`` of that file; its warnings are dropped."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError as error:
        raise InputError(error.what, where=error.where or where, fix=error.fix) from None
    except FileNotFoundError:
        raise InputError("no such file", where=where) from None
    except Image.DecompressionBombError:
        raise InputError(_too_large(), where=where) from None
    except MemoryError:
        raise InputError("too large for the memory", where=where) from None
    except Exception as error:  # Pillow's decoders raise struct.error, KeyError, OverflowError, RecursionError, ...
        raise InputError(f"not readable as a picture ({_reason(error)})", where=where) from None


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = (text.splitlines() or [""])[0]
    return "".join(c if c.isprintable() else "?" for c in line)[:_MAX_TEXT] or type(error).__name__


def _open(data: bytes) -> Image.Image:
    if not data:
        raise InputError("an empty file")
    for start, what in _NOT_PICTURES:
        if re.match(start, data[:256], re.DOTALL | re.IGNORECASE):
            raise InputError(what)
    if re.match(_HEIC, data[:256], re.DOTALL):
        return _open_heic(data)
    Image.init()
    try:
        return Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        raise InputError(f"not a picture, or damaged at its start (read are {', '.join(FORMATS)}, PDF, HEIC)") from None


def _open_heic(data: bytes) -> Image.Image:
    try:
        from pi_heif import HeifImageFile
    except ModuleNotFoundError:
        fix = "Run: pip install 'ecgscan_ray[heic]'. Or save it as JPEG or PNG."
        raise InputError("a HEIC photograph, for which the package 'pi-heif' is not installed", fix=fix) from None
    return HeifImageFile(io.BytesIO(data))


def _page_frames(image: Image.Image) -> list[int]:
    """Numbers of the frames that are pages."""
    if image.format in ("MPO", "HEIF"):
        return [image.tell()]
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            raise InputError(f"an animation of {frames} frames: save the page as PNG")
        return [0]
    if _DNG_VERSION in image.tag_v2:
        raise InputError("a camera's raw file: save it as JPEG or PNG")
    pages = []
    for frame in _frames(image):
        if not int(image.tag_v2.get(_TIFF_TYPE, 0)) & _REDUCED_OR_MASK:
            pages.append(frame)
    if not pages:
        raise InputError("only previews, no page: save it as JPEG or PNG")
    return pages


def _frames(image: Image.Image) -> Iterator[int]:
    """Numbers of all frames of a TIFF, which then is at that frame."""
    frame = 0
    while True:
        try:
            image.seek(frame)
        except EOFError:
            return
        if frame == MAX_PAGES:
            raise InputError(f"more than {MAX_PAGES} pages")
        yield frame
        frame += 1


def _refuse_cut_off(image: Image.Image, size: int) -> None:
    """Of a compressed TIFF, libtiff fills what is missing; uncompressed ones Pillow refuses itself."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or image.tag_v2.get(259, 1) == 1:
        return
    for offsets, counts in ((273, 279), (324, 325)):
        pieces = zip(image.tag_v2.get(offsets, ()), image.tag_v2.get(counts, ()), strict=False)
        if any(start + count > size for start, count in pieces):
            raise InputError("the file is cut off")


def _pixels(image: Image.Image) -> np.ndarray:
    _bound(image)
    has_16_bits = ";16" in str(getattr(image, "tile", ""))
    load_pixels(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        grey = eight_bits(values.view(np.uint32) if _unsigned(image) else values)
        return _upright(255 - grey if _white_is_zero(image) else grey, image)
    if has_16_bits:
        _refuse_lost_bits(image)
    return _upright(np.array(_on_white(image)), image)


def _too_large(kind: str | None = None) -> str:
    return f"more than {_MAX_PIXELS_OF.get(kind or '', MAX_PIXELS) // 10**6} megapixels: save it smaller"


def _bound(image: Image.Image) -> None:
    width, height = image.size
    if not width * height:
        raise InputError(f"a picture of {width} x {height} pixels")
    if width * height > _MAX_PIXELS_OF.get(image.format or "", MAX_PIXELS):
        raise InputError(f"{width} x {height} pixels, {_too_large(image.format)}")
    if width * height > MAX_PIXELS:
        image.draft(image.mode, (width // 2, height // 2))


def load_pixels(image: Image.Image) -> None:
    """Decode a picture that was opened and found small enough.

    Raises:
        InputError: libtiff complained of it.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        image.load()
        return
    with _libtiff_messages() as messages:
        image.load()
    if messages:
        raise InputError(f"damaged ({messages[0]})")


@contextmanager
def _libtiff_messages() -> Iterator[list[str]]:
    """What libtiff writes to standard error while it decodes: errors after which it continues with made-up pixels."""
    messages: list[str] = []
    try:
        stderr = os.dup(2)
    except OSError:  # closed
        yield messages
        return
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield messages
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            lines = file.read(10_000).decode("utf-8", "replace").splitlines()
            messages += [_reason(ValueError(line)) for line in lines if line.strip()]


def _white_is_zero(image: Image.Image) -> bool:
    """Whether a deep TIFF's minimum is white; shallow ones Pillow inverts itself."""
    return isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_TIFF_PHOTOMETRIC) == 0


def _unsigned(image: Image.Image) -> bool:
    """Whether a TIFF's 32-bit integers have no sign; Pillow gives them one."""
    tags = getattr(image, "tag_v2", {})
    return image.mode == "I" and tags.get(_TIFF_BITS) == (32,) and tags.get(_TIFF_SAMPLE_FORMAT, (1,)) == (1,)


def _refuse_lost_bits(image: Image.Image) -> None:
    """Pillow keeps the upper byte of 16-bit colours: of 14 bits or fewer, hardly anything is left."""
    colours = image.getchannel("L") if image.mode == "LA" else image.convert("RGB")
    extrema = colours.getextrema()
    if np.max(extrema) < 64:
        raise InputError("colours of 16 bits of which only the lower ones are used: save it with 8 bits")


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    mode = "L" if image.mode in ("1", "L") else "RGB"
    return image if image.mode == mode else image.convert(mode)  # Pillow would copy it


def _upright(pixels: np.ndarray, image: Image.Image) -> np.ndarray:
    """Turned by its EXIF orientation. Pillow's own function rewrites all EXIF data, which fails on unusual ones."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF data of an intact picture
        return pixels
    mirrored = pixels[:, ::-1] if orientation in (2, 4, 5, 7) else pixels
    turns = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0)
    return np.ascontiguousarray(np.rot90(mirrored, turns))

"""Pictures of pages as people have them: files of phones, scanners and fax servers, PIL images, arrays.

A file is read with Pillow, from a list of formats alone: none of them starts a program. Anything that goes wrong is one
``InputError`` about that file, and a picture that is not whole is never returned.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from ecgscan_ray.errors import InputError

Picture = str | os.PathLike | Image.Image | np.ndarray
"""A page: path of a file with one page, PIL image, or uint8 array (H, W), (H, W, 1) or (H, W, 3) RGB; any size."""

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "AVIF", "BMP", "DIB", "GIF", "PPM", "JPEG2000", "PCX")
ENDINGS = tuple(
    f".{name}"
    for names in ("png jpg jpeg jpe jfif mpo tif tiff", "webp avif bmp dib gif ppm pgm pbm pnm jp2 j2k jpx pcx")
    for name in names.split()
)
"""What such files are called."""

MAX_PIXELS = 100_000_000
MAX_PIXELS_UNPACKED = 40_000_000
"""Of formats whose decoders keep the picture several times."""
MAX_SIDE = 65_535
"""Pixels: a resize of a longer picture passes through one as long and as wide as the result."""
MAX_PAGES = 1000
"""Of one file."""

_UNPACKED = ("WEBP", "AVIF", "JPEG2000")
_HALVED_FROM = 25_000_000
"""Pixels from which a picture is read at half its size: four times as many as any encoder sees."""
_HALVES = ("L", "RGB", "RGBA", "CMYK", "YCbCr")
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PHOTOMETRIC, _BITS, _SAMPLE_FORMAT, _SUBFILE = 262, 258, 339, 254
_PART_OF_A_PAGE = 0b101
"""Bits of TIFF's NewSubfileType: a smaller copy, a mask."""
_STRIPS = ((273, 279), (324, 325))
"""TIFF's offsets and byte counts, of strips and of tiles."""
_OTHER_KINDS = (
    (0, b"%PDF", "a PDF: save its pages as PNG"),
    (0, b"%!PS", "PostScript: save its pages as PNG"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript: save its pages as PNG"),
    (4, b"ftyphe", "HEIC, as phones write it: save it as JPEG or PNG"),
    (4, b"ftypmif1", "HEIF, as phones write it: save it as JPEG or PNG"),
    (4, b"ftypmsf1", "HEIF, as phones write it: save it as JPEG or PNG"),
    (128, b"DICM", "DICOM: save it as PNG"),
    (0, b"\xd7\xcd\xc6\x9a", "a WMF drawing: save it as PNG"),
    (0, b"8BPS", "a Photoshop file: save it as PNG"),
    (0, b"<svg", "an SVG drawing: save it as PNG"),
    (0, b"version https://git-lfs", "a Git LFS pointer: fetch the file itself"),
)
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_libtiff = threading.Lock()


def read_picture(image: Picture | bytes) -> np.ndarray:
    """Upright uint8 (H, W) grey or (H, W, 3) RGB; bytes are the content of a file.

    Transparent parts become white. Grey values of more than 8 bits are scaled by the bits in use, not by the bits of the
    file (``to_8_bits``). A photograph's thumbnail or second view (MPO) is no page.

    Raises:
        InputError: Not a readable picture, a file of several pages (see ``read_pages``), or an array of another shape or
            type.
    """
    if isinstance(image, np.ndarray):
        return _checked(image)
    if isinstance(image, Image.Image):
        with _one_line("image"), warnings.catch_warnings(action="ignore"):
            return _pixels(image)
    if not isinstance(image, str | bytes | os.PathLike):
        what = f"a {type(image).__name__} is no picture"
        raise InputError(what, where="image", fix="Give a path, a PIL image or a uint8 array of (H, W) or (H, W, 3).")
    pages = list(_some(read_pages(image), 2))
    if len(pages) > 1:
        fix = "Embed the file with embed_folder, or give its pages one by one (read_pages)."
        raise InputError(
            "holds more than one page", where=None if isinstance(image, bytes) else printable(image), fix=fix
        )
    if isinstance(pages[0], InputError):
        raise pages[0]
    return pages[0]


def read_pages(source: str | os.PathLike | bytes, where: object = None) -> Iterator[np.ndarray | InputError]:
    """Each page of a file as ``read_picture`` gives it, or what is wrong with it; at least one of the two.

    Pages of a TIFF are pages; its smaller copies and masks are not. An animation is refused.

    Args:
        source: Path or content of the file.
        where: What to call it in errors.
    """
    where = printable(source) if where is None and not isinstance(source, bytes) else where
    try:
        with _one_line(where), _opened(source) as file:
            yield from _pages(file, where)
    except InputError as error:
        yield error


def to_8_bits(values: np.ndarray, *, white_is_zero: bool = False) -> np.ndarray:
    """Grey values of any depth as uint8, by the range in use.

    The 0.1 % at either end are ignored in what follows, and clipped. Values below 0 are lifted to it. White is the largest
    number of as many bits as the largest value takes (4095 where that is 3800), or 1 for fractions. Where the values take
    less than an eighth of that, their least becomes black and their greatest white. What is not finite becomes white.

    Args:
        values: (H, W) integers or floats.
        white_is_zero: 0 is paper, as in TIFFs so marked.

    Raises:
        InputError: No value is finite.
    """
    sample = values.reshape(-1)[:: max(1, values.size // 2_000_000)].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        raise InputError("holds no finite value")
    low, high = np.quantile(sample, (0.001, 0.999))
    base = min(float(low), 0.0)
    top = _white(high - base, values.dtype.kind == "f")
    if 0 < high - low < top / 8:
        base, top = float(low), float(high - low)
    grey = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), 256):  # in strips: a float copy of a large page takes gigabytes
        strip = (values[start : start + 256].astype(np.float64) - base) * (255 / top)
        strip = 255 - strip if white_is_zero else strip
        grey[start : start + 256] = np.nan_to_num(strip, nan=255, posinf=255, neginf=255).clip(0, 255)
    return grey


def _white(largest: float, fractions: bool) -> float:
    if fractions and largest <= 1:
        return 1.0
    return float(2 ** max(1, int(np.ceil(np.log2(max(largest, 1) + 1)))) - 1)


def printable(name: object) -> str:
    """A file's name as text that can be stored and printed: bytes that are not UTF-8 and control signs as ``\\xNN``."""
    text = os.fsdecode(name) if isinstance(name, bytes | os.PathLike) else str(name)
    return _UNPRINTABLE.sub(lambda found: _escaped(found.group()), text)


def _escaped(sign: str) -> str:
    code = ord(sign)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else sign.encode("unicode_escape").decode()


def _some(items: Iterator[Any], count: int) -> Iterator[Any]:
    for _, item in zip(range(count), items, strict=False):
        yield item


def _checked(image: np.ndarray) -> np.ndarray:
    shaped = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3))
    if image.dtype != np.uint8 or image.size == 0 or not shaped:
        what = f"an array of {image.dtype} {image.shape}"
        raise InputError(what, where="image", fix="Give uint8 of (H, W), (H, W, 1) or (H, W, 3).")
    return image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image


@contextmanager
def _one_line(where: object) -> Iterator[None]:
    """Pillow and its decoders raise what they like on damaged files."""
    try:
        yield
    except InputError as error:
        raise InputError(error.what, where=error.where or where, fix=error.fix) from None
    except FileNotFoundError:
        raise InputError("no such file", where=where) from None
    except IsADirectoryError:
        raise InputError("a folder, not a picture", where=where) from None
    except PermissionError:
        raise InputError("cannot be read: access denied", where=where) from None
    except Image.DecompressionBombError:
        raise InputError(_too_large(MAX_PIXELS), where=where) from None
    except MemoryError:
        raise InputError("takes more memory than there is", where=where) from None
    except Exception as error:
        raise InputError(f"damaged or cut off ({_line(error)})", where=where) from None


def _line(error: BaseException) -> str:
    return printable((str(error).strip().splitlines() or [type(error).__name__])[0][:100])


def _too_large(limit: int) -> str:
    return f"more than {limit // 1_000_000} megapixels: make it smaller"


@contextmanager
def _opened(source: str | os.PathLike | bytes) -> Iterator[BinaryIO]:
    if isinstance(source, bytes):
        yield BytesIO(source)
        return
    path = Path(source)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError("no file but a pipe or device")
    with path.open("rb") as file:
        yield file


def _pages(file: BinaryIO, where: object) -> Iterator[np.ndarray | InputError]:
    with warnings.catch_warnings(action="ignore"):
        image, count = _identified(file)
    with image:
        for number in range(count):
            try:
                with _one_line(where), warnings.catch_warnings(action="ignore"):
                    if number:
                        image.seek(number)
                    if count > 1 and image.format == "TIFF" and image.tag_v2.get(_SUBFILE, 0) & _PART_OF_A_PAGE:
                        continue
                    page = _pixels(image)
            except InputError as error:
                yield error
                continue
            yield page


def _identified(file: BinaryIO) -> tuple[Any, int]:
    """The picture, not yet decoded, and its number of pages."""
    head = file.read(256)
    file.seek(0)
    for offset, mark, kind in _OTHER_KINDS:
        if head[offset:].startswith(mark):
            raise InputError(kind)
    if not head:
        raise InputError("an empty file")
    try:
        image = Image.open(file, formats=FORMATS)
        return image, _count(image)
    except UnidentifiedImageError:
        raise InputError("no picture of a known kind, or its start is damaged") from None


def _count(image: Any) -> int:
    """Pages. The other pictures in a photograph (MPO: a thumbnail, the other eye's view) are none.

    Raises:
        InputError: An animation, or too many pages.
    """
    if image.format == "TIFF":
        return _tiff_pages(image)
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise InputError(f"an animation of {frames} frames: save the page as a picture")
    return 1


def _tiff_pages(image: Any) -> int:
    count = 1
    try:
        while count <= MAX_PAGES:
            image.seek(count)
            count += 1
    except EOFError:
        image.seek(0)
        return count
    except Exception:  # the list of pages is damaged from here on: the page it stands for is not lost without a word
        image.seek(0)
        return count + 1
    raise InputError(f"more than {MAX_PAGES} pages")


def _pixels(image: Any) -> np.ndarray:
    if not image.width or not image.height:
        raise InputError("has no pixels")
    limit = MAX_PIXELS_UNPACKED if image.format in _UNPACKED else MAX_PIXELS
    if image.width * image.height > limit:
        raise InputError(_too_large(limit))
    if max(image.size) > MAX_SIDE:
        raise InputError(f"more than {MAX_SIDE} pixels wide or high")
    if image.format in ("JPEG", "MPO") and image.width * image.height > _HALVED_FROM:
        image.draft(image.mode, (image.width // 2, image.height // 2))
    white_is_zero, unsigned, deep = _of_file(image)
    _load(image)
    turn = _UPRIGHT.get(_orientation(image))
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        grey = to_8_bits(values.view(np.uint32) if unsigned else values, white_is_zero=white_is_zero)
        return np.array(Image.fromarray(grey).transpose(turn)) if turn is not None else grey
    if deep and _brightest(image) < 128:
        raise InputError("16 bits a colour, of which the upper ones are not used: save it with 8 bits a colour")
    image = _opaque(_halved(image))
    image = image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")
    return np.array(image.transpose(turn) if turn is not None else image)


def _of_file(image: Any) -> tuple[bool, bool, bool]:
    """Whether 0 is white and Pillow does not say so, whether 32 bits have no sign, and whether colours have 16 bits."""
    deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", []))
    if image.format != "TIFF":
        return False, False, deep
    tags = image.tag_v2
    unsigned = image.mode == "I" and tags.get(_BITS, (0,))[0] == 32 and tags.get(_SAMPLE_FORMAT, (1,))[0] == 1
    return tags.get(_PHOTOMETRIC) == 0, unsigned, deep


def _brightest(image: Any) -> int:
    extrema = image.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return max(high for (_, high), name in zip(bands, image.getbands(), strict=True) if name != "A")


def _load(image: Any) -> None:
    if image.format != "TIFF" or image.fp is None:
        image.load()
        return
    _refuse_cut_strips(image)
    with _libtiff, _heard() as complaints:
        image.load()
    if complaints:
        raise InputError(f"damaged or cut off ({complaints[0]})")


def _refuse_cut_strips(image: Any) -> None:
    """libtiff pads what is missing."""
    size = image.fp.seek(0, os.SEEK_END)
    for offsets, counts in _STRIPS:
        for offset, count in zip(image.tag_v2.get(offsets, ()), image.tag_v2.get(counts, ()), strict=False):
            if offset + count > size:
                raise InputError("cut off: its strips lie behind the end of the file")


@contextmanager
def _heard() -> Iterator[list[str]]:
    """What C code writes on standard error inside the block: libtiff says there alone that it could not decode all."""
    complaints: list[str] = []
    try:
        stderr = os.dup(2)
    except OSError:  # a service without one
        yield complaints
        return
    with tempfile.TemporaryFile() as heard:
        try:
            os.dup2(heard.fileno(), 2)
            yield complaints
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            heard.seek(0)
            complaints += [printable(line)[:100] for line in heard.read(10_000).splitlines() if line.strip()]


def _orientation(image: Any) -> int:
    """1 where EXIF is damaged: the pixels are in order all the same."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1


def _halved(image: Any) -> Any:
    return image.reduce(2) if image.mode in _HALVES and image.width * image.height > _HALVED_FROM else image


def _opaque(image: Any) -> Any:
    if image.mode not in ("RGBA", "LA", "PA", "La", "RGBa") and "transparency" not in image.info:
        return image
    image = (
        image.convert("RGBA") if image.mode not in ("La", "RGBa") else image.convert(image.mode.upper()).convert("RGBA")
    )
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)

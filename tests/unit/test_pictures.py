"""Pictures as people have them: depth, pages, kinds, damage, size."""

import io
import logging
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ecgscan_ray.errors import InputError
from ecgscan_ray.pictures import printable, read_pages, read_picture, to_8_bits


def grey_page():
    """Paper 240, grid 200, a trace of 10."""
    grey = np.full((340, 440), 240, np.uint16)
    grey[::20], grey[:, ::20], grey[170:173] = 200, 200, 10
    return grey


GREY = grey_page()


def colours():
    return np.stack([GREY, GREY - 8, GREY - 10], axis=-1).astype(np.uint8)


def content(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def only(data):
    (page,) = read_pages(data)
    if isinstance(page, InputError):
        raise page
    return page


def tiff(values, bits, sample_format, photometric=1):
    """An uncompressed TIFF of one strip."""
    height, width = values.shape
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 200)]
    tags += [(277, 3, 1), (278, 4, height), (279, 4, values.nbytes), (339, 3, sample_format)]
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + table + struct.pack("<I", 0)
    return head.ljust(200, b"\0") + values.astype(values.dtype.newbyteorder("<")).tobytes()


def test_pictures_of_every_kind_are_the_same_page(tmp_path):
    grey = GREY.astype(np.uint8)
    image = Image.fromarray(grey)
    image.save(tmp_path / "page.png")
    for kind in (grey, grey[..., None], image, tmp_path / "page.png", str(tmp_path / "page.png")):
        np.testing.assert_array_equal(read_picture(kind), grey)
    np.testing.assert_array_equal(read_picture(colours()), colours())
    clear = Image.new("RGBA", (8, 6), (0, 0, 0, 0))
    assert (read_picture(clear) == 255).all()


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000", "PPM"])
def test_the_depth_is_that_of_the_values(kind, bits):
    data = content(Image.fromarray(GREY << (bits - 8)), kind)
    assert np.abs(only(data).astype(int) - GREY).max() <= 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (GREY.astype(np.float32) / 255, GREY),
        (GREY.astype(np.float32), GREY),
        (GREY.astype(np.float32) * 1000, GREY * 255000.0 / 262143),
        (GREY.astype(np.int32) * 16 - 2048, (GREY - 10) * 4080.0 / 4095),  # lifted: the least is 0
        (GREY.astype(np.int32) << 20, GREY),
        (GREY.astype(np.float32) / 255 * 0.01 + 5, (GREY - 10) * 255 / 230),  # a small range far from 0
        (30000 + GREY, (GREY - 10.0) * 255 / 230),
    ],
)
def test_signed_fractions_and_small_ranges(values, expected):
    assert np.abs(to_8_bits(values).astype(int) - expected).max() <= 2


def test_a_few_odd_values_do_not_set_the_scale():
    values = GREY * 16
    values[5, 5:20] = 65535
    assert np.median(to_8_bits(values)) == 239
    floats = (GREY / 255).astype(np.float32)
    floats[:3] = np.nan
    floats[4, 4] = np.inf
    page = to_8_bits(floats)
    assert (page[:3] == 255).all()
    assert np.median(page) == 240
    with pytest.raises(InputError, match="no finite value"):
        to_8_bits(np.full((4, 4), np.nan, np.float32))
    assert set(np.unique(to_8_bits(np.zeros((4, 4), np.uint16)))) == {0}
    assert set(np.unique(to_8_bits(np.full((4, 4), 65535, np.uint16)))) == {255}


@pytest.mark.parametrize(
    ("values", "bits", "kind"),
    [
        (GREY * 16, 16, 1),
        (GREY.astype(np.uint32) << 24, 32, 1),
        (GREY.astype(np.int16) * 100, 16, 2),
        (GREY.astype(np.float32) / 255, 32, 3),
    ],
)
def test_tiffs_of_every_depth_upright_and_with_white_as_zero(values, bits, kind):
    top = float(
        np.iinfo(np.uint32).max if bits == 32 and kind == 1 else 4095 if kind == 1 else 32767 if kind == 2 else 1
    )
    expected = values / top * 255
    assert np.abs(only(tiff(values, bits, kind)) - expected).max() <= 1.01
    if (bits, kind) in ((16, 1), (32, 3)):
        assert np.abs(only(tiff(values, bits, kind, photometric=0)) - (255 - expected)).max() <= 1.01
    else:  # Pillow knows no such file
        with pytest.raises(InputError, match="no picture of a known kind"):
            only(tiff(values, bits, kind, photometric=0))


def test_white_as_zero_in_8_bits_and_1():
    assert np.abs(only(tiff(255 - GREY.astype(np.uint8), 8, 1, photometric=0)).astype(int) - GREY).max() == 0
    fax = Image.fromarray(GREY > 100)
    assert (only(content(fax, "TIFF", compression="group4")) == 255 * (GREY > 100)).all()


def rgb_png_of_16_bits(values):
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(width, height, 16, 2, zlib.compress(rows))


def png(width, height, bits, colour, packed):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def test_colours_of_12_bits_in_16_are_refused_and_full_ones_read():
    deep = colours().astype(np.uint16)
    assert np.abs(only(rgb_png_of_16_bits(deep << 8)).astype(int) - deep).max() <= 1
    with pytest.raises(InputError, match="16 bits a colour"):
        only(rgb_png_of_16_bits(deep << 4))


def test_pages_of_a_tiff_are_pages_and_its_small_copies_are_none(tmp_path):
    first, second = Image.fromarray(GREY.astype(np.uint8)), Image.new("RGB", (60, 50), (250, 10, 10))
    first.save(tmp_path / "two.tif", save_all=True, append_images=[second])
    pages = list(read_pages(tmp_path / "two.tif"))
    np.testing.assert_array_equal(pages[0], GREY)
    assert pages[1].shape == (50, 60, 3)
    with pytest.raises(InputError, match=r"two\.tif: holds more than one page"):
        read_picture(tmp_path / "two.tif")
    second.encoderinfo = {"tiffinfo": {254: 1}}
    first.save(tmp_path / "small.tif", save_all=True, append_images=[second])
    np.testing.assert_array_equal(read_picture(tmp_path / "small.tif"), GREY)


def test_a_damaged_page_of_a_tiff_is_named_and_the_others_read(tmp_path):
    grey = Image.fromarray(GREY.astype(np.uint8))
    data = content(grey, "TIFF", save_all=True, append_images=[grey, grey])
    whole, cut = list(read_pages(data)), list(read_pages(data[:-1000]))
    assert len(whole) == len(cut) == 3 or isinstance(cut[-1], InputError)
    assert [isinstance(page, np.ndarray) for page in cut[:2]] == [True, True]
    assert isinstance(cut[-1], InputError)


def test_a_phones_photograph_with_a_thumbnail_is_one_page():
    image = Image.fromarray(colours())
    data = content(image, "MPO", save_all=True, append_images=[image.resize((44, 34))])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert only(data).shape == (340, 440, 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_animations_are_refused(kind):
    frames = [Image.fromarray(np.roll(colours(), 7 * n, 1)) for n in range(3)]
    assert only(content(frames[0], kind)).shape[:2] == (340, 440)
    with pytest.raises(InputError, match="an animation of 3 frames"):
        only(content(frames[0], kind, save_all=True, append_images=frames[1:]))


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"\xc5\xd0\xd3\xc6" + bytes(30), "PostScript"),
        (b"%PDF-1.7\n", "a PDF: save its pages as PNG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC, as phones write it: save it as JPEG or PNG"),
        (b"\xd7\xcd\xc6\x9a" + bytes(40), "a WMF drawing"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"<html></html>", "no picture of a known kind"),
        (b"", "an empty file"),
    ],
)
def test_what_is_no_picture_is_called_by_its_name(data, line):
    with pytest.raises(InputError, match=line):
        only(data)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"compression": "jpeg"}),
        ("WEBP", {}),
        ("BMP", {}),
        ("GIF", {}),
        ("PPM", {}),
        ("JPEG2000", {"irreversible": False}),
        ("PCX", {}),
    ],
)
def test_a_cut_off_picture_is_never_embedded_in_part(kind, options, capfd):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8))
    data = content(image, kind, **options)
    assert only(data).shape[:2] == (90, 120)
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(InputError) as caught:
            only(data[: int(share * len(data))])
        assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == "", "libtiff says nothing itself"


def test_damage_that_only_libtiff_sees_is_named(capfd):
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120), dtype=np.uint8))
    fax, reasons = content(grey.convert("1"), "TIFF", compression="group4"), []
    for start in range(200, 1000, 40):
        damaged = list(read_pages(fax[:start] + bytes(range(1, 41)) + fax[start + 40 :]))
        reasons += [page.what for page in damaged if isinstance(page, InputError)]
    assert len(reasons) > 10
    assert all(reason.startswith("damaged or cut off (Fax4Decode: ") for reason in reasons)
    assert capfd.readouterr().err == ""


def test_a_damaged_exif_is_no_damaged_picture():
    entries = [struct.pack("<HHIHH", 274, 3, 1, 6, 0), struct.pack("<HHII", 282, 10, 1, 38)]
    exif = struct.pack("<2sHIH", b"II", 42, 8, 2) + b"".join(entries) + struct.pack("<Iii", 0, -1, 0)
    data = content(Image.new("RGB", (340, 440), (250, 240, 240)), "JPEG")
    part = b"Exif\0\0" + exif
    page = only(data[:2] + b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part + data[2:])
    assert page.shape == (340, 440, 3), "its pixels are in order, and it is turned (6: on its side)"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_by_its_camera(kind, orientation):
    image = Image.new("RGB", (64, 48), "white")
    ImageDraw.Draw(image).rectangle((0, 0, 31, 15), fill="black")  # the top left corner as stored
    exif = image.getexif()
    exif[0x0112] = orientation
    page = only(content(image, kind, exif=exif.tobytes()))
    assert page.shape[:2] == ((48, 64) if orientation < 5 else (64, 48))
    top, left = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}[
        orientation
    ]
    assert page[top, left].max() < 60
    assert page[-1 - top, -1 - left].min() > 200


@pytest.mark.parametrize(("bits", "colour", "samples"), [(8, 2, 3), (16, 0, 1)])
def test_a_bomb_is_refused_before_it_is_unpacked(bits, colour, samples):
    rows = zlib.compress(bytes((13000 * bits * samples // 8 + 1) * 20), 9)
    with pytest.raises(InputError, match="more than 100 megapixels"):
        only(png(13000, 13000, bits, colour, rows))
    with pytest.raises(InputError, match="more than 100 megapixels"):
        only(png(60000, 60000, bits, colour, rows))


def test_a_picture_like_a_thread_is_refused():
    data = png(1, 100_000, 8, 0, zlib.compress(bytes(200_000)))
    with pytest.raises(InputError, match="more than 65535 pixels wide or high"):
        only(data)


def test_pictures_in_memory_are_checked_too():
    for empty in (Image.new("L", (0, 0)), Image.new("RGB", (5, 0))):
        with pytest.raises(InputError, match="no pixels"):
            read_picture(empty)
    for bad in (np.zeros((4, 4), np.float32), np.zeros((4, 4, 7), np.uint8), np.zeros((0, 4), np.uint8), object()):
        with pytest.raises(InputError) as caught:
            read_picture(bad)
        assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    for name, line in (
        ("none.png", "no such file"),
        (".", "a folder"),
        ("pipe", "a pipe or device"),
        ("a\0b", "damaged"),
    ):
        with pytest.raises(InputError, match=line):
            read_picture(f"{tmp_path}/{name}")


def test_names_become_text_that_can_be_stored():
    assert printable("müller 日本.png") == "müller 日本.png"
    assert printable(b"m\xfcller.png") == "m\\xfcller.png"
    assert printable("a\nb\x1b[31m.png") == "a\\nb\\x1b[31m.png"
    printable("\ud800").encode()


MEMORY = """
import resource, sys
from ecgscan_ray.pictures import read_picture
try:
    print(read_picture(sys.argv[1]).shape)
except Exception as error:
    print(type(error).__name__, error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.verify
@pytest.mark.parametrize(
    ("mode", "kind"), [("RGBA", "PNG"), ("RGB", "JPEG"), ("I;16", "PNG"), ("F", "TIFF"), ("P", "GIF")]
)
def test_the_largest_pictures_stay_below_2_gb(tmp_path: Path, mode, kind):
    side = 9990
    array = {"I;16": np.full((side, side), 4000, np.uint16), "F": np.full((side, side), 0.9, np.float32)}.get(mode)
    image = Image.new(mode, (side, side), 9) if array is None else Image.fromarray(array)
    path = tmp_path / f"large.{kind.lower()}"
    image.save(path, kind)
    del image, array
    done = subprocess.run([sys.executable, "-c", MEMORY, path], capture_output=True, text=True, check=True)
    shape, peak = done.stdout.splitlines()
    logging.getLogger(__name__).info("%s %s: %s MB", mode, kind, peak)
    assert shape.startswith("(")
    assert int(peak) < 1500

"""Pictures as scanners, phones and fax servers write them, and folders with odd files in them."""

import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from ecgscan_ray.cli import app, output
from ecgscan_ray.config import PageConfig
from ecgscan_ray.encoder import embed_folder, read_pages, read_picture
from ecgscan_ray.encoder import folder as folder_room
from ecgscan_ray.encoder.encoder import Encoder
from ecgscan_ray.errors import EcgscanError, InputError
from ecgscan_ray.filesystem import exists, list_files, read_bytes, write_bytes_atomic
from ecgscan_ray.pictures import picture as pictures
from tests.pictures import encoded, only, page, refused


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_depth_comes_from_the_values(bits, kind):
    values = np.rint(page() * ((2**bits - 1) / 255)).astype(np.uint16)
    values[0, 0] = 65535 if kind == "PNG" else values[0, 0]  # one stuck pixel of a camera
    found = only(encoded(values, kind)).astype(int)
    assert np.abs(found - page())[1:].max() <= 1


@pytest.mark.parametrize(
    "values",
    [
        (page() / 255).astype(np.float32),
        page().astype(np.float32),
        page().astype(np.int32) * 2**23,
        (page().astype(np.int32) - 128) * 16,
        ((page().astype(np.int64) - 128) * 2**24).astype(np.int32),
    ],
    ids=["fraction", "float", "31 bits", "signed 12 bits", "signed 32 bits"],
)
def test_depth_of_other_types(values):
    assert np.abs(only(encoded(values, "TIFF")).astype(int) - page()).max() <= 1


def test_unsigned_32_bits():
    values = (page().astype(np.uint32) << 24).view(np.int32)
    signed, unsigned = (struct.pack("<HHIH", 339, 3, 1, sample_format) for sample_format in (2, 1))
    data = encoded(values, "TIFF")
    assert signed in data
    assert np.abs(only(data.replace(signed, unsigned)).astype(int) - page()).max() <= 1


@pytest.mark.parametrize(("odd", "reason"), [(np.nan, "finite"), (np.inf, "finite"), (-3.0, "negative")])
def test_values_that_are_no_grey_are_refused(odd, reason):
    values = page().astype(np.float32)
    values[3, 3] = odd
    assert reason in refused(encoded(values, "TIFF"))


def test_a_cameras_preview_behind_the_photograph_is_no_page():
    photograph, preview = (Image.new("RGB", size, (240, 240, 240)) for size in ((80, 60), (8, 6)))
    assert only(encoded(photograph, "MPO", save_all=True, append_images=[preview])).shape == (60, 80, 3)


def test_white_is_zero_is_inverted_at_every_depth():
    deep = 65535 - page().astype(np.uint16) * 257
    np.testing.assert_array_equal(only(encoded(deep, "TIFF", tiffinfo={262: 0})), page())
    fax = Image.fromarray(page()).convert("1", dither=Image.Dither.NONE)
    np.testing.assert_array_equal(only(encoded(fax, "TIFF", compression="group4")), np.asarray(fax) * np.uint8(255))


def test_colours_of_sixteen_bits():
    colours = np.repeat(page().astype(np.uint16)[..., None], 3, 2)
    for ending in (".png", ".tif"):
        np.testing.assert_array_equal(only(cv2.imencode(ending, colours * 257)[1].tobytes())[..., 0], page())
        assert "only the lower ones" in refused(cv2.imencode(ending, colours * 16)[1].tobytes())


def odd_resolution() -> bytes:
    """A JPEG turned by its camera, whose EXIF gives a resolution of -1/0."""
    data = encoded(Image.fromarray(page()), "JPEG", quality=100)
    entries = struct.pack("<HHIHH", 274, 3, 1, 6, 0) + struct.pack("<HHII", 282, 10, 1, 38)
    part = b"Exif\0\0" + struct.pack("<2sHIH", b"II", 42, 8, 2) + entries + struct.pack("<Iii", 0, -1, 0)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part + data[2:]


def test_odd_exif_does_not_spoil_a_picture():
    assert np.abs(only(odd_resolution()).astype(int) - np.rot90(page(), -1)).max() < 12


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})])
def test_every_orientation(kind, options):
    turned = [
        lambda p: p,
        np.fliplr,
        lambda p: np.rot90(p, 2),
        np.flipud,
        np.transpose,
        lambda p: np.rot90(p, -1),
        lambda p: np.rot90(np.transpose(p), 2),
        lambda p: np.rot90(p, 1),
    ]
    uneven = np.arange(35, dtype=np.uint8).reshape(5, 7)
    for number, expected in enumerate(turned, 1):
        exif = Image.Exif()
        exif[274] = number
        np.testing.assert_array_equal(only(encoded(uneven, kind, exif=exif, **options)), expected(uneven))


def test_every_page_of_a_file_counts_and_previews_do_not():
    shades = [Image.new("L", (40, 30), shade) for shade in (240, 120, 60)]
    data = encoded(shades[0], "TIFF", save_all=True, append_images=shades[1:])
    assert [int(np.median(found)) for found in read_pages(data)] == [240, 120, 60]
    preview = Image.new("L", (4, 3), 9)
    preview.encoderinfo = {"tiffinfo": {254: 1}}
    data = encoded(shades[0], "TIFF", save_all=True, append_images=[preview])
    assert only(data).shape == (30, 40)
    assert "only previews" in refused(encoded(preview, "TIFF", tiffinfo={254: 1}))


def test_pages_are_bounded(monkeypatch):
    monkeypatch.setattr(pictures, "MAX_PAGES", 2)
    shades = [Image.new("L", (4, 3), shade) for shade in (240, 120, 60)]
    assert "more than 2 pages" in refused(encoded(shades[0], "TIFF", save_all=True, append_images=shades[1:]))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_animations_are_refused(kind):
    frames = [Image.fromarray(page()), Image.fromarray(255 - page())]
    assert "animation of 2 frames" in refused(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))


def test_one_picture_of_a_file_of_several_is_not_chosen(tmp_path):
    shades = [Image.new("L", (40, 30), shade) for shade in (240, 120)]
    shades[0].save(tmp_path / "two.tif", save_all=True, append_images=shades[1:])
    with pytest.raises(InputError, match="several pages"):
        read_picture(tmp_path / "two.tif")


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"%PDF-1.7\n", "cut off"),
        (b"%PDF-1.7\n%%EOF", "a damaged PDF file"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "not readable as a picture"),
        (b"\xd7\xcd\xc6\x9a" + bytes(100), "not a picture"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"<svg/>", "SVG"),
        (b"", "empty"),
    ],
)
def test_what_is_no_picture_is_named(start, reason):
    assert reason in refused(start)


def test_large_pictures_are_refused_before_they_are_decoded(monkeypatch):
    bomb = encoded(Image.new("1", (13000, 13000)), "PNG")
    monkeypatch.setattr(pictures, "load_pixels", lambda image: pytest.fail("decoded"))
    assert "megapixels" in refused(bomb)


def test_large_photographs_are_decoded_at_half_their_size(monkeypatch):
    monkeypatch.setattr(pictures, "MAX_PIXELS", 60 * 80 - 1)
    assert only(encoded(Image.fromarray(page()), "JPEG")).shape == (30, 40)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "group4"}),
        ("TIFF", {}),
        ("JPEG2000", {}),
        ("PNG", {}),
    ],
)
def test_half_a_file_is_never_half_a_page(kind, options, capfd):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80), dtype=np.uint8))
    image = image.convert("1") if options.get("compression") == "group4" else image
    data = encoded(image, kind, **options)
    for share in (0.3, 0.6, 0.9):
        for found in read_pages(data[: int(share * len(data))]):
            assert isinstance(found, InputError)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "odd",
    [Image.new("L", (0, 0)), torch.zeros(3, 8, 8), 3, None, b"x"],
    ids=["empty", "tensor", "int", "none", "bytes"],
)
def test_what_is_no_page_is_refused(odd, tmp_path):
    with pytest.raises(InputError):
        read_picture(odd)


class _Means(torch.nn.Module):
    """Stands for a trained encoder: the mean of a page."""

    feature_dim, embed_dim = 1, 1

    def forward(self, image):
        return {"features": image.float().mean((1, 2, 3))[:, None]}


@pytest.fixture
def encoder(monkeypatch):
    monkeypatch.setattr(
        folder_room, "load_encoder", lambda *_, **__: Encoder(_Means(), PageConfig(height=64, width=64))
    )


def rows_of(path: Path) -> dict[str, tuple[float | None, str | None]]:
    rows = pq.read_table(path).to_pylist()
    return {row["path"]: (row["embedding"] and row["embedding"][0], row["error"]) for row in rows}


@pytest.mark.usefixtures("encoder")
def test_no_file_ends_the_job_and_every_page_has_a_row(tmp_path):
    source, out = tmp_path / "pages", tmp_path / "out.parquet"
    source.mkdir()
    shades = [Image.new("L", (40, 30), shade) for shade in (240, 120)]
    shades[0].save(source / "two.tif", save_all=True, append_images=shades[1:])
    (source / "camera.jpg").write_bytes(odd_resolution())
    (source / "odd.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    shades[0].save(source / "x.png")
    os.rename(source / "x.png", os.fsencode(source) + b"/m\xfcller.png")
    shades[0].save(source / "line\nbreak.png")
    (source / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(source / "pipe.png")
    (tmp_path / "elsewhere").mkdir()
    shades[1].save(tmp_path / "elsewhere" / "linked.png")
    (source / "ward").symlink_to(tmp_path / "elsewhere")
    (source / "round").symlink_to(source)
    (source / "earlier.parquet").write_bytes(b"PAR1")
    done = embed_folder("e", source, out, batch_size=2)
    rows = rows_of(out)
    assert (
        {name for name, (_, error) in rows.items() if error} == {"gone.png", "odd.eps", "pipe.png"} == set(done.errors)
    )
    assert {name: round(mean) for name, (mean, error) in rows.items() if not error and name != "camera.jpg"} == {
        "two.tif": 240,
        "two.tif#2": 120,
        "m\\udcfcller.png": 240,
        "line\\nbreak.png": 240,
        "ward/linked.png": 120,
    }
    assert done.embedded == 6
    assert embed_folder("e", source, source / "again", batch_size=2).embedded == 6
    assert embed_folder("e", source, source / "again", batch_size=2).embedded == 6, "its own output is no page"


@pytest.mark.usefixtures("encoder")
def test_one_file_alone(tmp_path):
    Image.new("L", (40, 30), 240).save(tmp_path / "page.png")
    assert embed_folder("e", tmp_path / "page.png", tmp_path / "out.parquet").embedded == 1
    assert rows_of(tmp_path / "out.parquet") == {"page.png": (240, None)}


@pytest.mark.usefixtures("encoder")
@pytest.mark.parametrize("error", [MemoryError(), RecursionError("deep"), struct.error("argument out of range")])
def test_whatever_a_decoder_raises_is_the_files_reason(tmp_path, monkeypatch, error):
    def fail(image):
        raise error

    Image.new("L", (40, 30)).save(tmp_path / "page.png")
    monkeypatch.setattr(pictures, "load_pixels", fail)
    assert list(embed_folder("e", tmp_path, tmp_path / "out.parquet").errors) == ["page.png"]


@pytest.mark.usefixtures("encoder")
def test_an_output_that_cannot_be_written_is_one_line_and_nothing_is_left(tmp_path, monkeypatch):
    (tmp_path / "pages").mkdir()
    Image.new("L", (40, 30)).save(tmp_path / "pages" / "page.png")
    for out in (tmp_path, Path("/proc/out.parquet"), Path("/dev/null/out.parquet")):
        with pytest.raises(EcgscanError) as caught:
            embed_folder("e", tmp_path / "pages", out)
        assert "\n" not in str(caught.value)

    def full(self, *_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(EcgscanError, match="No space left"):
        embed_folder("e", tmp_path / "pages", tmp_path / "out.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["pages"]


@pytest.mark.usefixtures("encoder")
def test_pages_and_output_in_a_bucket(s3_server, tmp_path, monkeypatch):
    place = f"{s3_server}/odd-pictures"
    write_bytes_atomic(f"{place}/pages/ward/a.png", encoded(page()))
    write_bytes_atomic(f"{place}/pages/b.pdf", b"%PDF-1.4")
    done = embed_folder("e", f"{place}/pages", f"{place}/out/features.parquet")
    assert done.embedded == 1
    assert list_files(f"{place}/out") == ["features.parquet"]
    (tmp_path / "features.parquet").write_bytes(read_bytes(f"{place}/out/features.parquet"))
    assert rows_of(tmp_path / "features.parquet")["b.pdf"] == (None, "the file is cut off")
    assert embed_folder("e", f"{place}/pages/ward/a.png", f"file://{tmp_path}/one.parquet").embedded == 1
    assert list(rows_of(tmp_path / "one.parquet")) == ["a.png"]
    monkeypatch.setattr(pq.ParquetWriter, "write_table", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        embed_folder("e", f"{place}/pages", f"{place}/out/half.parquet")
    assert not exists(f"{place}/out/half.parquet")


@pytest.mark.usefixtures("encoder")
def test_the_command_names_ten_files_and_counts_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "PROGRESS_S", 1e9)  # a busy machine starts processes slowly
    (tmp_path / "pages").mkdir()
    for number in range(14):
        (tmp_path / "pages" / f"{number:02}.png").write_bytes(b"")
    arguments = ["embed", "e", str(tmp_path / "pages"), str(tmp_path / "out.parquet")]
    nothing = CliRunner().invoke(app, arguments)
    assert nothing.exit_code == 2 and "no page could be read" in nothing.stderr
    Image.new("L", (40, 30)).save(tmp_path / "pages" / "good.png")
    done = CliRunner().invoke(app, arguments)
    lines = done.stderr.splitlines()
    assert done.exit_code == 0 and len(lines) == 12 and lines[10].startswith("skipped 4 more")
    assert done.stdout.startswith("1 pages embedded, 14 skipped")


def test_an_encoder_refuses_tensors_and_batches_of_nothing():
    encoder = Encoder(_Means(), PageConfig(height=64, width=64))
    with pytest.raises(InputError, match="Give 1 or more"):
        encoder.embed([page()], batch_size=0)
    for pages in (torch.zeros(2, 1, 32, 32, dtype=torch.uint8), [torch.zeros(32, 32)]):
        with pytest.raises(InputError, match="is no page"):
            encoder.embed(pages)

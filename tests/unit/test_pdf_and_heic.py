"""Files with decoders of their own: PDF and HEIC."""

from __future__ import annotations

import base64
import sys

import numpy as np
import pytest
from PIL import Image

from ecgscan_ray.pictures import picture as pictures
from ecgscan_ray.pictures import read_pages
from tests.pictures import encoded, only, page, refused

HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAXxtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAAAA"
    "AERAAAEAAQAAAAABoAABAAAAAAAAAL4AAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA/GlwcnAAAADc"
    "aXBjbwAAAHVodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQApQgEBA3AAAAMAkAAAAwAA"
    "AwAeoCCBBZbqrprm4CGgwIAAAAyAAAADAIRiAAEABkQBwXPBiQAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAAQAAAAChjbGFw"
    "AAAAIAAAAAEAAAAQAAAAAf///+AAAAAC////0AAAAAIAAAAQcGl4aQAAAAADCAgIAAAAGGlwbWEAAAAAAAAAAQABBYECAwWEAAAAxm1kYXQAAAC6"
    "KAGvEyGQ50j4TlCnlv0c38p//9k5IJVMWvcUq1vxeHjwBikshB+7PCm3AUtszPz0pW/rtGtV9n2OxVxGzls0nEgX53hM3I/eJQ9l/Ayqx8jEHgao"
    "MQO22GePlpbI+SXkupfHiFqdxXfh2KqWg1cPR+9xstVh3vKbl7uOxP7TEW8hSsXdqQ9igJ9BTHkljzzM0F5yryKM4hzrHoKaHJSeEkBHi//Pk8aX"
    "4Wi1PFu9qZo2ESyqFfJM609K"
)
"""A photograph of 32 x 16 pixels: white on the left, black on the right."""


def test_a_heic_photograph():
    pytest.importorskip("pi_heif")
    found = only(HEIC)
    assert found.shape == (16, 32, 3) and found[:, 4].min() > 200 and found[:, 28].max() < 60
    assert "not readable" in refused(HEIC[: len(HEIC) // 2])


def test_a_heic_photograph_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    (found,) = read_pages(HEIC)
    assert "'pi-heif' is not installed" in str(found) and "ecgscan_ray[heic]" in str(found)


def test_every_page_of_a_pdf_at_the_resolution_of_its_scan():
    shades = [Image.new("L", (550, 425), shade) for shade in (240, 120)]
    found = list(read_pages(encoded(shades[0], "PDF", save_all=True, append_images=shades[1:], resolution=300)))
    assert [(round(float(np.median(page))), page.shape) for page in found] == [
        (240, (425, 550, 3)),
        (120, (425, 550, 3)),
    ]
    assert only(encoded(shades[0], "PDF", resolution=50)).shape == (1700, 2200, 3), "at least 200 dpi"
    assert only(encoded(shades[0], "PDF", resolution=1200)).shape == (142, 184, 3), "at most 400 dpi"


def test_a_pdf_is_bounded(monkeypatch):
    assert "inches" in refused(encoded(page(), "PDF", resolution=1))
    monkeypatch.setattr(pictures, "MAX_PIXELS", 60 * 80 - 1)
    assert "megapixels" in refused(encoded(page(), "PDF", resolution=400))
    monkeypatch.setattr(pictures, "MAX_PAGES", 1)
    assert "more than 1 pages" in refused(encoded(page(), "PDF", save_all=True, append_images=[Image.new("L", (9, 9))]))


def plain_pdf(shade: bytes) -> bytes:
    """A page whose picture comes last in the file: a PDF reader finds the page where the picture is cut off."""
    content = b"q 72 0 0 72 0 0 cm /I Do Q"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 72 72] /Contents 4 0 R /Resources << /XObject << /I 5 0 R >> >> >>",
        b"<< /Length %d >> stream\n%s\nendstream" % (len(content), content),
        b"<< /Type /XObject /Subtype /Image /Width 200 /Height 200 /ColorSpace /DeviceGray /BitsPerComponent 8 /Length 40000 >>"
        b" stream\n" + shade * 40000 + b"\nendstream",
    ]
    data = b"%PDF-1.4\n" + b"".join(b"%d 0 obj %s endobj\n" % pair for pair in enumerate(objects, 1))
    return data + b"trailer << /Root 1 0 R /Size 6 >>\n%%EOF\n"


def test_half_a_pdf_is_never_half_a_page():
    data = plain_pdf(b"\x40")
    assert (only(data) == 0x40).all()
    for share in (0.3, 0.6, 0.9):
        assert refused(data[: int(share * len(data))]) == "the file is cut off"


def test_a_pdf_with_a_password():
    data = encoded(page(), "PDF")
    line = b"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <" + b"41" * 32 + b"> /U <" + b"42" * 32 + b"> >>"
    locked = data.replace(b"trailer\n<<", b"trailer\n<< /ID [<41> <41>] " + line)
    assert refused(locked) == "a PDF file with a password"

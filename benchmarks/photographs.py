"""Photographs and scans of printed pages whose recording is known, and the recordings beside them.

The data folder holds ``photos/`` (``photos.csv`` and the pictures) and ``ptbxl/`` (``database.csv.gz``, packed samples and
their ``read.py``). ``photo_pages.csv``, here, says where the page lies in each photograph: its corners as shares of width
and height from the head's left end on, from lines along its edges, which may meet outside the picture, and looked through
by eye. A picture that is not named there is filled by its page.
"""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from ecgscan_ray.encoder import read_picture
from ecgscan_ray.errors import InputError
from ecgscan_ray.recording.recording import Recording
from tools.make_sample import Row, read_samples

HEAD = 0.15
"""Share of the page's height with the printed head; all these pages are of one program, which leaves a third empty."""
ROWS_LOWER = 0.102
"""Share of the page's height by which its rows lie lower than in the middle of ours: 90 mm to the first, not 68."""
_EDGE = 0.04
"""The mask goes this far over the page's edges, for corners that are not quite met."""
_WHOLE = np.array([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)])


@dataclass(frozen=True)
class Photograph:
    """One picture of a printed page.

    Attributes:
        path: The picture.
        kind: ``photo`` or ``scan``.
        licence: As its source states it.
        ecg_id: The recording on it.
        layout: Name in ``paper.layout.LAYOUTS``; empty = not stated.
        speed: mm/s.
        gain: mm/mV.
    """

    path: Path
    kind: str
    licence: str
    ecg_id: str
    layout: str = ""
    speed: float = 25.0
    gain: float = 10.0

    def pixels(self, headless: bool = False) -> np.ndarray:
        """uint8 (H, W, 3); ``headless`` paints the printed head over in the paper's colour."""
        image = read_picture(self.path)
        image = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
        if headless:
            head = np.array([(-_EDGE, -_EDGE), (1 + _EDGE, -_EDGE), (1 + _EDGE, HEAD), (-_EDGE, HEAD)])
            inside = cv2.perspectiveTransform(head[None].astype(np.float32), self._page_to_image(image))
            paper = np.median(self.cut_out(image)[::8, ::8].reshape(-1, 3), axis=0)
            cv2.fillConvexPoly(image, np.rint(inside[0]).astype(np.int32), paper.tolist())
        return image

    def cut_out(self, image: np.ndarray, from_y: float = 0.0) -> np.ndarray:
        """The page alone, upright and as wide as the picture: uint8 (0.773 W, W, 3), letter paper held sideways.

        Args:
            image: The picture.
            from_y: Share of the page's height at which the cut begins; it then ends as much below the page.
        """
        size = (image.shape[1], round(image.shape[1] * 8.5 / 11))
        scale = np.array([(size[0], 0.0, 0.0), (0.0, size[1], -from_y * size[1]), (0.0, 0.0, 1.0)])
        to_page = scale @ np.linalg.inv(self._page_to_image(image))
        return cv2.warpPerspective(image, to_page, size, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)

    def _page_to_image(self, image: np.ndarray) -> np.ndarray:
        """Homography from shares of the page to pixels."""
        corners = page_corners().get(self.path.name, _WHOLE) * (image.shape[1], image.shape[0])
        return cv2.getPerspectiveTransform(_WHOLE.astype(np.float32), corners.astype(np.float32))


@cache
def page_corners() -> dict[str, np.ndarray]:
    """File name -> corners of its page (4, 2), shares of the picture's width and height."""
    with open(Path(__file__).with_name("photo_pages.csv"), newline="") as file:
        rows = [list(row.values()) for row in csv.DictReader(file)]
    return {name: np.array(numbers, np.float64).reshape(4, 2) for name, *numbers in rows}


def photographs(data: Path) -> list[Photograph]:
    """The photographs and scans of known recordings; digital renderings of a scanned page are left out.

    Raises:
        InputError: No such pictures there.
    """
    table = data / "photos" / "photos.csv"
    if not table.is_file():
        raise InputError("no photos/photos.csv", where=data)
    with open(table, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] in ("photo", "scan")]
    return [
        Photograph(
            table.parent / row["file"],
            row["kind"],
            row["licence_as_stated"],
            row["ecg_id"],
            layout_name(row.get("layout", "")),
            float(row.get("speed_mm_s") or 25),
            float(row.get("gain_mm_mv") or 10),
        )
        for row in rows
    ]


def layout_name(text: str) -> str:
    """``3x4 (2.5 s columns: ...) + 10 s rhythm strip II`` as ``3x4+1``; empty where no rows and columns are named."""
    grid = re.match(r"\s*(\d+)\s*x\s*(\d+)", text)
    if not grid:
        return ""
    rhythm = re.search(r"rhythm strips?:?\s+(.*)", text)
    leads = re.findall(r"\b(?:III|II|I|aV[RLF]|V[1-6])\b", rhythm[1]) if rhythm else []
    strips = "" if not leads else "+1" if leads == ["II"] else f"+{leads[0]}" if len(leads) == 1 else f"+{len(leads)}"
    return f"{grid[1]}x{grid[2]}{strips}"


def data_folder(uri: str) -> Path:
    """The folder that holds ``photos/`` and ``ptbxl/``, given it or its ``photos``."""
    folder = Path(uri).resolve()
    return folder.parent if (folder / "photos.csv").is_file() else folder


def database(data: Path) -> list[Row]:
    """The rows of all recordings in the data folder.

    Raises:
        InputError: No table there.
    """
    table = data / "ptbxl" / "database.csv.gz"
    if not table.is_file():
        raise InputError("no ptbxl/database.csv.gz", where=data)
    with gzip.open(table, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def recordings(data: Path, rows: Iterable[Row]) -> list[Recording]:
    """The recordings of these rows at 100 Hz, in their order."""
    rows = list(rows)
    samples = read_samples(data, rows)
    return [
        Recording(row["ecg_id"], "ptbxl", row["patient_id"], (samples[row["ecg_id"]] / 1000).astype(np.float32), 100.0)
        for row in rows
    ]

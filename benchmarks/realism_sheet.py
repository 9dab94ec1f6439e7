"""``python -m benchmarks.realism_sheet DATA/photos docs/realism.jpg``: pages of ours below real ones, at the same size.

Only pictures whose stated licence allows it are taken, with the printed head painted over. For each picture the sheet has
the whole page and, below, a piece of it at the size at which ``bench_realism`` measures.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from benchmarks.bench_realism import PRESETS, load, render_pages, sized
from benchmarks.photographs import Photograph
from ecgscan_ray.errors import EcgscanError

SHOWN = (
    "p2p_01137.jpg",
    "p2p_01408.jpg",
    "p2p_02190.jpg",
    "p2p_03671.jpg",
    "scan_16989_90053.jpg",
    "scan_18091_90055.jpg",
)
TILE = (300, 225)
QUALITY = 78


def may_be_shown(photo: Photograph) -> bool:
    """Whether the stated licence of picture and recording allows to pass it on."""
    picture, _, recording = photo.licence.partition(";")
    free = any(name in picture for name in ("MIT", "BSD"))
    return free and "not stated" not in photo.licence and "CC BY" in recording


def sheet(data: Path) -> np.ndarray:
    """uint8 (H, W, 3): real pages, pieces of them, ours, pieces of ours."""
    pairs = [pair for pair in zip(*load(data), strict=True) if pair[0].path.name in SHOWN and may_be_shown(pair[0])]
    photos, shown = (list(part) for part in zip(*pairs, strict=True))
    real = [sized(photo.pixels(headless=True)) for photo in photos]
    ours = render_pages(photos, shown, PRESETS)
    rows = [
        _row(tiles) for images in (real, ours) for tiles in ([_whole(i) for i in images], [_piece(i) for i in images])
    ]
    return np.concatenate(rows)


def _whole(image: np.ndarray) -> np.ndarray:
    scale = min(TILE[0] / image.shape[1], TILE[1] / image.shape[0])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    tile = np.full((TILE[1], TILE[0], 3), 255, np.uint8)
    y, x = (TILE[1] - size[1]) // 2, (TILE[0] - size[0]) // 2
    tile[y : y + size[1], x : x + size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return tile


def _piece(image: np.ndarray) -> np.ndarray:
    y, x = round(0.6 * image.shape[0]) - TILE[1] // 2, (image.shape[1] - TILE[0]) // 2
    return image[y : y + TILE[1], x : x + TILE[0]]


def _row(tiles: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.pad(tile, ((2, 2), (2, 2), (0, 0)), constant_values=255) for tile in tiles], axis=1)


def main(photos: str, out: str) -> int:
    try:
        image = sheet(Path(photos).resolve().parent)
    except EcgscanError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    cv2.imwrite(out, image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, QUALITY))
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))

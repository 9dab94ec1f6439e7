"""How far the rectified page is from its printed grid, at crossings that were looked at one by one.

``photo_crossings.csv`` names crossings of 5 mm lines in pictures: pixels (the centre of the first is 0), and how many millimetres
across and down they are from the first line that was taken. Each was proposed near a line, moved onto the middle of the ink in
both directions, and looked at at ten times its size; those under writing or traces were left out.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import numpy as np

from ecgscan_ray.reading.weights import load_networks
from ecgscan_ray.rectification.page_map import PageMap
from ecgscan_ray.rectification.pose import find_poses
from ecgscan_ray.rectification.rectify import rectify

STEPS = 20
"""Of Newton's method; the map is smooth."""


@cache
def crossings() -> dict[str, np.ndarray]:
    """File name -> (n, 4) x and y in px, then mm across and down."""
    found: dict[str, list[list[float]]] = {}
    with open(Path(__file__).with_name("photo_crossings.csv"), newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["file"], []).append([float(row[key]) for key in ("x", "y", "across_mm", "down_mm")])
    return {name: np.array(rows) for name, rows in found.items()}


def grid_error_mm(name: str, image: np.ndarray) -> float:
    """Median distance of the crossings of one picture from where the page's map has them, apart from one offset; mm.

    Args:
        name: Of the file.
        image: uint8 (H, W, 3).
    """
    networks, rows = load_networks(), crossings()[name]
    poses = find_poses(networks.coarse, image)
    if not poses:
        return float("inf")
    away = to_page(rectify(networks.page, image, poses[0]).page_map, rows[:, :2]) - rows[:, 2:]
    return float(np.median(np.linalg.norm(away - np.median(away, axis=0), axis=1)))


def to_page(page_map: PageMap, px: np.ndarray) -> np.ndarray:
    """The inverse of ``page_map.to_pixels``: (n, 2) px to page mm."""
    x0, y0, x1, y1 = page_map.box_mm
    mm = np.broadcast_to([(x0 + x1) / 2, (y0 + y1) / 2], px.shape).astype(float)
    half = 0.5
    for _ in range(STEPS):
        columns = [
            page_map.to_pixels(mm + np.multiply(half, axis)) - page_map.to_pixels(mm - np.multiply(half, axis))
            for axis in ((1.0, 0.0), (0.0, 1.0))
        ]
        jacobian = np.stack(columns, axis=-1)
        mm = mm + np.linalg.solve(jacobian, (px - page_map.to_pixels(mm))[..., None])[..., 0]
    return mm

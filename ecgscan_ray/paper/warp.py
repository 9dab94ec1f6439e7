"""Where the page lies in the image: one homography from page millimetres to pixels.

Continuous coordinates have their origin at the upper left corner of the first pixel; index coordinates, which OpenCV
and all ground truth use, have it at that pixel's centre: index = continuous - 0.5. They are converted here and in
``truth.py`` and nowhere else.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from ecgscan_ray.paper.key import Draws


def scaling(sx: float, sy: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """float64 (3, 3): scale, then shift."""
    return np.array([[sx, 0.0, x], [0.0, sy, y], [0.0, 0.0, 1.0]])


def to_index(matrix: np.ndarray) -> np.ndarray:
    """A map between continuous coordinates as one between index coordinates."""
    return scaling(1, 1, -0.5, -0.5) @ matrix @ scaling(1, 1, 0.5, 0.5)


def map_points(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """float64 (..., 2) points through a homography."""
    x, y = points[..., 0], points[..., 1]
    w = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2]
    return np.stack(
        [
            (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]) / w,
            (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]) / w,
        ],
        axis=-1,
    )


def normal(draws: Draws, slot: str, other: str, limit: float) -> float:
    """A standard normal number within +-limit from two slots."""
    radius = math.sqrt(-2.0 * math.log(1.0 - draws.unit(slot)))
    return max(-limit, min(limit, radius * math.cos(2 * math.pi * draws.unit(other))))


def page_matrix(
    draws: Draws,
    page_mm: tuple[float, float],
    keep_mm: tuple[float, float, float, float],
    size: tuple[int, int],
    flat: np.ndarray,
    rotation_deg: float,
    perspective: float,
    scale: float,
    shift: float,
) -> np.ndarray:
    """The homography of one page, continuous mm to continuous px.

    Args:
        draws: The page's numbers.
        page_mm: Width and height.
        keep_mm: x0, y0, x1, y1 of what must stay in the image: all traces and their labels.
        size: Image height and width.
        flat: The undistorted map mm to px.
        rotation_deg: Angle.
        perspective: Corners move by up to this share of the page's width.
        scale: The page's size in the image, 1 = it fills it.
        shift: Share of the image's side by which the page moves at most.
    """
    width, height = page_mm
    turn = math.radians(rotation_deg)
    grow = scale
    cos, sin, push = grow * math.cos(turn), grow * math.sin(turn), perspective * width
    target = []
    for i, (x, y) in enumerate(((0.0, 0.0), (width, 0.0), (width, height), (0.0, height))):
        x, y = x - width / 2, y - height / 2
        moved_x = cos * x - sin * y + width / 2 + push * draws.signed(f"corner_{2 * i}")
        moved_y = sin * x + cos * y + height / 2 + push * draws.signed(f"corner_{2 * i + 1}")
        target.append(
            (
                flat[0, 0] * moved_x + flat[0, 2] + shift * size[1] * draws.signed("shift_x"),
                flat[1, 1] * moved_y + flat[1, 2] + shift * size[0] * draws.signed("shift_y"),
            )
        )
    corners = np.array([(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)], np.float32)
    matrix = cv2.getPerspectiveTransform(corners, np.array(target, np.float32))
    return _keep_inside(matrix, keep_mm, size)


def map_point(matrix: list[list[float]], x: float, y: float) -> tuple[float, float]:
    """One point through a homography."""
    (a, b, c), (d, e, f), (g, h, i) = matrix
    w = g * x + h * y + i
    return (a * x + b * y + c) / w, (d * x + e * y + f) / w


def _keep_inside(matrix: np.ndarray, keep_mm: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """Shrink and move the page, if need be, until ``keep_mm`` lies in the image."""
    x0, y0, x1, y1 = keep_mm
    rows = matrix.tolist()
    box = [map_point(rows, x, y) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
    low, high = [min(p[i] for p in box) for i in (0, 1)], [max(p[i] for p in box) for i in (0, 1)]
    room = (float(size[1]), float(size[0]))
    shrink = min(1.0, *(room[i] / (high[i] - low[i]) for i in (0, 1)))
    move = [max(0.0, -low[i] * shrink) + min(0.0, room[i] - high[i] * shrink) for i in (0, 1)]
    return scaling(shrink, shrink, *move) @ matrix if shrink < 1 or any(move) else matrix

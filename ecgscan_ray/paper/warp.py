"""The pose of the page in the image: its curl, then one homography from page millimetres to pixels.

Continuous coordinates have their origin at the upper left corner of the first pixel; index coordinates, which OpenCV
and all ground truth use, have it at that pixel's centre: index = continuous - 0.5. Only this module and ``truth.py``
convert between them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from ecgscan_ray.paper.key import Draws

FLAT: tuple[float, ...] = ()
"""Curl of a flat page."""
_NODE = 8
"""px between the nodes at which the map of a curled page is computed; it is interpolated in between."""


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


def _waves(positions: np.ndarray, side: float, one: float, two: float) -> np.ndarray:
    return one * np.sin(math.pi / side * positions) + two * np.sin(2 * math.pi / side * positions)


def curled(points: np.ndarray, curl: tuple[float, ...], page_mm: tuple[float, float]) -> np.ndarray:
    """float64 (..., 2) points of the page, mm, moved by its waves: first down by x, then across by y.

    Two shears, so that ``flattened`` inverts it exactly. The page's corners stay fixed.
    """
    if not any(curl):
        return points
    x, y = points[..., 0], points[..., 1]
    y = y + _waves(x, page_mm[0], *curl[:2])
    return np.stack([x + _waves(y, page_mm[1], *curl[2:]), y], axis=-1)


def flattened(points: np.ndarray, curl: tuple[float, ...], page_mm: tuple[float, float]) -> np.ndarray:
    """Inverse of ``curled``."""
    x, y = points[..., 0], points[..., 1]
    x = x - _waves(y, page_mm[1], *curl[2:])
    return np.stack([x, y - _waves(x, page_mm[0], *curl[:2])], axis=-1)


@dataclass(frozen=True)
class Sheet:
    """A drawn page and its map into the image.

    Attributes:
        matrix: Homography, continuous mm to continuous px.
        curl: See ``curled``.
        page_mm: Width and height.
        scale: px/mm of the canvas in x and y.
    """

    matrix: np.ndarray
    curl: tuple[float, ...]
    page_mm: tuple[float, float]
    scale: tuple[float, float]

    def warp_onto(self, canvas: np.ndarray, image: np.ndarray) -> None:
        """Resample the canvas into the image, once; pixels outside the page keep their values."""
        size = (image.shape[1], image.shape[0])
        if not any(self.curl):
            canvas_to_image = to_index(self.matrix @ scaling(1 / self.scale[0], 1 / self.scale[1]))
            cv2.warpPerspective(
                canvas, canvas_to_image, size, dst=image, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT
            )
            return
        rows, columns = size[1] // _NODE + 3, size[0] // _NODE + 3
        x, y = np.meshgrid((np.arange(columns) - 0.5) * _NODE, (np.arange(rows) - 0.5) * _NODE)
        page = map_points(np.linalg.inv(self.matrix), np.stack([x, y], -1))
        nodes = (flattened(page, self.curl, self.page_mm) * self.scale - 0.5).astype(np.float32)
        dense = cv2.resize(nodes, (columns * _NODE, rows * _NODE), interpolation=cv2.INTER_LINEAR)
        dense = np.ascontiguousarray(dense[_NODE : _NODE + size[1], _NODE : _NODE + size[0]])
        cv2.remap(canvas, dense, None, cv2.INTER_LINEAR, dst=image, borderMode=cv2.BORDER_TRANSPARENT)


def normal(draws: Draws, slot: str, other: str, limit: float) -> float:
    """A standard normal number within +-limit from two slots."""
    radius = math.sqrt(-2.0 * math.log(1.0 - draws.unit(slot)))
    return max(-limit, min(limit, radius * math.cos(2 * math.pi * draws.unit(other))))


def curl_of(draws: Draws, size: float, width_mm: float) -> tuple[float, ...]:
    """Amplitudes of the page's waves, mm, for a size in fractions of its width."""
    factors = (1.0, 0.4, 0.4, 0.15)
    return tuple(round(size * width_mm * factor * draws.signed(f"curl_{i}"), 4) for i, factor in enumerate(factors))


def slope(pose: Pose, width_mm: float, count: int) -> np.ndarray | None:
    """float64 (count,) slope of a curled page along its width; None for a flat or portrait page."""
    if not any(pose.curl) or pose.turn % 2:
        return None
    one, two, phase = *pose.curl[:2], math.pi * (np.arange(count) + 0.5) / count
    return (math.pi / width_mm) * (one * np.cos(phase) + 2 * two * np.cos(2 * phase)) * (-1 if pose.turn else 1)


@dataclass(frozen=True)
class Pose:
    """Position and shape of a page in the image.

    Attributes:
        turn: Quarter turns clockwise.
        rotation_deg: Further rotation, clockwise.
        perspective: Corners move by up to this fraction of the page's width.
        scale: The page's size in the image, 1 = it fills it.
        shift: Largest shift as a fraction of the image's side.
        curl: See ``curled``.
    """

    turn: int
    rotation_deg: float
    perspective: float
    scale: float
    shift: float
    curl: tuple[float, ...]


def page_matrix(
    draws: Draws,
    pose: Pose,
    page_mm: tuple[float, float],
    size: tuple[int, int],
    flat: tuple[float, float, float, float],
    keep_mm: tuple[float, float, float, float] | None,
) -> np.ndarray:
    """The homography of one page, continuous mm to continuous px.

    Args:
        draws: The page's numbers.
        pose: Of the page.
        page_mm: Width and height.
        size: Image height and width.
        flat: The undistorted map mm to px of the turned page: px/mm in x and y, and its corner in px.
        keep_mm: x0, y0, x1, y1 of the box that must stay in the image: all traces and their labels. None = no such box.
    """
    width, height = page_mm
    turned_width, turned_height = (height, width) if pose.turn % 2 else (width, height)
    sx, sy, ox, oy = flat
    turn = math.radians(pose.rotation_deg)
    cos, sin, push = pose.scale * math.cos(turn), pose.scale * math.sin(turn), pose.perspective * width
    target = []
    for i, (x, y) in enumerate(((0.0, 0.0), (width, 0.0), (width, height), (0.0, height))):
        x, y = x - width / 2, y - height / 2
        for _ in range(pose.turn):
            x, y = -y, x
        moved_x = cos * x - sin * y + turned_width / 2 + push * draws.signed(f"corner_{2 * i}")
        moved_y = sin * x + cos * y + turned_height / 2 + push * draws.signed(f"corner_{2 * i + 1}")
        target.append(
            (
                sx * moved_x + ox + pose.shift * size[1] * draws.signed("shift_x"),
                sy * moved_y + oy + pose.shift * size[0] * draws.signed("shift_y"),
            )
        )
    corners = np.array([(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)], np.float32)
    matrix = cv2.getPerspectiveTransform(corners, np.array(target, np.float32))
    return matrix if keep_mm is None else _keep_inside(matrix, _outline(keep_mm, pose.curl, page_mm), size)


def map_point(matrix: list[list[float]], x: float, y: float) -> tuple[float, float]:
    """One point through a homography."""
    (a, b, c), (d, e, f), (g, h, i) = matrix
    w = g * x + h * y + i
    return (a * x + b * y + c) / w, (d * x + e * y + f) / w


def _outline(
    box_mm: tuple[float, float, float, float], curl: tuple[float, ...], page_mm: tuple[float, float]
) -> list[tuple[float, float]]:
    """Points on the outline of a box: its corners, and on a curled page points on its sides too."""
    x0, y0, x1, y1 = box_mm
    corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    if not any(curl):
        return corners
    fraction = np.arange(12)[:, None] / 12
    sides = [
        np.array(a) + fraction * (np.array(b) - a) for a, b in zip(corners, corners[1:] + corners[:1], strict=True)
    ]
    return [(float(x), float(y)) for x, y in curled(np.concatenate(sides), curl, page_mm)]


def _keep_inside(matrix: np.ndarray, outline_mm: list[tuple[float, float]], size: tuple[int, int]) -> np.ndarray:
    """Shrink and move the page, where needed, so that the outline is inside the image."""
    rows = matrix.tolist()
    box = [map_point(rows, x, y) for x, y in outline_mm]
    low, high = [min(p[i] for p in box) for i in (0, 1)], [max(p[i] for p in box) for i in (0, 1)]
    room = (float(size[1]), float(size[0]))
    shrink = min(1.0, *(room[i] / (high[i] - low[i]) for i in (0, 1)))
    move = [max(0.0, -low[i] * shrink) + min(0.0, room[i] - high[i] * shrink) for i in (0, 1)]
    return scaling(shrink, shrink, *move) @ matrix if shrink < 1 or any(move) else matrix

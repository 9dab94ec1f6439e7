"""Where the page lies in a whole picture, from ``CoarseNet``: a homography, and how far it can be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from ecgscan_ray.rectification.channels import COARSE_STRIDE
from ecgscan_ray.rectification.networks import CoarseNet
from ecgscan_ray.rectification.samples import FRAME_UNIT_MM, SIDE, cells

MULTIPLE = 64
LEAST_PAGE_MM, MOST_PAGE_MM = 40.0, 600.0
"""Sides of a page; memory and time grow with its area."""
LEAST_TURN_BELIEF = 0.05
"""Of a second choice of quarter turns. On 155 rendered photographs two pages had one; of the first choices one was wrong,
believed with 0.58."""

LEAST_PART = 0.2
"""Share of the picture beside a page that can hold another."""


@dataclass(frozen=True)
class Pose:
    """Of one page.

    Attributes:
        matrix: Homography from mm of the trace frame (0, 0 = its middle, x to the right, y down) to index coordinates of the
            picture, px.
        box_mm: x0, y0, x1, y1 of what the picture shows of the page, mm of the frame.
        turns: Quarter turns clockwise by which the page is turned.
        turn_belief: Probability of these turns.
        belief: Share of the page's cells that agree with the homography.
        area: Share of the picture that is page.
    """

    matrix: np.ndarray
    box_mm: tuple[float, float, float, float]
    turns: int
    turn_belief: float
    belief: float
    area: float


def shrink(image: np.ndarray, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """The picture at ``side`` px, upright ones laid on their left side, padded to multiples of 64 with its edge's colour;
    float64 (3, 3) from its index coordinates to those of the picture."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    small = cv2.resize(
        image, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA
    )
    sx, sy = width / small.shape[1], height / small.shape[0]
    to_picture = np.array([[sx, 0, 0.5 * sx - 0.5], [0, sy, 0.5 * sy - 0.5], [0, 0, 1.0]])
    if is_upright(image):
        to_picture = to_picture @ np.array([[0, -1, small.shape[1] - 1], [1, 0, 0], [0, 0, 1.0]])
        small = np.ascontiguousarray(np.rot90(small))
    h, w = small.shape[:2]
    H, W = (math.ceil(n / MULTIPLE) * MULTIPLE for n in (h, w))
    top, left = (H - h) // 2, (W - w) // 2
    edge = np.median(np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]]), 0)
    out = cv2.copyMakeBorder(
        small, top, H - h - top, left, W - w - left, cv2.BORDER_CONSTANT, value=[float(v) for v in edge]
    )
    return out, to_picture @ np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]])


def is_upright(image: np.ndarray) -> bool:
    """Whether the picture is higher than wide; ``CoarseNet`` was trained on wide ones."""
    return image.shape[0] > image.shape[1]


def halves(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two halves of its longer side."""
    middle = max(image.shape[:2]) // 2
    return (image[:middle], image[middle:]) if is_upright(image) else (image[:, :middle], image[:, middle:])


def parts_beside(image: np.ndarray, pose: Pose) -> list[np.ndarray]:
    """What the picture shows above, below, left and right of a page, where it is large enough for another page."""
    x0, y0, x1, y1 = pose.box_mm
    corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    px = cv2.perspectiveTransform(corners[None], pose.matrix)[0]
    left, top = np.clip(px.min(0), 0, image.shape[1::-1]).astype(int)
    right, bottom = np.clip(px.max(0), 0, image.shape[1::-1]).astype(int)
    parts = (image[:top], image[bottom:], image[:, :left], image[:, right:])
    return [part for part in parts if part.size > LEAST_PART * image.size]


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 (N, H, W, 3) as float32 (N, 3, H, W) in 0..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255)


@torch.inference_mode()
def find_poses(net: CoarseNet, image: np.ndarray) -> tuple[Pose, ...]:
    """The poses that the page in ``image``, uint8 (H, W, 3), may have, the likeliest first: they differ in quarter turns. None
    where no page is found."""
    small, back = shrink(image)
    maps, turns = net(to_tensor(small[None]))
    maps, turn_p = maps[0].float().numpy(), turns[0].float().softmax(0).numpy()
    page = 1 / (1 + np.exp(-maps[0]))
    sure = page > 0.6
    if sure.sum() < 40:
        return ()
    at = cv2.perspectiveTransform(cells(small.shape[:2], COARSE_STRIDE)[sure][None].astype(np.float64), back)[0]
    mm = maps[1:, sure].T.astype(np.float64) * FRAME_UNIT_MM
    poses: list[Pose] = []
    for k in np.argsort(-turn_p):
        if poses and turn_p[k] < LEAST_TURN_BELIEF:
            break
        shape = _fitted(_turned_back(mm, int(k)), at)
        if shape is not None:
            poses.append(
                Pose(*shape[:2], int(k + is_upright(image)) % 4, float(turn_p[k]), shape[2], float(sure.mean()))
            )
    return tuple(poses)


def _turned_back(mm: np.ndarray, quarter_turns: int) -> np.ndarray:
    """Places (n, 2) in the upright page's frame, from those in a frame turned clockwise."""
    for _ in range(quarter_turns):
        mm = np.stack([mm[:, 1], -mm[:, 0]], -1)
    return mm


def _fitted(mm: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, tuple[float, float, float, float], float] | None:
    """Homography from places of the page to those of the picture, both (n, 2), the page's box in mm, and the share that agrees;
    None where no page can lie so."""
    extent = float(np.linalg.norm(np.ptp(at, axis=0)))
    matrix, good = cv2.findHomography(mm, at, cv2.RANSAC, 0.03 * extent, maxIters=3000)
    if matrix is None or abs(np.linalg.det(matrix)) < 1e-9:
        return None
    seen = cv2.perspectiveTransform(at[None], np.linalg.inv(matrix))[0]
    low, high = np.percentile(seen, 1, axis=0) - 6, np.percentile(seen, 99, axis=0) + 6
    if not LEAST_PAGE_MM < min(high - low) <= max(high - low) < MOST_PAGE_MM:
        return None
    return matrix, (float(low[0]), float(low[1]), float(high[0]), float(high[1])), float(good.mean())

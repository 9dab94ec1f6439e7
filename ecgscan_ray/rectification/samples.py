"""Training samples cut from rendered pages: what each network sees, and the truth from the renderer.

A rendered page is sampled once more through a map of its own: a smooth or creased displacement of the sheet, and the
error of the stage before. Picture and truth go through the same map, so the truth stays exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from ecgscan_ray.paper import marks
from ecgscan_ray.paper.grid import MAJOR_MM
from ecgscan_ray.paper.key import Draws
from ecgscan_ray.paper.truth import PageTruth
from ecgscan_ray.rectification.channels import COARSE_STRIDE, LABELS, PAGE_STRIDE

SIDE = 512
"""Longer side of the picture that ``CoarseNet`` sees, px."""
PAGE_PX = 3.0
"""px/mm of what ``PageNet`` sees."""
NODE = 8
"""px between the points at which a map is computed."""
FRAME_UNIT_MM = 100.0
NO_PAGE, TWO_PAGES = 0.04, 0.12
"""Shares of whole pictures without a page, and with a part of another page beside it."""


@dataclass(frozen=True)
class Drawn:
    """A rendered page: uint8 (H, W, 3), its truth, and the recording drawn, mV (12, T) at ``fs`` Hz."""

    image: np.ndarray
    truth: PageTruth
    signal_mv: np.ndarray
    fs: float


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cell: float, size: float) -> np.ndarray:
    """float32 ``shape``, smooth, with standard deviation ``size`` and features of ``cell`` samples."""
    small = [max(4, round(n / cell) + 4) for n in shape]
    noise = rng.standard_normal(small).astype(np.float32) * size
    large = cv2.resize(noise, None, fx=cell, fy=cell, interpolation=cv2.INTER_CUBIC)
    y, x = (int(rng.integers(0, max(1, have - want + 1))) for have, want in zip(large.shape, shape, strict=True))
    part = large[y : y + shape[0], x : x + shape[1]]
    return part if part.shape == shape else cv2.resize(part, shape[::-1])


def bend(rng: np.random.Generator, points_mm: np.ndarray, step_mm: float) -> np.ndarray:
    """float64 (h, w, 2) displacement in mm of a bent, folded, crumpled sheet at a regular grid of points ``step_mm`` apart."""
    shape = points_mm.shape[:2]
    moved = np.zeros((*shape, 2))
    if rng.random() < 0.25:
        return moved
    size = rng.uniform(0.1, 1.5) ** 2
    cell_mm = rng.uniform(25, 110)
    for axis in (0, 1):
        moved[..., axis] += smooth_noise(rng, shape, cell_mm / step_mm, size)
        if rng.random() < 0.5:
            fine_mm = rng.uniform(8, 25)
            moved[..., axis] += smooth_noise(rng, shape, max(1.5, fine_mm / step_mm), rng.uniform(0.02, 0.25))
    low, high = points_mm.reshape(-1, 2).min(0), points_mm.reshape(-1, 2).max(0)
    for _ in range(rng.integers(0, 5)):
        angle = rng.uniform(0, 2 * math.pi)
        through = low + rng.random(2) * (high - low)
        normal = np.array([math.cos(angle), math.sin(angle)])
        distance = (points_mm - through) @ normal
        # the sheet rises towards the crease: on either side it is seen shortened
        slope = rng.normal(0, 0.02) * np.exp(-np.abs(distance) / rng.uniform(15, 60))
        moved += (np.abs(distance) * slope)[..., None] * normal
    return moved


def resample(image: np.ndarray, px: np.ndarray, size: tuple[int, int], border: tuple[int, ...]) -> np.ndarray:
    """The picture at places: uint8 (*size, C).

    Args:
        image: uint8 (H, W, C).
        px: float (h, w, 2) index coordinates at nodes ``NODE`` px apart, of which the first is at (0, 0).
        size: Of what is made.
        border: Colour outside the picture.
    """
    step = np.median(np.linalg.norm(np.diff(px, axis=1), axis=-1)) / NODE
    if step > 1.5:  # an area average first, so that nothing is stepped over
        # by its size, not by factors: with factors, OpenCV's scale is not the ratio of the rounded sizes
        shrunk = tuple(max(1, round(side / step)) for side in image.shape[1::-1])
        small = cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA)
        scale = np.array([small.shape[1] / image.shape[1], small.shape[0] / image.shape[0]])
        image, px = small, (px + 0.5) * scale - 0.5
    nodes = px.astype(np.float32)
    dense = cv2.resize(nodes, (nodes.shape[1] * NODE, nodes.shape[0] * NODE), interpolation=cv2.INTER_LINEAR)
    half = NODE // 2  # the centre of a node's pixels is at 8 k + 3.5
    dense = np.ascontiguousarray(dense[half : half + size[0], half : half + size[1]])
    return cv2.remap(image, dense, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=border)


def nodes(size: tuple[int, int]) -> np.ndarray:
    """float64 (h, w, 2) x and y of the nodes of a picture of ``size``, px, the first at 0.5 (see ``resample``)."""
    rows, columns = size[0] // NODE + 2, size[1] // NODE + 2
    return np.stack(np.meshgrid(np.arange(columns) * NODE - 0.5, np.arange(rows) * NODE - 0.5), -1)


def cells(size: tuple[int, int], stride: int) -> np.ndarray:
    """float64 (h, w, 2) x and y of the middles of the cells of a map, index coordinates of the picture, px."""
    return np.stack(np.meshgrid(*((np.arange(n // stride) + 0.5) * stride - 0.5 for n in size[::-1])), -1)


def at_cells(field: np.ndarray, size: tuple[int, int], stride: int) -> np.ndarray:
    """A field given at ``nodes(size)``, read at ``cells(size, stride)``."""
    where = ((cells(size, stride) + 0.5) / NODE).astype(np.float32)
    return cv2.remap(field.astype(np.float32), where, None, cv2.INTER_LINEAR)


def coarse_sample(rng: np.random.Generator, source: Drawn) -> tuple[np.ndarray, np.ndarray, int]:
    """A whole picture.

    Returns:
        uint8 (384, 512, 3); float32 (3, 48, 64) page (0 or 1), x, y in the frame; quarter turns.
    """
    size = (384, 512)
    kind = rng.random()
    if kind < NO_PAGE:
        return _no_page(rng, size), np.zeros((3, size[0] // COARSE_STRIDE, size[1] // COARSE_STRIDE), np.float32), 0
    truth = source.truth
    angle = (
        rng.uniform(-180, 180)
        if rng.random() < 0.4
        else rng.normal(0, 10) + 90 * int(rng.integers(0, 4)) * (rng.random() < 0.6)
    )
    turn = math.radians(angle)
    corners = truth.to_pixels(np.array([(0.0, 0.0), (truth.page_mm[0], 0.0), truth.page_mm, (0.0, truth.page_mm[1])]))
    middle = corners.mean(0)
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    extent = np.ptp((corners - middle) @ rotation.T, axis=0)
    fill = rng.uniform(0.55, 1.05) if rng.random() < 0.8 else rng.uniform(1.0, 1.35)
    scale = fill * min(size[1] / extent[0], size[0] / extent[1])
    slack = np.abs(np.array(size[::-1]) - scale * extent) / 2
    shift = slack * rng.uniform(-1.1, 1.1, 2) + np.array(size[::-1]) / 2
    places = (nodes(size) - shift) @ rotation / scale + middle
    mm = truth.to_page(places)
    moved = bend(rng, mm, float(np.median(np.linalg.norm(np.diff(mm, axis=1), axis=-1))))
    px = truth.to_pixels(mm + moved)
    edge = np.concatenate([source.image[0], source.image[-1], source.image[:, 0], source.image[:, -1]])
    border = tuple(int(v) for v in np.median(edge, 0))
    picture = resample(source.image, px, size, border)
    at = at_cells(mm + moved, size, COARSE_STRIDE)
    inside = _on_page(at, truth)[..., None]
    if kind < NO_PAGE + TWO_PAGES:
        _put_beside(rng, source, picture, mm + moved, int(inside.sum()), border)
    turns = round(angle / 90) % 4
    frame = (at - truth.frame_middle()) / FRAME_UNIT_MM
    for _ in range(turns):
        frame = np.stack([-frame[..., 1], frame[..., 0]], -1)
    target = np.concatenate([inside, np.clip(frame, -2.5, 2.5)], -1)
    return picture, target.astype(np.float32).transpose(2, 0, 1), turns


def _on_page(mm: np.ndarray, truth: PageTruth) -> np.ndarray:
    return np.all((mm >= 0) & (mm <= np.array(truth.page_mm)), axis=-1)


def _put_beside(
    rng: np.random.Generator, source: Drawn, picture: np.ndarray, mm: np.ndarray, cells: int, border: tuple[int, ...]
) -> None:
    """Draw a second copy of the page beside the first, in place, if less than 0.6 of the first's ``cells`` are seen of it."""
    size, page = picture.shape[:2], np.array(source.truth.page_mm)
    turn = rng.normal(0, 0.06) + math.pi * (rng.random() < 0.2)
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    axis = int(rng.integers(2))
    away = np.zeros(2)
    away[axis] = rng.choice([-1.0, 1.0]) * (page[axis] + rng.uniform(0, 25))
    away[1 - axis] = rng.normal(0, 0.1) * page[1 - axis]
    other = (mm - page / 2 - away) @ rotation.T + page / 2
    seen = _on_page(at_cells(other, size, COARSE_STRIDE), source.truth)
    if not 0 < seen.sum() < 0.6 * cells:
        return
    second = resample(source.image, source.truth.to_pixels(other), size, border)
    dense = [at_cells(field, size, 1) for field in (other, mm)]
    here = _on_page(dense[0], source.truth) & ~_on_page(dense[1], source.truth)
    picture[here] = second[here]


def _no_page(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A desk, a wall, a sheet of text: uint8 (*size, 3)."""
    colour = rng.uniform(0.1, 1.0) + rng.normal(0, 0.08, 3)
    scene = np.broadcast_to(colour, (*size, 3)).astype(np.float32)
    for cell in (rng.uniform(40, 200), rng.uniform(2, 20)):
        scene = scene * (1 + smooth_noise(rng, size, cell, rng.uniform(0.02, 0.25)))[..., None]
    picture = np.ascontiguousarray(np.rint(np.clip(scene, 0, 1) * 255), np.uint8)
    for _ in range(int(rng.integers(0, 6))):  # things with straight edges, white sheets among them
        box = ((rng.uniform(0, 512), rng.uniform(0, 384)), tuple(rng.uniform(40, 400, 2)), rng.uniform(0, 180))
        light = 255 * np.clip(rng.uniform(0.1, 1.0) + rng.normal(0, 0.08, 3), 0, 1)
        cv2.fillPoly(picture, [cv2.boxPoints(box).astype(np.int32)], light.tolist())
    if rng.random() < 0.5:  # lines of text
        ink, height = rng.uniform(0, 130), rng.uniform(8, 24)
        for y in np.arange(rng.uniform(10, 80), size[0] - 10, height):
            text = "".join(rng.choice(list("abcdefghi  jklmno pqrstuvw 0123456789.,-"), int(rng.integers(5, 60))))
            xy = int(rng.uniform(20, 120)), int(y)
            cv2.putText(picture, text, xy, cv2.FONT_HERSHEY_SIMPLEX, height / 50, (ink,) * 3)
    return picture


def _misplaced(rng: np.random.Generator, mm: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """What a coarse pose takes for the page's millimetres ``mm`` lies elsewhere: turned, scaled, sheared, in perspective."""
    turn = rng.normal(0, math.radians(1.2))
    linear = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    linear = linear @ (np.eye(2) + rng.normal(0, [[0.03, 0.012], [0.012, 0.03]]))
    away = (mm - middle) @ linear.T
    away = away / (1 + away @ rng.normal(0, 2e-4, 2))[..., None]
    return away + middle


def page_sample(
    rng: np.random.Generator, source: Drawn, size: tuple[int, int] = (320, 320)
) -> tuple[np.ndarray, np.ndarray]:
    """A part of the page, rectified up to the coarse pose's error.

    Returns:
        uint8 (H, W, 3); float32 (8 + 3 + 13, H/8, W/8) as ``PAGE_CHANNELS``.
    """
    truth = source.truth
    span = np.array(size[::-1]) / PAGE_PX
    page = np.array(truth.page_mm)
    corner = rng.uniform(-8, np.maximum(page - span + 8, -7))
    seen = corner + (nodes(size) + 0.5) / PAGE_PX
    mm = _misplaced(rng, seen, page / 2)
    mm = mm + bend(rng, seen, NODE / PAGE_PX)
    px = truth.to_pixels(mm)
    picture = resample(source.image, px, size, (90, 90, 90))
    at = at_cells(mm, size, PAGE_STRIDE)
    marks_map = _marks(truth, at)
    inside = ((at >= 0) & (at <= page)).all(-1)
    view = at_cells(px, size, PAGE_STRIDE)
    inside &= ((view >= 0) & (view <= np.array(source.image.shape[1::-1]) - 1)).all(-1)
    vectors = np.zeros((8, *inside.shape))
    if truth.grid_mm is not None:
        for k, period in ((0, MAJOR_MM), (4, 1.0)):
            phase = 2 * math.pi * (at - np.array(truth.grid_mm)) / period
            vectors[k : k + 4] = np.stack(
                [np.cos(phase[..., 0]), np.sin(phase[..., 0]), np.cos(phase[..., 1]), np.sin(phase[..., 1])]
            )
        vectors *= inside
    return picture, np.concatenate([vectors, marks_map * inside]).astype(np.float32)


def _marks(truth: PageTruth, at: np.ndarray) -> np.ndarray:
    """(3 + 13, h, w): a row's zero line, a strip's start, a pulse, each label, at places ``at`` (h, w, 2), page mm."""
    layout, where = truth.layout_at_speed(), truth.geometry
    out = np.zeros((3 + LABELS, *at.shape[:2]))
    x, y = at[..., 0], at[..., 1]
    face, cap, right, up = truth.label
    glyphs = marks.face_at(face, cap, 10.0, 10.0)
    for s, strip in enumerate(layout.strips):
        if truth.offsets_mv[s] is None:
            continue
        zero, start, stop = where.baseline(strip), where.start(strip), where.stop(strip)
        along = (x > start) & (x < stop)
        out[0] = np.maximum(out[0], along * np.exp(-0.5 * ((y - zero) / 2.0) ** 2))
        out[1] = np.maximum(out[1], np.exp(-0.5 * (((x - start) / 2.0) ** 2 + ((y - zero) / 2.5) ** 2)))
        wide = glyphs.width(strip.label) / 10.0
        centre = start + right + wide / 2, zero - up - cap / 2
        channel = 3 + (strip.lead if strip.sign > 0 else 12)
        out[channel] = np.maximum(
            out[channel], np.exp(-0.5 * (((x - centre[0]) / 2.0) ** 2 + ((y - centre[1]) / 2.0) ** 2))
        )
    if truth.pulse != "none":
        begin = marks.pulse_start(truth.pulse, where)
        for row in marks.pulse_rows(Draws(truth.key), layout.rows):
            zero = where.first + row * where.pitch
            inside = (x > begin) & (x < begin + marks.pulse_mm(where)) & (y < zero + 1) & (y > zero - where.gain - 1)
            out[2] = np.maximum(out[2], inside)
    return out


def looks(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """float32 (H, W, 3) in 0..1: light, colour and tone beyond the renderer's."""
    x = image.astype(np.float32) * np.float32(1 / 255)
    x *= (rng.uniform(0.75, 1.12) * (1 + rng.normal(0, 0.05, 3))).astype(np.float32)
    if rng.random() < 0.5:
        x = np.clip(x, 0, 1) ** np.float32(rng.uniform(0.7, 1.5))
    if rng.random() < 0.5:
        x *= (1 + smooth_noise(rng, x.shape[:2], rng.uniform(15, 150), rng.uniform(0.02, 0.12)))[..., None]
    if rng.random() < 0.15:
        x[:] = x.mean(-1, keepdims=True)
    return np.clip(x, 0, 1)

"""Which layout a page has and where its rows lie, from the marks that ``PageNet`` reads."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ecgscan_ray.paper.layout import LAYOUTS, TRACE_MM, Layout, find_layout
from ecgscan_ray.rectification.grid_fit import vertex

STEP_MM = 1.0
LEAST_COVER = 0.5
"""Share of a row's width over which its zero line must be seen."""
LEAST_PITCH_MM, MOST_PITCH_MM = 6.5, 60.0
UNEVEN = 0.08
"""Share of the pitch by which a row may lie beside its even place: the grid knows places to tenths of a millimetre."""
MOST_ROWS = 20
"""Lines that are taken for rows, the strongest first; the time of ``evenly`` grows with their square."""
ROW_WEIGHT = 6.0
"""Log-likelihood ratio of one row that is where the layout has it."""
LABEL_REACH_MM = 16.0
"""A label stands at most this far right of its strip's start."""


@dataclass(frozen=True)
class FoundLayout:
    """Attributes:
    layout: Of the page.
    left: x of the rows' start, mm.
    rows_mm: y of each row's zero line, mm.
    score: Log-likelihood ratio of the layout; ``margin``: by how much it exceeds the next.
    rows_margin: By how much it exceeds the best with another number of rows.
    candidates: Score of each layout with as many rows.
    """

    layout: Layout
    left: float
    rows_mm: tuple[float, ...]
    score: float
    margin: float
    rows_margin: float
    candidates: dict[Layout, float]


def marks_on_page(
    marks: np.ndarray, at: np.ndarray, box: tuple[float, float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Marks at a regular lattice of page mm, ``STEP_MM`` apart: (16, H, W), and the lattice's first point.

    Args:
        marks: (16, h, w) at places ``at`` (h, w, 2), page mm.
        box: Of the page.
    """
    x = np.arange(box[0], box[2], STEP_MM)
    y = np.arange(box[1], box[3], STEP_MM)
    # places are nearly a regular lattice: its inverse by a linear fit and two corrections
    h, w = at.shape[:2]
    index = np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1).astype(np.float64)
    design = np.column_stack([at.reshape(-1, 2), np.ones(h * w)])
    coefficients = np.linalg.lstsq(design, index.reshape(-1, 2), rcond=None)[0]
    wanted = np.stack(np.meshgrid(x, y), -1)
    where = wanted @ coefficients[:2] + coefficients[2]
    places = at.astype(np.float32)
    for _ in range(4):
        here = cv2.remap(places, where.astype(np.float32), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        inside = ((where >= 0) & (where <= (w - 1, h - 1))).all(-1, keepdims=True)
        where = where + np.where(inside, (wanted - here) @ coefficients[:2], 0)
    planes = cv2.remap(
        np.ascontiguousarray(marks.transpose(1, 2, 0)[..., :3]), where.astype(np.float32), None, cv2.INTER_LINEAR
    )
    labels = [cv2.remap(np.ascontiguousarray(m), where.astype(np.float32), None, cv2.INTER_LINEAR) for m in marks[3:]]
    return np.concatenate([planes.transpose(2, 0, 1), np.stack(labels)]), np.array([x[0], y[0]])


def find_rows(row: np.ndarray, y0: float) -> list[tuple[float, float]]:
    """y of the zero lines, mm, and their strength in 0..1, from a map of them (H, W): lines over most of a row's width.

    Lettering and handwriting are shorter, and a page shows less of its rows only where it is cut.
    """
    width = min(round(TRACE_MM / STEP_MM), row.shape[1])
    thick = cv2.dilate(row, np.ones((3, 1), np.uint8)) > 0.3
    mass = np.convolve(row.sum(0), np.ones(width), "valid")
    first = int(mass.argmax())
    cover = thick[:, first : first + width].mean(1)
    height = cv2.GaussianBlur(row[:, first : first + width].mean(1)[:, None].astype(np.float64), (1, 5), 1.2)[:, 0]
    peaks = []
    for k in range(1, len(height) - 1):
        if height[k] >= height[k - 1] and height[k] > height[k + 1] and cover[k] > LEAST_COVER:
            peaks.append((y0 + (k + vertex(height, k)) * STEP_MM, min(1.0, float(height[k] * cover[k]) / 0.6)))
    rows: list[tuple[float, float]] = []
    for y, peak in sorted(peaks, key=lambda p: -p[1]):
        if all(abs(y - other) > LEAST_PITCH_MM for other, _ in rows):
            rows.append((y, peak))
    return sorted(rows[:MOST_ROWS])


def evenly(lines_found: list[tuple[float, float]], count: int) -> tuple[list[float], float] | None:
    """``count`` evenly spaced rows that explain the ones found best, and how well; one of them may be missing.

    What is explained counts for, surplus lines count half against.
    """
    if len(lines_found) < max(1, count - 1):
        return None
    ys, weights = (np.array(part) for part in zip(*lines_found, strict=True))
    best, best_score = None, -np.inf
    for i in range(len(ys)):
        for j in range(i + 1, len(ys)):
            for steps in range(1, count):
                pitch = (ys[j] - ys[i]) / steps
                if not LEAST_PITCH_MM < pitch < MOST_PITCH_MM:
                    continue
                for index in range(count - steps):
                    lines = ys[i] + pitch * (np.arange(count) - index)
                    distance = np.abs(ys[:, None] - lines[None])
                    off = np.minimum(distance.min(1) / (UNEVEN * pitch), 1)
                    missing = int((distance.min(0) > UNEVEN * pitch).sum())
                    score = (weights * (1 - off)).sum() - 0.5 * (weights * off).sum() - 0.7 * missing
                    if missing <= 1 and score > best_score:
                        best, best_score = lines, float(score)
    if best is None:
        return None
    near = [ys[np.abs(ys - y).argmin()] if np.abs(ys - y).min() < 4 else y for y in best]
    return [float(y) for y in near], best_score


def find_layout_of(
    marks: np.ndarray, first: np.ndarray, left_guess: float, name: str | None = None
) -> FoundLayout | None:
    """The layout whose labels and starts agree best with the marks; None where no rows are found.

    Args:
        marks: (16, H, W) from ``marks_on_page``.
        first: x and y of their first point, mm.
        left_guess: x of the rows' start, mm, right to 45 mm.
        name: The layout, where it is known.

    Raises:
        ConfigError: There is no layout of that name.
    """
    rows_found = find_rows(marks[0], first[1])
    if not rows_found:
        return None
    reach = round(LABEL_REACH_MM / STEP_MM)
    logit = np.log(np.clip(marks, 1e-3, 0.98) / (1 - np.clip(marks, 1e-3, 0.98)))
    base = np.log(0.02 / 0.98)
    candidates = []
    layouts = list(LAYOUTS.values()) if name is None else [find_layout(name)]
    fittings = {count: evenly(rows_found, count) for count in {layout.rows for layout in layouts}}
    for layout in layouts:
        fitting = fittings[layout.rows]
        if fitting is None:
            continue
        lines, evidence = fitting
        pitch = (lines[-1] - lines[0]) / max(1, layout.rows - 1)
        lefts = np.arange(left_guess - 45, left_guess + 45, 1.0)
        total = np.full(len(lefts), ROW_WEIGHT * evidence)
        for strip in layout.strips:
            channel = 3 + (strip.lead if strip.sign > 0 else 12)
            offset = strip.x_s / 10.0 * TRACE_MM
            total += _window(logit[channel] - base, first, lefts + offset, lines[strip.row], reach, 0.45 * pitch)
            total += 0.5 * _window(logit[1] - base, first, lefts + offset - 1, lines[strip.row], 2, 3.0)
        k = int(total.argmax())
        candidates.append((float(total[k]), layout, float(lefts[k]), lines))
    if not candidates:
        return None
    score, best, left, lines = max(candidates, key=lambda c: c[0])
    alike = {layout: value for value, layout, *_ in candidates if layout.rows == best.rows}
    margin = score - max((value for layout, value in alike.items() if layout is not best), default=0.0)
    rows_margin = score - max((value for value, layout, *_ in candidates if layout.rows != best.rows), default=0.0)
    return FoundLayout(best, left, tuple(lines), score, min(margin, rows_margin), rows_margin, alike)


def _window(plane: np.ndarray, first: np.ndarray, xs: np.ndarray, y: float, reach: int, half: float) -> np.ndarray:
    """Largest value of a plane right of each x, within ``half`` of y, at least 0."""
    top, bottom = (int(np.clip(round((v - first[1]) / STEP_MM), 0, plane.shape[0])) for v in (y - half, y + half + 1))
    if bottom <= top:
        return np.zeros(len(xs))
    line = np.maximum(plane[top:bottom].max(0), 0)
    padded = np.concatenate([line, np.zeros(reach + 1)])
    spread = np.max(np.stack([padded[k : k + len(line)] for k in range(reach + 1)]), 0)
    index = np.round((xs - first[0]) / STEP_MM).astype(int)
    inside = (index >= -reach) & (index < len(line))
    value = np.where(index >= 0, spread[np.clip(index, 0, len(line) - 1)], 0.0)
    return np.where(inside, value, 0.0)

"""Which layout a page has and where its rows lie, from the marks that ``PageNet`` reads."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ecgscan_ray.paper.layout import LAYOUTS, TRACE_MM, Layout, Strip

STEP_MM = 1.0
LABEL_REACH_MM = 16.0
"""A label stands at most this far right of its strip's start."""


@dataclass(frozen=True)
class FoundLayout:
    """Attributes:
    layout: Of the page.
    left: x of the rows' start, mm.
    rows_mm: y of each row's zero line, mm.
    score: Log-likelihood ratio of the best layout; ``margin``: by how much it exceeds the next with other leads.
    """

    layout: Layout
    left: float
    rows_mm: tuple[float, ...]
    score: float
    margin: float


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


def find_rows(row: np.ndarray, y0: float) -> list[float]:
    """y of the zero lines, mm, from a map of them (H, W)."""
    wide = round(0.8 * TRACE_MM / STEP_MM)  # lettering is shorter than a row
    profile = np.minimum(np.sort(row, axis=1)[:, -wide:], 0.7).mean(1)
    profile = cv2.GaussianBlur(profile[:, None].astype(np.float64), (1, 5), 1.2)[:, 0]
    top = profile.max()
    peaks = []
    for k in range(1, len(profile) - 1):
        if profile[k] >= profile[k - 1] and profile[k] > profile[k + 1] and profile[k] > 0.3 * top:
            a, b, c = profile[k - 1 : k + 2]
            peaks.append((y0 + (k + 0.5 * (a - c) / (a - 2 * b + c - 1e-9)) * STEP_MM, profile[k]))
    kept: list[tuple[float, float]] = []
    for y, height in sorted(peaks, key=lambda p: -p[1]):
        if all(abs(y - other) > 7 for other, _ in kept):
            kept.append((y, height))
    return sorted(y for y, _ in kept)


def evenly(rows: list[float], count: int) -> list[float] | None:
    """``count`` evenly spaced rows that explain the ones found best: one may be missing or surplus."""
    if len(rows) < max(2, count - 1):
        return None
    best, best_error = None, np.inf
    found = np.array(rows)
    for i in range(len(found)):
        for j in range(i + 1, len(found)):
            for steps in range(1, count):
                pitch = (found[j] - found[i]) / steps
                if not 9 < pitch < 60:
                    continue
                for first_index in range(count - steps):
                    first = found[i] - first_index * pitch
                    lines = first + pitch * np.arange(count)
                    distance = np.abs(found[:, None] - lines[None])
                    missing = np.minimum(distance.min(0), 4).sum()
                    surplus = np.minimum(distance.min(1), 4).sum()
                    error = missing + surplus
                    if error < best_error:
                        best, best_error = lines, error
    if best is None or best_error > 4.5 + 0.4 * count:
        return None
    return [float(found[np.abs(found - y).argmin()]) if np.abs(found - y).min() < 3 else float(y) for y in best]


def find_layout_of(marks: np.ndarray, first: np.ndarray, left_guess: float) -> FoundLayout | None:
    """The layout whose labels and starts agree best with the marks."""
    rows_found = find_rows(marks[0], first[1])
    if not rows_found:
        return None
    reach = round(LABEL_REACH_MM / STEP_MM)
    logit = np.log(np.clip(marks, 1e-3, 0.98) / (1 - np.clip(marks, 1e-3, 0.98)))
    base = np.log(0.02 / 0.98)
    candidates = []
    for layout in LAYOUTS.values():
        lines = evenly(rows_found, layout.rows)
        if lines is None:
            continue
        pitch = (lines[-1] - lines[0]) / max(1, layout.rows - 1)
        lefts = np.arange(left_guess - 45, left_guess + 45, 1.0)
        total = np.zeros(len(lefts))
        for strip in layout.strips:
            channel = 3 + (strip.lead if strip.sign > 0 else 12)
            offset = strip.x_s / 10.0 * TRACE_MM
            total += _window(logit[channel] - base, first, lefts + offset, lines[strip.row], reach, 0.45 * pitch)
            total += 0.5 * _window(logit[1] - base, first, lefts + offset - 1, lines[strip.row], 2, 3.0)
        total -= 2.0 * abs(len(rows_found) - layout.rows)
        k = int(total.argmax())
        candidates.append((float(total[k]), layout, float(lefts[k]), lines))
    if not candidates:
        return None
    candidates.sort(key=lambda c: -c[0])
    best = candidates[0]
    others = [c[0] for c in candidates[1:] if _leads(c[1]) != _leads(best[1])]
    return FoundLayout(best[1], best[2], tuple(best[3]), best[0], best[0] - max(others, default=0.0))


def _leads(layout: Layout) -> tuple[tuple[int, int, int], ...]:
    return tuple((s.lead, s.row, s.sign) for s in layout.strips)


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

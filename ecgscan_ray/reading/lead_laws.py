"""Which of a page's possible layouts its traces obey.

Layouts that differ in time or order alone have the same marks. Their traces tell them apart: strips of the same seconds are
bound by the leads' laws (I + III = II, aVR + aVL + aVF = 0, a rhythm strip equals the lead that it repeats), and limb and chest
leads beat together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
from scipy.linalg import null_space

from ecgscan_ray.paper.layout import CHEST, PAGE_SECONDS, TRACE_MM, Layout, Strip
from ecgscan_ray.reading.rows import Rows
from ecgscan_ray.recording.leads import LEAD_LAWS
from ecgscan_ray.rectification.layout_fit import FoundLayout

STEP_MM = 0.25
SMOOTH_MM = 0.5
"""Standard deviation of the smoothing of heights and of beats: strips are aligned to some tenths of a millimetre."""
LEAST_MM = 15.0
"""Of traces that are read side by side, for a comparison."""
READ = 0.4
"""Belief above which a height counts."""
UNRELATED = 0.25
"""A mismatch above it speaks against a layout. On rendered photographs: laws 0.00 to 0.14 in the right layout and 0.5 to 1.8 in
most others; beats 0.01 to 0.27 and 0.4 to 1.4."""
NOISE = 0.01
"""Smaller mismatches are not told apart."""
BEATS_WEIGHT, REPEAT_WEIGHT = 2.0, 4.0
"""Of a comparison of beats, and of a rhythm strip with the lead that it repeats, in laws of the limb leads."""
_BASIS = null_space(LEAD_LAWS)


def settled(page_layout: FoundLayout, rows: Rows) -> FoundLayout:
    """The layout of those with as many rows whose marks and traces agree best, with its score and margin."""
    scores = {
        layout: score + agreement(rows, page_layout.left, layout) for layout, score in page_layout.candidates.items()
    }
    best = max(scores, key=scores.__getitem__)
    others = [score for layout, score in scores.items() if layout is not best]
    margin = min(page_layout.rows_margin, scores[best] - max(others, default=-np.inf))
    return replace(page_layout, layout=best, score=scores[best], margin=margin, candidates=scores)


def agreement(rows: Rows, left: float, layout: Layout) -> float:
    """Log-likelihood ratio of the traces, read as ``layout``, and unrelated ones.

    Args:
        rows: As read.
        left: x of the rows' start, mm.
        layout: At 25 mm/s.
    """
    total = 0.0
    for strips, heights in _side_by_side(rows, left, layout):
        leads = np.array([strip.lead for strip in strips])
        once = np.unique(leads, return_index=True)[1]
        for repeat in set(range(len(leads))) - set(once.tolist()):
            pair = [int(np.flatnonzero(leads == leads[repeat])[0]), repeat]
            total += REPEAT_WEIGHT * _lawfulness(leads[pair], heights[pair])
        total += _lawfulness(leads[once], heights[once])
        limb, chest = (np.array([(strip.lead >= CHEST) == side for strip in strips]) for side in (False, True))
        if limb.any() and chest.any():
            total += BEATS_WEIGHT * _evidence(
                1 - float(np.corrcoef(_beats(heights[limb]), _beats(heights[chest]))[0, 1])
            )
    return total


def mismatch(rows: Rows, left: float, layout: Layout) -> float:
    """Power that breaks the lead laws, as a share of what it would be in unrelated traces: 0 = lawful; 1 where no law is shown.

    Args:
        rows: As read.
        left: x of the rows' start, mm.
        layout: At 25 mm/s.
    """
    broken, expected = 0.0, 1e-9
    for strips, heights in _side_by_side(rows, left, layout):
        laws = _laws(np.array([strip.lead for strip in strips]))
        broken += float(((laws @ heights) ** 2).sum())
        expected += float(np.diag(laws) @ (heights**2).sum(1))
    return broken / expected if expected > 1e-6 else 1.0


def _laws(leads: np.ndarray) -> np.ndarray:
    """(S, S): projector onto what no heart can show in strips of these leads; a lead may occur twice."""
    shown = _BASIS[leads]
    return np.eye(len(leads)) - shown @ np.linalg.pinv(shown)


def _lawfulness(leads: np.ndarray, heights: np.ndarray) -> float:
    """Evidence of the laws between strips (S, n) of these leads; 0 where there are none."""
    laws = _laws(leads)
    count = round(np.trace(laws))
    expected = np.diag(laws) @ (heights**2).sum(1) + 1e-9
    return count * _evidence(float(((laws @ heights) ** 2).sum() / expected)) if count else 0.0


def _evidence(mismatch: float) -> float:
    return float(np.log(UNRELATED / (max(mismatch, 0.0) + NOISE)))


def _side_by_side(rows: Rows, left: float, layout: Layout) -> Iterator[tuple[list[Strip], np.ndarray]]:
    """For each column's seconds the strips that show them, and their heights (S, n), mm around the median."""
    cell = TRACE_MM / layout.columns
    u = np.arange(STEP_MM / 2, cell, STEP_MM)
    speed = TRACE_MM / PAGE_SECONDS
    for begin in cell * np.arange(layout.columns):
        strips = [s for s in layout.strips if s.start_s * speed < begin + 1 and s.stop_s * speed > begin + cell - 1]
        if len(strips) < 2:
            continue
        x = [left + s.x_s * speed + begin - s.start_s * speed + u for s in strips]
        sure = rows.belief * rows.present
        read = np.all([np.interp(at, rows.x_mm, sure[s.row]) > READ for s, at in zip(strips, x, strict=True)], axis=0)
        if read.sum() * STEP_MM < LEAST_MM:
            continue
        heights = np.stack(
            [s.sign * np.interp(at, rows.x_mm, rows.up_mm[s.row]) for s, at in zip(strips, x, strict=True)]
        )
        heights = _smooth(heights)[:, read]
        yield strips, heights - np.median(heights, 1, keepdims=True)


def _beats(heights: np.ndarray) -> np.ndarray:
    """(n,) how steep the traces (S, n) are, all together."""
    steepness = np.gradient(heights, axis=1)
    relative = steepness / (steepness.std(1, keepdims=True) + 0.02)
    return _smooth(np.sqrt((relative**2).sum(0))[None])[0]


def _smooth(heights: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(heights, (0, 0), SMOOTH_MM / STEP_MM, sigmaY=1e-3)

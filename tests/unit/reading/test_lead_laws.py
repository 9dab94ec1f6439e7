"""Traces tell apart layouts whose marks are the same."""

from __future__ import annotations

import numpy as np
import pytest

from ecgscan_ray.paper.layout import LAYOUTS, TRACE_MM
from ecgscan_ray.reading.lead_laws import agreement, settled
from ecgscan_ray.reading.rows import Rows
from ecgscan_ray.rectification.layout_fit import FoundLayout
from tests.records import recording

LEFT = 20.0
ALIKE = [
    ("3x4", "3x4/simultaneous"), ("3x4+1", "3x4+1/simultaneous"), ("6x2", "6x2/simultaneous"), ("6x2+1", "6x2+1/simultaneous"),
    ("3x4+1", "3x4+V5"), ("3x4+V1", "3x4+V5"), ("3x4", "3x4/cabrera"), ("12x1", "12x1/cabrera"),
]  # fmt: skip


def rows_of(layout: str, seed: int, noise_mm: float = 0.1) -> Rows:
    """What a good reader reads of a page in this layout, at 25 mm/s and 10 mm/mV."""
    heart, fs = recording("1", seed=seed, fs=250.0).signal_mv, 250.0
    x = np.arange(0, TRACE_MM + 2 * LEFT, 0.125)
    up = np.random.default_rng(seed).normal(0, noise_mm, (LAYOUTS[layout].rows, len(x)))
    for strip in LAYOUTS[layout].strips:
        seconds = (x - LEFT) / 25 - strip.x_s + strip.start_s
        shown = (seconds >= strip.start_s) & (seconds < strip.stop_s)
        up[strip.row, shown] += 10 * strip.sign * np.interp(seconds[shown] * fs, np.arange(2500), heart[strip.lead])
    sure = np.ones_like(up, np.float32)
    return Rows(x, up, sure, sure, np.zeros(len(up)), np.zeros((len(up), 1, 1, 3), np.uint8))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("one", "other"), ALIKE + [pair[::-1] for pair in ALIKE])
def test_the_traces_choose(one: str, other: str, seed: int) -> None:
    candidates = {LAYOUTS[other]: 50.0, LAYOUTS[one]: 50.0}
    undecided = FoundLayout(LAYOUTS[other], LEFT, (0.0,), 50.0, 0.0, 20.0, candidates)
    found = settled(undecided, rows_of(one, seed))
    assert found.layout.name == one and found.margin > 1


def test_marks_that_are_sure_outweigh_traces() -> None:
    candidates = {LAYOUTS["3x4"]: 100.0, LAYOUTS["3x4/cabrera"]: 50.0}
    page = FoundLayout(LAYOUTS["3x4"], LEFT, (0.0,), 100.0, 50.0, 90.0, candidates)
    assert settled(page, rows_of("3x4/cabrera", 0)).layout.name == "3x4"


def test_what_is_not_read_is_no_evidence() -> None:
    rows = rows_of("3x4+1", 0)
    rows.belief[:] = 0.1
    assert agreement(rows, LEFT, LAYOUTS["3x4+1"]) == 0.0

"""Where rows begin: ink sets in along the trace, behind a gap where a pulse stands before it."""

from __future__ import annotations

import numpy as np
import pytest

from ecgscan_ray.reading.rows import Rows
from ecgscan_ray.reading.samples import COLUMN_PX, ROW_HEIGHT, ROW_PX
from ecgscan_ray.reading.start import find_start

LEFT = 20.0


def rows(pulse: bool, presence_mm: float = 0.0, count: int = 4) -> Rows:
    """Pictures of rows whose traces begin at ``LEFT``, on paper with lines of 5 mm; presence that begins elsewhere."""
    rng = np.random.default_rng(0)
    x = (np.arange(2304) + 0.5) / COLUMN_PX
    up = np.cumsum(rng.normal(0, 0.05, (count, len(x))), axis=1)
    up -= up.mean(1, keepdims=True)
    before = x < LEFT
    up[:, before] = 0.0
    inked = ~before & (x < LEFT + 250)
    if pulse:
        up[:, (x > LEFT - 6.8) & (x < LEFT - 1.8)] = 10.0
        inked |= (x > LEFT - 8) & (x < LEFT - 0.6)
    y = np.arange(ROW_HEIGHT)
    middle = (ROW_HEIGHT - 1) / 2 - up * ROW_PX
    light = 235 + rng.normal(0, 3, (count, ROW_HEIGHT, len(x)))
    light[:, y % 20 < 2] -= 50
    light[:, :, np.arange(len(x)) % 40 < 3] -= 50
    light[(np.abs(y[None, :, None] - middle[:, None]) < 1.5) & inked] = 60
    pictures = np.repeat(np.clip(light, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)
    present = np.broadcast_to(((x > LEFT + presence_mm) & (x < LEFT + 250)).astype(np.float32), up.shape)
    return Rows(x, up, np.ones_like(up, np.float32), present, np.zeros(count), pictures)


@pytest.mark.parametrize("pulse", [False, True])
@pytest.mark.parametrize("presence_mm", [0.0, -6.5])
@pytest.mark.parametrize("marks_mm", [-1.2, 0.0, 1.2])
def test_the_start_is_where_ink_sets_in(pulse: bool, presence_mm: float, marks_mm: float) -> None:
    assert abs(find_start(rows(pulse, presence_mm), LEFT + marks_mm) - LEFT) < 0.25


def test_beyond_the_picture_the_marks_count() -> None:
    assert find_start(rows(False), -50.0) == -50.0

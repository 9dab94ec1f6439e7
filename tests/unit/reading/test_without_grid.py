"""Without a grid the rows' length gives the millimetres of a page that was taken too large or too small."""

from __future__ import annotations

import numpy as np
import pytest

from ecgscan_ray.reading.rows import Rows
from ecgscan_ray.reading.samples import COLUMN_PX, ROW_HEIGHT
from ecgscan_ray.reading.without_grid import find_ends, scaled, scaled_rows
from ecgscan_ray.rectification.page_map import flat_map

START = 24.0
ZERO_MM = np.array([60.0, 90.0, 120.0])


def rows(stretch: float) -> Rows:
    """Flat traces from ``START`` on, ``stretch`` times as long as they are."""
    x = (np.arange(2400) + 0.5) / COLUMN_PX
    there = np.broadcast_to((x > START) & (x < START + 250 * stretch), (3, len(x)))
    pictures = np.full((3, ROW_HEIGHT, len(x), 3), 235, np.uint8)
    pictures[:, ROW_HEIGHT // 2 - 2 : ROW_HEIGHT // 2 + 2][np.broadcast_to(there[:, None], (3, 4, len(x)))] = 40
    zeros = np.zeros(there.shape)
    return Rows(x, zeros, zeros.astype(np.float32) + 1, there.astype(np.float32), ZERO_MM, pictures)


@pytest.mark.parametrize("stretch", [1.0, 1.06, 0.95])
def test_every_row_becomes_as_long_as_it_is(stretch: float) -> None:
    ends = find_ends(rows(stretch))
    assert ends is not None and ends.stretch == pytest.approx(stretch, abs=0.003)
    page_map = scaled(flat_map(np.eye(3), (0.0, 0.0, 320.0, 200.0), 2.0), ends)
    for y, taken in zip(scaled_rows(tuple(ZERO_MM), ends), ZERO_MM, strict=True):
        px = page_map.to_pixels(np.array([(ends.start[0], y), (ends.start[0] + 250, y)]))
        np.testing.assert_allclose(px, [(START, taken), (START + 250 * stretch, taken)], atol=0.5)


def test_rows_that_are_not_whole_give_nothing() -> None:
    assert find_ends(rows(0.8)) is None
    gone = rows(1.0)
    gone.present[1] = 0
    assert find_ends(gone) is None

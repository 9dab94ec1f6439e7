"""The picture with the trace as read: what is changed of the page, and what is not."""

from __future__ import annotations

import numpy as np

from ecgscan_ray.digitise import draw_overlay
from tests.fake_reader import reading

SIZE = (600, 1000)


def page() -> np.ndarray:
    return np.random.default_rng(0).integers(200, 256, (*SIZE, 3), dtype=np.uint8)


def test_traces_are_drawn_where_they_were_read_and_nothing_else_is_changed() -> None:
    image, found = page(), reading(SIZE)
    before = image.copy()
    drawn = draw_overlay(image, found)
    np.testing.assert_array_equal(image, before)
    changed = (drawn[: SIZE[0]] != image).any(-1)
    near = np.zeros(SIZE, bool)
    for strip in found.strips:
        assert np.isfinite(strip.pixels).all()
        points = np.rint(strip.pixels[:-1] if strip.strip.label != "V6" else strip.pixels[:-100]).astype(int)
        hit = changed[points[:, 1], points[:, 0]]
        if strip.strip.label != "V6":
            assert hit.mean() > 0.98, strip.strip.label
        for x, y in np.rint(strip.pixels).astype(int):
            near[max(0, y - 8) : y + 9, max(0, x - 3) : x + 4] = True
        x, y = np.rint(strip.pixels[0]).astype(int)
        label = (slice(y + 2, y + 45), slice(x - 3, x + 60))
        assert changed[label].any(), "the lead's name"
        near[label] = True
    assert changed.any() and not changed[~near].any()
    v6 = next(strip for strip in found.strips if strip.strip.label == "V6")
    x, y = np.rint(v6.pixels[-60]).astype(int)
    assert not changed[y - 8 : y + 9, x - 3 : x + 4].any(), "nothing was read there"


def test_colour_is_by_belief() -> None:
    found = reading(SIZE)
    drawn = draw_overlay(np.full((*SIZE, 3), 255, np.uint8), found)

    def colour(row: int) -> np.ndarray:
        strip = next(strip for strip in found.strips if strip.strip.row == row)
        x, y = np.rint(strip.pixels[40]).astype(int)
        return drawn[y - 1 : y + 2, x].astype(int)[drawn[y - 1 : y + 2, x].sum(-1).argmin()]

    doubtful, sure = colour(0), colour(1)
    assert doubtful[0] > doubtful[2] + 60 and sure[2] > sure[0] + 60


def test_below_the_page_stands_how_it_was_read() -> None:
    drawn = draw_overlay(page(), reading(SIZE, quality=0.4))
    line = drawn[SIZE[0] :]
    assert 8 < len(line) < 40 and (line == 255).mean() > 0.5 and line.min() < 100


def test_a_large_page_is_scaled_down() -> None:
    size = (3000, 5000)
    drawn = draw_overlay(np.full((*size, 3), 255, np.uint8), reading(size))
    assert drawn.shape[1] == 2000 and 1200 < drawn.shape[0] < 1300
    strip = reading(size).strips[12]
    x, y = np.rint((strip.pixels[500] + 0.5) * 0.4 - 0.5).astype(int)
    assert (drawn[y - 1 : y + 2, x] < 200).any()
    tall = draw_overlay(np.full((9000, 500, 3), 255, np.uint8), reading((9000, 500)))
    assert tall.shape[0] < 4100

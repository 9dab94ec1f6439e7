"""The layout from marks: perfect, missing and false ones."""

from __future__ import annotations

import time

import numpy as np
import pytest

from ecgscan_ray.paper.layout import LAYOUTS
from ecgscan_ray.rectification.layout_fit import find_layout_of
from tests.rendered import clean_page, marks_of

TOLD_BY_MARKS = sorted(name for name in LAYOUTS if not name.endswith("/simultaneous"))


@pytest.mark.parametrize("layout", TOLD_BY_MARKS)
def test_perfect_marks_give_layout_rows_and_start(layout: str) -> None:
    page = clean_page(layout)
    marks, first = marks_of(page, np.ones(len(LAYOUTS[layout].strips), bool))
    found = find_layout_of(marks, first, page.truth.rows_mm[0] + 20)
    assert found is not None
    best = {name.name for name, score in found.candidates.items() if score == found.score}
    assert layout in best and all(name.partition("/simultaneous")[0] == layout for name in best)
    where = page.truth.geometry
    np.testing.assert_allclose(found.rows_mm, where.first + where.pitch * np.arange(LAYOUTS[layout].rows), atol=0.3)
    assert abs(found.left - where.left) < 2


@pytest.mark.parametrize("seed", range(3))
def test_a_third_of_the_marks_missing_and_ten_false_ones(seed: int) -> None:
    for layout in ("3x4+1", "6x2/cabrera", "12x1"):
        page = clean_page(layout)
        seen = np.random.default_rng(seed).permutation(len(LAYOUTS[layout].strips)) % 3 > 0
        marks, first = marks_of(page, seen | np.array([strip.rhythm for strip in LAYOUTS[layout].strips]), 10, seed)
        found = find_layout_of(marks, first, page.truth.rows_mm[0])
        assert found is not None and found.layout.name == layout
        assert abs(found.left - page.truth.rows_mm[0]) < 4


def test_a_row_that_is_not_seen_is_put_where_it_must_lie() -> None:
    page = clean_page("3x4+1")
    marks, first = marks_of(page, np.ones(13, bool))
    where = page.truth.geometry
    hidden = round(where.first + where.pitch)
    marks[0, hidden - 8 : hidden + 9] = 0.001
    found = find_layout_of(marks, first, where.left, "3x4+1")
    assert found is not None and abs(found.rows_mm[1] - where.first - where.pitch) < 0.5


def test_no_rows_no_layout() -> None:
    assert find_layout_of(np.full((16, 210, 280), 0.001, np.float32), np.zeros(2), 20.0) is None


def test_a_page_full_of_lines_takes_no_time() -> None:
    marks = np.full((16, 420, 420), 0.5, np.float32)
    marks[0] = np.where(np.arange(420)[:, None] % 7 == 0, 0.98, 0.01)
    begin = time.process_time()
    find_layout_of(marks, np.zeros(2), 100.0)
    assert time.process_time() - begin < 10

"""Extrapolated learning curves: laws that are known, and bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecgscan_ray.benchmark.figure import Resampled
from ecgscan_ray.benchmark.learning_curve import extrapolate, power_law

ROWS = np.array([1700.0, 3400.0, 6800.0])


@given(st.floats(0.85, 0.99), st.floats(0.02, 0.2), st.floats(0.1, 2))
def test_a_power_law_is_found_again(limit: float, drop: float, exponent: float) -> None:
    def law(rows: np.ndarray) -> np.ndarray:
        return limit - drop * (rows / ROWS[0]) ** -exponent

    found = power_law(ROWS, law(ROWS)[None], 17_084)
    assert found == pytest.approx(law(np.array([17_084.0])), abs=1e-3)


@given(st.lists(st.floats(0.5, 1), min_size=3, max_size=3))
def test_more_labels_are_never_worse_nor_perfect(values: list[float]) -> None:
    found = power_law(ROWS, np.array([values]), 17_084)[0]
    assert found <= 1
    if values[0] <= values[1] <= values[2]:
        assert found >= values[2] - (values[2] - values[0]) / 2 - 1e-9
    if values[0] >= values[1] >= values[2]:
        assert found == pytest.approx(np.mean(values)), "a curve that falls is noise"


def test_the_interval_is_that_of_the_patients() -> None:
    resamples = np.random.default_rng(0).normal(0, 0.005, 500)
    figures = [Resampled(value, value + resamples, 900) for value in (0.88, 0.90, 0.91)]
    figure = extrapolate([1700, 3400, 6800], figures, 17_084)
    assert figure.value == pytest.approx(0.91 + 0.01 * (1 - (17_084 / 6800) ** -1), abs=5e-4) and figure.n == 900
    assert np.std(figure.resamples) == pytest.approx(np.std(resamples), rel=0.1)

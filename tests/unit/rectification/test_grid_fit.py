"""Millimetres from the phases of grid lines, against a known displacement; the map from the page to the picture."""

from __future__ import annotations

import numpy as np
import pytest

from ecgscan_ray.rectification.grid_fit import follow, grown
from ecgscan_ray.rectification.page_map import flat_map, inverted

STEP_MM = 8 / 3


def bent() -> tuple[np.ndarray, np.ndarray]:
    """Places (h, w, 2) of cells, mm of a coarse pose, and the page's mm there: scaled, turned, in perspective, waved."""
    at = np.stack(np.meshgrid(np.arange(104) * STEP_MM - 140, np.arange(80) * STEP_MM - 105), -1)
    x, y = at[..., 0], at[..., 1]
    wave = 1.2 * np.sin(x / 35) * np.cos(y / 50)
    mm = np.stack([1.03 * x + 0.02 * y + 2e-4 * x * y + wave, -0.02 * x + 0.98 * y + 1e-4 * x * x + wave / 2], -1)
    return at, mm


def phases(mm: np.ndarray, seed: int, noise: float = 0.3) -> np.ndarray:
    """What a network says of 5 mm lines, with errors and a hole."""
    rng = np.random.default_rng(seed)
    z = np.exp(2j * np.pi * mm / 5.0) + noise * (rng.normal(size=mm.shape) + 1j * rng.normal(size=mm.shape))
    z[30:45, 50:70] = 0.02
    return z


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("seed", range(2))
def test_phases_give_millimetres_up_to_whole_lines(axis: int, seed: int) -> None:
    at, true = bent()
    z = phases(true[..., axis], seed)
    surface, near = grown(z, at, axis, 5.0)
    mm, agreement = follow(z, at, 5.0, surface)
    lines = np.round(np.median(mm - true[..., axis]) / 5.0) * 5.0
    error = np.abs(mm - lines - true[..., axis])
    assert near > 0.7 and np.median(error) < 0.1 and np.quantile(error, 0.99) < 0.8
    assert np.median(agreement) > 0.7 and agreement[38, 60] < 0.2, "no belief where nothing is seen"


def test_without_lines_nothing_is_agreed() -> None:
    at, true = bent()
    rng = np.random.default_rng(0)
    noise = rng.normal(size=true.shape[:2]) + 1j * rng.normal(size=true.shape[:2])
    _, near = grown(0.1 * noise, at, 0, 5.0)
    surface, near_lines = grown(phases(true[..., 0], 0), at, 0, 5.0)
    assert near < 0.7 < near_lines and surface.shape == true.shape[:2]


def test_a_page_map_is_the_inverse_of_where_the_page_lies() -> None:
    at, mm = bent()
    matrix = np.array([[5.0, 0.3, 700.0], [-0.2, 4.8, 500.0], [1e-5, 2e-5, 1.0]])
    page_map = inverted(matrix, at, mm, STEP_MM)
    inner = mm[10:-10, 10:-10]
    np.testing.assert_allclose(page_map.to_coarse(inner), at[10:-10, 10:-10], atol=0.1)
    flat = flat_map(matrix, (-140.0, -105.0, 140.0, 105.0), STEP_MM)
    np.testing.assert_allclose(page_map.to_pixels(inner), flat.to_pixels(at[10:-10, 10:-10]), atol=0.6)


def test_what_is_cut_lies_where_the_map_says() -> None:
    x, y = np.meshgrid(np.arange(400), np.arange(300))
    picture = np.stack([x % 256, y % 256, 0 * x], -1).astype(np.uint8)
    page_map = flat_map(np.array([[2.0, 0, 50.0], [0, 2.0, 40.0], [0, 0, 1.0]]), (0.0, 0.0, 150.0, 100.0), 5.0)
    part = page_map.cut(picture, (10.0, 10.0), (64, 96), 2.0).astype(float)
    where = page_map.to_pixels(np.array([10.0, 10.0]) + (np.array([40, 20]) + 0.5) / 2.0)
    np.testing.assert_allclose(part[20, 40, :2], where, atol=1.0)

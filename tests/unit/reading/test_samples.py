"""The truth of training samples is the renderer's, within 0.1 px of what a network sees, on flat and bent pages.

The picture of each page is replaced by one whose pixels are their own coordinates: a sample of it says where in the page's
picture it was taken.
"""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from ecgscan_ray.config import PageConfig
from ecgscan_ray.paper import Renderer, marks, page_key
from ecgscan_ray.paper.key import Draws
from ecgscan_ray.paper.truth import expand
from ecgscan_ray.reading.samples import COLUMN_PX, ROW_HEIGHT, ROW_PX, row_sample, sharpened
from ecgscan_ray.rectification.channels import PAGE_CHANNELS
from ecgscan_ray.rectification.samples import NO_PAGE, PAGE_PX, TWO_PAGES, Drawn, coarse_sample, page_sample
from tests.records import recording

MAX_ERROR_PX = 0.1
BENT = {"effect_probabilities": {"curl": 1.0, "perspective": 1.0}, "effect_ranges": {"curl": (0.008, 0.01)}}
FLAT = {"effect_probabilities": {"curl": 0.0}, "effect_ranges": {"perspective": (0.0, 0.0)}}
SEEDS = range(4)
KINDS = {seed: np.random.default_rng(seed).random() for seed in range(200)}
"""Seed -> what decides on the kind of a whole picture."""
WHOLE = [seed for seed, kind in KINDS.items() if kind > NO_PAGE + TWO_PAGES][:4]
BESIDE = [seed for seed, kind in KINDS.items() if NO_PAGE <= kind < NO_PAGE + TWO_PAGES][:4]
NONE = [seed for seed, kind in KINDS.items() if kind < NO_PAGE][:3]


def drawn(bent: bool, seed: int, layout: str = "3x4+1", height: int = 700) -> Drawn:
    """A page whose picture is float32 x, y, 1 of each pixel; the 1 is 0 at the edge, whose colour goes on outside."""
    looks = {"channels": 3, "fit": "pad", "effects": "photo", "layouts": {layout: 1.0}}
    page = PageConfig(height=height, width=height * 4 // 3, **looks, **(BENT if bent else FLAT))
    heart = recording("1", seed=seed, fs=250.0)
    truth = Renderer(page).render([heart], np.array([page_key(seed, 0, "1", 0)], np.uint64)).truth[0]
    assert any(truth.curl) == bent
    x, y = np.meshgrid(np.arange(page.width, dtype=np.float32), np.arange(page.height, dtype=np.float32))
    within = np.pad(np.ones((page.height - 2, page.width - 2), np.float32), 1)
    return Drawn(np.stack([x, y, within], -1), truth, heart.signal_mv, heart.fs)


def taken_at(picture: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where in the page's picture places of a sample were taken, px, and whether they lie wholly inside it."""
    values = cv2.remap(picture, places.astype(np.float32), None, cv2.INTER_LINEAR)
    return values[..., :2].astype(np.float64), values[..., 2] > 0.9999


def middles(picture: np.ndarray) -> np.ndarray:
    """(h, w, 2) x and y of the middles of cells of 8 px."""
    return np.stack(np.meshgrid(*(np.arange(n // 8) * 8 + 3.5 for n in picture.shape[1::-1])), -1)


def px_per_mm(places_mm: np.ndarray) -> float:
    """Of a sample, given the page's mm at the middles of its cells."""
    steps = np.linalg.norm(np.diff(places_mm, axis=1), axis=-1)
    return 8 / float(np.median(steps[steps > 1]))  # beyond the picture all places are the same


def framed(page: Drawn, mm: np.ndarray, turns: int) -> np.ndarray:
    """Page mm (..., 2) from the middle of the trace frame, mm / 100, along the axes of a page turned by quarter turns."""
    frame = (mm - page.truth.frame_middle()) / 100
    for _ in range(turns):
        frame = np.stack([-frame[..., 1], frame[..., 0]], -1)
    return frame


@pytest.mark.parametrize("bent", [False, True])
@pytest.mark.parametrize("seed", WHOLE)
def test_coarse_truth(bent: bool, seed: int) -> None:
    page = drawn(bent, seed)
    picture, target, turns = coarse_sample(np.random.default_rng(seed), page)
    px, inside = taken_at(picture, middles(picture))
    mm = page.truth.to_page(px)
    frame = framed(page, mm, turns)
    near = inside & (np.abs(target[1:]) < 2.4).all(0)
    error_mm = 100 * np.linalg.norm(target[1:].transpose(1, 2, 0) - frame, axis=-1)[near]
    assert near.sum() > 500 and error_mm.max() * px_per_mm(mm) < MAX_ERROR_PX
    on_page = ((mm >= 0) & (mm <= page.truth.page_mm)).all(-1)
    edge = (np.abs(mm) < 0.1).any(-1) | (np.abs(mm - page.truth.page_mm) < 0.1).any(-1)
    np.testing.assert_array_equal(target[0][inside & ~edge] > 0, on_page[inside & ~edge])
    # the axes are those of the frame that are nearest to the picture's: x grows to the right
    assert (
        np.median(np.diff(target[1], axis=1)[near[:, 1:]]) > 0 and np.median(np.diff(target[2], axis=0)[near[1:]]) > 0
    )


def test_a_page_beside_the_page_is_none_of_it() -> None:
    seen = 0
    for seed in BESIDE:
        page = drawn(False, seed)
        picture, target, turns = coarse_sample(np.random.default_rng(seed), page)
        px, inside = taken_at(picture, middles(picture))
        mm = page.truth.to_page(px)
        frame = framed(page, mm, turns)
        near = inside & (target[0] > 0) & (np.abs(target[1:]) < 2.4).all(0)
        error_mm = 100 * np.linalg.norm(target[1:].transpose(1, 2, 0) - frame, axis=-1)[near]
        assert near.sum() > 300 and error_mm.max() * px_per_mm(mm) < MAX_ERROR_PX
        second = inside & (target[0] == 0) & ((mm > 5) & (mm < np.array(page.truth.page_mm) - 5)).all(-1)
        assert second.sum() < 0.6 * near.sum()
        seen += int(second.sum() > 20)
    assert seen >= 2, "of four pictures, some show a part of a second page"


def test_a_picture_without_a_page_has_no_truth() -> None:
    for seed in NONE:
        picture, target, turns = coarse_sample(np.random.default_rng(seed), drawn(False, 0))
        assert picture.shape == (384, 512, 3) and picture.dtype == np.uint8 and picture.std() > 0
        assert not target.any() and turns == 0


@pytest.mark.parametrize("fs", [100.0, 250.0])
def test_recordings_of_a_low_rate_are_sharpened_and_keep_their_slow_part(fs: float) -> None:
    heart = recording("1", seed=1, fs=fs).signal_mv
    sharp, rate = sharpened(np.random.default_rng(0), heart, fs)
    assert rate == 500.0 and sharp.shape == (12, round(heart.shape[1] * 500 / fs))
    slow = [gaussian_filter1d(signal, 0.05 * at, axis=1) for signal, at in ((heart, fs), (sharp, rate))]
    np.testing.assert_allclose(slow[1][:, :: round(500 / fs)][:, 50:-50], slow[0][:, 50:-50], atol=0.02)
    assert (np.ptp(sharp, axis=1) > np.ptp(heart, axis=1)).all()
    residual = np.abs(sharp[0] + sharp[2] - sharp[1]).max()
    assert residual < 0.02, "the lead laws hold as well as before"


def test_what_is_sharp_or_has_gaps_stays() -> None:
    fine, gaps = recording("1", fs=500.0).signal_mv, recording("1", fs=100.0).signal_mv.copy()
    gaps[3, 10] = np.nan
    for signal, fs in ((fine, 500.0), (gaps, 100.0)):
        same, rate = sharpened(np.random.default_rng(0), signal, fs)
        assert same is signal and rate == fs


@pytest.mark.parametrize("bent", [False, True])
@pytest.mark.parametrize("height", [700, 1200])  # the larger one is shrunk on the way
@pytest.mark.parametrize("seed", SEEDS)
def test_page_truth(bent: bool, height: int, seed: int) -> None:
    page = drawn(bent, seed, height=height)
    truth, where = page.truth, page.truth.geometry
    assert truth.grid_mm is not None
    picture, target = page_sample(np.random.default_rng(seed), page)
    px, inside = taken_at(picture, middles(picture))
    mm = truth.to_page(px)
    grid, marks = target[: PAGE_CHANNELS["grid"]], target[PAGE_CHANNELS["grid"] :]
    seen = inside & (np.abs(grid).max(0) > 0)
    assert seen.sum() > 300
    for k, period in ((0, 5.0), (2, 5.0), (4, 1.0), (6, 1.0)):
        axis = k // 2 % 2
        turn = np.arctan2(grid[k + 1], grid[k]) - 2 * math.pi * (mm[..., axis] - truth.grid_mm[axis]) / period
        error_mm = np.abs((turn + math.pi) % (2 * math.pi) - math.pi)[seen] * period / (2 * math.pi)
        assert error_mm.max() * PAGE_PX < MAX_ERROR_PX
        np.testing.assert_allclose(np.hypot(grid[k], grid[k + 1])[seen], 1, atol=1e-6)
    # zero lines of the rows, and where strips begin
    zeros = where.first + where.pitch * np.arange(truth.layout_at_speed().rows)
    along = (mm[..., 0] > where.left + 1) & (mm[..., 0] < where.left + 249) & seen
    away = np.abs(mm[..., 1, None] - zeros).min(-1)
    np.testing.assert_allclose(marks[0][along], np.exp(-0.5 * (away[along] / 2) ** 2), atol=0.02)
    starts = np.array([(where.start(s), where.baseline(s)) for s in truth.layout_at_speed().strips])
    offset = (mm[..., None, :] - starts) / (2.0, 2.5)
    np.testing.assert_allclose(marks[1][seen], np.exp(-0.5 * (offset**2).sum(-1)).max(-1)[seen], atol=0.02)


@pytest.mark.parametrize("bent", [False, True])
@pytest.mark.parametrize("layout", ["3x4+1", "12x1"])
@pytest.mark.parametrize("seed", SEEDS)
def test_row_truth(bent: bool, layout: str, seed: int) -> None:
    page = drawn(bent, seed, layout)
    row = seed % page.truth.layout_at_speed().rows
    picture, height, trace = row_sample(np.random.default_rng(seed), page, row)
    assert picture.shape[:2] == (ROW_HEIGHT, 1024) and height.shape == trace.shape == (1024,)
    columns = np.flatnonzero(np.isfinite(height) & (height > 1) & (height < picture.shape[0] - 2))
    px, inside = taken_at(picture, np.stack([columns, height[columns]], -1)[None])
    expanded = expand(page.truth, page.signal_mv, page.fs)
    strips = [s for s, strip in enumerate(page.truth.layout_at_speed().strips) if strip.row == row]
    lines = [expanded.points[s].astype(np.float64) for s in strips]
    if page.truth.pulse != "none":
        rows = marks.pulse_rows(Draws(page.truth.key), page.truth.layout_at_speed().rows)
        paths = marks.pulse_paths(page.truth.pulse, rows, page.truth.geometry)
        lines += [page.truth.to_pixels(path) for path, of in zip(paths, rows, strict=True) if of == row]
    assert np.isfinite(height[trace]).all()
    px = px[0][inside[0]]
    assert len(px) > 200
    distance = np.min([to_polyline(px, line) for line in lines], axis=0)
    ends = np.concatenate([line[[0, -1]] for line in lines])
    at_end = np.linalg.norm(px[:, None] - ends, axis=-1).min(-1) < 2  # past the last sample of a strip
    mm = page.truth.to_page(px)
    apart = np.linalg.norm(np.diff(mm, axis=0), axis=1)
    assert np.median(apart) < 2 / COLUMN_PX, "neighbouring columns are neighbours on the page"
    scale = np.median(np.linalg.norm(np.diff(px, axis=0), axis=1) / np.linalg.norm(np.diff(mm, axis=0), axis=1))
    assert (distance[~at_end] / scale * ROW_PX).max() < MAX_ERROR_PX


def to_polyline(points: np.ndarray, line: np.ndarray) -> np.ndarray:
    """(P,) distance of each point to the nearest segment."""
    a, b = line[:-1], line[1:]
    along = b - a
    t = np.clip(((points[:, None] - a) * along).sum(-1) / (along**2).sum(-1), 0, 1)
    return np.linalg.norm(points[:, None] - (a + t[..., None] * along), axis=-1).min(-1)


def test_a_strip_that_is_missing_has_no_truth() -> None:
    page = drawn(False, 0)
    offsets = tuple(None for _ in page.truth.offsets_mv)
    page = Drawn(page.image, replace(page.truth, offsets_mv=offsets), page.signal_mv, page.fs)
    _, height, trace = row_sample(np.random.default_rng(0), page, 0)
    assert not trace.any() and (page.truth.pulse != "none" or np.isnan(height).all())

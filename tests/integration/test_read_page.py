"""Whole pages with the networks of the package: one of each family of layouts, and what must be refused."""

from __future__ import annotations

import time
from dataclasses import replace

import cv2
import numpy as np
import pytest

from ecgscan_ray.errors import InputError
from ecgscan_ray.paper import grid as printed_grid
from ecgscan_ray.paper.layout import TRACE_MM, timed
from ecgscan_ray.reading.leads import PageReading
from ecgscan_ray.reading.reader import Networks, Stated, read_page
from ecgscan_ray.reading.weights import load_networks
from ecgscan_ray.rectification.pose import find_poses
from ecgscan_ray.rectification.samples import Drawn
from tests.records import recording
from tests.rendered import clean_page


@pytest.fixture(scope="module")
def networks() -> Networks:
    return load_networks()


@pytest.fixture(scope="module")
def page() -> Drawn:
    return clean_page("3x4+1")


def turned(image: np.ndarray, clockwise: int) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(image, -clockwise))


def snr_db(reading: PageReading, page: Drawn) -> float:
    """Of all strips, each around its mean."""
    power = error = 0.0
    for strip in reading.strips:
        seconds = strip.strip.start_s + np.arange(len(strip.mv)) / reading.fs
        samples = np.arange(page.signal_mv.shape[1])
        true = np.interp(seconds, samples / page.fs, page.signal_mv[strip.strip.lead])
        read = np.isfinite(strip.mv)
        assert read.mean() > 0.95
        difference = (strip.mv - true)[read]
        power += float(((true - true.mean()) ** 2).sum())
        error += float(((difference - difference.mean()) ** 2).sum())
    return 10 * float(np.log10(power / error))


LEAST_SNR_DB = 10
"""Strips at their own times; 13 to 19 dB are read."""


@pytest.mark.parametrize(
    ("layout", "turns", "speed", "gain"),
    [
        ("3x4+1", 1, 25.0, 10.0),
        ("3x4/simultaneous", 3, 25.0, 20.0),
        ("3x4+3/cabrera", 0, 25.0, 10.0),
        ("6x2+1", 2, 25.0, 10.0),
        ("12x1", 0, 50.0, 5.0),
    ],
)
def test_a_clean_page_is_read(networks: Networks, layout: str, turns: int, speed: float, gain: float) -> None:
    page = clean_page(layout, seed=3, speeds={speed: 1.0}, gains={gain: 1.0})
    reading = read_page(
        networks, turned(page.image, turns), Stated(speed, gain) if page.truth.pulse == "none" else Stated()
    )
    assert (reading.layout.value, reading.turns) == (layout, turns)
    assert (reading.speed.value, reading.gain.value) == (speed, gain)
    assert [s.strip for s in reading.strips] == list(timed(layout, speed).strips)
    assert snr_db(reading, page) > LEAST_SNR_DB


def test_a_turned_picture_has_the_same_page(networks: Networks, page: Drawn) -> None:
    points = np.array([(-100.0, -60.0), (100.0, -60.0), (0.0, 0.0), (100.0, 60.0)])
    upright = find_poses(networks.coarse, page.image)[0]
    height, width = page.image.shape[:2]
    for turns in range(4):
        pose = find_poses(networks.coarse, turned(page.image, turns))[0]
        assert pose.turns == turns and pose.turn_belief > 0.9 and pose.belief > 0.9
        px = cv2.perspectiveTransform(points[None], pose.matrix)[0]
        size = (height, width) if turns % 2 == 0 else (width, height)
        for _ in range(turns):  # back to the upright picture
            px, size = np.stack([px[:, 1], size[1] - 1 - px[:, 0]], -1), size[::-1]
        true = page.truth.to_pixels(points + page.truth.frame_middle())
        assert np.linalg.norm(px - true, axis=1).max() < 0.03 * width
        assert abs(np.ptp(pose.box_mm[::2]) - np.ptp(upright.box_mm[::2])) < 25


def desk() -> np.ndarray:
    rng = np.random.default_rng(0)
    picture = np.full((600, 800, 3), (120, 90, 60), np.uint8) + rng.integers(0, 20, (600, 800, 3)).astype(np.uint8)
    cv2.rectangle(picture, (200, 100), (560, 500), (235, 235, 230), -1)
    for y in range(130, 480, 24):
        cv2.putText(picture, "Dear Sir or Madam, enclosed", (220, y), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (40, 40, 40))
    return picture


def grid() -> np.ndarray:
    picture = np.full((1000, 1333, 3), 255, np.uint8)
    for mm in range(280):
        at, colour = round(mm * 1333 / 280), (240, 120, 120) if mm % 5 == 0 else (255, 205, 205)
        picture[:, at] = colour
        picture[min(at, 999)] = colour
    return picture


def one_lead() -> np.ndarray:
    signal_mv = recording("1", fs=250.0).signal_mv.copy()
    signal_mv[np.arange(12) != 1] = np.nan
    return clean_page(signal_mv=signal_mv).image


NO_ROWS, NO_NAMES = "no rows of an ECG found on the page", "no lead names of a known layout found on the page"


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (desk, "no (ECG page|rows|lead names)"),
        (lambda: np.full((900, 1200, 3), 250, np.uint8), "no ECG page found in the picture"),
        (lambda: np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8), "no ECG page found"),
        (lambda: clean_page().image[:2].copy(), "no ECG page found in the picture"),
        (lambda: cv2.resize(clean_page().image, (64, 48), interpolation=cv2.INTER_AREA), "no (ECG page|rows|lead names)"),
        (grid, NO_ROWS),
        (one_lead, NO_NAMES),
        (lambda: np.ascontiguousarray(clean_page().image[:, :666]), NO_NAMES),
    ],
    ids=["desk", "blank", "noise", "line", "64 px", "grid alone", "one lead", "half a page"],
)  # fmt: skip
def test_what_is_no_whole_page_is_refused_in_one_line(networks: Networks, picture: object, message: str) -> None:
    begin = time.process_time()
    with pytest.raises(InputError, match=message) as caught:
        read_page(networks, picture())  # type: ignore[operator]
    assert "\n" not in str(caught.value)
    assert time.process_time() - begin < 20, "time is bounded"


def test_of_a_page_and_a_part_of_another_the_page_is_read(networks: Networks, page: Drawn) -> None:
    reading = read_page(networks, np.concatenate([page.image, page.image[:, :400]], axis=1))
    assert (reading.layout.value, reading.turns) == ("3x4+1", 0) and snr_db(reading, page) > LEAST_SNR_DB


def test_a_page_without_a_grid_is_read_by_the_length_of_its_rows_and_says_so(
    networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    style = printed_grid.grid_style
    monkeypatch.setattr(printed_grid, "grid_style", lambda index: replace(style(index), kind="none"))
    page = clean_page("3x4+1")
    reading = read_page(networks, page.image)
    assert page.truth.grid_mm is None and reading.layout.value == "3x4+1"
    assert "no grid is seen: millimetres come from the length of the rows" in reading.reasons
    assert reading.quality < 0.5
    where = page.truth.geometry
    end = page.truth.to_pixels(np.array([where.left + TRACE_MM, where.first]))
    assert np.linalg.norm(reading.strips[9].pixels[-1] - end) < 3 * min(reading.px_per_mm), "V4's end"


@pytest.mark.parametrize(
    ("axis", "gap"), [(1, 0), (0, 0), (0, 60)], ids=["side by side", "stacked", "stacked with a gap"]
)
def test_two_whole_pages_in_one_picture_are_refused_in_one_line(
    networks: Networks, page: Drawn, axis: int, gap: int
) -> None:
    """They are not read as one, and none is left out unsaid."""
    other = clean_page("6x2", seed=4).image
    desk = np.full_like(other, 110)[:gap]
    with pytest.raises(InputError, match=r"^two ECG pages in one picture: each needs a picture of its own$"):
        read_page(networks, np.concatenate([page.image, desk, other] if gap else [page.image, other], axis=axis))


@pytest.mark.parametrize(("seed", "by", "scale"), [(9, "text", (50.0, 20.0)), (36, "assumed", (25.0, 10.0))])
def test_a_page_without_a_pulse_is_of_the_scale_that_it_states(
    networks: Networks, seed: int, by: str, scale: tuple[float, float]
) -> None:
    """Seed 36 draws neither pulse nor text: what cannot be known is assumed, and said to be."""
    page = clean_page("3x4+1", seed=seed, speeds={50.0: 1.0}, gains={20.0: 1.0})
    assert page.truth.pulse == "none"
    reading = read_page(networks, page.image)
    assert (reading.speed.by, reading.gain.by) == (by, by)
    assert (reading.speed.value, reading.gain.value) == scale
    assert any("assumed" in reason for reason in reading.reasons) == (by == "assumed")

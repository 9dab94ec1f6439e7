"""What a reader gives of a page, without the page: the windows of its layout, and a reader's errors."""

from dataclasses import replace

import numpy as np
import pytest

from ecgscan_ray.config import PageConfig
from ecgscan_ray.paper import LAYOUTS, Renderer, page_key
from ecgscan_ray.paper.as_read import NO_ERRORS, ReadingErrors, as_read, draw_layout
from ecgscan_ray.paper.layout import timed, windows_of
from tests import records

FS = 100.0


def signal(seed: int = 0) -> np.ndarray:
    return records.recording("1", seed=seed).signal_mv


@pytest.mark.parametrize("name", LAYOUTS)
def test_exactly_what_the_layout_shows_is_read(name):
    read = as_read(signal(), FS, windows_of(name), 1, NO_ERRORS)
    expected = np.zeros((12, 1000), bool)
    for lead, start, stop in windows_of(name):
        expected[int(lead), round(start * FS) : round(stop * FS)] = True
    np.testing.assert_array_equal(np.isfinite(read), expected)


def test_without_errors_a_strip_is_the_recording_around_its_median():
    whole = signal()
    read = as_read(whole, FS, windows_of("3x4"), 1, NO_ERRORS)
    for strip in timed("3x4", 25.0).strips:
        part = slice(round(strip.start_s * FS), round(strip.stop_s * FS))
        expected = whole[strip.lead, part] - np.median(whole[strip.lead, part])
        np.testing.assert_allclose(read[strip.lead, part], expected, atol=1e-5)


def test_the_key_decides_layout_and_errors_as_it_does_on_drawn_pages():
    page = PageConfig(effects="clean", layouts={"3x4+1": 1.0, "6x2": 1.0, "12x1": 1.0})
    recordings = [records.recording(str(n), seed=n) for n in range(8)]
    keys = np.array([page_key(0, 0, r.id, 0) for r in recordings], np.uint64)
    drawn = Renderer(page).render(recordings, keys)
    for number, key in enumerate(keys):
        name, windows = draw_layout(page.layouts, 25.0, int(key))
        assert name == drawn.truth[number].layout
        np.testing.assert_array_equal(windows, drawn.windows[number])
    one, same, other = (as_read(signal(), FS, windows_of("3x4+1"), key) for key in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.nanmax(np.abs(one - other)) > 0.01


def test_a_reader_that_finds_the_time_reads_the_leads_well():
    whole, windows = signal(), windows_of("3x4+1")
    exact = as_read(whole, FS, windows, 1, NO_ERRORS)
    r = []
    for key in range(20):
        read = as_read(whole, FS, windows, key, ReadingErrors(strip_shift_s=0, stretch=0, wave_s=0))
        known = np.isfinite(read)
        assert 0.85 < known.sum() / np.isfinite(exact).sum() <= 1
        r.append(np.corrcoef(read[known], exact[known])[0, 1])
    assert 0.9 < np.median(r) < 0.999


def test_one_error_at_a_time_does_what_its_name_says():
    whole, windows = signal(), windows_of("12x1")
    exact = as_read(whole, FS, windows, 0, NO_ERRORS)

    def only(**errors: float) -> np.ndarray:
        return as_read(whole, FS, windows, 0, replace(NO_ERRORS, **errors))

    ratio = only(gain=0.1).std(1) / exact.std(1)
    assert 0.01 < np.abs(np.log(ratio)).max() < 0.6
    assert 0.02 < np.isnan(only(lost=1.0)).mean() < 0.25
    assert 0.001 < np.abs(only(offset_mv=0.03) - exact).max() < 0.15
    moved = only(strip_shift_s=0.04)
    lags = range(-12, 13)
    fits = [
        [np.corrcoef(np.roll(m, k)[20:-20], e[20:-20])[0, 1] for k in lags] for m, e in zip(moved, exact, strict=True)
    ]
    best = np.argmax(fits, axis=1)
    assert 2 < np.ptp(best) < 20  # each strip by its own time


def test_pages_differ_in_their_errors_of_time():
    whole, windows = signal(), windows_of("12x1")
    exact = as_read(whole, FS, windows, 0, NO_ERRORS)
    errors = replace(NO_ERRORS, wave_s=0.02)
    sizes = [np.abs(as_read(whole, FS, windows, key, errors) - exact).mean() for key in range(20)]
    assert max(sizes) > 4 * min(sizes)


def test_what_was_not_recorded_is_not_read():
    whole = signal()
    whole[7] = np.nan
    read = as_read(whole, FS, windows_of("3x4+1"), 1)
    assert np.isnan(read[7]).all() and np.isfinite(read[6]).any()

"""SNR of leads as read against their recording: exact where the error is known, and blind to what the page does not say."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.photographs import layout_name
from benchmarks.reading_error import reading_error
from ecgscan_ray.paper.layout import find_layout
from ecgscan_ray.reading.leads import Found, PageReading, StripReading
from ecgscan_ray.recording.recording import Recording

FS = 500.0


def smooth_recording() -> Recording:
    """Twelve leads of slow waves, which no filter changes, at 500 Hz."""
    t = np.arange(5000) / FS
    signal = np.stack([np.sin(2 * np.pi * (1 + 0.1 * k) * t + k) for k in range(12)])
    return Recording("a", "test", "1", signal.astype(np.float32), FS)


def page_of(recording: Recording, shift_s: float = 0.0, layout: str = "3x4+1") -> PageReading:
    strips = []
    for strip in find_layout(layout).strips:
        at = np.arange(round((strip.stop_s - strip.start_s) * FS)) / FS + strip.start_s - shift_s
        mv = np.interp(at, np.arange(5000) / FS, recording.signal_mv[strip.lead]).astype(np.float32)
        strips.append(StripReading(strip, mv, np.ones_like(mv), np.zeros((0, 2), np.float32)))
    values = (Found(layout, "given", 1.0), Found(25.0, "given", 1.0), Found(10.0, "given", 1.0))
    return PageReading(tuple(strips), FS, *values, 0, (6.0, 6.0), 1.0, ())


def with_strips(page: PageReading, change) -> PageReading:
    return replace(page, strips=tuple(replace(s, mv=change(k, s.mv)) for k, s in enumerate(page.strips)))


def test_noise_of_known_power_gives_its_snr() -> None:
    recording = smooth_recording()

    # noise below the low pass, so that it is all seen: 0.05 mV against 0.5 mV^2 of signal is 23 dB
    def noisy(k: int, mv: np.ndarray) -> np.ndarray:
        t = np.arange(len(mv)) / FS
        return mv + np.float32(0.05 * np.sqrt(2)) * np.sin(2 * np.pi * 8 * t).astype(np.float32)

    error = reading_error(with_strips(page_of(recording), noisy), recording)
    assert error.snr_one_shift_db == pytest.approx(10 * np.log10(0.5 / 0.05**2), abs=0.5)
    assert error.rmse_mv == pytest.approx(0.05, abs=0.004)


def test_offsets_and_a_shift_of_the_page_cost_nothing_and_a_wrong_gain_does() -> None:
    recording = smooth_recording()
    moved = with_strips(page_of(recording, shift_s=0.04), lambda k, mv: mv + k)
    error = reading_error(moved, recording)
    assert error.shift_s == pytest.approx(0.04, abs=0.003)
    assert error.snr_one_shift_db > 30
    halved = reading_error(with_strips(page_of(recording), lambda k, mv: mv / 2), recording)
    assert halved.snr_db == pytest.approx(6.0, abs=0.3)


def test_a_shift_of_one_strip_is_allowed_once_and_samples_not_read_are_left_out() -> None:
    recording = smooth_recording()
    late, right = page_of(recording, shift_s=0.03), page_of(recording)
    page = replace(right, strips=(late.strips[0], *right.strips[1:]))
    error = reading_error(page, recording)
    assert error.snr_db > error.snr_one_shift_db + 6
    torn = with_strips(right, lambda k, mv: np.where(np.arange(len(mv)) < 400, np.nan, mv).astype(np.float32))
    assert reading_error(torn, recording).snr_db > 30


def test_a_page_of_nothing_has_no_signal() -> None:
    empty = with_strips(page_of(smooth_recording()), lambda k, mv: np.full_like(mv, np.nan))
    assert reading_error(empty, smooth_recording()).snr_db == pytest.approx(0.0, abs=0.1)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("3x4 (2.5 s columns: I,II,III / aVR,aVL,aVF / V1-3 / V4-6) + 10 s rhythm strip II", "3x4+1"),
        ("3x4 + rhythm strips V1, II, V5", "3x4+3"),
        ("3x4 + 10 s rhythm strip V1", "3x4+V1"),
        ("12x1", "12x1"),
        ("6 x 2", "6x2"),
        ("", ""),
    ],
)
def test_layouts_in_words(text: str, name: str) -> None:
    assert layout_name(text) == name

"""A recording as a reader of pages gives it: what a page shows, with the errors that reading leaves.

An encoder of leads is trained on these. No page is drawn or read for it: the windows of a layout and the sizes of the errors
are enough. Everything follows from the page's key, as the looks of a drawn page do. The time by which all rows of a page begin
too early or too late is not among them: leads are redrawn at the page's own times, and recordings are moved before they are
compared with pages.

Letters: 12 leads, T samples, S strips.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np

from ecgscan_ray.paper.key import Draws
from ecgscan_ray.paper.layout import MAX_STRIPS, timed
from ecgscan_ray.recording.leads import LEADS


@dataclass(frozen=True)
class ReadingErrors:
    """What reading does to leads; sizes are standard deviations where nothing else is said.

    The errors of time are those of the worst pages: each page has a random share of them, as pages that were read have.

    Attributes:
        strip_shift_s: Time by which a strip begins too early or too late.
        stretch: Error of the paper speed, as a share.
        wave_s: The most that bends of the paper leave along a row.
        gain: Logarithm of the gain; half of it for each strip.
        sharpness: How much sharper or duller peaks are at most, in units of the difference from a mean of three samples.
        noise_mv: The most noise of a strip.
        drift_mv: The largest slow errors of height.
        offset_mv: Offset of a strip.
        lost: Share of the strips that lose a stretch of up to a quarter of their length.
    """

    strip_shift_s: float = 0.006
    stretch: float = 0.003
    wave_s: float = 0.008
    gain: float = 0.04
    sharpness: float = 0.8
    noise_mv: float = 0.02
    drift_mv: float = 0.03
    offset_mv: float = 0.03
    lost: float = 0.15


NO_ERRORS = ReadingErrors(*(0.0,) * len(fields(ReadingErrors)))
"""A perfect reader's."""
_WAVE_KNOTS, _DRIFT_KNOTS = 14, 20
"""Of 10 s: bends of the paper are centimetres long."""


def draw_layout(weights: Mapping[str, float], speed_mm_per_s: float, key: int) -> tuple[str, np.ndarray]:
    """Name and windows of the layout of the page with this key, as the renderer draws it.

    Args:
        weights: Name -> share, above 0.
        speed_mm_per_s: Paper speed.
        key: Of the page.

    Returns:
        The name, and float32 (``MAX_STRIPS``, 3): lead (-1 = no strip), start and end in s.
    """
    name = Draws(key).pick("layout", weights)
    windows = np.full((MAX_STRIPS, 3), (-1.0, 0.0, 0.0), np.float32)
    shown = timed(name, speed_mm_per_s).windows
    windows[: len(shown)] = shown
    return name, windows


def as_read(
    signal_mv: np.ndarray, fs: float, windows: np.ndarray, key: int, errors: ReadingErrors = ReadingErrors()
) -> np.ndarray:
    """What a reader gives of a page that shows a recording, each strip around its own median.

    A sample that two strips show is taken from the first one.

    Args:
        signal_mv: (12, T), NaN where nothing was recorded.
        fs: Hz.
        windows: (S, 3): lead (-1 = no strip), start and end in s.
        key: Of the page; it decides the errors.
        errors: Their sizes.

    Returns:
        float32 (12, T) in mV, NaN where nothing is shown.
    """
    rng = np.random.default_rng(key)
    sig_len = signal_mv.shape[1]
    leads = np.full((len(LEADS), sig_len), np.nan, np.float32)
    time = (np.arange(sig_len) + 0.5) / fs
    errors = _of_page(errors, rng.uniform())
    stretch, gain = errors.stretch * rng.standard_normal(), errors.gain * rng.standard_normal()
    sharp = _sharpened(signal_mv, errors.sharpness * rng.uniform(-1, 1))
    for lead, start, stop in windows[windows[:, 0] >= 0].tolist():
        first, last = np.searchsorted(time, (start, stop)).tolist()
        if first == last:
            continue
        at = time[first:last] + stretch * (time[first:last] - sig_len / 2 / fs)
        strip = _misread(rng, sharp[int(lead)], fs, at, errors)
        if rng.uniform() < errors.lost:
            lost = rng.uniform(-0.25, 1) * len(strip)
            strip[int(max(lost, 0)) : int(max(lost + rng.uniform(0, 0.25) * len(strip), 0))] = np.nan
        known = np.sort(strip[np.isfinite(strip)])
        if len(known):
            median = (known[(len(known) - 1) // 2] + known[len(known) // 2]) / 2  # np.median takes ten times as long
            strip += errors.offset_mv * rng.standard_normal() - median
        strip *= np.exp(gain + errors.gain / 2 * rng.standard_normal())
        here = leads[int(lead), first:last]
        np.copyto(here, strip, where=np.isnan(here), casting="same_kind")
    return leads


def _of_page(errors: ReadingErrors, size: float) -> ReadingErrors:
    """The errors of one page, whose errors of time are this share of the largest."""
    times = {name: size * getattr(errors, name) for name in ("strip_shift_s", "stretch", "wave_s")}
    return replace(errors, **times)


def _sharpened(signal_mv: np.ndarray, sharpness: float) -> np.ndarray:
    """Leads (12, T) with peaks that are sharper, or duller below 0."""
    dull = signal_mv.astype(np.float64)
    dull[:, 1:-1] = (dull[:, :-2] + dull[:, 1:-1] + dull[:, 2:]) / 3
    return signal_mv + sharpness * (signal_mv - dull)


def _misread(
    rng: np.random.Generator, signal: np.ndarray, fs: float, at: np.ndarray, errors: ReadingErrors
) -> np.ndarray:
    """One lead (T,) at the moments ``at`` in s, as it is read there, NaN where nothing was recorded."""

    def smooth(knots: int, size: float) -> np.ndarray:
        curves = _between_knots(max(2, round(knots * len(at) / len(signal))), len(at))
        return curves @ (size * rng.uniform() * rng.standard_normal(curves.shape[1]))

    at = at + errors.strip_shift_s * rng.standard_normal() + smooth(_WAVE_KNOTS, errors.wave_s)
    sample = np.clip(at * fs - 0.5, 0, len(signal) - 1)
    before = np.minimum(sample.astype(np.int64), max(len(signal) - 2, 0))
    after = np.minimum(before + 1, len(signal) - 1)
    strip = signal[before] + (sample - before) * (signal[after] - signal[before])
    noise = errors.noise_mv * rng.uniform() * rng.standard_normal(len(at))
    return strip + noise + smooth(_DRIFT_KNOTS, errors.drift_mv)


@lru_cache(64)
def _between_knots(knots: int, samples: int) -> np.ndarray:
    """(samples, knots): its product with values at evenly spaced knots is the line through them."""
    return np.interp(np.linspace(0, knots - 1, samples)[:, None] - np.arange(knots), (-1, 0, 1), (0, 1, 0))

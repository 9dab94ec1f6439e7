"""How far leads as read from a page are from the recording that it shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from ecgscan_ray.reading.leads import PageReading
from ecgscan_ray.recording.recording import Recording

FS = 100.0
"""Hz at which samples are compared."""
SMOOTHING_S = 0.003
"""Width of the low pass before samples are taken at ``FS``, s, of pages printed from 500 Hz: recordings of 100 Hz were filtered
too. Pages that are drawn of the recording at ``FS`` itself have nothing to be filtered."""
COMMON_S = np.arange(-0.5, 0.501, 0.01)
"""Shifts tried for the whole page, s: where its rows begin is not known to the sample. The best is refined by ``FINE_S``."""
FINE_S = np.arange(-0.01, 0.0101, 0.0025)
STRIP_S = np.arange(-0.04, 0.0401, 0.005)
"""Shifts tried for each strip on top, s: 1 mm at 25 mm/s."""


@dataclass(frozen=True)
class ReadingError:
    """Of one page.

    Attributes:
        snr_one_shift_db: Power of the recording by that of the error, over all samples shown, each strip without its mean.
        snr_db: The same with a shift for each strip.
        rmse_mv: Root mean square of the error with a shift for each strip.
        correlation: Of all samples shown, with one shift.
        shift_s: The common shift.
        strips_db: SNR of each strip, in the order of ``PageReading.strips``.
    """

    snr_one_shift_db: float
    snr_db: float
    rmse_mv: float
    correlation: float
    shift_s: float
    strips_db: tuple[float, ...]


def reading_error(page: PageReading, recording: Recording, smoothing_s: float = SMOOTHING_S) -> ReadingError:
    """Compare what was read with the recording; samples that were not read are left out.

    Args:
        page: As read.
        recording: Shown on it.
        smoothing_s: Of what was read; 0 where the page was drawn of the recording at ``FS``.
    """
    signal = recording.resampled(FS).signal_mv
    strips = [_Strip(page, k, signal, smoothing_s) for k in range(len(page.strips))]

    def total(shift: float) -> float:
        return sum(strip.error(shift)[0] for strip in strips)

    shift = min(COMMON_S, key=total)
    shift = min(shift + FINE_S, key=total)
    one = np.array([strip.error(shift) for strip in strips])
    each = np.array([min((strip.error(shift + d) for d in STRIP_S), key=lambda pair: pair[0]) for strip in strips])
    power = np.array([strip.power(shift) for strip in strips])
    read = np.concatenate([strip.centred(shift)[0] for strip in strips])
    true = np.concatenate([strip.centred(shift)[1] for strip in strips])
    norm = np.linalg.norm(read) * np.linalg.norm(true)
    with np.errstate(divide="ignore", invalid="ignore"):
        return ReadingError(
            float(_decibel(power.sum(), one[:, 0].sum())),
            float(_decibel(power.sum(), each[:, 0].sum())),
            float(np.sqrt(each[:, 0].sum() / max(each[:, 1].sum(), 1))),
            float(read @ true / norm) if norm else 0.0,
            float(shift),
            tuple(_decibel(power, each[:, 0]).tolist()),
        )


def _decibel(power: np.ndarray, error: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, 1e-12) / np.maximum(error, 1e-12))


class _Strip:
    """One strip as read, and the recording's samples in its place."""

    def __init__(self, page: PageReading, k: int, signal: np.ndarray, smoothing_s: float) -> None:
        reading = page.strips[k]
        first, last = (round(t * FS) for t in (reading.strip.start_s, reading.strip.stop_s))
        self._true = signal[reading.strip.lead, first:last].astype(np.float64)
        self._seconds = np.arange(len(reading.mv)) / page.fs
        known = np.isfinite(reading.mv)
        filled = np.interp(self._seconds, self._seconds[known], reading.mv[known]) if known.any() else 0 * self._seconds
        self._known = known.astype(float)
        self._mv = gaussian_filter1d(filled, smoothing_s * page.fs) if smoothing_s else filled

    def centred(self, shift: float) -> tuple[np.ndarray, np.ndarray]:
        """Samples as read and as recorded where both are known, each without its mean."""
        at = np.arange(len(self._true)) / FS + shift
        known = np.interp(at, self._seconds, self._known, left=0, right=0) >= 0.99
        known &= np.isfinite(self._true)
        if not known.any():
            return np.zeros(0), np.zeros(0)
        read, true = np.interp(at[known], self._seconds, self._mv), self._true[known]
        return read - read.mean(), true - true.mean()

    def error(self, shift: float) -> tuple[float, int]:
        """Sum of squares scaled to the whole strip, so that a shift that leaves samples out gains nothing; their number."""
        read, true = self.centred(shift)
        if not len(read):
            return float(np.nansum((self._true - np.nanmean(self._true)) ** 2)), len(self._true)
        return float(np.mean((read - true) ** 2) * len(self._true)), len(self._true)

    def power(self, shift: float) -> float:
        """The same of the recording."""
        true = self.centred(shift)[1]
        if not len(true):
            return float(np.nansum((self._true - np.nanmean(self._true)) ** 2))
        return float(np.mean(true**2) * len(self._true))

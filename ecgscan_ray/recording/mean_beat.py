"""Each lead's mean beat over what a page shows of it, pasted at the R peaks of the rhythm strip.

Of leads as read, it is what the lead decoder begins with (``completed``). Of the recording itself it is the oracle that
the decoder is compared with (``mean_beat_redraw``): no method that reads the page and pastes mean beats can do better. It
ignores irregular beats and drift, which a learned decoder can predict.

Letters: 12 leads, T samples, O offsets from the R peak.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter1d
from scipy.signal import find_peaks

_BEFORE_S = 0.3  # a beat starts this long before its R peak: P wave included
_SLOWEST_S = 2.0  # longest beat that a template holds
_SHORTEST_S = 0.3  # refractory time between two R peaks
_STRIP_SHARE = 0.9  # a lead shown for this share of the page is a rhythm strip


def detrended(signal_mv: np.ndarray, known: np.ndarray, fs: float) -> np.ndarray:
    """Signal minus a moving mean of 1 s over known samples (slow wander); unknown samples become 0."""
    width = max(round(fs), 1)
    value = np.where(known, signal_mv, 0.0)
    total = uniform_filter1d(value, width, axis=-1, mode="nearest")
    share = uniform_filter1d(known.astype(np.float64), width, axis=-1, mode="nearest")
    return np.where(known, value - total / np.maximum(share, 1e-9), 0.0)


def r_peaks(strip_mv: np.ndarray, fs: float) -> np.ndarray:
    """Sample indices of the R peaks of a (T,) strip: bursts of slope, then the nearest extreme of the QRS's sign."""
    slope = np.gradient(strip_mv)
    energy = uniform_filter1d(slope**2, max(round(0.1 * fs), 1), mode="nearest")
    bursts, _ = find_peaks(energy, distance=max(round(_SHORTEST_S * fs), 1), height=0.25 * np.quantile(energy, 0.98))
    if not len(bursts):
        return bursts
    reach = max(round(0.08 * fs), 1)
    windows = np.clip(bursts[:, None] + np.arange(-reach, reach + 1), 0, len(strip_mv) - 1)
    values = strip_mv[windows]
    sign = 1.0 if np.median(values.max(1)) >= np.median(-values.min(1)) else -1.0
    return np.unique(np.take_along_axis(windows, (sign * values).argmax(1)[:, None], 1)[:, 0])


@dataclass(frozen=True)
class Beats:
    """To which offset from an R peak each sample of a recording belongs.

    Attributes:
        offset: (T,) int64 in [0, O): 0 is the start of a beat, ``_BEFORE_S`` before its R peak.
        length: O.
    """

    offset: np.ndarray
    length: int

    @classmethod
    def at(cls, peaks: np.ndarray, sig_len: int, fs: float) -> Beats:
        """Cut T samples at the peaks; what lies before the first and after the last continues the median rhythm."""
        before, length = round(_BEFORE_S * fs), round(_SLOWEST_S * fs)
        interval = int(np.median(np.diff(peaks))) if len(peaks) > 1 else length
        start = int(peaks[0]) % interval - interval
        grid = [np.arange(start, int(peaks[0]), interval), peaks, np.arange(int(peaks[-1]), sig_len, interval)[1:]]
        starts = np.unique(np.concatenate(grid)) - before
        t = np.arange(sig_len)
        begin = starts[np.maximum(np.searchsorted(starts, t, side="right") - 1, 0)]
        return cls(np.clip(t - begin, 0, length - 1), length)

    def template(self, signal_mv: np.ndarray, known: np.ndarray) -> np.ndarray:
        """(12, O) mean beat of each lead over its known samples; NaN where an offset has none."""
        shape = (len(signal_mv), self.length)
        at = (np.arange(shape[0])[:, None] * self.length + self.offset)[known]
        count = np.bincount(at, minlength=shape[0] * shape[1])
        total = np.bincount(at, signal_mv[known], minlength=shape[0] * shape[1])
        with np.errstate(invalid="ignore", divide="ignore"):
            return (total / count).reshape(shape)

    def paste(self, template: np.ndarray) -> np.ndarray:
        """(12, T) the template at every beat; gaps in it are interpolated, leads without any samples stay NaN."""
        filled = np.full_like(template, np.nan)
        axis = np.arange(self.length)
        for lead, beat in enumerate(template):
            known = np.isfinite(beat)
            if known.any():
                filled[lead] = np.interp(axis, axis[known], beat[known])
        return filled[:, self.offset]


def find_beats(clean_mv: np.ndarray, shown: np.ndarray, fs: float) -> Beats | None:
    """Beats at the R peaks of the rhythm strip, or of all that is shown where no lead runs along the page.

    Args:
        clean_mv: (12, T) mV, ``detrended``.
        shown: (12, T) bool.
        fs: Hz.

    Returns:
        ``None`` where no R peak is found.
    """
    lead = int(shown.sum(1).argmax())
    if shown[lead].mean() >= _STRIP_SHARE:
        strip = clean_mv[lead]
    else:
        strip = np.abs(clean_mv).sum(0) / np.maximum(shown.sum(0), 1)
    peaks = r_peaks(strip, fs)
    return Beats.at(peaks, clean_mv.shape[1], fs) if len(peaks) else None


def mean_beat_redraw(truth_mv: np.ndarray, shown: np.ndarray, fs: float) -> np.ndarray:
    """(12, T) mV, the mean beats pasted (zero baseline); NaN for leads that the page does not show at all."""
    clean_mv = detrended(truth_mv, shown, fs)
    beats = find_beats(clean_mv, shown, fs)
    if beats is None:
        return np.full(truth_mv.shape, np.nan)
    return beats.paste(beats.template(clean_mv, shown))


def completed(leads_mv: np.ndarray, fs: float) -> np.ndarray:
    """Leads as read, and where nothing was read their mean beats (zero baseline).

    Args:
        leads_mv: (12, T) mV, NaN where nothing was read.
        fs: Hz.

    Returns:
        float32 (12, T), finite: 0 where there is no beat to paste.
    """
    read = np.isfinite(leads_mv)
    if not read.any():
        return np.zeros(leads_mv.shape, np.float32)
    beats = np.nan_to_num(mean_beat_redraw(np.where(read, leads_mv, 0.0), read, fs))
    return np.where(read, leads_mv, beats).astype(np.float32)

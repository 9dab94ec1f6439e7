"""A page's strips as they are compared with recordings, and what such a page would show of a recording.

Letters: L samples of all strips of a page at ``FS`` Hz, n samples of one strip, K shifts, B recordings, C candidates.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ecgscan_ray.paper.layout import PAGE_SECONDS, Strip
from ecgscan_ray.reading.leads import PageReading
from ecgscan_ray.recording.recording import Recording

FS = 100
"""Hz at which strips are compared."""
COMMON_SHIFTS_S = np.arange(-6, 21) * 0.02
"""A page's rows may begin this much earlier or later than they were found to. A calibration pulse on the left that is taken
for the rows' beginning makes them 0.2 to 0.3 s too early."""
STRIP_SHIFT_S = 0.04
"""The same for one strip of its own."""
STRIP_SHIFTS_S = np.arange(-32, 89) * 0.005
"""All shifts of one strip: a common one and its own."""
LEAST_BELIEF = 0.3
"""Samples read with less belief are left out."""
LENGTH = round(PAGE_SECONDS * FS)
"""Samples of a recording that a page can show."""


class PageQuery:
    """A page as read.

    Attributes:
        strips: In the layout's order.
        mask: bool (L,) samples that were read with enough belief.
    """

    def __init__(self, page: PageReading) -> None:
        self.strips = tuple(reading.strip for reading in page.strips)
        self._read = [(r.mv.astype(np.float64), np.arange(len(r.mv)) / page.fs) for r in page.strips]
        masks = [self._mask(number, r.belief) for number, r in enumerate(page.strips)]
        self.mask = np.concatenate(masks) if masks else np.zeros(0, bool)

    @property
    def shown_s(self) -> float:
        """Seconds of all strips together that can be compared."""
        return float(self.mask.sum()) / FS

    def templates(self) -> np.ndarray:
        """float32 (K, L) the page at each common shift; each strip without its mean, 0 where nothing was read."""
        return np.concatenate([self.shifted(number, COMMON_SHIFTS_S) for number in range(len(self.strips))], 1)

    def shifted(self, number: int, shifts_s: np.ndarray) -> np.ndarray:
        """float32 (K, n) one strip at each shift, around its mean; 0 where nothing was read or the strip has ended."""
        mv, own = self._read[number]
        first, n = list(spans(self.strips))[number]
        mask, known = self.mask[first : first + n], np.isfinite(mv)
        if not mask.any():
            return np.zeros((len(shifts_s), n), np.float32)
        at = np.arange(n) / FS + shifts_s[:, None]
        inside = mask & (at > own[0] - 1 / FS) & (at < own[-1] + 1 / FS)
        values = np.where(inside, np.interp(at, own[known], mv[known]), 0.0)
        mean = values.sum(1, keepdims=True) / np.maximum(inside.sum(1, keepdims=True), 1)
        return np.where(inside, values - mean, 0.0).astype(np.float32)

    def _mask(self, number: int, belief: np.ndarray) -> np.ndarray:
        mv, own = self._read[number]
        known = np.isfinite(mv)
        seconds = np.arange(num_samples(self.strips[number])) / FS
        if known.sum() < 2:
            return np.zeros(len(seconds), bool)
        return np.interp(seconds, own, np.where(known, belief, 0.0), right=0.0) >= LEAST_BELIEF


def num_samples(strip: Strip) -> int:
    """Of a strip, n."""
    return round((strip.stop_s - strip.start_s) * FS)


def spans(strips: tuple[Strip, ...]) -> Iterator[tuple[int, int]]:
    """First sample and number of samples of each strip among all L."""
    first = 0
    for strip in strips:
        n = num_samples(strip)
        yield first, n
        first += n


def comparable(recording: Recording) -> np.ndarray:
    """float32 (12, ``LENGTH``): the first ten seconds at ``FS``; a missing sample is the lead's mean."""
    signal = recording.resampled(FS).signal_mv[:, :LENGTH]
    known = np.isfinite(signal)
    if known.all() and signal.shape[1] == LENGTH:
        return signal
    mean = np.where(known, signal, 0.0).sum(1, keepdims=True) / np.maximum(known.sum(1, keepdims=True), 1)
    filled = np.broadcast_to(mean, (len(signal), LENGTH)).astype(np.float32)
    filled[:, : signal.shape[1]][known] = signal[known]
    return filled


def shown_of(signals: np.ndarray, strips: tuple[Strip, ...]) -> np.ndarray:
    """float32 (B, L): what a page with these strips would show of recordings (B, 12, ``LENGTH``), each strip around its mean."""
    out = np.zeros((len(signals), sum(map(num_samples, strips))), np.float32)
    for strip, (first, n) in zip(strips, spans(strips), strict=True):
        start = round(strip.start_s * FS)
        part = signals[:, strip.lead, start : start + n]
        out[:, first : first + part.shape[1]] = part - part.mean(1, keepdims=True)
    return out


def refined_scores(query: PageQuery, shown: np.ndarray, shift_s: np.ndarray) -> np.ndarray:
    """(C,) correlation of candidates with the page, each strip at the shift that fits it best.

    Args:
        query: The page.
        shown: (C, L) what the page would show of each.
        shift_s: (C,) common shift of each; a strip's own is at most ``STRIP_SHIFT_S`` away.
    """
    allowed = np.abs(STRIP_SHIFTS_S - shift_s[:, None]) <= STRIP_SHIFT_S + 1e-9
    needed = allowed.any(0)
    allowed, shifts_s = allowed[:, needed], STRIP_SHIFTS_S[needed]
    product, power, energy = np.zeros((3, len(shown)))
    for number, (first, n) in enumerate(spans(query.strips)):
        mask = query.mask[first : first + n]
        if not mask.any():
            continue
        tried = query.shifted(number, shifts_s)[:, mask]
        part = shown[:, first : first + n][:, mask]
        part = part - part.mean(1, keepdims=True)
        norms, products = (tried**2).sum(1), part @ tried.T
        cosines = np.where(allowed, products / np.sqrt(np.maximum(norms, 1e-9)), -np.inf)
        best = cosines.argmax(1)  # whatever the page's gain
        product += np.take_along_axis(products, best[:, None], 1)[:, 0]
        power += norms[best]
        energy += (part**2).sum(1)
    return product / np.sqrt(np.maximum(power * energy, 1e-12))

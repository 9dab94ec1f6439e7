"""Which recording does a page show? Its strips as read against recordings, sample by sample.

A page shows some seconds of each lead, each strip around an offset of its own, from a place that is known to a millimetre.
The score of a recording is the correlation of all strips together, each without its mean, at the best common shift; the
best candidates are compared once more with a small shift for each strip. All recordings are scored exactly, as matrix
products in float32.

Letters: P pages, B recordings of a block, K shifts, L samples of all strips of a layout at ``FS`` Hz.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from ecgscan_ray.paper.layout import Strip
from ecgscan_ray.reading.leads import PageReading
from ecgscan_ray.recording.recording import Recording

FS = 100
"""Hz at which strips are compared."""
COMMON_SHIFT_S = 0.08
"""A page's rows may begin this much earlier or later than they were found to: 2 mm at 25 mm/s."""
STRIP_SHIFT_S = 0.04
"""The same for one strip of its own."""
LEAST_BELIEF = 0.3
"""Samples read with less belief are left out."""
RERANKED = 100
"""Candidates that are compared with a shift for each strip."""
BLOCK = 1024
"""Recordings scored at once."""


@dataclass(frozen=True)
class Match:
    """A recording that a page may show.

    Attributes:
        recording_id: Of the recording.
        source: Its archive.
        score: Correlation, -1..1, with a small shift for each strip.
        shift_s: How much later than candidates the rows begin.
    """

    recording_id: str
    source: str
    score: float
    shift_s: float


def find_recordings(pages: Sequence[PageReading], recordings: Iterable[Recording], top: int = 10) -> list[list[Match]]:
    """The ``top`` best recordings for each page, best first.

    Args:
        pages: As read.
        recordings: Read once, ``BLOCK`` at a time.
        top: At most ``RERANKED``.
    """
    queries = [_Query(page) for page in pages]
    best: list[list[tuple[float, float, Recording]]] = [[] for _ in queries]
    by_strips: dict[tuple[Strip, ...], list[int]] = {}
    for k, query in enumerate(queries):
        by_strips.setdefault(query.strips, []).append(k)
    for block in _blocks(recordings):
        for strips, members in by_strips.items():
            signals = _strips_of(block, strips)
            for part in _parts(members):
                scores, shifts = _scores([queries[k] for k in part], signals, strips)
                for row, k in enumerate(part):
                    order = np.argsort(-scores[row])[:RERANKED]
                    candidates = [(float(scores[row, j]), float(shifts[row, j]), block[j]) for j in order]
                    best[k] = sorted(best[k] + candidates, key=lambda item: -item[0])[:RERANKED]
    return [_reranked(query, candidates)[:top] for query, candidates in zip(queries, best, strict=True)]


class _Query:
    """A page's strips at ``FS``: for each common shift what is compared, without means."""

    def __init__(self, page: PageReading) -> None:
        self.strips = tuple(reading.strip for reading in page.strips)
        lengths = [_samples(strip) for strip in self.strips]
        self.shifts = np.arange(-COMMON_SHIFT_S, COMMON_SHIFT_S + 1e-9, 0.01)
        self.fine = np.arange(-STRIP_SHIFT_S, STRIP_SHIFT_S + 1e-9, 0.005)
        self._read = [(r.mv.astype(np.float64), r.belief.astype(np.float64), page.fs) for r in page.strips]
        self.mask = np.concatenate([self._at(s, 0.0, n)[1] for s, n in enumerate(lengths)])
        self.lengths = lengths
        self.templates = np.stack([self.template(shift) for shift in self.shifts])

    def template(self, shift: float | np.ndarray) -> np.ndarray:
        """(L,) what is compared at one shift, or at one for each strip; a strip's mean over what was read is 0."""
        each = np.broadcast_to(shift, len(self.lengths))
        return np.concatenate([self.strip(s, float(each[s])) for s in range(len(self.lengths))])

    def strip(self, s: int, shift: float) -> np.ndarray:
        """(n,) one strip at a shift."""
        first = sum(self.lengths[:s])
        mask = self.mask[first : first + self.lengths[s]]
        values = self._at(s, shift, self.lengths[s])[0]
        count = mask.sum()
        return np.where(mask, values - (values[mask].mean() if count else 0.0), 0.0).astype(np.float32)

    def _at(self, s: int, shift: float, length: int) -> tuple[np.ndarray, np.ndarray]:
        mv, belief, fs = self._read[s]
        seconds = np.arange(length) / FS + shift
        own = np.arange(len(mv)) / fs
        known = np.isfinite(mv)
        if known.sum() < 2:
            return np.zeros(length), np.zeros(length, bool)
        inside = (seconds >= own[0] - 0.5 / FS) & (seconds <= own[-1] + 0.5 / FS)
        trust = np.interp(seconds, own, np.where(known, belief, 0.0))
        return np.interp(seconds, own[known], mv[known]), inside & (trust >= LEAST_BELIEF)


def _samples(strip: Strip) -> int:
    return round((strip.stop_s - strip.start_s) * FS)


def _blocks(recordings: Iterable[Recording]) -> Iterator[list[Recording]]:
    source = iter(recordings)
    while block := list(islice(source, BLOCK)):
        yield block


def _parts(members: list[int], size: int = 256) -> Iterator[list[int]]:
    for start in range(0, len(members), size):
        yield members[start : start + size]


def _strips_of(block: list[Recording], strips: tuple[Strip, ...]) -> np.ndarray:
    """float32 (B, L): what a page with these strips would show of each recording; 0 where nothing was recorded."""
    out = np.zeros((len(block), sum(map(_samples, strips))), np.float32)
    for row, recording in enumerate(block):
        signal = recording.resampled(FS).signal_mv
        first = 0
        for strip in strips:
            n, start = _samples(strip), round(strip.start_s * FS)
            part = signal[strip.lead, start : start + n]
            out[row, first : first + len(part)] = np.nan_to_num(part)
            first += n
    return out


def _scores(queries: list[_Query], signals: np.ndarray, strips: tuple[Strip, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(P, B) best correlation over the common shifts, and the shift, s."""
    g = torch.from_numpy(signals)
    templates = torch.from_numpy(np.stack([query.templates for query in queries]))  # (P, K, L)
    mask = torch.from_numpy(np.stack([query.mask for query in queries]).astype(np.float32))
    energy = mask @ (g**2).T
    for first, n in _spans(strips):
        part = slice(first, first + n)
        total = mask[:, part] @ g[:, part].T
        energy -= total**2 / mask[:, part].sum(1, keepdim=True).clamp(min=1)
    pages, shifts, length = templates.shape
    products = (templates.reshape(-1, length) @ g.T).reshape(pages, shifts, -1)
    norm = templates.norm(dim=2)[:, :, None] * energy.clamp(min=1e-9).sqrt()[:, None]
    best, at = (products / norm.clamp(min=1e-6)).max(1)
    return best.numpy(), queries[0].shifts[at.numpy()]


def _spans(strips: tuple[Strip, ...]) -> Iterator[tuple[int, int]]:
    first = 0
    for strip in strips:
        yield first, _samples(strip)
        first += _samples(strip)


def _reranked(query: _Query, candidates: list[tuple[float, float, Recording]]) -> list[Match]:
    matches = []
    for _, shift, recording in candidates:
        signal = _strips_of([recording], query.strips)[0]
        product = power = energy = 0.0
        for s, (first, n) in enumerate(_spans(query.strips)):
            mask = query.mask[first : first + n]
            if not mask.any():
                continue
            part = signal[first : first + n].astype(np.float64)
            part = np.where(mask, part - part[mask].mean(), 0.0)
            tried = np.stack([query.strip(s, shift + d) for d in query.fine]).astype(np.float64)
            products = tried @ part
            # the shift with the least squared error, not the one with the largest product
            k = int(((tried**2).sum(1) - 2 * products).argmin())
            product, power, energy = product + products[k], power + (tried[k] ** 2).sum(), energy + (part**2).sum()
        score = product / max(np.sqrt(power * energy), 1e-9)
        matches.append(Match(recording.id, recording.source, float(score), shift))
    return sorted(matches, key=lambda match: -match.score)

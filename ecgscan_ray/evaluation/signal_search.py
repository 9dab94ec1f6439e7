"""Which recording does a page show? Its strips as read against recordings, sample by sample.

A page shows some seconds of each lead, each strip around an offset of its own, from a place that is known to some millimetres.
A recording is scored by the correlation of all strips together, each without its mean, at the best common shift: exactly, for
all recordings, as matrix products in float32. The best ones are scored once more with a small shift for each strip. A
page's gain does not matter.

Memory: 0.4 to 1.3 MB for each page by its layout, and at most half a gigabyte, whatever the number of recordings.

Letters: P pages, B recordings of a block, K shifts, L samples of all strips of a page at ``FS`` Hz.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch

from ecgscan_ray.evaluation.match_probability import LEAST_PROBABILITY, Evidence, fisher_z, match_probability
from ecgscan_ray.evaluation.page_query import COMMON_SHIFTS_S, PageQuery, comparable, refined_scores, shown_of, spans
from ecgscan_ray.paper.layout import Strip
from ecgscan_ray.reading.leads import PageReading
from ecgscan_ray.recording.recording import Recording

NUM_REFINED = 100
"""Candidates of a page that are scored with a shift for each strip."""
BLOCK = 2048
"""Recordings scored at once."""
_PAGES_AT_ONCE = 128
"""Pages scored at once: K x this x ``BLOCK`` scores are in memory."""


@dataclass(frozen=True)
class Match:
    """A recording that a page may show.

    Attributes:
        recording_id: Of the recording.
        source: Its archive.
        score: Correlation, -1..1, with a small shift for each strip.
        shift_s: How much later than the recording the page's rows begin.
    """

    recording_id: str
    source: str
    score: float
    shift_s: float


@dataclass(frozen=True)
class PageMatches:
    """What was found for one page.

    Attributes:
        matches: Best first.
        evidence: For the first one; ``None`` where there is none.
    """

    matches: tuple[Match, ...]
    evidence: Evidence | None

    @property
    def probability(self) -> float:
        """That the first one is the page's recording, 0..1; see ``match_probability``."""
        return 0.0 if self.evidence is None else match_probability(self.evidence)

    @property
    def is_found(self) -> bool:
        """Whether the page's recording is among those that were searched; else the first one is only the nearest."""
        return self.probability >= LEAST_PROBABILITY


def find_recordings(pages: Sequence[PageReading], recordings: Iterable[Recording], top: int = 10) -> list[PageMatches]:
    """Search all recordings for each page; the first ten seconds of a recording are compared.

    Args:
        pages: As read.
        recordings: Read once, ``BLOCK`` at a time.
        top: Matches of each page, at most ``NUM_REFINED``.

    Returns:
        In the order of the pages. A page on which nothing was read, and a search among no recordings, have no matches.
    """
    searches = [_Search(PageQuery(page)) for page in pages]
    by_strips: dict[tuple[Strip, ...], list[_Search]] = defaultdict(list)
    for search in searches:
        if search.query.mask.any():
            by_strips[search.query.strips].append(search)
    groups = [
        _Group(members[start : start + _PAGES_AT_ONCE])
        for members in by_strips.values()
        for start in range(0, len(members), _PAGES_AT_ONCE)
    ]
    for block in _blocks(recordings):
        for group in groups:
            group.compare(block)
    return [search.result(top) for search in searches]


def rank_candidates(
    pages: Sequence[PageReading], candidates: Sequence[Sequence[str]], recordings: Iterable[Recording], top: int = 10
) -> list[PageMatches]:
    """Rank each page's own candidates, such as the first hundred by their embeddings.

    The probability is measured among recordings that were not chosen for their likeness: here it is rather too low.

    Args:
        pages: As read.
        candidates: For each page, ids of recordings.
        recordings: Read once; those that are no candidates are passed over.
        top: Matches of each page, at most ``NUM_REFINED``.

    Returns:
        As of ``find_recordings``; a candidate that is not among the recordings is left out.
    """
    searches = [_Search(PageQuery(page)) for page in pages]
    ids = [set(names) for names in candidates]
    wanted = set().union(*ids)
    groups = [(_Group([search]), names) for search, names in zip(searches, ids, strict=True) if search.query.mask.any()]
    for block in _blocks(recording for recording in recordings if recording.id in wanted):
        for group, names in groups:
            group.compare(block.only(names))
    return [search.result(top) for search in searches]


@dataclass(frozen=True)
class _Block:
    ids: list[str]
    sources: list[str]
    signals: np.ndarray  # (B, 12, LENGTH)

    def only(self, ids: set[str]) -> _Block:
        rows = [row for row, name in enumerate(self.ids) if name in ids]
        return _Block([self.ids[row] for row in rows], [self.sources[row] for row in rows], self.signals[rows])


def _blocks(recordings: Iterable[Recording]) -> Iterator[_Block]:
    """Recordings are made comparable one by one: at 500 Hz a block would take a gigabyte."""
    rows = ((recording.id, recording.source, comparable(recording)) for recording in recordings)
    while block := list(islice(rows, BLOCK)):
        ids, sources, signals = zip(*block, strict=True)
        yield _Block(list(ids), list(sources), np.stack(signals))


@dataclass
class _Search:
    """One page: its best candidates so far, and the scores of all recordings in numbers."""

    query: PageQuery
    candidates: list[tuple[float, Match]] = field(default_factory=list)
    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    @property
    def least(self) -> float:
        """A score that a candidate must surpass."""
        return self.candidates[-1][0] if len(self.candidates) == NUM_REFINED else -math.inf

    def add(self, scores: np.ndarray, shift_s: np.ndarray, block: _Block) -> None:
        """Take in a block's scores (B,); those among the best are scored again."""
        z = fisher_z(scores)
        self.count += len(z)
        self.total += float(z.sum())
        self.squares += float((z**2).sum())
        best = np.argpartition(-scores, NUM_REFINED)[:NUM_REFINED] if len(scores) > NUM_REFINED else np.arange(len(z))
        best = best[scores[best] > self.least]
        if not len(best):
            return
        shown = shown_of(block.signals[best], self.query.strips)
        refined = refined_scores(self.query, shown, shift_s[best])
        self.candidates += [
            (float(scores[k]), Match(block.ids[k], block.sources[k], float(score), float(shift_s[k])))
            for k, score in zip(best, refined, strict=True)
        ]
        self.candidates = sorted(self.candidates, key=lambda candidate: -candidate[0])[:NUM_REFINED]

    def result(self, top: int) -> PageMatches:
        matches = sorted((match for _, match in self.candidates), key=lambda match: -match.score)
        if not matches:
            return PageMatches((), None)
        best = float(fisher_z(self.candidates[0][0]))
        others = (self.count - 1, self.total - best, self.squares - best**2)
        return PageMatches(tuple(matches[:top]), Evidence.of([match.score for match in matches[:2]], *others))


class _Group:
    """Pages with the same strips."""

    def __init__(self, searches: list[_Search]) -> None:
        self._strips, self._searches = searches[0].query.strips, searches
        self._templates = torch.from_numpy(np.stack([search.query.templates() for search in searches]))  # (P, K, L)
        self._norms = self._templates.norm(dim=2)
        self._mask = torch.from_numpy(np.stack([search.query.mask for search in searches]).astype(np.float32))

    def compare(self, block: _Block) -> None:
        scores, shift_s = self._scores(shown_of(block.signals, self._strips))
        for search, page_scores, page_shifts in zip(self._searches, scores, shift_s, strict=True):
            search.add(page_scores, page_shifts, block)

    def _scores(self, shown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(P, B) best correlation over the common shifts, and the shift, s, for recordings (B, L)."""
        g = torch.from_numpy(shown)
        energy = self._mask @ (g**2).T
        for first, n in spans(self._strips):
            mask = self._mask[:, first : first + n]
            energy -= (mask @ g[:, first : first + n].T) ** 2 / mask.sum(1, keepdim=True).clamp(min=1)
        pages, shifts, length = self._templates.shape
        products = (self._templates.reshape(-1, length) @ g.T).reshape(pages, shifts, -1)
        products /= self._norms[:, :, None].clamp(min=1e-6)
        best, at = products.max(1)
        best /= energy.clamp(min=1e-9).sqrt()
        return best.numpy(), COMMON_SHIFTS_S[at.numpy()]

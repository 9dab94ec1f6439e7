"""Cross-modal retrieval: page to signal, page to report, signal to page.

Letters: Q queries, G gallery items with distinct keys, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RECALL_AT = (1, 5, 10)
_CHUNK = 1024  # queries scored at once: memory is bounded by chunk x G, never Q x G


@dataclass(frozen=True)
class Ranking:
    """Where each query found its match in a gallery of distinct items.

    Attributes:
        rank: (Q,) float64, 1 = first. Items of exactly equal score share their mean rank, so that an encoder that
            maps everything to one point is never credited with a hit.
        rows: (Q,) int64, rows of the queries in the arrays given to ``rank_matches``.
        gallery_size: G.
        found_first: (Q,) int64, the gallery item that came first, for hubness.
    """

    rank: np.ndarray
    rows: np.ndarray
    gallery_size: int
    found_first: np.ndarray

    def hits(self, k: int) -> np.ndarray:
        """(Q,) float64: 1 where the match is among the first k. Its mean is recall@k."""
        return (self.rank <= k).astype(np.float64)

    def chance(self, k: int) -> float:
        """Recall@k of a ranking by chance."""
        return min(k / self.gallery_size, 1.0) if self.gallery_size else float("nan")

    @property
    def reciprocal(self) -> np.ndarray:
        """(Q,) float64 reciprocal ranks; their mean is the MRR."""
        return 1.0 / self.rank

    @property
    def chance_mrr(self) -> float:
        """MRR of a ranking by chance."""
        return float(np.mean(1.0 / np.arange(1, self.gallery_size + 1))) if self.gallery_size else float("nan")

    @property
    def hub_share(self) -> float:
        """Largest share of all queries to which one and the same gallery item comes first (1 / Q at best)."""
        return float(np.bincount(self.found_first).max() / len(self.rank)) if len(self.rank) else float("nan")


def rank_matches(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_keys: np.ndarray,
    gallery_keys: np.ndarray,
    *,
    has_query: np.ndarray | None = None,
    has_gallery: np.ndarray | None = None,
) -> Ranking:
    """Rank the gallery for every query by the dot product.

    Gallery items of the same key (the same report text, two pages of one recording) are one item, the first of them:
    finding an equal report counts as finding the report, and a common text does not fill the first ten ranks.
    Queries whose key is not in the gallery are left out.

    Args:
        queries: (Q, D) features, unit norm.
        gallery: (M, D) features, unit norm.
        query_keys: (Q,) keys; a query's match is the gallery item of the same key.
        gallery_keys: (M,) keys.
        has_query: (Q,) bool, which queries to rank; all by default.
        has_gallery: (M,) bool, which items are in the gallery; all by default.
    """
    gallery_rows = np.flatnonzero(np.ones(len(gallery), bool) if has_gallery is None else has_gallery)
    keys, first = np.unique(gallery_keys[gallery_rows], return_index=True)
    items = np.asarray(gallery, np.float64)[gallery_rows[first]]
    matched = np.isin(query_keys, keys)
    rows = np.flatnonzero(matched if has_query is None else matched & has_query)
    target = np.searchsorted(keys, query_keys[rows])
    ranks, firsts = [np.zeros(0)], [np.zeros(0, np.int64)]
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        score = np.asarray(queries, np.float64)[rows[part]] @ items.T
        match = np.take_along_axis(score, target[part, None], axis=1)
        above, equal = (score > match).sum(axis=1), (score == match).sum(axis=1)
        ranks.append(above + (equal + 1) / 2)
        firsts.append(score.argmax(axis=1))
    return Ranking(np.concatenate(ranks), rows, len(keys), np.concatenate(firsts))

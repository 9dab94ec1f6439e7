"""The order of rows over the whole run, a pure function of (manifest, split, seed): the same for any number of workers.

An epoch permutes row groups over the split, gathers them in windows of a few, and permutes rows inside each window:
reading stays sequential, memory is bounded by a window. Position p of the endless order is one row of one epoch; global
batch g is positions [gG, (g+1)G), which may cross an epoch's end. A cursor is the number of positions that optimiser
steps have consumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ecgscan_ray.errors import StoreError
from ecgscan_ray.store.manifest import Manifest


@dataclass(frozen=True)
class Piece:
    """Rows of one row group, and the places they take."""

    shard: str
    row_group: int
    rows: NDArray[np.int64]
    """Row numbers within the row group."""
    positions: NDArray[np.int64]
    """Plan position of each of ``rows``."""
    epoch: int


class EpochPlan:
    """The endless order of one split's rows.

    Args:
        manifest: The store's manifest.
        split: ``train``, ``validation`` or ``test``.
        seed: Seed of all permutations.
        window_row_groups: Row groups gathered in one window.

    Raises:
        StoreError: The split has no rows.
    """

    def __init__(self, manifest: Manifest, split: str, seed: int, window_row_groups: int) -> None:
        self.shards = {shard.path: shard for shard in manifest.shards_of(split)}
        groups = [
            (shard.path, index, rows) for shard in self.shards.values() for index, rows in enumerate(shard.row_groups)
        ]
        if not groups:
            raise StoreError(f"the store has no rows in split '{split}'", fix="Prepare it with folds for this split.")
        self._groups, self._seed, self._window = groups, seed, window_row_groups
        self._rows = np.array([rows for _, _, rows in groups], np.int64)
        self.rows_per_epoch = int(self._rows.sum())

    def _order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row groups of an epoch in their order, and the first position of each within the epoch's windows."""
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._groups))
        starts = np.concatenate([[0], np.cumsum(self._rows[order])])
        return order, starts[:: self._window] if (len(starts) - 1) % self._window == 0 else np.append(
            starts[: -1 : self._window], starts[-1]
        )

    @lru_cache(maxsize=4)  # noqa: B019 - a plan lives as long as its process
    def _window_order(self, epoch: int, window: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row group (index into the store) and row of each place in a window."""
        order, _ = self._order(epoch)
        members = order[window * self._window : (window + 1) * self._window]
        group = np.repeat(members, self._rows[members])
        row = np.concatenate([np.arange(self._rows[member]) for member in members])
        shuffled = np.random.default_rng([self._seed, epoch, window]).permutation(len(group))
        return group[shuffled], row[shuffled]

    def pieces(self, start: int, stop: int) -> list[Piece]:
        """What to read for positions ``start`` (included) to ``stop`` (excluded), one entry a row group and epoch."""
        found = []
        while start < stop:
            epoch, within = divmod(start, self.rows_per_epoch)
            _, bounds = self._order(epoch)
            window = int(np.searchsorted(bounds, within, side="right")) - 1
            group, row = self._window_order(epoch, window)
            first = within - int(bounds[window])
            count = min(len(group) - first, stop - start)
            chosen, rows = group[first : first + count], row[first : first + count]
            for member in dict.fromkeys(chosen.tolist()):
                at = np.flatnonzero(chosen == member)
                shard, row_group, _ = self._groups[member]
                found.append(Piece(shard, row_group, rows[at], start + at, epoch))
            start += count
        return found

    def spans(self, start: int, stop: int, unit_rows: int) -> Iterator[tuple[int, int]]:
        """Cut positions [start, stop) at window bounds, rounded up to whole units from ``start``: tasks of the stream.

        Each span reads its window once, and of the next window only the row groups of the unit that crosses the bound.
        """
        while start < stop:
            epoch, within = divmod(start, self.rows_per_epoch)
            _, bounds = self._order(epoch)
            end = int(bounds[np.searchsorted(bounds, within, side="right")]) + epoch * self.rows_per_epoch
            units = max(1, -(-(end - start) // unit_rows))
            yield start, min(start + units * unit_rows, stop)
            start += units * unit_rows

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
    """Rows of one row group, and their plan positions.

    Attributes:
        shard: Path of the shard within the store.
        row_group: Index within the shard.
        rows: int64 (n,) row numbers within the row group.
        positions: int64 (n,) plan position of each row.
        epoch: Epoch of all these positions.
    """

    shard: str
    row_group: int
    rows: NDArray[np.int64]
    positions: NDArray[np.int64]
    epoch: int


@dataclass(frozen=True)
class Part:
    """An equal part of each global batch: consecutive positions, for one of several pipelines.

    Attributes:
        index: From 0.
        count: Of the parts.
        batch_rows: G, a multiple of ``count``.
    """

    index: int = 0
    count: int = 1
    batch_rows: int = 1

    @property
    def rows(self) -> int:
        """Of each batch."""
        return self.batch_rows // self.count

    def holds(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which positions are of this part."""
        return positions % self.batch_rows // self.rows == self.index

    def count_rows(self, start: int, stop: int) -> int:
        """How many of the positions [start, stop) are of this part."""

        def before(position: int) -> int:
            batches, row = divmod(position, self.batch_rows)
            return batches * self.rows + min(max(row - self.index * self.rows, 0), self.rows)

        return before(stop) - before(start)


WHOLE = Part()


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
        self._groups = [
            (shard.path, row_group) for shard in self.shards.values() for row_group in range(len(shard.row_groups))
        ]
        if not self._groups:
            raise StoreError(f"the store has no rows in split '{split}'", fix="Prepare it with folds for this split.")
        self._rows = np.array([rows for shard in self.shards.values() for rows in shard.row_groups], np.int64)
        self._seed, self._window_row_groups = seed, window_row_groups
        self.rows_per_epoch = int(self._rows.sum())

    @lru_cache(maxsize=2)  # noqa: B019 - a plan lives as long as its process; a window's reader is at most in two epochs
    def _epoch_order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row groups (indices into the store) in an epoch's order, and the bounds of its windows.

        Bounds are positions within the epoch: window w is [bounds[w], bounds[w + 1]).
        """
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._groups))
        starts = np.concatenate([[0], np.cumsum(self._rows[order])])
        return order, np.append(starts[: -1 : self._window_row_groups], starts[-1])

    @lru_cache(maxsize=4)  # noqa: B019 - as above
    def _window_order(self, epoch: int, window: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row group (index into the store) and row within it, for each position of a window."""
        order, _ = self._epoch_order(epoch)
        members = order[window * self._window_row_groups : (window + 1) * self._window_row_groups]
        groups = np.repeat(members, self._rows[members])
        rows = np.concatenate([np.arange(self._rows[member]) for member in members])
        shuffled = np.random.default_rng([self._seed, epoch, window]).permutation(len(groups))
        return groups[shuffled], rows[shuffled]

    def pieces(self, start: int, stop: int, part: Part = WHOLE) -> list[Piece]:
        """What to read for a part's positions in [start, stop): one piece per row group and window."""
        pieces = []
        while start < stop:
            epoch, position = divmod(start, self.rows_per_epoch)
            _, bounds = self._epoch_order(epoch)
            window = int(np.searchsorted(bounds, position, side="right")) - 1
            groups, rows = self._window_order(epoch, window)
            first = position - int(bounds[window])
            count = min(len(groups) - first, stop - start)
            positions = np.arange(start, start + count)
            held = part.holds(positions)
            groups, rows = groups[first : first + count][held], rows[first : first + count][held]
            for group in dict.fromkeys(groups.tolist()):
                members = np.flatnonzero(groups == group)
                shard, row_group = self._groups[group]
                pieces.append(Piece(shard, row_group, rows[members], positions[held][members], epoch))
            start += count
        return pieces

    def spans(self, start: int, stop: int, unit_rows: int, part: Part = WHOLE) -> Iterator[tuple[int, int]]:
        """Cut positions [start, stop) at window bounds, rounded up to whole units from ``start``: tasks of the stream.

        Those without a row of the part are left out.

        Lazy: a run of millions of spans starts with the first. Each span reads its window once, and of the next window
        only the row groups of the unit that crosses the bound.
        """
        while start < stop:
            epoch, position = divmod(start, self.rows_per_epoch)
            _, bounds = self._epoch_order(epoch)
            end = int(bounds[np.searchsorted(bounds, position, side="right")]) + epoch * self.rows_per_epoch
            units = max(1, -(-(end - start) // unit_rows))
            end = min(start + units * unit_rows, stop)
            if part.count_rows(start, end):
                yield start, end
            start += units * unit_rows

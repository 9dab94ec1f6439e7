"""Shards, the third step of ``prepare``: a job names its recordings by file and range; one task reads, checks and packs them."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgscan_ray.errors import RecordingError, StoreError
from ecgscan_ray.filesystem.archive import THREADS, ArchiveFiles, Contents
from ecgscan_ray.filesystem.threads import in_order
from ecgscan_ray.recording.checks import check
from ecgscan_ray.recording.labels import superclasses
from ecgscan_ray.recording.language import language
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.recording.sources import Item, Source, open_source
from ecgscan_ray.store.listing import patient_hash
from ecgscan_ray.store.manifest import SPLITS, Shard
from ecgscan_ray.store.schema import pack
from ecgscan_ray.store.shards import ShardWriter
from ecgscan_ray.store.splits import RejectedRow, reject, write_outcome
from ecgscan_ray.store.work import PrepareJob, WorkArea, decode_item

logger = logging.getLogger(__name__)

MAX_SHARD_BYTES = 128 * 2**20
"""A shard whose recordings are larger than usual is cut here."""
MAX_ROW_GROUP_BYTES = 32 * 2**20
"""Of packed rows before compression: half an hour of twelve leads has 11 MB."""
_MIN_SHARDS_PER_SPLIT = 8
"""Where there are enough rows: the tasks of a small archive."""
_ROW_GROUPS_PER_SHARD = 64
"""30 MB at 100 Hz, in archives that give at most ``_MANY_SHARDS``; in larger ones up to four times as many."""
_MANY_SHARDS = 256
_AHEAD = 128
"""Recordings fetched before they are read, where they are small: so many that requests go on while a row group is compressed."""
_AHEAD_BYTES = 64 * 2**20
FACETS = ("superclass", "language", "fs", "source", "note")


@dataclass(frozen=True)
class ShardJob:
    """The work of one task: these rows of the ordered items become one shard.

    Attributes:
        split: Of all of them.
        number: Of the shard within its split.
        rows: Items.
        ranges: Share of the order, first row and the row after the last of the split's items in it.
    """

    split: str
    number: int
    rows: int
    ranges: list[tuple[int, int, int]]

    @property
    def name(self) -> str:
        """Of the shard, and of what came of it in the work area."""
        return f"{self.split}-{self.number:05d}"


def shard_jobs(
    counts: Sequence[Mapping[str, int]], row_group_rows: int, first: Mapping[str, int] | None = None
) -> Iterator[ShardJob]:
    """Cut each split into shards of whole row groups.

    Args:
        counts: Of each share, split -> items.
        row_group_rows: Rows per row group.
        first: Split -> number of its first shard.
    """
    for split in SPLITS:
        total = sum(share.get(split, 0) for share in counts)
        size = _row_groups(math.ceil(total / row_group_rows)) * row_group_rows
        for number, start in enumerate(range(0, total, size), start=(first or {}).get(split, 0)):
            stop = min(total, start + size)
            yield ShardJob(split, number, stop - start, list(_ranges(counts, split, start, stop)))


def _row_groups(groups: int) -> int:
    """Row groups per shard of a split with so many."""
    if groups > _MANY_SHARDS * _ROW_GROUPS_PER_SHARD:
        return min(4 * _ROW_GROUPS_PER_SHARD, math.ceil(groups / _MANY_SHARDS))
    return min(_ROW_GROUPS_PER_SHARD, max(1, math.ceil(groups / _MIN_SHARDS_PER_SPLIT)))


def _ranges(counts: Sequence[Mapping[str, int]], split: str, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Rows ``start`` to ``stop`` of a split as ranges of its shares."""
    before = 0
    for share, rows in enumerate(count.get(split, 0) for count in counts):
        low, high = max(start - before, 0), min(stop - before, rows)
        if low < high:
            yield share, low, high
        before += rows


def first_rows(work: WorkArea, counts: list[dict[str, int]], limit: int | None) -> list[dict[str, int]]:
    """The counts of the first ``limit`` items in their random order, all splits together.

    Raises:
        StoreError: The work area cannot be read.
    """
    limited: list[dict[str, int]] = []
    remaining = sum(sum(rows.values()) for rows in counts) if limit is None else limit
    for share, rows in enumerate(counts):
        if not remaining:
            rows = {}
        elif sum(rows.values()) > remaining:
            splits = work.read_table(f"order/{share:05d}.parquet")["split"].slice(0, remaining)
            rows = dict(Counter(splits.to_pylist()))
        limited.append(rows)
        remaining -= sum(rows.values())
    return limited


def read_items(work: WorkArea, job: ShardJob) -> Iterator[Item]:
    """The job's items, in order.

    Raises:
        StoreError: The work area cannot be read.
    """
    for share, start, stop in job.ranges:
        table = work.read_table(f"order/{share:05d}.parquet")
        wanted = pc.equal(table["split"], job.split)
        texts = table.filter(wanted)["item"].slice(start, stop - start)
        yield from (decode_item(text.as_py()) for text in texts)


def write_shard(store: str, token: str, job: Mapping[str, Any]) -> dict[str, Any]:
    """Read, check, pack and write one shard.

    Args:
        store: URI of the store.
        token: Of the job.
        job: A ``ShardJob``, as JSON.

    Returns:
        ``shards`` (none if no recording could be used; several if they are large), ``counts`` by facet and value,
        ``items``, ``reasons``.

    Raises:
        StoreError: The archive cannot be read, or the store cannot be written.
    """
    work, part = WorkArea.open(store, token), ShardJob(**job)
    whole = work.job
    rejected: list[RejectedRow] = []
    counts: dict[str, Counter[str]] = {facet: Counter() for facet in FACETS}
    patients: set[int] = set()
    unknown = 0
    shards = _Shards(store, part, whole)
    for recording, row in read_checked(read_items(work, part), part.split, whole, rejected):
        shards.add(row)
        _count(counts, recording)
        if recording.patient_id is None:
            unknown += 1
        else:
            patients.add(patient_hash(recording.source, recording.patient_id))
    outcome = {
        "split": part.split,
        "items": part.rows,
        "shards": [shard.model_dump() for shard in shards.close()],
        "counts": {facet: dict(values) for facet, values in counts.items()},
        "unknown": unknown,
    }
    hashes = np.array(sorted(patients), np.uint64).tobytes().hex()
    return write_outcome(work, f"done/{part.name}.json", outcome, rejected, patients=hashes)


def _count(counts: Mapping[str, Counter[str]], recording: Recording) -> None:
    counts["superclass"].update(superclasses(recording.labels) or {"none"})
    counts["language"][language(recording.report) or "none"] += 1
    counts["fs"][f"{recording.fs:g}"] += 1
    counts["source"][recording.source] += 1
    counts["note"].update(recording.notes or {"none"})


class _Shards:
    """The rows of one job, in one file or, where they are large, in several."""

    def __init__(self, store: str, job: ShardJob, whole: PrepareJob) -> None:
        self._store, self._job, self._whole = store, job, whole
        self._done: list[Shard] = []
        self._group: list[pa.Table] = []
        self._bytes = 0
        self._writer = self._open()

    def _open(self) -> ShardWriter:
        job, part = self._job, len(self._done)
        return ShardWriter(self._store, job.split, job.number, revision=self._whole.revision, part=part)

    def add(self, row: pa.Table) -> None:
        """One more row."""
        self._group.append(row)
        self._bytes += row.nbytes
        if len(self._group) == self._whole.settings.row_group_rows or self._bytes > MAX_ROW_GROUP_BYTES:
            self._write_group()

    def close(self) -> list[Shard]:
        """Write what is left; all files."""
        self._write_group()
        self._finish_file()
        return self._done

    def _write_group(self) -> None:
        if not self._group:
            return
        if self._writer.bytes + self._bytes > MAX_SHARD_BYTES:
            self._finish_file()
            self._writer = self._open()
        self._writer.add_table(pa.concat_tables(self._group))
        self._group, self._bytes = [], 0

    def _finish_file(self) -> None:
        shard = self._writer.close()
        self._done += [shard] if shard else []


def read_checked(
    items: Iterator[Item], split: str, job: PrepareJob, rejected: list[RejectedRow]
) -> Iterator[tuple[Recording, pa.Table]]:
    """The recordings of these items, read, checked and packed, in their order; those rejected go to ``rejected``.

    Files of a bucket or of the web are fetched ahead by threads. Reading them stays in this one: threads that compute keep
    those that wait for answers from going on.

    Raises:
        StoreError: The archive cannot be read.
    """
    source, archive = open_source(job.source, job.settings.rate), ArchiveFiles(job.archive)

    largest = 0

    def fetch(item: Item) -> tuple[Item, Contents]:
        if not item.header:
            return item, archive.fetch(item.files)
        first, *others = item.files
        return item, {first: item.header.encode("latin-1"), **archive.fetch(others)}

    def ahead() -> int:
        return max(2 * THREADS, min(_AHEAD, _AHEAD_BYTES // largest if largest else 0))

    fetched = ((item, {}) for item in items) if archive.is_local else in_order(fetch, items, THREADS, ahead)
    for item, contents in fetched:
        largest = max(largest, sum(len(content) for content in contents.values() if isinstance(content, bytes)))
        with archive.fetched(contents):
            result = _read_checked(source, archive, item, split, job.settings.rate)
        if isinstance(result, dict):
            rejected.append(result)
        else:
            yield result


def _read_checked(
    source: Source, archive: ArchiveFiles, item: Item, split: str, rate: float | None
) -> tuple[Recording, pa.Table] | RejectedRow:
    try:
        recording = source.read(item, archive)
        recording = replace(recording, notes=(*recording.notes, *check(recording)))
        recording = recording if rate is None else recording.resampled(float(rate))
        return recording, pack([recording], split)
    except StoreError:  # the storage's fault, not the recording's
        raise
    except RecordingError as error:
        return reject(item, archive, error.reason, f"{error.what}. {error.fix}" if error.fix else error.what)
    except Exception as error:  # one odd file must not end the job
        logger.warning("recording %s: %r", item.id, error)
        return reject(item, archive, "unreadable", f"{type(error).__name__}: {error}")

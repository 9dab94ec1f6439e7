"""The listing of an archive as files: parts of some ten thousand items, in buckets by patient."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain

import pyarrow.parquet as pq

from ecgscan_ray import filesystem
from ecgscan_ray.filesystem.threads import in_order
from ecgscan_ray.recording.sources import Item
from ecgscan_ray.store.manifest import Manifest, Shard
from ecgscan_ray.store.work import Entry, WorkArea, hash64

PART_ROWS = 16_384
BUCKETS = 128
"""Of patients, in each part."""
SMALL = 1_000_000
"""Items of a listing whose steps take less time in the driver, one after the other, than as tasks."""
LISTING_NAME = "listing.json"
_THREADS = 8


@dataclass(frozen=True)
class Listing:
    """A complete listing.

    Attributes:
        items: Recordings of the archive.
        parts: Files.
        steps: Into which the work is divided, by patient and then by random key: each has about ``PART_ROWS`` items, at ten
            million 80,000. A power of two.
        digest: Of the items: equal for the same archive in another place.
    """

    items: int
    parts: int
    steps: int
    digest: str

    @property
    def is_small(self) -> bool:
        """Whether splits and order are the driver's own work."""
        return self.items <= SMALL


class Digest:
    """sha256 of the items of an archive, one after the other."""

    def __init__(self) -> None:
        self._sha256, self.items = hashlib.sha256(b"["), 0

    def add(self, item: Item) -> None:
        """Count one more item."""
        text = json.dumps([item.id, item.patient_id, item.fold, item.split, item.details])
        self._sha256.update((", " * bool(self.items) + text).encode())
        self.items += 1

    def watch(self, items: Iterable[Item]) -> Iterator[Item]:
        """The same items, counted as they pass."""
        for item in items:
            self.add(item)
            yield item

    def hexdigest(self) -> str:
        """Of the items so far."""
        whole = self._sha256.copy()
        whole.update(b"]")
        return whole.hexdigest()


def write_listing(work: WorkArea, items: Iterable[Item], stored: Iterable[Entry] = ()) -> Listing:
    """Write the listing, a part at a time; ``stored`` is what the store holds of the same source.

    Raises:
        StoreError: The work area cannot be written.
    """
    digest = Digest()
    listed = (Entry(number, item) for number, item in enumerate(digest.watch(items)))
    parts, entries = 0, 0
    part: list[Entry] = []
    for entry in chain(stored, listed):
        if len(part) == PART_ROWS:
            work.write_entries(part_name(parts), part, _bucket)
            parts, part = parts + 1, []
        part.append(entry)
        entries += 1
    work.write_entries(part_name(parts), part, _bucket)
    steps = 1
    while steps < BUCKETS and steps * PART_ROWS < entries:
        steps *= 2
    listing = Listing(digest.items, parts + 1, steps, digest.hexdigest())
    work.write(LISTING_NAME, asdict(listing))
    return listing


def part_name(number: int) -> str:
    """Of one part of the listing, in the work area."""
    return f"listing/part-{number:05d}.parquet"


def _bucket(entry: Entry) -> int:
    item = entry.item
    return (hash64("patient", item.patient_id) if item.patient_id else hash64("id", item.id)) % BUCKETS


def buckets_of(step: int, steps: int) -> range:
    """The buckets of the listing's parts that one step takes."""
    size = BUCKETS // steps
    return range(step * size, (step + 1) * size)


def stored_entries(store: str, manifest: Manifest, source: str) -> Iterator[Entry]:
    """What a store holds of one source: ids, patients and splits.

    Raises:
        StoreError: A shard cannot be read.
    """
    tables = in_order(lambda shard: _identities(store, shard), manifest.shards, _THREADS)
    for shard, rows in zip(manifest.shards, tables, strict=True):
        for id, name, patient_id in rows:
            if name == source:
                yield Entry(-1, Item(id, "", patient_id), shard.split, stored=True)


def _identities(store: str, shard: Shard) -> list[tuple[str, str, str | None]]:
    """Id, source and patient of a shard's rows; a few requests, and no signals."""
    uri = filesystem.join(store, shard.path)
    files, path = filesystem.open_filesystem(uri)
    with filesystem.explained(uri, "cannot be read"), files.open_input_file(path) as stream:
        table = pq.ParquetFile(stream).read(["id", "source", "patient_id"], use_threads=False)
    return list(zip(*(table[name].to_pylist() for name in ("id", "source", "patient_id")), strict=True))


def stored_patients(store: str, shard: Shard) -> list[int]:
    """``patient_hash`` of a shard's rows with a known patient; errors as ``stored_entries``."""
    return [patient_hash(source, patient) for _, source, patient in _identities(store, shard) if patient is not None]


def patient_hash(source: str, patient_id: str) -> int:
    """A patient of a source as a number: two of ten million share one with a chance of 3 in a million."""
    return hash64(source, patient_id)

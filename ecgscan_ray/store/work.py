"""What an unfinished ``prepare`` has done: files in ``STORE/_prepare``, each whole or absent, deleted at the end.

``job.json`` says what is being made; ``listing`` holds the archive's items, ``split`` and ``order`` the same items after the
steps of ``store.splits``, ``done`` what came of each shard. The same command goes on with what is missing. Items are
kept in buckets, so that a step reads its share alone and nothing ever holds them all.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecgscan_ray import filesystem
from ecgscan_ray.errors import InputError, StoreError
from ecgscan_ray.filesystem.threads import in_order
from ecgscan_ray.recording.sources import Item
from ecgscan_ray.store.manifest import WORK_NAME

_FORMAT = 1
_JOB_NAME = "job.json"
_RATES_HZ = (50.0, 5000.0)
_THREADS = 8
BULK = ("rejected", "patients")
"""Of an outcome, what only ``store.finish`` reads."""
_SCHEMA = pa.schema(
    [
        pa.field("number", pa.int64()),
        pa.field("split", pa.string()),
        pa.field("stored", pa.bool_()),
        pa.field("key", pa.uint64()),
        pa.field("item", pa.string()),
    ]
)


@dataclass(frozen=True)
class PrepareSettings:
    """The settings that, with the archive, determine a store's rows and their order; see ``prepare``."""

    rate: float | None
    limit: int | None
    seed: int
    row_group_rows: int
    validation_folds: list[int]
    test_folds: list[int]

    def check(self) -> None:
        """Refuse values out of their range.

        Raises:
            InputError: With the value.
        """
        if self.rate is not None and not _RATES_HZ[0] <= self.rate <= _RATES_HZ[1]:
            fix = f"Give {_RATES_HZ[0]:g} to {_RATES_HZ[1]:g} Hz, or 0 to keep each recording's own."
            raise InputError(f"rate {self.rate:g} is out of range", fix=fix)
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit {self.limit} is out of range", fix="Give at least 1, or leave it out to take all.")
        if self.row_group_rows < 1:
            raise InputError(f"row groups of {self.row_group_rows} rows", fix="Give at least 1.")
        if set(self.validation_folds) & set(self.test_folds):
            raise InputError(
                f"validation folds {self.validation_folds} and test folds {self.test_folds} overlap",
                fix="Give each fold to one of them.",
            )


@dataclass(frozen=True)
class PrepareJob:
    """What is being made; another job starts afresh.

    Attributes:
        source: Name of the source.
        archive: URI of its root.
        settings: See there.
        stamp: Of the files directly in the archive (``ArchiveFiles.stamp``).
        base: Digest of the store that is there already, to be replaced or added to.
        add: Whether it is added to.
        revision: Of the new shards' names.
        first: Split -> number of its first new shard.
        token: Random, of the command that began it; no part of what is being made.
        format: Of these files.
    """

    source: str
    archive: str
    settings: PrepareSettings
    stamp: str
    base: str | None
    add: bool
    revision: int
    first: dict[str, int]
    token: str = field(default="", compare=False)
    format: int = _FORMAT


@dataclass(frozen=True)
class Entry:
    """An item on its way into a shard, or a recording that the store holds already.

    Attributes:
        number: In the listing.
        item: See there.
        split: Of what the store holds; of an item, once assigned.
        stored: Whether the store holds it.
        key: Random, by which rows are ordered; once assigned.
    """

    number: int
    item: Item
    split: str | None = None
    stored: bool = False
    key: int = 0


def hash64(*parts: object) -> int:
    """A number of 64 bits, the same on every machine."""
    text = "\0".join(str(part) for part in parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def find_job(store: str) -> PrepareJob | None:
    """What an unfinished command makes here; ``None`` where there is none, or one of another version."""
    if not filesystem.exists(_job_uri(store)):
        return None
    content = json.loads(filesystem.read_bytes(_job_uri(store)))
    if content.get("format") != _FORMAT:
        return None
    return PrepareJob(**content | {"settings": PrepareSettings(**content["settings"])})


def delete_work(store: str) -> None:
    """Remove the work area; what says what was made goes last."""
    root = filesystem.join(store, WORK_NAME)
    others = [name for name in filesystem.list_files(root, recursive=True) if name != _JOB_NAME]
    for _ in in_order(lambda name: filesystem.delete_file(filesystem.join(root, name)), others, _THREADS):
        pass
    filesystem.delete_file(_job_uri(store))
    filesystem.delete_folder(root)


def _job_uri(store: str) -> str:
    return filesystem.join(store, WORK_NAME, _JOB_NAME)


class WorkArea:
    """The files of one job. Each job has a folder of its own: what a task of an interrupted one still writes is not read.

    Args:
        store: URI of the store.
        job: What is being made there.
    """

    def __init__(self, store: str, job: PrepareJob) -> None:
        self.job = job
        self._root = filesystem.join(store, WORK_NAME, job.token)

    @classmethod
    def open(cls, store: str, token: str) -> WorkArea:
        """The work area of a task.

        Raises:
            StoreError: Another command has begun anew since the task was made.
        """
        job = find_job(store)
        if job is None or job.token != token:
            raise StoreError("another command began anew here", where=store, fix="Look at what it does.")
        return cls(store, job)

    @classmethod
    def start(cls, store: str, job: PrepareJob) -> WorkArea:
        """Forget what was done before, and begin a job."""
        delete_work(store)
        job = replace(job, token=uuid.uuid4().hex[:12])
        filesystem.write_bytes_atomic(_job_uri(store), json.dumps(asdict(job)).encode())
        return cls(store, job)

    def names(self) -> set[str]:
        """Of all files, from the work area."""
        return set(filesystem.list_files(self._root, recursive=True))

    def read(self, name: str) -> Any:
        """The content of a JSON file.

        Raises:
            StoreError: It is absent.
        """
        return json.loads(filesystem.read_bytes(filesystem.join(self._root, name)))

    def read_outcome(self, name: str) -> dict[str, Any]:
        """What came of a step, without the rejected rows and other bulk."""
        content: dict[str, Any] = self.read(name)
        return {key: value for key, value in content.items() if key not in BULK}

    def write(self, name: str, content: object) -> None:
        """Write a JSON file."""
        filesystem.write_bytes_atomic(filesystem.join(self._root, name), json.dumps(content).encode())

    def write_entries(
        self, name: str, entries: Sequence[Entry], bucket_of: Callable[[Entry], int] = lambda _: 0
    ) -> None:
        """Write entries in the order given, bucket by bucket: a row group each."""
        by_bucket: dict[int, list[Entry]] = {}
        for entry in entries:
            by_bucket.setdefault(bucket_of(entry), []).append(entry)
        buckets = sorted(by_bucket)
        schema = _SCHEMA.with_metadata({"buckets": json.dumps(buckets)})
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, schema, compression="zstd", write_statistics=False) as writer:
            for bucket in buckets:
                table = _table(by_bucket[bucket], schema)
                writer.write_table(table, row_group_size=max(1, len(table)))
        filesystem.write_bytes_atomic(filesystem.join(self._root, name), sink.getvalue().to_pybytes())

    def read_table(self, name: str, buckets: Container[int] = (0,)) -> pa.Table:
        """The entries of some buckets, in the file's order; items as JSON.

        Raises:
            StoreError: The file is absent.
        """
        uri = filesystem.join(self._root, name)
        files, path = filesystem.open_filesystem(uri)
        with filesystem.explained(uri, "cannot be read"), files.open_input_file(path) as stream:
            file = pq.ParquetFile(stream)
            there = json.loads(file.schema_arrow.metadata[b"buckets"])
            groups = [number for number, bucket in enumerate(there) if bucket in buckets]
            return file.read_row_groups(groups, use_threads=False) if groups else _SCHEMA.empty_table()

    def read_entries(self, names: Iterable[str], buckets: Container[int]) -> list[Entry]:
        """The entries of some buckets from several files, in their order; errors as ``read_table``."""
        tables = in_order(lambda name: self.read_table(name, buckets), names, _THREADS)
        return [
            Entry(row["number"], decode_item(row["item"]), row["split"], row["stored"], row["key"])
            for table in tables
            for row in table.to_pylist()
        ]


def encode_item(item: Item) -> str:
    """An item as JSON."""
    return json.dumps(vars(item))


def decode_item(text: str) -> Item:
    """An item from ``encode_item``."""
    content = json.loads(text)
    return Item(**content | {"files": tuple(content["files"])})


def _table(entries: Sequence[Entry], schema: pa.Schema) -> pa.Table:
    columns = {
        "number": [entry.number for entry in entries],
        "split": [entry.split for entry in entries],
        "stored": [entry.stored for entry in entries],
        "key": [entry.key for entry in entries],
        "item": [encode_item(entry.item) for entry in entries],
    }
    return pa.table(columns, schema=schema)

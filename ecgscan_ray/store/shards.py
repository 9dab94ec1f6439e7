"""Parquet files of packed recordings: written whole or not at all, read by row group."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from ecgscan_ray.errors import StoreError
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.store import filesystem
from ecgscan_ray.store.manifest import QUARANTINE_NAME, Manifest, Shard
from ecgscan_ray.store.schema import PLANES, SCHEMA, pack, unpack

COMPRESSION_LEVEL = 15
"""Of Zstandard: 7.4 kB and 2.5 ms a 100 Hz recording; 19 wins 0.3 % more for four times the time."""

QUARANTINE_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "origin", "reason", "detail")])


class ShardWriter:
    """Gathers row groups of one shard in memory and writes the file in one piece.

    Args:
        store_uri: The store.
        split: ``train``, ``validation`` or ``test``.
        number: Of the shard within its split.
        compression_level: Of Zstandard.
    """

    def __init__(self, store_uri: str, split: str, number: int, compression_level: int = COMPRESSION_LEVEL) -> None:
        self._store_uri, self._split = store_uri, split
        self._path = f"{split}-{number:05d}.parquet"
        self._row_groups: list[int] = []
        self._sink = pa.BufferOutputStream()
        self._writer = parquet_writer(self._sink, SCHEMA, compression_level)

    def add(self, recordings: Sequence[Recording]) -> None:
        """Append the recordings as one row group; none is no row group."""
        self.add_table(pack(recordings, self._split))

    def add_table(self, table: pa.Table) -> None:
        """Append packed rows as one row group."""
        if len(table):
            self._writer.write_table(table, row_group_size=len(table))
            self._row_groups.append(len(table))

    def close(self) -> Shard | None:
        """Write the file and say what it holds; a shard without rows is not written and is ``None``.

        Raises:
            StoreError: The store cannot be written.
        """
        self._writer.close()
        if not self._row_groups:
            return None
        content = self._sink.getvalue().to_pybytes()
        filesystem.write_bytes_atomic(filesystem.join(self._store_uri, self._path), content)
        return Shard(
            path=self._path,
            split=self._split,
            rows=sum(self._row_groups),
            row_groups=self._row_groups,
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )


def parquet_writer(sink: pa.NativeFile, schema: pa.Schema, compression_level: int) -> pq.ParquetWriter:
    """A Parquet writer with Zstandard; no dictionaries and no statistics on the signal's bytes."""
    plain = [name for name in schema.names if name not in PLANES]
    return pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        compression_level=compression_level,
        use_dictionary=[name for name in plain if name in ("source", "split", "language", "sex")],
        write_statistics=["id"] if "id" in plain else False,
    )


def read_row_groups(
    store_uri: str, shard_path: str, row_groups: Sequence[int], columns: Sequence[str] | None = None
) -> pa.Table:
    """Packed rows of some row groups of one shard, in the order given.

    Raises:
        StoreError: The shard is missing, damaged or has no such row group.
    """
    uri = filesystem.join(store_uri, shard_path)
    files, path = filesystem.open_filesystem(uri)
    with filesystem.explained(uri, "cannot be read"), files.open_input_file(path) as stream:
        file = pq.ParquetFile(stream, pre_buffer=True)
        if not all(0 <= group < file.num_row_groups for group in row_groups):
            raise StoreError(f"has {file.num_row_groups} row groups, asked for {list(row_groups)}", where=uri)
        return file.read_row_groups(list(row_groups), columns=columns, use_threads=False)


def iterate_rows(store_uri: str, manifest: Manifest, split: str, limit: int | None = None) -> Iterator[Recording]:
    """Recordings of one split in the store's order, one row group in memory at a time.

    Args:
        limit: Stop after this many.
    """
    left = manifest.rows(split) if limit is None else limit
    for shard in manifest.shards_of(split):
        for group in range(len(shard.row_groups)):
            if left <= 0:
                return
            recordings = unpack(read_row_groups(store_uri, shard.path, [group]))[:left]
            left -= len(recordings)
            yield from recordings


def iterate_reports(store_uri: str, manifest: Manifest, split: str) -> Iterator[str | None]:
    """Reports of one split in the store's order; of the shards only this column is read."""
    for shard in manifest.shards_of(split):
        for group in range(len(shard.row_groups)):
            yield from read_row_groups(store_uri, shard.path, [group], columns=["report"])["report"].to_pylist()


def write_quarantine(store_uri: str, rows: Sequence[dict[str, str]]) -> None:
    """The table of recordings left out: ``id``, ``origin``, ``reason``, ``detail`` each."""
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(sorted(rows, key=lambda row: (row["reason"], row["id"])), schema=QUARANTINE_SCHEMA)
    pq.write_table(table, sink, compression="zstd")
    filesystem.write_bytes_atomic(filesystem.join(store_uri, QUARANTINE_NAME), sink.getvalue().to_pybytes())


def read_quarantine(store_uri: str) -> pa.Table:
    """The table of recordings left out."""
    uri = filesystem.join(store_uri, QUARANTINE_NAME)
    return pq.read_table(pa.BufferReader(filesystem.read_bytes(uri)))

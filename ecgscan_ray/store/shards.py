"""Parquet files of packed recordings: written whole or not at all, read by row group."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ecgscan_ray import filesystem
from ecgscan_ray.errors import StoreError
from ecgscan_ray.filesystem.retry import DENIED, UNREACHABLE
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.recording.reports import repaired
from ecgscan_ray.store.manifest import QUARANTINE_NAME, Manifest, Shard
from ecgscan_ray.store.schema import PLANES, SCHEMA, check_rows, pack, unpack

COMPRESSION_LEVEL = 15
"""Of Zstandard: 7.4 kB and 2.5 ms per 100 Hz recording; 19 saves another 0.3 % in four times the time."""

MAX_EXPANSION = 4096
"""Largest expansion of a file in memory: flat leads reach hundreds, a decompression bomb millions."""
_CHUNK = 8 * 2**20

_QUARANTINE_ROWS = 50_000
QUARANTINE_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "origin", "reason", "detail")])


class ShardWriter:
    """Collects row groups of one shard in memory and writes the file in one piece.

    Args:
        store_uri: The store.
        split: ``train``, ``validation`` or ``test``.
        number: Of the shard within its split.
        compression_level: Of Zstandard.
        revision: Of the store at this URI; 0 for the first.
        part: Of a shard that is cut because its recordings are large; 0 for the first.
    """

    def __init__(
        self,
        store_uri: str,
        split: str,
        number: int,
        compression_level: int = COMPRESSION_LEVEL,
        revision: int = 0,
        part: int = 0,
    ) -> None:
        self._store_uri, self._split = store_uri, split
        cut, replaced = f"-p{part}" if part else "", f"-r{revision}" if revision else ""
        self._path = f"{split}-{number:05d}{cut}{replaced}.parquet"
        self._row_groups: list[int] = []
        self._sink = pa.BufferOutputStream()
        self._writer = parquet_writer(self._sink, SCHEMA, compression_level)

    def add(self, recordings: Sequence[Recording]) -> None:
        """Append the recordings as one row group; without recordings, nothing."""
        self.add_table(pack(recordings, self._split))

    def add_table(self, table: pa.Table) -> None:
        """Append packed rows as one row group."""
        if len(table):
            self._writer.write_table(table, row_group_size=len(table))
            self._row_groups.append(len(table))

    @property
    def bytes(self) -> int:
        """Written so far."""
        return int(self._sink.tell())

    def close(self) -> Shard | None:
        """Write the file; a shard without rows is not written and gives ``None``.

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
    """A Parquet writer with Zstandard; no dictionaries or statistics for the signal's bytes."""
    text_columns = [name for name in schema.names if name not in PLANES]
    return pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        compression_level=compression_level,
        use_dictionary=[name for name in text_columns if name in ("source", "split", "language", "sex")],
        write_statistics=["id"] if "id" in text_columns else False,
    )


class ShardError(StoreError):
    """A file of a store is missing, damaged, or not the one in the manifest. A retry does not help."""


@dataclass(frozen=True)
class Expected:
    """What a Parquet file must be, known before it is opened.

    Attributes:
        sha256: Of the whole file.
        row_groups: Rows of each row group.
        schema: Of its columns.
        bytes: Size, where known.
    """

    sha256: str
    row_groups: Sequence[int]
    schema: pa.Schema
    bytes: int | None = None


_checked: dict[tuple[str, str, object], pq.FileMetaData] = {}
"""Footers of the files whose digest this process has checked, by URI, digest and the file system's state of the file."""


@contextmanager
def open_checked(uri: str, expected: Expected) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file and check that it is the expected one.

    At the first opening, and after a local file has changed, the process reads the whole file and compares size and
    sha256. Later it compares the footer, which is read anyway: a replaced object in a bucket is noticed without reading
    everything for each row group.

    Raises:
        ShardError: The file is missing, damaged, or another one.
        StoreError: The storage cannot be read.
    """
    files, path = filesystem.open_filesystem(uri)
    with filesystem.explained(uri, "cannot be read"):
        try:
            stream = files.open_input_file(path)
        except FileNotFoundError:
            raise _damaged(uri, "is missing") from None
        with stream:
            key = (uri, expected.sha256, _state(files, path))
            if key not in _checked:
                _check_bytes(uri, stream, expected)
            with _parsing(uri):
                file = pq.ParquetFile(stream, pre_buffer=True)
            if key not in _checked:
                _check_footer(uri, file, expected, stream.size())
            elif not file.metadata.equals(_checked[key]):
                raise _damaged(uri, "was replaced while it was in use")
            _checked[key] = file.metadata
            yield file


def _state(files: fs.FileSystem, path: str) -> object:
    """Changes whenever a local file does; ``None`` for an object, where it would cost a request each time."""
    if not isinstance(files, fs.LocalFileSystem):
        return None
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns


def _check_bytes(uri: str, stream: pa.NativeFile, expected: Expected) -> None:
    if expected.bytes not in (None, stream.size()):
        raise _damaged(uri, f"has {stream.size()} bytes, not {expected.bytes}")
    digest = hashlib.sha256()
    while piece := stream.read(_CHUNK):
        digest.update(piece)
    if digest.hexdigest() != expected.sha256:
        raise _damaged(uri, "does not have the digest that it was written with")
    stream.seek(0)


def _check_footer(uri: str, file: pq.ParquetFile, expected: Expected, size: int) -> None:
    footer = file.metadata
    with _parsing(uri):
        schema = file.schema_arrow
        groups = [footer.row_group(k) for k in range(footer.num_row_groups)]
        rows = [group.num_rows for group in groups]
        unpacked = sum(group.total_byte_size for group in groups)
    if not schema.equals(expected.schema):
        raise _damaged(uri, "has other columns")
    if rows != list(expected.row_groups):
        raise _damaged(uri, f"has row groups of {_first_few(rows)} rows, not {_first_few(expected.row_groups)}")
    if not 0 <= unpacked <= MAX_EXPANSION * size:
        raise _damaged(uri, f"would unpack to {unpacked / 1e6:.0f} MB")


def _first_few(rows: Sequence[int]) -> str:
    return ", ".join(map(str, rows[:4])) + (", ..." if len(rows) > 4 else "")


@contextmanager
def _parsing(uri: str) -> Iterator[None]:
    """Translate whatever a parser raises on a malformed file of the right digest."""
    try:
        yield
    except (
        OSError,
        pa.ArrowException,
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        OverflowError,
        MemoryError,
    ) as error:
        if UNREACHABLE.search(str(error)) or DENIED.search(str(error)):
            raise  # not the file's fault
        raise _damaged(uri, f"cannot be parsed ({' '.join(str(error).split())[:120]})") from None


def _damaged(uri: str, what: str) -> ShardError:
    return ShardError(f"shard {what}", where=uri, fix="Restore the file, or prepare the store again.")


def read_row_groups(
    store_uri: str, shard: Shard, row_groups: Sequence[int], columns: Sequence[str] | None = None
) -> pa.Table:
    """Packed rows of some row groups of one shard, in the order given; the shard is checked by its digest.

    Raises:
        ShardError: The shard is missing, damaged, another one, or has no such row group.
        StoreError: The storage cannot be read.
    """
    uri = filesystem.join(store_uri, shard.path)
    with open_checked(uri, expected(shard)) as file:
        table = read_groups(uri, file, row_groups, columns)
        if columns is None:
            with _parsing(uri):
                check_rows(table)
    return table


def expected(shard: Shard) -> Expected:
    """The manifest's entry of a shard, as expectation of its file."""
    return Expected(shard.sha256, shard.row_groups, SCHEMA, shard.bytes)


def read_groups(
    uri: str, file: pq.ParquetFile, row_groups: Sequence[int], columns: Sequence[str] | None = None
) -> pa.Table:
    """Row groups of an open file, in the order given, checked against the footer's number of rows."""
    rows = [file.metadata.row_group(k).num_rows for k in range(file.metadata.num_row_groups)]
    if not all(0 <= group < len(rows) for group in row_groups):
        raise _damaged(uri, f"has {len(rows)} row groups, asked for {list(row_groups)}")
    with _parsing(uri):
        table = file.read_row_groups(list(row_groups), columns=columns, use_threads=False)
        table.validate(full=True)
    if len(table) != sum(rows[group] for group in row_groups):
        raise _damaged(uri, f"gave {len(table)} rows")
    return table


def iterate_rows(store_uri: str, manifest: Manifest, split: str, limit: int | None = None) -> Iterator[Recording]:
    """Recordings of one split in the store's order, one row group in memory at a time.

    Args:
        limit: Stop after this many.

    Raises:
        ShardError: A shard is missing, damaged, or another one.
    """
    remaining = manifest.rows(split) if limit is None else limit
    for shard in manifest.shards_of(split):
        for group in range(len(shard.row_groups)):
            if remaining <= 0:
                return
            recordings = unpack(read_row_groups(store_uri, shard, [group]))[:remaining]
            remaining -= len(recordings)
            yield from recordings


def iterate_reports(store_uri: str, manifest: Manifest, split: str) -> Iterator[str | None]:
    """Reports of one split in the store's order, shard by shard; only the columns needed are decoded.

    Raises:
        ShardError: A shard is missing, damaged, or another one.
    """
    for shard in manifest.shards_of(split):
        table = read_row_groups(store_uri, shard, range(len(shard.row_groups)), columns=["report", "source"])
        yield from (repaired(row["report"], row["source"]) for row in table.to_pylist())


class QuarantineWriter:
    """Gathers the table of rejected recordings: ``id``, ``origin``, ``reason``, ``detail``. As a context, it frees its memory."""

    def __init__(self) -> None:
        self._rows: list[dict[str, str]] = []
        self._sink = pa.BufferOutputStream()
        self._writer = pq.ParquetWriter(self._sink, QUARANTINE_SCHEMA, compression="zstd")

    def __enter__(self) -> QuarantineWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def add(self, rows: Sequence[dict[str, str]]) -> None:
        """More rows."""
        self._rows += rows
        if len(self._rows) >= _QUARANTINE_ROWS:
            self._flush()

    def write(self, store_uri: str) -> None:
        """Write the file; sorted by reason and id where there are at most ``_QUARANTINE_ROWS``, else in such pieces.

        Raises:
            StoreError: The store cannot be written.
        """
        self._flush()
        self._writer.close()
        filesystem.write_bytes_atomic(filesystem.join(store_uri, QUARANTINE_NAME), self._sink.getvalue().to_pybytes())

    def _flush(self) -> None:
        rows = sorted(self._rows, key=lambda row: (row["reason"], row["id"]))
        self._writer.write_table(pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA))
        self._rows = []


def write_quarantine(store_uri: str, rows: Sequence[dict[str, str]]) -> None:
    """Write the table of rejected recordings."""
    with QuarantineWriter() as quarantine:
        quarantine.add(rows)
        quarantine.write(store_uri)


def read_quarantine(store_uri: str) -> pa.Table:
    """The table of rejected recordings."""
    uri = filesystem.join(store_uri, QUARANTINE_NAME)
    content = filesystem.read_bytes(uri)
    with _parsing(uri):
        return pq.read_table(pa.BufferReader(content))

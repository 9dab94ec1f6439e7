"""What a frozen teacher says of a store's recordings and reports, kept beside the teacher.

One Parquet file for each shard of the store, its rows and row groups the same as the shard's, so that both are read together
and memory stays bounded. A recording has one vector; a report's vector is computed once a shard and stored once a row group
(Parquet's dictionary). ``index.json`` is written last and says by digests which teacher, which store and which files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ecgscan_ray.errors import StoreError
from ecgscan_ray.filesystem import exists, join, read_bytes, write_bytes_atomic
from ecgscan_ray.store.manifest import Manifest, Shard
from ecgscan_ray.store.shards import Expected, ShardError, open_checked, read_groups

SCHEMA_VERSION = 1
INDEX_NAME = "index.json"
COLUMNS = ("teacher_signal", "teacher_report")
"""Columns of a file, and their names in a batch: float32 bytes, null where there is no signal, no report."""
EMBEDDING_SCHEMA = pa.schema([(name, pa.binary()) for name in COLUMNS])


class EmbeddingFile(BaseModel):
    """One file, of the shard of the same path.

    Attributes:
        path: Relative to the folder.
        sha256: Of the file.
        rows: Recordings.
        signals: Of them with a signal; ``signal_sum`` is the sum of their vectors.
        reports: Of them with a report; ``report_sum`` is the sum of their vectors.
        split: Of the store.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    split: str
    sha256: str
    rows: int
    signals: int
    reports: int
    signal_sum: list[float]
    report_sum: list[float]


class EmbeddingIndex(BaseModel):
    """Table of contents, written last."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA_VERSION
    teacher_digest: str
    manifest_digest: str
    files: list[EmbeddingFile]

    def means(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean vector over the training recordings that have a signal (D,), a report (L,); 0 where none has."""
        train = [file for file in self.files if file.split == "train"]
        signal = np.sum([file.signal_sum for file in train], axis=0) / max(sum(file.signals for file in train), 1)
        report = np.sum([file.report_sum for file in train], axis=0) / max(sum(file.reports for file in train), 1)
        return signal, report


class EmbeddingWriter:
    """Gathers one shard's vectors, row group by row group, and writes the file in one piece."""

    def __init__(self) -> None:
        self._sink = pa.BufferOutputStream()
        self._writer: pq.ParquetWriter | None = None
        self._rows = 0
        self._known = [0, 0]
        self._sums: list[NDArray[np.float64] | None] = [None, None]

    def add(
        self,
        signal: NDArray[np.float32],
        report: NDArray[np.float32],
        has_signal: NDArray[np.bool_],
        has_report: NDArray[np.bool_],
    ) -> None:
        """One row group: vectors (n, D) and (n, L), and whether each row has them."""
        columns = []
        for place, (vectors, has) in enumerate(((signal, has_signal), (report, has_report))):
            kept = vectors.astype("<f4")
            columns.append(
                pa.array([row.tobytes() if ok else None for row, ok in zip(kept, has, strict=True)], pa.binary())
            )
            total = kept[has].sum(axis=0, dtype=np.float64)
            before = self._sums[place]
            self._sums[place], self._known[place] = (
                total if before is None else before + total,
                self._known[place] + int(has.sum()),
            )
        table = pa.table(dict(zip(COLUMNS, columns, strict=True)))
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._sink,
                table.schema,
                compression="zstd",
                use_dictionary=[COLUMNS[1]],
                dictionary_pagesize_limit=2**30,  # a report's vector once, however many there are
                write_statistics=False,
            )
        self._writer.write_table(table, row_group_size=len(table))
        self._rows += len(table)

    def close(self, folder: str, path: str, split: str) -> EmbeddingFile:
        """Write the file and say what it holds."""
        assert self._writer is not None  # a shard has at least one row group
        self._writer.close()
        content = self._sink.getvalue().to_pybytes()
        write_bytes_atomic(join(folder, path), content)
        sums = [[] if total is None else total.tolist() for total in self._sums]
        return EmbeddingFile(
            path=path,
            split=split,
            sha256=hashlib.sha256(content).hexdigest(),
            rows=self._rows,
            signals=self._known[0],
            reports=self._known[1],
            signal_sum=sums[0],
            report_sum=sums[1],
        )


def write_index(folder: str, index: EmbeddingIndex) -> None:
    """Call it when all files are in place."""
    write_bytes_atomic(join(folder, INDEX_NAME), index.model_dump_json(indent=1).encode())


def read_index(folder: str, teacher_digest: str, manifest: Manifest) -> EmbeddingIndex | None:
    """The index, if every file is there and whole, of this teacher and this store; else ``None``: they are made again.

    Raises:
        StoreError: The storage cannot be read.
    """
    if not exists(join(folder, INDEX_NAME)):
        return None
    try:
        index = _parse(folder)
    except ShardError:
        return None
    kept = (SCHEMA_VERSION, teacher_digest, manifest.digest(), [shard.path for shard in manifest.shards])
    if kept != (index.schema_version, index.teacher_digest, index.manifest_digest, [file.path for file in index.files]):
        return None
    try:
        for file, shard in zip(index.files, manifest.shards, strict=True):
            with open_checked(join(folder, file.path), Expected(file.sha256, shard.row_groups, EMBEDDING_SCHEMA)):
                pass
    except ShardError:
        return None
    return index


def _parse(folder: str) -> EmbeddingIndex:
    uri = join(folder, INDEX_NAME)
    try:
        index = EmbeddingIndex.model_validate(json.loads(read_bytes(uri)))
        signal, report = index.means()
        if np.isfinite(signal).all() and np.isfinite(report).all():
            return index
    except (ValueError, RecursionError):
        pass
    raise ShardError("damaged index of a teacher's vectors", where=uri, fix="Delete its folder: they are made again.")


class EmbeddingReader:
    """A teacher's vectors for a store's rows, each file checked by its digest.

    Args:
        folder: That ``read_index`` or ``write_index`` was given.

    Raises:
        ShardError: The index is missing or damaged.
    """

    def __init__(self, folder: str) -> None:
        self._folder, self._digests = folder, {file.path: file.sha256 for file in _parse(folder).files}

    def read(self, shard: Shard, row_groups: Sequence[int]) -> pa.Table:
        """The ``COLUMNS`` of some row groups of one shard of the store, in the order given."""
        uri = join(self._folder, shard.path)
        digest = self._digests.get(shard.path, "")
        with open_checked(uri, Expected(digest, shard.row_groups, EMBEDDING_SCHEMA)) as file:
            return read_groups(uri, file, row_groups)


def vectors(column: pa.ChunkedArray, dim: int) -> NDArray[np.float32]:
    """A column as float32 (n, dim), 0 where there is none.

    Raises:
        StoreError: A vector of another length.
    """
    found = np.zeros((len(column), dim), np.float32)
    for row, value in enumerate(column.to_pylist()):
        if value is None:
            continue
        if len(value) != 4 * dim:
            raise StoreError(f"a teacher's vector has {len(value)} bytes, not {4 * dim}", fix="Delete its embeddings.")
        found[row] = np.frombuffer(value, "<f4")
    return found

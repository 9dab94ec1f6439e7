"""A frozen teacher's embeddings of a store's recordings and reports, stored next to the teacher.

One Parquet file per shard of the store, with the same rows and row groups, so that both are read together and memory
stays bounded. A recording has one vector; a report's vector is computed once per shard and stored once per row group
(Parquet's dictionary). ``index.json`` is written last and identifies teacher, store and files by their digests.
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
"""Columns of a file, and their names in a batch: float32 bytes, null where there is no signal or no report."""
EMBEDDING_SCHEMA = pa.schema([(name, pa.binary()) for name in COLUMNS])


class EmbeddingFile(BaseModel):
    """The file of the shard with the same path.

    Attributes:
        path: Relative to the folder.
        sha256: Of the file.
        rows: Recordings.
        signals: Recordings with a signal; ``signal_sum`` is the sum of their vectors.
        reports: Recordings with a report; ``report_sum`` is the sum of their vectors.
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
        """Mean vector over the training recordings that have a signal (D,) and a report (L,); 0 where none has."""
        train = [file for file in self.files if file.split == "train"]
        signal = np.sum([file.signal_sum for file in train], axis=0) / max(sum(file.signals for file in train), 1)
        report = np.sum([file.report_sum for file in train], axis=0) / max(sum(file.reports for file in train), 1)
        return signal, report


class EmbeddingWriter:
    """Collects one shard's vectors, row group by row group, and writes the file in one piece."""

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
        for column, (vectors, has) in enumerate(((signal, has_signal), (report, has_report))):
            values = vectors.astype("<f4")
            columns.append(
                pa.array([row.tobytes() if ok else None for row, ok in zip(values, has, strict=True)], pa.binary())
            )
            total, before = values[has].sum(axis=0, dtype=np.float64), self._sums[column]
            self._sums[column] = total if before is None else before + total
            self._known[column] += int(has.sum())
        table = pa.table(dict(zip(COLUMNS, columns, strict=True)))
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._sink,
                table.schema,
                compression="zstd",
                use_dictionary=[COLUMNS[1]],
                dictionary_pagesize_limit=2**30,  # a report's vector is stored once, however often it occurs
                write_statistics=False,
            )
        self._writer.write_table(table, row_group_size=len(table))
        self._rows += len(table)

    def close(self, folder: str, path: str, split: str) -> EmbeddingFile:
        """Write the file and return its entry in the index."""
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
    """Write the index, after all files."""
    write_bytes_atomic(join(folder, INDEX_NAME), index.model_dump_json(indent=1).encode())


def read_index(folder: str, teacher_digest: str, manifest: Manifest) -> EmbeddingIndex | None:
    """The index of this teacher and this store, if every file is complete; otherwise ``None``: compute them again.

    Raises:
        StoreError: The storage cannot be read.
    """
    if not exists(join(folder, INDEX_NAME)):
        return None
    try:
        index = _parse(folder)
    except ShardError:
        return None
    expected = (SCHEMA_VERSION, teacher_digest, manifest.digest(), [shard.path for shard in manifest.shards])
    if expected != (
        index.schema_version,
        index.teacher_digest,
        index.manifest_digest,
        [file.path for file in index.files],
    ):
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
    raise ShardError(
        "damaged index of a teacher's embeddings", where=uri, fix="Delete its folder: they are computed again."
    )


class EmbeddingReader:
    """A teacher's embeddings of a store's rows; each file is checked by its digest.

    Args:
        folder: With ``index.json``.

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
    """A column as float32 (n, dim), 0 where null.

    Raises:
        StoreError: A vector has another length.
    """
    result = np.zeros((len(column), dim), np.float32)
    for row, value in enumerate(column.to_pylist()):
        if value is None:
            continue
        if len(value) != 4 * dim:
            raise StoreError(
                f"a teacher's embedding has {len(value)} bytes, not {4 * dim}", fix="Delete its embeddings."
            )
        result[row] = np.frombuffer(value, "<f4")
    return result

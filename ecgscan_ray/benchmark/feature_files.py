"""Features as Parquet files, one for each encoder, condition and shard of a store.

A file is written in one piece and names what it was made from; one with another identity, or damaged, is made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecgscan_ray.benchmark.conditions import RECORDING, Condition
from ecgscan_ray.benchmark.encoders import EncoderSpec
from ecgscan_ray.benchmark.facts import Part
from ecgscan_ray.errors import StoreError
from ecgscan_ray.filesystem import exists, join, read_bytes, write_bytes_atomic

SCHEMA_VERSION = 1
_IDENTITY, _CONTENT = b"ecgscan_identity", b"ecgscan_sha256"


@dataclass(frozen=True)
class FeatureTable:
    """Features of N recordings.

    Attributes:
        key: int64 (N,), ``stable_key`` of the recordings.
        ok: bool (N,), whether the recording has them: a page that cannot be drawn has none.
        features: float32 (N, F), for a classifier.
        aligned: float32 (N, D), as compared with other modalities; D = 0 where there are none.
    """

    key: np.ndarray
    ok: np.ndarray
    features: np.ndarray
    aligned: np.ndarray

    def digest(self) -> str:
        """sha256 of the content."""
        digest = hashlib.sha256()
        for values in (self.key, self.ok, self.features.astype("<f4"), self.aligned.astype("<f4")):
            digest.update(repr(values.shape).encode() + np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def rows(self, keys: np.ndarray) -> np.ndarray:
        """The row of each key.

        Raises:
            StoreError: One is not there.
        """
        order = np.argsort(self.key)
        at = order[np.minimum(np.searchsorted(self.key, keys, sorter=order), len(order) - 1)]
        if (self.key[at] != keys).any():
            raise StoreError("features of some recordings are missing", fix="Run the benchmark again.")
        return at

    def features_of(self, keys: np.ndarray) -> np.ndarray:
        """(K, F) of K recordings."""
        return self.features[self.rows(keys)]

    def aligned_of(self, keys: np.ndarray) -> np.ndarray:
        """(K, D) of K recordings."""
        return self.aligned[self.rows(keys)]


Tables = Mapping[tuple[str, str], FeatureTable]
"""(encoder, condition) -> features."""


def table_of(tables: Tables, spec: EncoderSpec, condition: Condition) -> FeatureTable:
    """The features of a condition; those of the recordings where the encoder takes recordings, which have no pages."""
    return tables[spec.name, RECORDING.name if spec.takes(RECORDING) else condition.name]


def identity(spec: EncoderSpec, condition: Condition, part: Part) -> str:
    """What a file is made from, as one digest."""
    content = [SCHEMA_VERSION, spec.revision, spec.digest, condition.digest(), part.shard.sha256, part.rows]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def write_features(spec: EncoderSpec, condition: Condition, part: Part, table: FeatureTable) -> None:
    """Write a file, whole or not at all."""
    columns = {
        "key": pa.array(table.key, pa.int64()),
        "ok": pa.array(table.ok, pa.bool_()),
        "features": pa.array([row.tobytes() for row in table.features.astype("<f4")], pa.binary()),
        "aligned": pa.array([row.tobytes() for row in table.aligned.astype("<f4")], pa.binary()),
    }
    marks = {_IDENTITY: identity(spec, condition, part), _CONTENT: table.digest()}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns).replace_schema_metadata(marks), sink, compression="zstd", use_dictionary=False)
    write_bytes_atomic(join(spec.folder(condition), part.shard.path), sink.getvalue().to_pybytes())


def read_features(spec: EncoderSpec, condition: Condition, part: Part) -> FeatureTable | None:
    """A file's content, or ``None`` where it is missing, damaged, or made from something else.

    Raises:
        StoreError: The storage cannot be read.
    """
    uri = join(spec.folder(condition), part.shard.path)
    if not exists(uri):
        return None
    content = read_bytes(uri)
    try:
        table = pq.read_table(pa.BufferReader(content))
        marks = table.schema.metadata or {}
        if marks.get(_IDENTITY) != identity(spec, condition, part).encode():
            return None
        features, aligned = _matrix(table["features"]), _matrix(table["aligned"])
        result = FeatureTable(table["key"].to_numpy(), table["ok"].to_numpy(), features, aligned)
        return result if marks.get(_CONTENT) == result.digest().encode() else None
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError):
        return None


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    rows = [np.frombuffer(row, "<f4") if row else np.zeros(0, np.float32) for row in column.to_pylist()]
    return np.stack(rows)


def read_all(spec: EncoderSpec, condition: Condition, parts: Sequence[Part]) -> FeatureTable:
    """The features of some parts of a store, as one table.

    Raises:
        StoreError: A file is missing or damaged.
    """
    tables = []
    for part in parts:
        table = read_features(spec, condition, part)
        if table is None:
            where = join(spec.folder(condition), part.shard.path)
            raise StoreError("features are missing or damaged", where=where, fix="Run the benchmark again.")
        tables.append(table)
    names = ("key", "ok", "features", "aligned")
    return FeatureTable(*(np.concatenate([getattr(table, name) for table in tables]) for name in names))

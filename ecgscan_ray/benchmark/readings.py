"""What the page reader gave of the pages of one part of a store, as a Parquet file: reading a page takes most of a benchmark.

A file is used by every encoder of leads at its sampling rate, so that a run that is measured later has its pages read already.
It is written in one piece and names what it was made from; one with another identity, or damaged, is made again.

Letters: N pages, 12 leads, T samples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from ecgscan_ray.batch import Batch, BatchMaker, Integers
from ecgscan_ray.benchmark.conditions import Condition
from ecgscan_ray.benchmark.facts import Part
from ecgscan_ray.config import Config
from ecgscan_ray.filesystem import exists, join, read_bytes, write_bytes_atomic
from ecgscan_ray.reading.read_pages import ReadPages
from ecgscan_ray.reading.weights import load_networks
from ecgscan_ray.recording.recording import Recording

SCHEMA_VERSION = 1
_IDENTITY = b"ecgscan_identity"


@dataclass(frozen=True)
class PageSource:
    """Which pages, and how they were read.

    Attributes:
        home: URI of the folder of a benchmark.
        condition: Of the pages.
        part: Of the store.
        reader: Digest of the reader's networks.
        fs: Samples a second of the leads.
        sig_len: T.
    """

    home: str
    condition: Condition
    part: Part
    reader: str
    fs: int
    sig_len: int

    @property
    def uri(self) -> str:
        """Of the file."""
        return join(self.home, "readings", f"{self.condition.name}-{self.fs}hz", self.part.shard.path)

    @property
    def identity(self) -> str:
        """What the file is made from, as one digest."""
        shard = self.part.shard.sha256
        content = [SCHEMA_VERSION, self.condition.digest(), shard, self.part.rows, self.reader, self.fs, self.sig_len]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True)
class Readings:
    """Pages as read, in the order of the part.

    Attributes:
        read: int16 (N, 12, T), as in ``batch.Batch``.
        read_bits: uint8 (N, 12, ceil(T / 8)), as there.
        page_ok: bool (N,), as there.
    """

    read: np.ndarray
    read_bits: np.ndarray
    page_ok: np.ndarray

    def digest(self) -> str:
        """sha256 of the content."""
        digest = hashlib.sha256()
        for values in (self.read.astype("<i2"), self.read_bits, self.page_ok):
            digest.update(repr(values.shape).encode() + np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()


def write_readings(source: PageSource, readings: Readings) -> None:
    """Write the file, whole or not at all."""
    columns = {
        "read": pa.array([row.tobytes() for row in readings.read.astype("<i2")], pa.binary()),
        "read_bits": pa.array([row.tobytes() for row in readings.read_bits], pa.binary()),
        "page_ok": pa.array(readings.page_ok, pa.bool_()),
    }
    marks = {_IDENTITY: f"{source.identity} {readings.digest()}".encode()}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns).replace_schema_metadata(marks), sink, compression="zstd", use_dictionary=False)
    write_bytes_atomic(source.uri, sink.getvalue().to_pybytes())


def read_readings(source: PageSource) -> Readings | None:
    """The file's content, or ``None`` where it is missing, damaged, or made from something else.

    Raises:
        StoreError: The storage cannot be read.
    """
    if not exists(source.uri):
        return None
    try:
        table = pq.read_table(pa.BufferReader(read_bytes(source.uri)))
        read = [np.frombuffer(row, "<i2").reshape(12, source.sig_len) for row in table["read"].to_pylist()]
        bits = [np.frombuffer(row, np.uint8).reshape(12, -1) for row in table["read_bits"].to_pylist()]
        readings = Readings(np.stack(read), np.stack(bits), table["page_ok"].to_numpy())
        mark = f"{source.identity} {readings.digest()}".encode()
        return readings if (table.schema.metadata or {}).get(_IDENTITY) == mark else None
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError):
        return None


class ReadOnce:
    """Makes batches of pages as read: from the kept file of a part, or by drawing and reading them, which is then kept.

    Args:
        config: Settings with the pages of the condition.
        tokenizer: Of the run.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer) -> None:
        self.networks = load_networks()
        self._reader = ReadPages(config, tokenizer, self.networks)
        self._plain = BatchMaker(config, tokenizer, with_pages=False)
        self._stored: Readings | None = None
        self._new: list[Readings] = []

    def begin(self, home: str, condition: Condition, part: Part) -> None:
        """The next batches are those of a part, in its order."""
        model = self._reader.config.model
        self._source = PageSource(home, condition, part, self.networks.digest, model.signal_fs, model.sig_len)
        self._stored, self._new = read_readings(self._source), []

    def make(self, recordings: Sequence[Recording], positions: Integers, epochs: Integers) -> Batch:
        """One batch; arguments as of ``BatchMaker.make``, positions in the part."""
        if self._stored is None:
            batch = self._reader.make(recordings, positions, epochs)
            self._new.append(Readings(batch["read"], batch["read_bits"], batch["page_ok"]))
            return batch
        rows = np.asarray(positions)
        stored = self._stored
        pages = {"read": stored.read[rows], "read_bits": stored.read_bits[rows], "page_ok": stored.page_ok[rows]}
        return cast(Batch, {**self._plain.make(recordings, positions, epochs), **pages})

    def end(self) -> None:
        """Keep what was read of the part."""
        if self._new:
            columns = ([getattr(each, name) for each in self._new] for name in ("read", "read_bits", "page_ok"))
            write_readings(self._source, Readings(*(np.concatenate(column) for column in columns)))

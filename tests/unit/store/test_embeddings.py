"""A teacher's embeddings of a store: read back complete and of the right teacher and store, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ecgscan_ray.store.embeddings import (
    EmbeddingIndex,
    EmbeddingReader,
    EmbeddingWriter,
    read_index,
    vectors,
    write_index,
)
from ecgscan_ray.store.manifest import Manifest, Shard

D, LEVEL = 8, 6


def shard(path: str, split: str) -> Shard:
    return Shard(path=path, split=split, rows=50, row_groups=[30, 20], bytes=1, sha256="0")


MANIFEST = Manifest(source="test", shards=[shard("train-0.parquet", "train"), shard("test-0.parquet", "test")])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng, files = np.random.default_rng(0), []
    for one in MANIFEST.shards:
        writer = EmbeddingWriter()
        for rows in one.row_groups:
            signal = rng.normal(1, 1, (rows, D)).astype(np.float32)
            report = rng.normal(size=(3, LEVEL)).astype(np.float32)[np.arange(rows) % 3]
            writer.add(signal, report, np.arange(rows) % 5 > 0, np.arange(rows) % 4 > 0)
        files.append(writer.close(str(tmp_path), one.path, one.split))
    write_index(str(tmp_path), EmbeddingIndex(teacher_digest="t", manifest_digest=MANIFEST.digest(), files=files))
    return tmp_path


def test_rows_come_back_with_their_row_groups(folder: Path) -> None:
    reader, train = EmbeddingReader(str(folder)), MANIFEST.shards[0]
    table = reader.read(train, [1])
    assert len(table) == 20
    signal = vectors(table["teacher_signal"], D)
    assert signal.shape == (20, D)
    assert not signal[::5].any() and signal[1:5].any(1).all()
    index = read_index(str(folder), "t", MANIFEST)
    assert index is not None
    mean, _ = index.means()
    both = vectors(reader.read(train, [0, 1])["teacher_signal"], D)
    np.testing.assert_allclose(mean, both[both.any(1)].mean(0), rtol=1e-5)


def test_a_report_is_stored_once(folder: Path) -> None:
    column = pq.ParquetFile(folder / "train-0.parquet").metadata.row_group(0).column(1)
    assert column.has_dictionary_page
    assert column.total_uncompressed_size < 3 * LEVEL * 4 + 100


def test_of_another_teacher_or_store_or_damaged_they_count_for_nothing(folder: Path) -> None:
    assert read_index(str(folder), "t", MANIFEST) is not None
    assert read_index(str(folder), "another", MANIFEST) is None
    assert read_index(str(folder), "t", MANIFEST.model_copy(update={"source": "another"})) is None
    path = folder / "test-0.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert read_index(str(folder), "t", MANIFEST) is None
    path.unlink()
    assert read_index(str(folder), "t", MANIFEST) is None
    (folder / "index.json").write_text("{")
    assert read_index(str(folder), "t", MANIFEST) is None

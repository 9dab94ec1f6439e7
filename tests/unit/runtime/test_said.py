"""What a teacher says travels with the recording it is about, in whatever order the plan reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ecgscan_ray import text
from ecgscan_ray.batch import BatchMaker, stable_key
from ecgscan_ray.runtime.stream import make_unit, read_span
from ecgscan_ray.store.embeddings import EmbeddingIndex, EmbeddingReader, EmbeddingWriter, write_index
from ecgscan_ray.store.manifest import Manifest
from ecgscan_ray.store.plan import EpochPlan
from ecgscan_ray.store.shards import ShardWriter
from tests.records import recording
from tests.tiny import tiny_config


def test_vectors_are_those_of_their_recordings(tmp_path: Path) -> None:
    store, said = str(tmp_path / "store"), str(tmp_path / "said")
    shards, files, numbers = [], [], iter(range(100))
    for number in range(2):
        shard, vectors = ShardWriter(store, "train", number), EmbeddingWriter()
        for rows in (5, 7, 4):
            ids = [next(numbers) for _ in range(rows)]
            shard.add([recording(str(n), seed=n) for n in ids])
            mark = np.repeat(np.array(ids, np.float32)[:, None], 16, 1)
            vectors.add(mark, -mark[:, :12], np.array(ids) % 3 > 0, np.array(ids) % 4 > 0)
        closed = shard.close()
        assert closed is not None
        files.append(vectors.close(said, closed.path, "train"))
        shards.append(closed)
    manifest = Manifest(source="test", shards=shards)
    write_index(said, EmbeddingIndex(teacher_digest="t", manifest_digest=manifest.digest(), files=files))
    plan = EpochPlan(manifest, "train", 0, 2)
    maker = BatchMaker(tiny_config(), text.fit_tokenizer(["sinusrhythmus"], 300))
    batch = make_unit(maker, read_span(store, plan, 10, 42, EmbeddingReader(said)))  # across the end of an epoch
    number_of = {stable_key(f"made-up/{n}"): n for n in range(32)}
    ids = np.array([number_of[key] for key in batch["recording_key"].tolist()])
    assert len(set(ids[:22].tolist())) == 22 and not np.array_equal(ids, np.sort(ids))
    np.testing.assert_array_equal(batch["teacher_signal"][:, 3], np.where(ids % 3 > 0, ids, 0))
    np.testing.assert_array_equal(batch["teacher_report"][:, 11], np.where(ids % 4 > 0, -ids, 0))
    assert batch["teacher_signal"].dtype == np.float32
    assert "teacher_signal" not in make_unit(maker, read_span(store, plan, 0, 6))

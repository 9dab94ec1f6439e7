"""A small store of recordings, written without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.store.manifest import SPLITS, Manifest, write_manifest
from ecgscan_ray.store.shards import ShardWriter


def write_store(folder: Path, recordings: Sequence[Recording], row_group: int = 8) -> str:
    """The recordings in turn in the three splits; gives the store's URI."""
    folder.mkdir()
    shards = []
    for number, split in enumerate(SPLITS):
        writer = ShardWriter(str(folder), split, 0)
        rows = recordings[number::3]
        for start in range(0, len(rows), row_group):
            writer.add(rows[start : start + row_group])
        shards.append(writer.close())
    write_manifest(str(folder), Manifest(source="made-up", shards=[shard for shard in shards if shard]))
    return str(folder)

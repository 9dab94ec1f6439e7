"""A tiny store, written without Ray."""

from __future__ import annotations

import pytest

from ecgscan_ray.store.manifest import Manifest, write_manifest
from ecgscan_ray.store.shards import ShardWriter
from tests.records import recording


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URI of a store of four training recordings and two in each other split."""
    folder, shards = str(tmp_path_factory.mktemp("documented-store")), []
    for split, rows in (("train", 4), ("validation", 2), ("test", 2)):
        writer = ShardWriter(folder, split, 0)
        writer.add([recording(f"{split}{k}", seed=k) for k in range(rows)])
        shards += [shard] if (shard := writer.close()) else []
    write_manifest(folder, Manifest(source="made-up", shards=shards))
    return folder

"""Mutated manifests, shards and settings, through what ``inspect``, ``pretrain`` and ``config`` read.

A shard under its true digest must be refused whatever was changed. A manifest made to fit a mutated shard says that its
content is right, so other rows can come out of it; no exception, no gigabytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ecgscan_ray.config import Config, SweepConfig, dump_yaml, load, preset_names, read_yaml
from ecgscan_ray.runtime.stream import read_span
from ecgscan_ray.store.inspect import inspect
from ecgscan_ray.store.manifest import Manifest, read_manifest, write_manifest
from ecgscan_ray.store.plan import Plan
from ecgscan_ray.store.schema import unpack
from ecgscan_ray.store.shards import ShardWriter
from tests.fuzz.harness import fuzz, mutate
from tests.records import recording

pytestmark = pytest.mark.verify
SHARD = "train-00001.parquet"


def _make_store(folder: Path) -> Path:
    """Two training shards and one test shard of a few rows, one of them with a gap and one of another length."""
    if (folder / "manifest.json").exists():
        return folder
    shards = []
    for number, split in enumerate(("train", "train", "test")):
        writer = ShardWriter(str(folder), split, number if split == "train" else 0)
        for group in range(2):
            rows = [recording(f"{number}-{group}-{k}", seconds=3 + k, seed=k) for k in range(3)]
            rows[1].signal_mv[2, 50:70] = np.nan
            writer.add(rows)
        shards += [shard] if (shard := writer.close()) else []
    write_manifest(str(folder), Manifest(source="made-up", shards=shards))
    return folder


def _copy(number: int, folder: Path) -> Path:
    store = folder / f"store-{number}"
    shutil.rmtree(store, ignore_errors=True)
    shutil.rmtree(folder / f"store-{number - 1}", ignore_errors=True)
    return Path(shutil.copytree(_make_store(folder / "good"), store))


def mutated_manifest(number: int, folder: Path) -> Path:
    store = _copy(number, folder)
    path = store / "manifest.json"
    path.write_bytes(mutate(path.read_bytes(), np.random.default_rng([1, number])))
    return store


def mutated_shard(number: int, folder: Path) -> Path:
    store = _copy(number, folder)
    path = store / SHARD
    path.write_bytes(mutate(path.read_bytes(), np.random.default_rng([2, number])))
    return store


def mutated_shard_that_fits(number: int, folder: Path) -> Path:
    store = mutated_shard(number, folder)
    content, manifest = (store / SHARD).read_bytes(), json.loads((store / "manifest.json").read_text())
    for shard in manifest["shards"]:
        if shard["path"] == SHARD:
            shard |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (store / "manifest.json").write_text(json.dumps(manifest))
    return store


def _rows(store: Path) -> str:
    """Digest of what one epoch of pretraining reads, in plan order and as arrays."""
    manifest, digest = read_manifest(str(store)), hashlib.sha256()
    plan = Plan(manifest, "train", 0, 2)
    for start, stop in plan.spans(0, plan.rows_per_epoch, 6):
        table = read_span(str(store), plan, start, stop)
        for row in unpack(table.drop_columns(["position", "epoch"])):
            digest.update(f"{row.id} {row.patient_id} {row.fs} {row.report} {sorted(row.labels.items())}".encode())
            digest.update(row.signal_mv.tobytes())
    return digest.hexdigest()


@cache
def _good(folder: Path) -> str:
    return _rows(_make_store(folder / "good"))


def through_pretrain(store: Path) -> str:
    return "same" if _rows(store) == _good(store.parent) else "other"


def through_inspect(store: Path) -> str:
    """``same`` where nothing is damaged and the counts are those of the good store."""
    good, found = inspect(str(_make_store(store.parent / "good"))), inspect(str(store))
    if found["damaged"]:
        return "refused"
    return "same" if found["splits"] == good["splits"] else "other"


def through_both(store: Path) -> str:
    """Every third mutant through ``inspect``."""
    if int(store.name.rpartition("-")[2]) % 3 == 0:
        return through_inspect(store)
    return through_pretrain(store)


def test_manifests(tmp_path: Path) -> None:
    tally = fuzz("manifests", mutated_manifest, through_both, 750, tmp_path)
    assert not tally.findings


def test_shards(tmp_path: Path) -> None:
    tally = fuzz("shards", mutated_shard, through_both, 625, tmp_path)
    assert not tally.findings
    assert not tally.outcomes["other"], "the digest tells"


def test_shards_under_a_manifest_made_to_fit(tmp_path: Path) -> None:
    tally = fuzz("shards under a manifest made to fit", mutated_shard_that_fits, through_both, 625, tmp_path)
    assert not tally.findings


def mutated_settings(number: int, folder: Path) -> Path:
    path, names = folder / "mine.yaml", preset_names()
    name = names[number % len(names)]
    kind = SweepConfig if {"space", "arms"} & read_yaml(name).keys() else Config
    text = dump_yaml(load(kind, name)).encode()
    path.write_bytes(mutate(text, np.random.default_rng([3, number])))
    return path


def as_settings(path: Path) -> str:
    content = read_yaml(str(path))
    kind = SweepConfig if {"space", "arms"} & content.keys() else Config
    loaded = load(kind, str(path))
    return "same" if dump_yaml(loaded).encode() == path.read_bytes() else "other"


def test_settings(tmp_path: Path) -> None:
    tally = fuzz("settings", mutated_settings, as_settings, 500, tmp_path)
    assert not tally.findings

"""Mutated manifests, shards and settings, through what ``inspect``, ``pretrain`` and ``config`` read.

A shard under its true digest must be refused whatever was changed. A manifest made to fit a mutated shard says that its
content is right, so other rows can come out of it; no exception, no gigabytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ecgscan_ray.config import dump_yaml, kind_of, load, preset_names, read_yaml
from ecgscan_ray.runtime.stream import read_span
from ecgscan_ray.store.inspect import inspect
from ecgscan_ray.store.manifest import Manifest, read_manifest, write_manifest
from ecgscan_ray.store.plan import EpochPlan
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


_ODD = (
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    10**30,
    1e308,
    0.5,
    "",
    "0",
    "train",
    "../x",
    "/etc/passwd",
    "a\0b",
    "ü" * 99,
)
_ODD += ([], {}, [[]], [-1], [10**12], {"a": 1}, "s3://KEY:SECRET@b/x", ".", "[" * 99, float("nan"), float("inf"))


def _odd_values(content: object, rng: np.random.Generator) -> None:
    """Replace, remove or double some values of nested mappings and lists."""
    places = list(_places(content))
    for _ in range(int(rng.integers(1, 4))):
        holder, key = places[int(rng.integers(len(places)))]
        match int(rng.integers(4)):
            case 0 if isinstance(holder, dict):
                holder.pop(key, None)
            case 1 if isinstance(holder, list):
                holder.append(holder[min(key, len(holder) - 1)])
            case 2 if isinstance(holder, dict):
                holder[str(key) + "x"] = _ODD[int(rng.integers(len(_ODD)))]
            case _:
                holder[key] = _ODD[int(rng.integers(len(_ODD)))]


def _places(content: object) -> Iterator[tuple[Any, Any]]:
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield content, key
        yield from _places(value)


def mutated_manifest(number: int, folder: Path) -> Path:
    """Bytes changed, or values."""
    store, rng = _copy(number, folder), np.random.default_rng([1, number])
    path = store / "manifest.json"
    if number % 2:
        content = json.loads(path.read_text())
        _odd_values(content, rng)
        path.write_text(json.dumps(content))
    else:
        path.write_bytes(mutate(path.read_bytes(), rng))
    return store


def mutated_shard(number: int, folder: Path) -> Path:
    """Bytes changed anywhere, bytes of the footer changed, or odd values written."""
    store, rng = _copy(number, folder), np.random.default_rng([2, number])
    path = store / SHARD
    content = path.read_bytes()
    if number % 3 == 0:
        path.write_bytes(mutate(content, rng))
    elif number % 3 == 1:
        start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        path.write_bytes(content[:start] + mutate(content[start:], rng))
    else:
        _write_odd_rows(path, rng)
    return store


def _write_odd_rows(path: Path, rng: np.random.Generator) -> None:
    table = pq.read_table(path)
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(table.num_columns))
        field, values = table.schema.field(place), table.column(place).to_pylist()
        row = int(rng.integers(len(values)))
        values[row] = _odd_value(field.type, values[row], rng)
        if values[row] is None and not field.nullable:
            continue
        try:
            table = table.set_column(place, field, pa.array(values, field.type))
        except (pa.ArrowException, OverflowError, TypeError):
            continue
    size = 3 if rng.random() < 0.9 else int(rng.integers(1, 9))
    pq.write_table(table, path, row_group_size=size)


def _odd_value(kind: pa.DataType, value: Any, rng: np.random.Generator) -> Any:
    if pa.types.is_floating(kind):
        return rng.choice([np.nan, np.inf, -1.0, 0.0, 1e-300, 1e300, 99.0, -np.inf])
    if pa.types.is_integer(kind):
        return int(rng.choice([-1, 0, 1, 2**31 - 1, -(2**31), 999]))
    if pa.types.is_binary(kind):
        return [b"", value[:-1], value + b"x", rng.bytes(len(value))][int(rng.integers(4))]
    if pa.types.is_list(kind):
        return [[1], [0, 5, 2], [12, 0, 1], [0, -1, 3], [0, 0, 2**31 - 1], [3, 1, 2]][int(rng.integers(6))]
    if pa.types.is_map(kind):
        return [[], [("", np.nan)], [("NORM", 1e308), ("NORM", -1.0)]][int(rng.integers(3))]
    return ["", "\n", "x" * 100_000, "\U0001f9e1", None, "nan"][int(rng.integers(6))]


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
    plan = EpochPlan(manifest, "train", 0, 2)
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
    """A preset with bytes changed, or values."""
    path, names, rng = folder / "mine.yaml", preset_names(), np.random.default_rng([3, number])
    name = names[number % len(names)]
    text = dump_yaml(load(kind_of(read_yaml(name)), name))
    if number % 2:
        content = yaml.safe_load(text)
        _odd_values(content, rng)
        path.write_text(yaml.safe_dump(content, allow_unicode=True))
    else:
        path.write_bytes(mutate(text.encode(), rng))
    return path


def as_settings(path: Path) -> str:
    loaded = load(kind_of(read_yaml(str(path))), str(path))
    return "same" if dump_yaml(loaded).encode() == path.read_bytes() else "other"


def test_settings(tmp_path: Path) -> None:
    tally = fuzz("settings", mutated_settings, as_settings, 500, tmp_path)
    assert not tally.findings

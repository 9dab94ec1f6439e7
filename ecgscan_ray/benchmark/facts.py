"""What a store knows of its recordings besides the signals: keys, patients, labels, reports, age and sex."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ecgscan_ray.batch import stable_key
from ecgscan_ray.recording.reports import repaired
from ecgscan_ray.store.manifest import Manifest, Shard
from ecgscan_ray.store.shards import read_row_groups

_COLUMNS = ("id", "source", "patient_id", "labels", "report", "age", "sex")


@dataclass(frozen=True)
class Part:
    """The first rows of a shard.

    Attributes:
        shard: Of the store.
        rows: How many of them.
    """

    shard: Shard
    rows: int


def parts_of(manifest: Manifest, split: str, limit: int | None = None) -> list[Part]:
    """The shards of one split; with ``limit`` only its first rows (they are in random order)."""
    remaining = manifest.rows(split) if limit is None else limit
    parts = []
    for shard in manifest.shards_of(split):
        rows = min(shard.rows, remaining)
        remaining -= rows
        if rows:
            parts.append(Part(shard, rows))
    return parts


@dataclass(frozen=True)
class Facts:
    """Columns of N recordings.

    Attributes:
        ids: Unique within their source.
        key: int64, ``stable_key`` of source and id.
        patient_key: int64, -1 = unknown.
        split: Of the store.
        labels: Codes, as the archive gives them.
        reports: Empty where there is none.
        age: Years, NaN = unknown.
        sex: ``male``, ``female``, or empty.
    """

    ids: list[str]
    key: np.ndarray
    patient_key: np.ndarray
    split: np.ndarray
    labels: list[frozenset[str]]
    reports: list[str]
    age: np.ndarray
    sex: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def read_facts(store: str, parts: Sequence[Part]) -> Facts:
    """The facts of the recordings in some parts of a store, in their order.

    Raises:
        ShardError: A shard is missing or damaged.
    """
    rows: list[dict[str, Any]] = []
    for part in parts:
        table = read_row_groups(store, part.shard, range(len(part.shard.row_groups)), columns=_COLUMNS)
        rows += [row | {"split": part.shard.split} for row in table.slice(0, part.rows).to_pylist()]
    return Facts(
        ids=[row["id"] for row in rows],
        key=np.array([stable_key(f"{row['source']}/{row['id']}") for row in rows], np.int64),
        patient_key=np.array(
            [stable_key(row["patient_id"] and f"{row['source']}/{row['patient_id']}") for row in rows], np.int64
        ),
        split=np.array([row["split"] for row in rows]),
        labels=[frozenset(dict(row["labels"])) for row in rows],
        reports=[repaired(row["report"], row["source"]) or "" for row in rows],
        age=np.array([np.nan if row["age"] is None else row["age"] for row in rows], float),
        sex=np.array([row["sex"] or "" for row in rows]),
    )

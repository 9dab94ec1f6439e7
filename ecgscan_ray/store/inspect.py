"""Contents of a store, counted from its rows instead of read from the manifest: for ``ecgscan inspect``."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from typing import Any

import numpy as np

from ecgscan_ray.processes import end_with_parent, sigint_blocked
from ecgscan_ray.store.counting import BINS, ShardCounts, count_shard
from ecgscan_ray.store.manifest import SPLITS, Manifest, Shard, read_manifest
from ecgscan_ray.store.schema import SCHEMA

_LAW_UV = 2.0
_MOST_FREQUENT = 20
_SMALL = 10_000
"""Rows that one process reads in less time than others take to start."""
_SHARDS_AT_A_TIME = 64


def inspect(store_uri: str, workers: int = 1) -> dict[str, Any]:
    """Read and count every row of a store, in several processes where it is large.

    Args:
        store_uri: URI of the store.
        workers: Processes.

    Returns:
        ``digest``, ``sources``, ``licences``, ``settings``, ``schema`` (column -> type), ``shards``, ``bytes``,
        ``bytes_per_row``, ``splits`` (split -> rows, patients, rows_without_patient, superclass, language, fs, source, sex,
        report, note: what was derived or looks odd, as ``prepare`` counted it, labels: rows of the most frequent codes,
        other_labels: how many more codes there are), ``histograms``
        (``seconds``, ``age``, ``amplitude_mv`` -> split -> lower end of a bin -> rows), ``quarantined``,
        ``patients_in_two_splits`` (of the known ones), ``rows_without_patient``, ``missing_share`` (of all samples),
        ``flat_leads`` (recordings with one), ``lead_residual_uv`` (median, max, and recordings above 2 uV),
        ``rounding_uv`` (largest), and ``damaged`` (shards that are missing or differ from the manifest; their rows are
        not counted).

    Raises:
        StoreError: There is no store, or its storage cannot be read.
    """
    manifest = read_manifest(store_uri)
    counts = {split: ShardCounts(split) for split in SPLITS}
    damaged = []
    for shard, shard_counts in _counted(store_uri, manifest, workers):
        if shard_counts is None:
            damaged.append(shard.path)
        else:
            counts[shard.split].add(shard_counts)
    size = sum(shard.bytes for shard in manifest.shards)
    return {
        "digest": manifest.digest(),
        "sources": manifest.sources,
        "licences": manifest.licences,
        "settings": manifest.settings,
        "additions": [addition.model_dump() for addition in manifest.additions],
        "schema_version": manifest.schema_version,
        "schema": {field.name: str(field.type) for field in SCHEMA},
        "shards": len(manifest.shards),
        "bytes": size,
        "bytes_per_row": round(size / max(1, sum(shard.rows for shard in manifest.shards)), 1),
        "splits": {split: _split(counts[split], manifest) for split in SPLITS},
        "histograms": {name: {split: _bins(counts[split], name) for split in SPLITS} for name in BINS},
        "quarantined": manifest.quarantined,
        **_signals([counts[split] for split in SPLITS]),
        "damaged": damaged,
    }


def _counted(store_uri: str, manifest: Manifest, workers: int) -> Iterator[tuple[Shard, ShardCounts | None]]:
    shards = manifest.shards
    workers = min(workers, len(shards))
    if workers <= 1 or sum(shard.rows for shard in shards) <= _SMALL:
        yield from ((shard, count_shard(store_uri, shard)) for shard in shards)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, end_with_parent) as pool:
        for start in range(0, len(shards), _SHARDS_AT_A_TIME):
            batch = shards[start : start + _SHARDS_AT_A_TIME]
            with sigint_blocked():
                results = pool.map(count_shard, repeat(store_uri), batch)
            yield from zip(batch, results, strict=True)


def _split(counts: ShardCounts, manifest: Manifest) -> dict[str, Any]:
    labels = counts.labels
    return {
        "rows": counts.rows,
        "patients": len(counts.patients),
        "rows_without_patient": counts.without_patient,
        **{facet: dict(sorted(values.items())) for facet, values in counts.facets.items()},
        "note": manifest.counts.get(counts.split, {}).get("note", {}),
        "labels": dict(labels.most_common(_MOST_FREQUENT)),
        "other_labels": max(0, len(labels) - _MOST_FREQUENT),
    }


def _bins(counts: ShardCounts, name: str) -> dict[float, int]:
    return {number * BINS[name]: rows for number, rows in sorted(counts.histograms.get(name, {}).items())}


def _signals(counts: list[ShardCounts]) -> dict[str, Any]:
    patients = np.concatenate([part.patients for part in counts])
    residual = np.concatenate([part.residual_uv for part in counts])
    residual = residual if len(residual) else np.zeros(1, np.float32)
    return {
        "patients_in_two_splits": int((np.unique(patients, return_counts=True)[1] > 1).sum()),
        "rows_without_patient": sum(part.without_patient for part in counts),
        "missing_share": sum(part.missing for part in counts) / max(1, sum(part.samples for part in counts)),
        "flat_leads": sum(part.flat for part in counts),
        "lead_residual_uv": {
            "median": float(np.median(residual)),
            "max": float(residual.max()),
            "recordings_above_2": int((residual > _LAW_UV).sum()),
        },
        "rounding_uv": max(part.rounding_uv for part in counts),
    }

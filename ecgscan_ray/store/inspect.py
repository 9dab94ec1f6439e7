"""Contents of a store, counted from its rows instead of read from the manifest: for ``ecgscan inspect``."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pyarrow as pa

from ecgscan_ray.recording.labels import superclasses
from ecgscan_ray.recording.reports import repaired
from ecgscan_ray.store.manifest import SPLITS, Manifest, Shard, read_manifest
from ecgscan_ray.store.schema import SCHEMA, unpack_signals
from ecgscan_ray.store.shards import ShardError, read_row_groups

_LAW_UV = 2.0
_MOST_FREQUENT = 20


def inspect(store_uri: str) -> dict[str, Any]:
    """Read and count every row of a store.

    Returns:
        ``digest``, ``source``, ``licence``, ``settings``, ``schema`` (column -> type), ``shards``, ``bytes``,
        ``bytes_per_row``, ``splits`` (split -> rows, patients, rows_without_patient, superclass, language, fs, report,
        labels: rows of the most frequent codes, other_labels: how many more codes there are), ``quarantined``,
        ``patients_in_two_splits`` (of the known ones), ``rows_without_patient``, ``missing_share`` (of all samples),
        ``flat_leads`` (recordings with one), ``lead_residual_uv`` (median, max, and recordings above 2 uV),
        ``rounding_uv`` (largest), and ``damaged`` (shards that are missing or differ from the manifest; their rows are
        not counted).

    Raises:
        StoreError: There is no store.
    """
    manifest = read_manifest(store_uri)
    counts = _StoreCounts()
    damaged = [shard.path for shard in manifest.shards if not _count(store_uri, shard, counts)]
    residual = np.array(counts.residual_uv or [0.0])
    size = sum(shard.bytes for shard in manifest.shards)
    return {
        "digest": manifest.digest(),
        "source": manifest.source,
        "licence": manifest.licence,
        "settings": manifest.settings,
        "schema_version": manifest.schema_version,
        "schema": {field.name: str(field.type) for field in SCHEMA},
        "shards": len(manifest.shards),
        "bytes": size,
        "bytes_per_row": round(size / max(1, _rows(manifest)), 1),
        "splits": {split: counts.split(split) for split in SPLITS},
        "quarantined": manifest.quarantined,
        "patients_in_two_splits": counts.leaks(),
        "rows_without_patient": counts.without_patient.total(),
        "missing_share": counts.missing / max(1, counts.samples),
        "flat_leads": counts.flat,
        "lead_residual_uv": {
            "median": float(np.median(residual)),
            "max": float(residual.max()),
            "recordings_above_2": int((residual > _LAW_UV).sum()),
        },
        "rounding_uv": counts.rounding_uv,
        "damaged": damaged,
    }


def _rows(manifest: Manifest) -> int:
    return sum(shard.rows for shard in manifest.shards)


def _count(store_uri: str, shard: Shard, counts: _StoreCounts) -> bool:
    """Add a shard's rows to the counts; False if the shard is damaged."""
    try:
        tables = [read_row_groups(store_uri, shard, [group]) for group in range(len(shard.row_groups))]
    except ShardError:
        return False
    for table in tables:
        counts.add(shard.split, table)
    return True


class _StoreCounts:
    """Running counts over the rows of a store."""

    def __init__(self) -> None:
        self.facets: dict[str, dict[str, Counter[str]]] = {split: defaultdict(Counter) for split in SPLITS}
        self.patients: dict[str, set[tuple[str, str]]] = {split: set() for split in SPLITS}
        self.labels: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
        self.without_patient: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self.residual_uv: list[float] = []
        self.rounding_uv = 0.0
        self.samples = self.missing = self.flat = 0

    def add(self, split: str, table: pa.Table) -> None:
        """Count the rows of one row group."""
        facets = self.facets[split]
        columns = ["source", "patient_id", "report", "language", "labels", "fs"]
        for row in table.select(columns).to_pylist():
            facets["superclass"].update(superclasses(code for code, _ in row["labels"]) or {"none"})
            facets["language"][row["language"] or "none"] += 1
            facets["fs"][f"{row['fs']:g}"] += 1
            facets["report"]["with" if repaired(row["report"], row["source"]) else "without"] += 1
            self.labels[split].update(code for code, _ in row["labels"])
            if row["patient_id"] is None:
                self.without_patient[split] += 1
            else:
                self.patients[split].add((row["source"], row["patient_id"]))
        self.rows[split] += len(table)
        self.residual_uv += table["lead_residual_uv"].to_pylist()
        self.rounding_uv = max([self.rounding_uv, *table["rounding_uv"].to_pylist()])
        for signal in unpack_signals(table):
            missing = np.isnan(signal)
            self.samples += signal.size
            self.missing += int(missing.sum())
            low = np.where(missing, np.inf, signal).min(axis=1, initial=np.inf)
            high = np.where(missing, -np.inf, signal).max(axis=1, initial=-np.inf)
            self.flat += bool((low >= high).any())

    def split(self, split: str) -> dict[str, Any]:
        """Counts of one split."""
        facets = {facet: dict(sorted(values.items())) for facet, values in self.facets[split].items()}
        labels = self.labels[split]
        return {
            "rows": self.rows[split],
            "patients": len(self.patients[split]),
            "rows_without_patient": self.without_patient[split],
            **facets,
            "labels": dict(labels.most_common(_MOST_FREQUENT)),
            "other_labels": max(0, len(labels) - _MOST_FREQUENT),
        }

    def leaks(self) -> int:
        """Patients in more than one split."""
        return sum(
            count > 1 for count in Counter(patient for split in SPLITS for patient in self.patients[split]).values()
        )

"""What the rows of a shard are like, in sums that can be added up: nothing grows with the rows but 12 bytes for each."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscan_ray.recording.labels import superclasses
from ecgscan_ray.recording.reports import repaired
from ecgscan_ray.store.listing import patient_hash
from ecgscan_ray.store.manifest import Shard
from ecgscan_ray.store.schema import unpack_signals
from ecgscan_ray.store.shards import ShardError, read_row_groups

BINS = {"seconds": 1.0, "age": 5.0, "amplitude_mv": 0.25}
"""Width of the bins of what is counted by size."""
_COLUMNS = ["source", "patient_id", "report", "language", "labels", "fs", "sex", "age", "sig_len"]


@dataclass
class ShardCounts:
    """Of one shard, or of several.

    Attributes:
        split: Of the shard.
        rows: Recordings.
        facets: Facet -> value -> rows.
        labels: Code -> rows.
        histograms: Name of ``BINS`` -> number of the bin -> rows; in ``amplitude_mv``, the median over leads of the range.
        without_patient: Rows.
        patients: Hashes of the known ones, sorted.
        residual_uv: Of the lead laws, of each row.
        rounding_uv: Largest.
        samples: Of all leads; ``missing`` of them.
        flat: Recordings with a constant lead.
    """

    split: str
    rows: int = 0
    facets: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    labels: Counter[str] = field(default_factory=Counter)
    histograms: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    without_patient: int = 0
    patients: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    residual_uv: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    rounding_uv: float = 0.0
    samples: int = 0
    missing: int = 0
    flat: int = 0

    def add_table(self, table: pa.Table) -> None:
        """Count the rows of one row group."""
        patients = []
        for row in table.select(_COLUMNS).to_pylist():
            self._count(row)
            if row["patient_id"] is None:
                self.without_patient += 1
            else:
                patients.append(patient_hash(row["source"], row["patient_id"]))
        self.rows += len(table)
        self.patients = np.union1d(self.patients, np.array(patients, np.uint64))
        self.residual_uv = np.append(self.residual_uv, table["lead_residual_uv"].to_numpy().astype(np.float32))
        self.rounding_uv = max([self.rounding_uv, *table["rounding_uv"].to_pylist()])
        for signal in unpack_signals(table):
            self._count_signal(signal)

    def _count(self, row: dict) -> None:
        self.facets["superclass"].update(superclasses(code for code, _ in row["labels"]) or {"none"})
        self.facets["language"][row["language"] or "none"] += 1
        self.facets["fs"][f"{row['fs']:g}"] += 1
        self.facets["source"][row["source"]] += 1
        self.facets["sex"][row["sex"] or "unknown"] += 1
        self.facets["report"]["with" if repaired(row["report"], row["source"]) else "without"] += 1
        self.labels.update(code for code, _ in row["labels"])
        self._count_size("seconds", row["sig_len"] / row["fs"])
        if row["age"] is not None:
            self._count_size("age", row["age"])

    def _count_signal(self, signal: NDArray[np.float32]) -> None:
        missing = np.isnan(signal)
        self.samples += signal.size
        self.missing += int(missing.sum())
        low = np.where(missing, np.inf, signal).min(axis=1, initial=np.inf)
        high = np.where(missing, -np.inf, signal).max(axis=1, initial=-np.inf)
        self.flat += bool((low >= high).any())
        self._count_size("amplitude_mv", max(0.0, float(np.median(high - low))))

    def _count_size(self, name: str, value: float) -> None:
        self.histograms[name][int(value // BINS[name])] += 1

    def add(self, other: ShardCounts) -> None:
        """Another shard of the same split."""
        for facet, values in other.facets.items():
            self.facets[facet].update(values)
        for name, bins in other.histograms.items():
            self.histograms[name].update(bins)
        self.labels.update(other.labels)
        self.patients = np.union1d(self.patients, other.patients)
        self.residual_uv = np.append(self.residual_uv, other.residual_uv)
        self.rounding_uv = max(self.rounding_uv, other.rounding_uv)
        self.rows += other.rows
        self.without_patient += other.without_patient
        self.samples += other.samples
        self.missing += other.missing
        self.flat += other.flat


def count_shard(store_uri: str, shard: Shard) -> ShardCounts | None:
    """Read and count every row of a shard; ``None`` where it is damaged.

    Raises:
        StoreError: The storage cannot be read.
    """
    counts = ShardCounts(shard.split)
    try:
        for group in range(len(shard.row_groups)):
            counts.add_table(read_row_groups(store_uri, shard, [group]))
    except ShardError:
        return None
    return counts

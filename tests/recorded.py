"""Real recordings of the shipped sample: made-up hearts are too alike to have strangers among them."""

from __future__ import annotations

import pyarrow.parquet as pq

from ecgscan_ray.data.unpack import SAMPLE
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.store.schema import unpack_signals


def recorded(count: int, fs: float = 500.0) -> list[Recording]:
    """Recordings of as many patients, one each, called ``0``, ``1``, ..."""
    table = pq.read_table(SAMPLE)
    rows: dict[str, int] = {}
    for row, patient in enumerate(table["patient_id"].to_pylist()):
        rows.setdefault(patient, row)
    signals = unpack_signals(table.take(list(rows.values())[:count]))
    return [Recording(str(k), "ptbxl", str(k), signal, 100.0).resampled(fs) for k, signal in enumerate(signals)]

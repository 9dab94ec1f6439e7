"""One row per recording: the Parquet schema, and the coding of twelve leads into few bytes.

A signal is coded as integers on a common step. For I, II and V1..V6 the difference to the previous sample is stored; for
III, aVR, aVL and aVF the deviation from the lead laws. Both are zigzag-coded (small values of either sign become small
numbers) and split into planes of low and high bytes, one column each, which Zstandard compresses to less than a third.
Missing samples repeat the one before and are listed as runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscan_ray.errors import RecordingError
from ecgscan_ray.recording.language import language
from ecgscan_ray.recording.leads import lead_residual_uv
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.recording.reports import repaired

PLANES = ("leads_low", "leads_high", "laws_low", "laws_high")
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("patient_id", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("fold", pa.int32()),
        pa.field("fs", pa.float64(), nullable=False),
        pa.field("sig_len", pa.int32(), nullable=False),
        pa.field("report", pa.string()),
        pa.field("language", pa.string()),
        pa.field("labels", pa.map_(pa.string(), pa.float64()), nullable=False),
        pa.field("age", pa.float64()),
        pa.field("sex", pa.string()),
        pa.field("lead_residual_uv", pa.float64(), nullable=False),
        pa.field("steps_per_mv", pa.float64(), nullable=False),
        pa.field("rounding_uv", pa.float64(), nullable=False),
        pa.field("missing", pa.list_(pa.int32()), nullable=False),  # lead, start, stop; lead, start, stop; ...
        *(pa.field(name, pa.binary(), nullable=False) for name in PLANES),
    ]
)
_CHEST = slice(6, 12)
_STEPS = (1000.0, 2000.0, 4000.0)  # tried where the reader states no common step: 1, 1/2, 1/4 uV
_FINEST_STEPS = 20000.0  # 1/20 uV; finer ones are not worth their bytes
_MIN_FS, _MAX_FS, _MAX_SECONDS = 10.0, 100_000.0, 86_400.0
_MIN_STEPS, _MAX_STEPS = 1e-6, 1e12  # per mV; outside, samples would be infinite or all 0
_Ints = NDArray[np.int64]


def pack(recordings: Sequence[Recording], split: str = "") -> pa.Table:
    """Rows of ``SCHEMA``, one per recording.

    Samples come back exactly where all leads share one step (``steps_per_mv``, or 1, 1/2, 1/4 uV). Otherwise they are
    rounded to ``steps_per_mv``, or to 1 uV where that is unknown (as after resampling), and ``rounding_uv`` is the largest
    error.

    Raises:
        RecordingError: A sample is infinite.
    """
    return pa.Table.from_pylist([_row(recording, split) for recording in recordings], schema=SCHEMA)


def _row(recording: Recording, split: str) -> dict[str, object]:
    signal = recording.signal_mv
    if np.isinf(signal).any():
        raise RecordingError("infinite samples", reason="not_finite", where=recording.id)
    steps, counts, rounding_uv = _quantise(signal, recording.steps_per_mv)
    known = np.isfinite(signal)
    runs = _runs(~known)
    return {
        "id": recording.id,
        "source": recording.source,
        "patient_id": recording.patient_id,
        "split": split,
        "fold": recording.fold,
        "fs": float(recording.fs),
        "sig_len": recording.sig_len,
        "report": recording.report,
        "language": language(recording.report),
        "labels": [(code, float(value)) for code, value in recording.labels.items()],
        "age": recording.age,
        "sex": recording.sex,
        "lead_residual_uv": lead_residual_uv(signal),
        "steps_per_mv": steps,
        "rounding_uv": rounding_uv,
        "missing": runs.ravel(),
        **_encode(_repeat_last_known(counts, known) if len(runs) else counts),
    }


def _quantise(signal: NDArray[np.float32], declared: float | None) -> tuple[float, _Ints, float]:
    """Steps per mV, samples in steps (0 where missing), and the largest rounding error in uV."""
    known = np.isfinite(signal)
    values = np.where(known, signal, 0).astype(np.float64)

    def error_uv(steps: float, counts: _Ints) -> float:
        return float(np.abs((counts / steps).astype(np.float32) - values).max(initial=0.0) * 1000.0)

    candidates = _STEPS if declared is None else (min(declared, _FINEST_STEPS), *_STEPS)
    for steps in candidates:
        counts = np.rint(values * steps).astype(np.int64)
        if error_uv(steps, counts) == 0.0:
            return steps, counts, 0.0
    steps = candidates[0] if declared is None else max(candidates)
    counts = np.rint(values * steps).astype(np.int64)
    return steps, counts, error_uv(steps, counts)


def _runs(missing: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Stretches of True as rows of lead, start, stop: (n, 3)."""
    if not missing.any():
        return np.zeros((0, 3), np.int32)
    edges = np.diff(np.pad(missing, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    lead, start = np.nonzero(edges == 1)
    return np.stack([lead, start, np.nonzero(edges == -1)[1]], axis=1).astype(np.int32)


def _repeat_last_known(counts: _Ints, known: NDArray[np.bool_]) -> _Ints:
    """Missing samples repeat the last known one (0 at the start), so that their difference is 0."""
    last = np.maximum.accumulate(np.where(known, np.arange(counts.shape[1]), -1), axis=1)
    repeated = np.take_along_axis(counts, np.maximum(last, 0), axis=1)
    return np.where(last < 0, 0, repeated)


def _encode(counts: _Ints) -> dict[str, bytes]:
    i, ii, iii, avr, avl, avf = counts[:6]
    leads = np.diff(np.vstack([i, ii, counts[_CHEST]]), axis=1, prepend=0)
    laws = np.stack([iii - (ii - i), avr + ((i + ii) >> 1), avl - ((i - iii) >> 1), avf - ((ii + iii) >> 1)])
    codes = [(values << 1) ^ (values >> 63) for values in (leads, laws)]
    width = 2 if max(code.max(initial=0) for code in codes) < 1 << 16 else 4
    planes: dict[str, bytes] = {}
    for name, code in zip(("leads", "laws"), codes, strict=True):
        if code.max(initial=0) >= 1 << 32:
            raise OverflowError("a sample exceeds 32 bits at this step")
        bytewise = code.astype("<u4", order="C").view(np.uint8).reshape(-1, 4).T
        planes[f"{name}_low"], planes[f"{name}_high"] = bytewise[0].tobytes(), bytewise[1:width].tobytes()
    return planes


def check_rows(table: pa.Table) -> None:
    """Check that rows are as ``pack`` writes them and can be unpacked.

    Raises:
        ValueError: A row is not; names its recording.
    """
    lengths, fs, steps = (table[name].to_numpy() for name in ("sig_len", "fs", "steps_per_mv"))
    size = {name: _Blobs(table[name]).size for name in PLANES}
    low = 8 * lengths.astype(np.int64)
    wide = size["leads_high"] == 3 * low
    valid = (lengths > 0) & (fs >= _MIN_FS) & (fs <= _MAX_FS) & (lengths <= fs * _MAX_SECONDS)
    valid &= (steps >= _MIN_STEPS) & (steps <= _MAX_STEPS)
    valid &= (size["leads_low"] == low) & (size["laws_low"] == low // 2)
    valid &= wide | (size["leads_high"] == low)
    valid &= size["laws_high"] == np.where(wide, 3, 1) * (low // 2)
    valid &= np.array(
        [_runs_fit(runs, length) for runs, length in zip(table["missing"].to_pylist(), lengths, strict=True)], bool
    )
    valid &= ~np.array([table[field.name].is_null().to_numpy() for field in SCHEMA if not field.nullable]).any(axis=0)
    if not valid.all():
        first = int(np.flatnonzero(~valid)[0])
        raise ValueError(f"recording {str(table['id'][first].as_py())[:40]!r} is damaged")


def _runs_fit(runs: list[int | None], length: int) -> bool:
    """Whether runs are triples of lead, start and stop within the signal."""
    if not runs:
        return True
    if len(runs) % 3 or None in runs:
        return False
    lead, start, stop = np.reshape(np.array(runs, np.int64), (-1, 3)).T
    return bool(((lead >= 0) & (lead < 12) & (start >= 0) & (start < stop) & (stop <= length)).all())


def unpack(table: pa.Table) -> list[Recording]:
    """The recordings of rows of ``SCHEMA``, in order."""
    columns = table.drop_columns([*PLANES, "missing"]).to_pylist()
    return [
        Recording(
            id=row["id"],
            source=row["source"],
            patient_id=row["patient_id"],
            signal_mv=signal,
            fs=row["fs"],
            report=repaired(row["report"], row["source"]),  # older stores have it as published
            labels=dict(row["labels"]),
            age=row["age"],
            sex=row["sex"],
            fold=row["fold"],
            steps_per_mv=row["steps_per_mv"],
        )
        for row, signal in zip(columns, unpack_signals(table), strict=True)
    ]


def unpack_signals(table: pa.Table) -> list[NDArray[np.float32]]:
    """Only the signals of packed rows: (12, T) float32 in mV each, NaN where missing.

    Rows of equal length and code width are decoded together; their signals share one array.
    """
    planes = {name: _Blobs(table[name]) for name in PLANES}
    steps = table["steps_per_mv"].to_numpy()
    lengths = table["sig_len"].to_numpy()
    shape = np.stack([lengths, planes["leads_high"].size // np.maximum(planes["leads_low"].size, 1)])
    signals: list[NDArray[np.float32]] = [np.zeros((12, 0), np.float32)] * len(table)
    for sig_len, highs in np.unique(shape, axis=1).T:
        rows = np.flatnonzero((shape[0] == sig_len) & (shape[1] == highs))
        leads = _decode(planes["leads_low"][rows], planes["leads_high"][rows], 8, sig_len)
        laws = _decode(planes["laws_low"][rows], planes["laws_high"][rows], 4, sig_len)
        counts = _restore(leads, laws)
        block = np.divide(counts, steps[rows][:, None, None], dtype=np.float64).astype(np.float32)
        for k, signal in zip(rows.tolist(), block, strict=True):
            signals[k] = signal
    for signal, runs in zip(signals, table["missing"].to_pylist(), strict=True):
        for lead, start, stop in np.reshape(runs, (-1, 3)).astype(int):
            signal[lead, start:stop] = np.nan
    return signals


def _restore(leads: NDArray[np.int32], laws: NDArray[np.int32]) -> NDArray[np.int32]:
    """Twelve leads in steps (n, 12, T) from differences of eight (n, 8, T) and deviations from four laws (n, 4, T)."""
    counts = np.empty((len(leads), 12, leads.shape[2]), np.int32)
    np.cumsum(leads[:, :2], axis=2, out=counts[:, :2])
    np.cumsum(leads[:, 2:], axis=2, out=counts[:, _CHEST])
    i, ii, iii = counts[:, 0], counts[:, 1], counts[:, 2]
    iii[:] = ii - i + laws[:, 0]
    counts[:, 3] = laws[:, 1] - ((i + ii) >> 1)
    counts[:, 4] = laws[:, 2] + ((i - iii) >> 1)
    counts[:, 5] = laws[:, 3] + ((ii + iii) >> 1)
    return counts


def _decode(low: NDArray[np.uint8], high: NDArray[np.uint8], channels: int, sig_len: int) -> NDArray[np.int32]:
    """Byte planes of zigzag codes -> signed values (n, channels, sig_len)."""
    code = low.astype(np.uint32)
    for shift, plane in enumerate(np.split(high, high.shape[1] // max(low.shape[1], 1), axis=1), start=1):
        code |= plane.astype(np.uint32) << np.uint32(8 * shift)
    signed = (code >> np.uint32(1)).view(np.int32) ^ -(code & np.uint32(1)).view(np.int32)
    return signed.reshape(len(low), channels, sig_len)


class _Blobs:
    """A binary column as slices of one buffer, without a Python object per row."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        array = column.combine_chunks()
        _, offsets, data = array.buffers()
        ends = np.frombuffer(offsets, np.int32) if len(array) else np.zeros(1, np.int32)
        ends = ends[array.offset : array.offset + len(array) + 1]
        self._start, self.size = ends[:-1].astype(np.int64), np.diff(ends)
        self._data = np.frombuffer(data or b"", np.uint8)

    def __getitem__(self, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        """(len(rows), size) of rows that have equal sizes."""
        size = int(self.size[rows[0]])
        if rows[-1] - rows[0] == len(rows) - 1:  # neighbours: no copy
            start = self._start[rows[0]]
            return self._data[start : start + size * len(rows)].reshape(len(rows), size)
        return np.stack([self._data[start : start + size] for start in self._start[rows]])

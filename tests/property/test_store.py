"""What goes into a store comes out of it, whatever its length, rate, steps and gaps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ecgscan_ray.recording.leads import lead_residual_uv
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.store.schema import pack, unpack, unpack_signals
from tests.records import recording

STEPS = st.sampled_from([1000.0, 2000.0, 200.0, 4880.0, 409.6, 7247.0, 20000.0])
COUNTS = st.one_of(
    hnp.arrays(np.int16, st.tuples(st.just(12), st.integers(1, 40))),
    hnp.arrays(np.int32, st.tuples(st.just(12), st.integers(1, 40)), elements=st.integers(-(2**22), 2**22)),
)


def made(counts: np.ndarray, steps: float, **changes: object) -> Recording:
    return recording(signal_mv=(counts / steps).astype(np.float32), steps_per_mv=steps, **changes)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(COUNTS, STEPS), min_size=1, max_size=6))
def test_round_trip_is_lossless_on_common_steps(cases: list[tuple[np.ndarray, float]]) -> None:
    before = [made(counts, steps, id=str(k)) for k, (counts, steps) in enumerate(cases)]
    table = pack(before, "train")
    assert table["rounding_uv"].to_pylist() == [0.0] * len(before)
    for a, b in zip(before, unpack(table), strict=True):
        np.testing.assert_array_equal(a.signal_mv, b.signal_mv)
        assert b.signal_mv.dtype == np.float32


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(np.int16, (12, 30)),
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 29), st.integers(1, 30)), max_size=5),
)
def test_missing_samples_stay_missing(counts: np.ndarray, gaps: list[tuple[int, int, int]]) -> None:
    before = made(counts, 1000.0)
    signal = before.signal_mv.copy()
    for lead, start, length in gaps:
        signal[lead, start : start + length] = np.nan
    (after,) = unpack(pack([dataclasses.replace(before, signal_mv=signal)]))
    np.testing.assert_array_equal(after.signal_mv, signal)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([100.0, 250.0, 500.0]), st.sampled_from([None, 333.3, 1000.0, 12530.0]))
def test_rounding_is_recorded_and_spares_the_lead_laws(seed: int, fs: float, steps: float | None) -> None:
    before = dataclasses.replace(recording(seed=seed, fs=fs).resampled(123.0), steps_per_mv=steps)
    table = pack([before])
    (after,) = unpack_signals(table)
    error_uv = float(np.abs(after - before.signal_mv).max() * 1000)
    assert error_uv <= table["rounding_uv"][0].as_py() + 1e-3
    assert error_uv <= 0.51
    assert lead_residual_uv(after) <= lead_residual_uv(before.signal_mv) + 2.0


def test_every_field_survives(tmp_path) -> None:
    full = recording(id="a", steps_per_mv=1000.0)
    empty = recording(
        id="b", seconds=7.3, fs=257.0, seed=2, patient_id=None, report=None, labels={}, age=None, sex=None, fold=None,
        steps_per_mv=1000.0,
    )  # fmt: skip
    pq.write_table(pack([full, empty, full], "test"), tmp_path / "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet")
    assert table["split"].to_pylist() == ["test"] * 3
    assert table["language"].to_pylist() == ["de", None, "de"]
    for before, after in zip([full, empty, full], unpack(table), strict=True):
        for field in dataclasses.fields(Recording):
            np.testing.assert_equal(getattr(after, field.name), getattr(before, field.name), err_msg=field.name)


def test_any_selection_of_rows_unpacks() -> None:
    before = [recording(id=str(k), seconds=3 + k % 3, seed=k) for k in range(12)]
    table = pack(before)
    for rows in ([11, 0, 5], [3], [], list(range(12))[::-1]):
        assert [r.id for r in unpack(table.take(np.array(rows, int)))] == [str(k) for k in rows]
        for k, signal in zip(rows, unpack_signals(table.take(np.array(rows, int))), strict=True):
            np.testing.assert_array_equal(signal, before[k].signal_mv)
    for a, b in zip(before[4:9], unpack(table.slice(4, 5)), strict=True):
        np.testing.assert_array_equal(a.signal_mv, b.signal_mv)

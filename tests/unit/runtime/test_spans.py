"""The plan as Ray Data's input: lazy, whatever the length of the run."""

from __future__ import annotations

import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ecgscan_ray.runtime.spans import SpanSource
from ecgscan_ray.store.manifest import Manifest, Shard
from ecgscan_ray.store.plan import WHOLE, EpochPlan, Part


def plan(shards: int) -> EpochPlan:
    groups = [64] * 64
    return EpochPlan(
        Manifest(
            source="test",
            shards=[
                Shard(path=f"train-{n}", split="train", rows=4096, row_groups=groups, bytes=1, sha256="")
                for n in range(shards)
            ],
        ),
        "train",
        seed=0,
        window_row_groups=4,
    )


def test_one_task_yields_the_spans_of_the_plan_in_order() -> None:
    small = plan(2)
    (task,) = SpanSource(lambda: small, 64, 20000, 32, WHOLE).get_read_tasks(8)
    blocks = [block.to_pydict() for block in task()]
    assert [(*block["start"], *block["stop"]) for block in blocks] == list(small.spans(64, 20000, 32))


def test_a_long_run_over_a_large_store_starts_with_its_first_span() -> None:
    """1.6 million spans: as a list they would take 250 MB on the driver, and a block each in the object store."""
    large = plan(2442)
    tracemalloc.start()
    (task,) = SpanSource(lambda: large, 0, 40 * large.rows_per_epoch, 32, WHOLE).get_read_tasks(1)
    assert next(iter(task())).num_rows == 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6


@given(st.integers(1, 4), st.integers(1, 6), st.sampled_from([1, 5, 16]), st.integers(0, 3), st.integers(1, 40))
def test_parts_of_the_plan_hold_each_row_once(count: int, units: int, unit: int, first: int, batches: int) -> None:
    """Whole units of a part in their order, whatever the batch; together they are the batches of one stream."""
    one, batch = plan(1), count * units * unit
    start, stop = first * batch, (first + batches) * batch
    whole = [piece for a, b in one.spans(start, stop, unit) for piece in one.pieces(a, b)]
    seen: dict[int, tuple[str, int, int]] = {}
    for index in range(count):
        part = Part(index, count, batch)
        for a, b in one.spans(start, stop, unit, part):
            pieces = one.pieces(a, b, part)
            positions = np.sort(np.concatenate([piece.positions for piece in pieces]))
            assert len(positions) == part.count_rows(a, b) > 0
            assert (np.diff(positions.reshape(-1, unit)) == 1).all() and (
                positions[::unit] % unit == start % unit
            ).all()
            for piece in pieces:
                for position, row in zip(piece.positions.tolist(), piece.rows.tolist(), strict=True):
                    assert position % batch // (batch // count) == index and position not in seen
                    seen[position] = (piece.shard, piece.row_group, row)
    assert seen == {
        position: (piece.shard, piece.row_group, row)
        for piece in whole
        for position, row in zip(piece.positions.tolist(), piece.rows.tolist(), strict=True)
    }


def test_no_row_group_is_read_twice_where_a_window_fits_a_part() -> None:
    one = plan(2)
    parts = [Part(index, 4, 4 * 256) for index in range(4)]
    groups = [
        (piece.shard, piece.row_group)
        for part in parts
        for a, b in one.spans(0, one.rows_per_epoch, 64, part)
        for piece in one.pieces(a, b, part)
    ]
    assert len(groups) == len(set(groups)) == 128

"""The plan: each row once an epoch, the same rows however the order is cut, nothing read twice without need."""

from __future__ import annotations

import hashlib
import itertools
import time
import tracemalloc
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgscan_ray.errors import StoreError
from ecgscan_ray.store.manifest import Manifest, Shard
from ecgscan_ray.store.plan import EpochPlan, Part
from ecgscan_ray.training import loop
from ecgscan_ray.training.loop import expected_positions
from tests.tiny import tiny_config


def manifest(shards: list[list[int]]) -> Manifest:
    return Manifest(
        source="test",
        shards=[
            Shard(path=f"train-{n}", split="train", rows=sum(groups), row_groups=groups, bytes=1, sha256="")
            for n, groups in enumerate(shards)
        ],
    )


def rows_at(plan: EpochPlan, start: int, stop: int) -> list[tuple[str, int, int, int]]:
    """(shard, row group, row, epoch) of each position."""
    rows: dict[int, tuple[str, int, int, int]] = {}
    for piece in plan.pieces(start, stop):
        for row, position in zip(piece.rows.tolist(), piece.positions.tolist(), strict=True):
            assert position not in rows
            rows[position] = (piece.shard, piece.row_group, row, piece.epoch)
    assert sorted(rows) == list(range(start, stop))
    return [rows[position] for position in range(start, stop)]


def slow_order(shards: list[list[int]], seed: int, window: int, epoch: int) -> list[tuple[str, int, int, int]]:
    """An epoch's rows in their order, from the module's description: shuffled row groups, windows, shuffled rows."""
    groups = [(f"train-{n}", index, rows) for n, sizes in enumerate(shards) for index, rows in enumerate(sizes)]
    order = [groups[k] for k in np.random.default_rng([seed, epoch]).permutation(len(groups))]
    result = []
    for number, first in enumerate(range(0, len(order), window)):
        members = order[first : first + window]
        rows = [(path, index, row, epoch) for path, index, size in members for row in range(size)]
        result += [rows[k] for k in np.random.default_rng([seed, epoch, number]).permutation(len(rows))]
    return result


stores = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(shards=stores, seed=st.integers(0, 99), window=st.integers(1, 5), cuts=st.lists(st.integers(0, 200), max_size=6))
def test_every_row_once_an_epoch_however_it_is_cut(shards, seed, window, cuts) -> None:
    plan = EpochPlan(manifest(shards), "train", seed, window)
    total = sum(map(sum, shards))
    assert plan.rows_per_epoch == total
    end = 3 * total
    whole = rows_at(plan, 0, end)
    for epoch in range(3):
        rows = whole[epoch * total : (epoch + 1) * total]
        assert {e for *_, e in rows} == {epoch}
        assert len({row[:3] for row in rows}) == total
    bounds = sorted({0, end, *(cut for cut in cuts if cut < end)})
    again = EpochPlan(manifest(shards), "train", seed, window)
    assert [row for a, b in itertools.pairwise(bounds) for row in rows_at(again, a, b)] == whole


@settings(max_examples=60, deadline=None)
@given(shards=stores, unit=st.integers(1, 12), start_unit=st.integers(0, 20), units=st.integers(1, 30))
def test_spans_cover_the_rest_of_the_run_in_whole_units(shards, unit, start_unit, units) -> None:
    plan = EpochPlan(manifest(shards), "train", 0, 2)
    start, stop = start_unit * unit, (start_unit + units) * unit
    spans = list(plan.spans(start, stop, unit))
    assert spans[0][0] == start and spans[-1][1] == stop
    assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
    assert all((b - a) % unit == 0 and b > a for a, b in spans)


@settings(max_examples=40, deadline=None)
@given(shards=stores, seed=st.integers(0, 99), window=st.integers(1, 5))
def test_the_order_is_that_of_a_slow_reference(shards, seed, window) -> None:
    plan = EpochPlan(manifest(shards), "train", seed, window)
    expected = [row for epoch in range(3) for row in slow_order(shards, seed, window, epoch)]
    assert rows_at(plan, 0, 3 * plan.rows_per_epoch) == expected


@pytest.mark.parametrize(
    ("shards", "seed", "window", "bounds", "unit", "digest"),
    [
        ([[64] * 16, [64] * 5 + [7]], 0, 4, (0, 3 * 1351), 8, "4afbd47708724cb3697682249edd0775"),
        ([[5, 3, 9], [1], [8, 8]], 7, 2, (11, 150), 4, "7237a1745fc269fbb1d9650dbc8ed9df"),
        ([[64] * 64] * 40, 3, 16, (39 * 163840 + 17, 39 * 163840 + 9000), 16, "572e75501bc00bef22bb04fab2c3803e"),
    ],
)
def test_positions_never_change(shards, seed, window, bounds, unit, digest) -> None:
    """Digests of the first version's order: another one would break every run that is resumed."""
    plan, content = EpochPlan(manifest(shards), "train", seed, window), hashlib.sha256()
    for piece in plan.pieces(*bounds):
        content.update(f"{piece.shard} {piece.row_group} {piece.epoch}".encode())
        content.update(piece.rows.astype("<i8").tobytes() + piece.positions.astype("<i8").tobytes())
    content.update(np.array(list(plan.spans(*bounds, unit)), "<i8").tobytes())
    assert content.hexdigest()[:32] == digest


@pytest.mark.parametrize("epoch", [0, 39])
def test_ten_million_rows_start_at_once_at_any_position(epoch) -> None:
    """Also the spans after the first: an epoch's order is computed once, and nothing is listed for the whole run."""
    store = manifest([[64] * 64] * 2442)
    rows = store.rows("train")
    assert rows > 10_000_000

    def start_in_the_middle() -> None:
        plan = EpochPlan(store, "train", 0, 4)
        start = epoch * rows + rows // 2
        for first, last in itertools.islice(plan.spans(start, 40 * rows, 32), 500):
            plan.pieces(first, last)

    begin = time.process_time()
    start_in_the_middle()
    seconds = time.process_time() - begin
    tracemalloc.start()  # slows what it traces: apart from the time
    start_in_the_middle()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200e6, f"{peak / 1e6:.0f} MB"
    assert seconds < 1.0, f"{seconds:.1f} s"


def test_epochs_and_seeds_differ_and_windows_stay_local() -> None:
    plan = EpochPlan(manifest([[64] * 16]), "train", 0, 4)
    first, second = rows_at(plan, 0, 1024), rows_at(plan, 1024, 2048)
    assert [row[:3] for row in first] != [row[:3] for row in second]
    assert first != rows_at(EpochPlan(manifest([[64] * 16]), "train", 1, 4), 0, 1024)
    for window in range(4):
        assert len({row[1] for row in first[window * 256 : (window + 1) * 256]}) == 4


def test_no_rows_is_an_error() -> None:
    with pytest.raises(StoreError, match="no rows in split 'validation'"):
        EpochPlan(manifest([[3]]), "validation", 0, 1)


@settings(max_examples=40)
@given(
    unit=st.integers(1, 5),
    units=st.integers(2, 4),
    pipelines=st.integers(1, 3),
    ranks=st.integers(1, 4),
    step=st.integers(0, 10**6),
)
def test_positions_of_ranks_partition_the_batch(unit: int, units: int, pipelines: int, ranks: int, step: int) -> None:
    """What the loop expects of each rank: unit j of a pipeline at its rank j mod n; together the global batch, whatever W."""
    workers = pipelines * ranks
    batch = unit * units * workers
    config = tiny_config(
        stream__unit_rows=unit, training__global_batch_size=batch, resources__num_workers=workers,
        resources__max_pipelines=pipelines, resources__render_actors=3,
    )  # fmt: skip
    parts = [Part(index, pipelines, batch) for index in range(pipelines)]
    held = []
    for rank in range(workers):
        with patch.object(loop, "world_size", lambda: workers), patch.object(loop, "rank", lambda rank=rank: rank):
            positions = expected_positions(config, step)
        part = parts[rank // ranks]
        assert part.holds(positions).all()
        own = [part.count_rows(0, position) // unit for position in positions[::unit].tolist()]
        assert {unit_of_part % ranks for unit_of_part in own} == {rank % ranks}
        held += positions.tolist()
    assert sorted(held) == list(range(step * batch, (step + 1) * batch))

"""The plan as Ray Data's input: lazy, whatever the length of the run."""

from __future__ import annotations

import tracemalloc

from ecgscan_ray.runtime.spans import SpanSource
from ecgscan_ray.store.manifest import Manifest, Shard
from ecgscan_ray.store.plan import EpochPlan


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
    (task,) = SpanSource(lambda: small, 64, 20000, 32).get_read_tasks(8)
    blocks = [block.to_pydict() for block in task()]
    assert [(*block["start"], *block["stop"]) for block in blocks] == list(small.spans(64, 20000, 32))


def test_a_long_run_over_a_large_store_starts_with_its_first_span() -> None:
    """1.6 million spans: as a list they would take 250 MB on the driver, and a block each in the object store."""
    large = plan(2442)
    tracemalloc.start()
    (task,) = SpanSource(lambda: large, 0, 40 * large.rows_per_epoch, 32).get_read_tasks(1)
    assert next(iter(task())).num_rows == 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6

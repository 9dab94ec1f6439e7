"""Tasks over processes: one that ends its process is named, the others go on, and the processes are kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from ecgscan_ray.digitise.pool import Pool
from tests.pool_tasks import load, multiply


def test_deaths_are_named_and_processes_are_kept() -> None:
    asked: list[int] = []

    def tasks() -> Iterator[int]:
        for task in (1, 2, -3, 4, 5, 6, -7):
            asked.append(task)
            yield task

    with closing(Pool(multiply, load, (10,), 1)) as pool:
        with closing(pool.run(tasks(), 1)) as results:
            first = next(results)
            assert first[0] in (1, 2) and len(asked) <= 4, "a few tasks ahead, in any order"
            outcome = dict([first, *results])
        assert {task: result and result[0] for task, result in outcome.items()} == {
            **{task: 10 * task for task in (1, 2, 4, 5, 6)},
            **dict.fromkeys((-3, -7)),
        }
        (_, one), (_, two) = (next(iter(dict(pool.run([8], 1)).values())) for _ in range(2))
        assert one == two, "the same process in both runs"

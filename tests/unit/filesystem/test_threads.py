"""Requests side by side: results in order, and no more of them in memory than asked for."""

from __future__ import annotations

from collections.abc import Iterator

from ecgscan_ray.filesystem.threads import in_order


def test_as_many_results_wait_as_are_wanted_at_the_moment() -> None:
    taken, bound = list[int](), 3

    def items() -> Iterator[int]:
        for k in range(100):
            taken.append(k)
            yield k

    results = in_order(lambda k: k * k, items(), 2, lambda: bound)
    seen = [next(results)]
    assert len(taken) == 3
    bound = 20
    seen.append(next(results))
    assert len(taken) == 21
    bound = 5
    seen += [next(results) for _ in range(17)]
    assert len(taken) == 23, "those that waited come first"
    assert [*seen, *results] == [k * k for k in range(100)]

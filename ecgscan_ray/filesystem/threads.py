"""Requests that wait for each other's answers in vain are made side by side, a bounded number at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(
    function: Callable[[T], R], items: Iterable[T], threads: int, ahead: Callable[[], int] | None = None
) -> Iterator[R]:
    """``function`` of each item, in their order, by so many threads.

    Args:
        function: Of one item.
        items: Taken as they are needed.
        threads: At a time.
        ahead: How many results may wait in memory, asked again and again; by default twice as many as threads.

    Raises:
        Exception: Whatever ``function`` raises, in its item's place; no further item is begun.
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                while len(waiting) >= (ahead() if ahead else 2 * threads):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

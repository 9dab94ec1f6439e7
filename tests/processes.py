"""Processes that stay for the whole session and form a process group for each call: each imports torch only once."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

TIMEOUT_S = 300


class ProcessPool:
    """Up to ``size`` processes; each starts when it is first needed."""

    def __init__(self, size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._workers = [ProcessPoolExecutor(1, context) for _ in range(size)]

    def run(self, world: int, function: Callable[..., Any], *arguments: Any, backend: str = "gloo") -> list[Any]:
        """Call a function of a module in a new group of ``world`` processes.

        Returns:
            What each rank returned, by rank.
        """
        with tempfile.TemporaryDirectory() as folder:
            group = (backend, f"file://{folder}/rendezvous", world)
            calls = [
                worker.submit(_call, group, rank, function, arguments)
                for rank, worker in enumerate(self._workers[:world])
            ]
            return [call.result(TIMEOUT_S) for call in calls]

    def close(self) -> None:
        for worker in self._workers:
            worker.shutdown()


def _call(group: tuple[str, str, int], rank: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    backend, address, world = group
    torch.set_num_threads(1)
    limit = timedelta(seconds=TIMEOUT_S)
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=world, timeout=limit)
    try:
        return function(*arguments)
    finally:
        dist.destroy_process_group()

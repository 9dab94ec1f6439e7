"""Tasks over processes, where a task that ends its process is named and the others go on."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, Generic, TypeVar

from ecgscan_ray.processes import end_with_parent, sigint_blocked

Task = TypeVar("Task")
Result = TypeVar("Result")
Tool = TypeVar("Tool")

DIED = "the process that read it died: out of memory, or a fault of a decoder"
"""What is said of a task that ended its process."""

Work = Callable[[Task, Tool, Callable[[], bool]], Result]
"""What is done with a task: given the task, the tool, and whether to stop before the next part of it."""


class Pool(Generic[Task, Tool, Result]):
    """Processes with one tool each, loaded at its first task, which are kept from one ``run`` to the next until ``close``.

    Args:
        work: A function of a module.
        load: Loads the tool; a function of a module. What it raises ends all.
        load_arguments: Of ``load``.
        threads: For numerical libraries in each process.
    """

    def __init__(
        self, work: Work[Task, Tool, Result], load: Callable[..., Tool], load_arguments: Sequence[Any], threads: int
    ) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._stopped, self._going_on = self._context.Pipe(duplex=False)  # its end is seen once the other is closed
        self._start = (work, load, tuple(load_arguments), threads, self._stopped)
        self._executor: ProcessPoolExecutor | None = None
        self._workers = 0

    def run(self, tasks: Iterable[Task], workers: int) -> Generator[tuple[Task, Result | None], None, None]:
        """Each task with its result, as they are done; ``None`` where its process died of it, also when it was alone.

        A few tasks ahead of those that are done are asked for.
        """
        source = iter(tasks)
        pending = deque(islice(source, 1))
        while pending:
            suspects = yield from self._round(pending, source, workers)
            for task in suspects:
                if (yield from self._round(deque([task]), iter(()), 1)):
                    yield task, None
            pending.extend(islice(source, 0 if pending else 1))

    def close(self) -> None:
        """End the processes, once each has done its task."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def _round(
        self, pending: deque[Task], source: Iterator[Task], workers: int
    ) -> Generator[tuple[Task, Result | None], None, list[Task]]:
        """Work until all is done or a process dies.

        Returns:
            Tasks that were under way then.
        """
        running: dict[Future[Result], Task] = {}
        suspects: list[Task] = []
        executor = self._processes(workers)
        try:
            while running or (pending and not suspects):
                while pending and not suspects and len(running) < 2 * workers:
                    with sigint_blocked():
                        running[executor.submit(_work, pending[0])] = pending[0]
                    pending.popleft()
                    pending.extend(islice(source, 0 if pending else 1))
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    task = running.pop(future)
                    try:
                        yield task, future.result()
                    except BrokenProcessPool:
                        suspects.append(task)
        except BrokenProcessPool:  # died while a task was handed over, which still waits, or before
            suspects += running.values()
            self.close()
        except BaseException:
            self._going_on.close()
            self.close()
            raise
        if suspects:
            self.close()
        return suspects

    def _processes(self, workers: int) -> ProcessPoolExecutor:
        """Those of the last round, where they are as many."""
        if self._executor is None or self._workers != workers:
            self.close()
            self._executor = ProcessPoolExecutor(workers, self._context, _start, self._start)
            self._workers = workers
        return self._executor


_process: dict[str, Any] = {}
"""Of a worker process."""


def _start(work: Any, load: Any, arguments: Any, threads: int, stopped: Any) -> None:
    end_with_parent()
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    _process.update(work=work, load=load, arguments=arguments, stopped=stopped)


def _work(task: Any) -> Any:
    if "tool" not in _process:
        _process["tool"] = _process["load"](*_process["arguments"])
    return _process["work"](task, _process["tool"], _process["stopped"].poll)

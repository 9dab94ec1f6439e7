"""The steps of ``prepare`` as tasks of Ray Data: a task is named by a few numbers, and what comes back is small."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from ecgscan_ray.config import ResourceConfig
from ecgscan_ray.errors import StoreError
from ecgscan_ray.filesystem import retry
from ecgscan_ray.runs.needs import Need
from ecgscan_ray.runtime.attend import attend
from ecgscan_ray.runtime.cluster import start_ray
from ecgscan_ray.runtime.demand import await_room
from ecgscan_ray.store.finish import finish
from ecgscan_ray.store.splits import order_share, split_share
from ecgscan_ray.store.writing import write_shard

_STEPS: dict[str, Callable[..., dict[str, Any]]] = {
    "split": split_share,
    "order": order_share,
    "shard": write_shard,
    "finish": finish,
}
_RETRIES = 2  # of a task whose process died; Ray Data's default is without end
_GOES_ON = "The same command goes on where it stopped."


class Stages:
    """Runs the steps for one store; Ray starts with the first that needs it.

    Args:
        store: URI of the store.
        token: Of the job.
        resources: Of a cluster started here.

    Attributes:
        repeated: Requests to storage that failed in tasks and were repeated.
    """

    def __init__(self, store: str, token: str, resources: ResourceConfig) -> None:
        self._where, self._resources, self._started = {"store": store, "token": token}, resources, False
        self.repeated = 0

    def run(
        self, step: str, arguments: Sequence[dict[str, Any]], on_result: Callable[[dict[str, Any]], None], here: bool
    ) -> None:
        """A step on each of the arguments; results come in any order.

        Args:
            step: ``split``, ``order``, ``shard`` or ``finish``.
            arguments: Of the step's function, as JSON takes them.
            on_result: Called with each result.
            here: In this process: of a small archive, where tasks would take longer.

        Raises:
            StoreError: The archive or the store fails.
            WorkError: A task failed.
        """
        if here or not arguments:
            for values in arguments:
                on_result(_STEPS[step](**self._where, **values))
            return
        self._start()
        import ray.data

        rows = [{"task": json.dumps({"step": step, "values": self._where | values})} for values in arguments]
        # Deprecated in Ray 2.60, whose named parameters have none for retries: without a bound, one bad file never ends.
        results = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _task, num_cpus=1, ray_remote_args_fn=lambda: {"max_retries": _RETRIES}
        )

        def gather() -> None:
            for row in results.iter_rows():
                result = json.loads(row["result"])
                if "error" in result:
                    raise StoreError(**result["error"])
                self.repeated += result.pop("repeated")
                on_result(result)

        attend(gather, self._where["store"], _GOES_ON)

    def _start(self) -> None:
        if not self._started:
            start_ray(self._resources, dashboard=False)
            await_room([Need("task", {"CPU": 1})], "prepare")
            self._started = True


def _task(row: dict[str, str]) -> dict[str, str]:
    task, before = json.loads(row["task"]), sum(retry.repeated.values())
    try:
        result = _STEPS[task["step"]](**task["values"])
    except StoreError as error:  # as a result: raised, Ray would print its stack, twice
        result = {"error": {"what": error.what, "where": error.where, "fix": error.fix}}
    return {"result": json.dumps(result | {"repeated": sum(retry.repeated.values()) - before})}

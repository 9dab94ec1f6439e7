"""The plan as Ray Data's input: spans are made while the run goes on, never listed for the whole run.

A run of 40 epochs over ten million rows has 1.6 million spans; as a list of items each would be a block in the object
store before the first page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa
import ray
from ray.data import DataContext, Dataset, Datasource, ReadTask, read_datasource
from ray.data.block import BlockMetadata

from ecgscan_ray.store.plan import WHOLE, EpochPlan, Part


class SpanSource(Datasource):
    """Spans of plan positions [start, stop), one block of one row (``start``, ``stop``) each, in their order.

    Args:
        plan: Gives the order of rows.
        start: First position.
        stop: Past-last position.
        unit_rows: Rows per unit, see ``EpochPlan.spans``.
        part: Spans without a row of it are left out.
    """

    def __init__(self, plan: Callable[[], EpochPlan], start: int, stop: int, unit_rows: int, part: Part) -> None:
        self._plan, self._bounds, self._unit_rows, self._part = plan, (start, stop), unit_rows, part

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown, and small."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """One task: a generator, which Ray holds back while enough spans wait to be read."""
        unknown = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
        return [ReadTask(self._blocks, unknown, per_task_row_limit=per_task_row_limit)]

    def _blocks(self) -> Iterator[pa.Table]:
        for start, stop in self._plan().spans(*self._bounds, self._unit_rows, self._part):
            yield pa.table({"start": [start], "stop": [stop]})


def read_spans(plan: EpochPlan, start: int, stop: int, unit_rows: int, part: Part = WHOLE) -> Dataset:
    """A lazy dataset of spans. Its task takes no CPU, so that Ray does not fuse it with the stage that reads the store."""
    reference = ray.put(plan)  # megabytes for a large store: too much for a task's description
    source = SpanSource(lambda: ray.get(reference), start, stop, unit_rows, part)
    return read_datasource(source, override_num_blocks=1, num_cpus=0)

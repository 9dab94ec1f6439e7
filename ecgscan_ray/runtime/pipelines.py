"""Several streams of Ray Data beside each other, each for a part of the workers and of each batch.

One dataset has one coordinator, a process whose one core hands on some 130 units a second (docs/scale.md). The global batch is
the same for any number of pipelines: each takes consecutive positions of it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import ray
import ray.train
from ray.data import DataIterator, Dataset
from ray.train import DataConfig

from ecgscan_ray.config import Config
from ecgscan_ray.runs.spec import RunSpec
from ecgscan_ray.runtime import stream
from ecgscan_ray.runtime.registered import registered_step
from ecgscan_ray.store.plan import Part

OBJECT_STORE_SHARE = 0.5
"""Ray Data's own limit for a dataset, which takes itself for the only one."""


def datasets(spec: RunSpec) -> dict[str, Any]:
    """Name -> a function that builds the dataset of the rest of the run, which Ray Train calls when a worker group starts."""
    batch, count = spec.config.training.global_batch_size, spec.config.resources.pipelines

    def rest_of_the_run(part: Part) -> Dataset:
        return stream.build(spec, registered_step(spec.out) * batch, spec.total_steps * batch, part)

    return {name: partial(rest_of_the_run, Part(index, count, batch)) for index, name in enumerate(_names(spec.config))}


def shard_of_this_worker(config: Config) -> DataIterator:
    """This worker's units; called by all workers at the same time."""
    names, context = _names(config), ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    if rank == 0:  # its call makes the shards, for which the others wait
        for name in names:
            ray.train.get_dataset_shard(name)
    return ray.train.get_dataset_shard(names[rank * len(names) // workers])


class PipelineConfig(DataConfig):
    """Splits each dataset over its part of the workers.

    Args:
        config: Settings.
    """

    def __init__(self, config: Config) -> None:
        options, self._names = stream.execution_options(config), _names(config)
        if len(self._names) > 1:
            memory = OBJECT_STORE_SHARE * ray.cluster_resources()["object_store_memory"] / len(self._names)
            options.resource_limits = options.resource_limits.copy(object_store_memory=memory)
        super().__init__(execution_options=options)

    def configure(
        self, datasets: dict[str, Dataset], world_size: int, worker_handles: Any, worker_node_ids: Any, **options: Any
    ) -> list[dict[str, DataIterator]]:
        """The shards of one dataset; workers of other parts get one that they do not read."""
        (name,) = datasets
        size = world_size // len(self._names)
        first = self._names.index(name) * size
        nodes = worker_node_ids and worker_node_ids[first : first + size]
        shards = super().configure(datasets, size, worker_handles, nodes, **options)
        return [shards[rank % size] for rank in range(world_size)]


def _names(config: Config) -> list[str]:
    count = config.resources.pipelines
    return ["train"] if count == 1 else [f"train-{index}" for index in range(count)]

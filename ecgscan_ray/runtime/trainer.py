"""Ray's trainer; a file of its own, since it loads torch, which no other part of the runtime needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.train.torch import TorchTrainer

from ecgscan_ray.runtime import ray_quirks
from ecgscan_ray.runtime.failures import permanent_failure


class Trainer(TorchTrainer):
    """Ray's trainer, which ends at a permanent failure, and takes only numbers of workers that the run may have.

    Args:
        fitting_workers: At most so many -> the number for which the cluster has room now, 0 = none; asked where the
            scaling config gives a range.
        options: Ray's own.
    """

    def __init__(self, *args: Any, fitting_workers: Callable[[int], int], **options: Any) -> None:
        super().__init__(*args, **options)
        self._fitting_workers = fitting_workers

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        options["failure_policy"] = ray_quirks.failure_policy(self.run_config.failure_config, permanent_failure)
        if self.scaling_config.elasticity_enabled:
            options["scaling_policy"] = ray_quirks.scaling_policy(self.scaling_config, self._fitting_workers)
        return super()._initialize_and_run_controller(**options)

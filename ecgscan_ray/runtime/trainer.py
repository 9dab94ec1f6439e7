"""Ray's trainer; a file of its own, since it loads torch, which no other part of the runtime needs."""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchTrainer

from ecgscan_ray.runtime import ray_quirks
from ecgscan_ray.runtime.failures import permanent_failure


class Trainer(TorchTrainer):
    """Ray's trainer, which ends at a permanent failure."""

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        policy = ray_quirks.failure_policy(self.run_config.failure_config, permanent_failure)
        return super()._initialize_and_run_controller(**{**options, "failure_policy": policy})

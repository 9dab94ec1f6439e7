"""One training worker: model, stream and reporter for the step loop, on Ray Train."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import get_device
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ecgscan_ray import text
from ecgscan_ray.cores import set_torch_threads
from ecgscan_ray.model.external import trust
from ecgscan_ray.runs.metrics import RunLog
from ecgscan_ray.runs.spec import RunSpec
from ecgscan_ray.runtime import stream
from ecgscan_ray.runtime.pipelines import shard_of_this_worker
from ecgscan_ray.runtime.ray_metrics import RayMetrics
from ecgscan_ray.runtime.reporter import RayReporter, StopRule
from ecgscan_ray.runtime.validation import Validator
from ecgscan_ray.tasks.task import FirstWeights, Task, get_task
from ecgscan_ray.training.loop import train
from ecgscan_ray.training.scratch import scratch
from ecgscan_ray.training.sharding import shard

logger = logging.getLogger(__name__)


def work(loop_config: dict[str, Any]) -> None:
    """Train on this worker; Ray Train calls it with ``spec`` and ``stop_rule``."""
    spec: RunSpec = loop_config["spec"]
    with scratch(spec.out) as local:
        _train(spec, loop_config["stop_rule"], local)


def _train(spec: RunSpec, stop_rule: StopRule | None, local: Path) -> None:
    config, context = spec.config, ray.train.get_context()
    trust(spec.trusted)
    set_torch_threads(config.resources.torch_threads)
    device = get_device()
    task = get_task(spec.task)
    model = task.build_model(config, text.parse_tokenizer(spec.tokenizer_json))
    if ray.train.get_checkpoint() is None:
        task.init_weights(model, _first_weights(spec))
    model = model.to(device).to(memory_format=torch.channels_last)
    log = None
    if context.get_world_rank() == 0:
        log = RunLog(config, spec.folder, local, {"ray": RayMetrics(spec.folder.name)})
    training = config.training
    train(
        spec,
        task,
        model,
        stream.batches(
            shard_of_this_worker(config), config, context.get_world_size(), log.stalled if log else logger.warning
        ),
        RayReporter(stop_rule, local, log, training.validates_beside),
        device=device,
        wrap=partial(_parallel, sharded=config.resources.shard_model),
        validate=_validator(spec, task, device, log) if log and training.validates_between else None,
        log=log,
    )


def _first_weights(spec: RunSpec) -> FirstWeights:
    embeddings = spec.teacher_embeddings
    if embeddings is None:
        return FirstWeights(spec.init_from)
    return FirstWeights(spec.init_from, spec.config.teacher.run, embeddings.signal_mean, embeddings.report_mean)


def _parallel(model: nn.Module, sharded: bool) -> nn.Module:
    """The model, which averages its gradients over the workers and, if it is sharded, is shared out among them."""
    if ray.train.get_context().get_world_size() == 1:
        return model
    device = next(model.parameters()).device
    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if sharded:
        return shard(model)
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def _validator(
    spec: RunSpec, task: Task[Any], device: torch.device, log: RunLog
) -> Callable[[nn.Module], dict[str, float]]:
    """Measures ``validation.score``, and logs pictures of some recordings."""
    validator = Validator(spec, task, device)

    def validate(model: nn.Module) -> dict[str, float]:
        scores = validator.scores(model)
        log.images(validator.pictures(model))
        return scores

    return validate

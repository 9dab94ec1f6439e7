"""What validation measures: a model on the same pages at every checkpoint, between two steps or in a process beside training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from ecgscan_ray import text
from ecgscan_ray.batch import DeviceBatch
from ecgscan_ray.cores import set_torch_threads
from ecgscan_ray.errors import WorkError
from ecgscan_ray.evaluation.model import PageModel
from ecgscan_ray.model.external import trust
from ecgscan_ray.report.validation import validation_pictures
from ecgscan_ray.runs.sinks import TensorBoardSink
from ecgscan_ray.runs.spec import RunSpec
from ecgscan_ray.store.shards import iterate_rows
from ecgscan_ray.tasks.loading import load_stored
from ecgscan_ray.tasks.makers import build_maker
from ecgscan_ray.tasks.task import Task, get_task
from ecgscan_ray.training.scratch import scratch

VALIDATION_EPOCH = 2**31
"""Epoch number in the keys of validation pages: the same pages at every checkpoint, none of them trained on."""


class Validator:
    """Measures models on pages that are rendered once.

    Args:
        spec: Of the run.
        task: Of the run.
        device: Of the models.
    """

    def __init__(self, spec: RunSpec, task: Task[Any], device: torch.device) -> None:
        self._config, self._task, self._device = spec.config, task, device
        limit, size = spec.config.training.validation_rows, spec.config.evaluation.batch_size
        rows = list(iterate_rows(spec.store, spec.manifest, "validation", limit=limit))
        maker = build_maker(spec.task, spec.config, text.parse_tokenizer(spec.tokenizer_json))
        self._batches = []
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            self._batches.append(maker.make(part, range(start, start + len(part)), [VALIDATION_EPOCH] * len(part)))

    def batches(self) -> Iterator[Any]:
        """The pages on the device."""
        return (self._task.to_device(batch, self._device, self._config) for batch in self._batches)

    def scores(self, model: nn.Module) -> dict[str, float]:
        """``validation.*``."""
        return self._task.validation_score(model, self.batches())

    def pictures(self, model: nn.Module) -> dict[str, np.ndarray]:
        """Of some recordings, where the run has sinks that show them and its model reads pages."""
        if not (self._task.embeds_pages and self._config.training.sinks and "image" in self._batches[0]):
            return {}
        tensors = cast(DeviceBatch, self._task.to_device(self._batches[0], self._device, self._config))
        return validation_pictures(cast(PageModel, model), tensors, self._config.model.signal_fs)


def measure(spec: RunSpec, uri: str) -> dict[str, float]:
    """The scores of a stored checkpoint, which TensorBoard gets too.

    Raises:
        RunError: It cannot be read.
        WorkError: Its score is not finite.
    """
    config, task = spec.config, get_task(spec.task)
    trust(spec.trusted)
    set_torch_threads(config.resources.torch_threads)
    device = torch.device("cuda" if config.resources.validation_gpus else "cpu")
    loaded = load_stored(uri)
    model = loaded.model.to(device).to(memory_format=torch.channels_last)
    validator = Validator(spec, task, device)
    scores = validator.scores(model)
    if not math.isfinite(score := scores.get("validation.score", 0.0)):
        raise WorkError(f"validation.score is {score} at step {loaded.state.step}")
    if "tensorboard" in config.training.sinks:
        with scratch(spec.out) as local:
            sink = TensorBoardSink(config, spec.folder, local)
            sink.scalars(loaded.state.step, {name.replace(".", "/", 1): value for name, value in scores.items()})
            for name, picture in validator.pictures(model).items():
                sink.image(loaded.state.step, name, picture)
            sink.flush()
            sink.close()
    return scores

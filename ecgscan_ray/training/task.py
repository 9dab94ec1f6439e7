"""What the step loop needs of a task. The tasks are in ``tasks/``, above this room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ecgscan_ray.batch import DeviceRows
from ecgscan_ray.config import Config

Tensors = dict[str, Tensor]
"""Named tensors whose first axis is the row; those without axes are the same for all rows."""

Loss = Callable[[Any, Any, float], Tensors]
"""(model's output, batch on the device, progress in [0, 1]) -> every term ``*_loss`` and their weighted sum ``loss``, each of
shape ()."""

BatchTransform = Callable[[Any], Any]
"""A change to every batch, made on the device; the batch that it is given stays as it is."""

ModelT = TypeVar("ModelT", bound=nn.Module)
TrainedT = TypeVar("TrainedT", bound=nn.Module, contravariant=True)


class TrainingTask(Protocol[TrainedT]):
    """Loss, metrics and what else one step of training is made of; the same on every rank."""

    name: str
    """Kept in checkpoints and in a run's environment."""
    row_name: str
    """What a row of the batch is called in the progress line."""

    def build_loss(self, config: Config) -> Loss:
        """The loss to minimise."""

    def to_device(self, batch: Any, device: torch.device, config: Config) -> DeviceRows:
        """A batch of the task's maker as tensors on the device, widened: bytes to numbers, masks expanded."""

    def metrics(self, output: Any, batch: Any) -> Tensors:
        """Metrics of this rank's rows that are no losses, each of shape (), without gradient."""

    def batch_transforms(self, config: Config) -> Sequence[BatchTransform]:
        """Changes to every batch, in their order."""

    def diagnosed_module(self, model: TrainedT) -> nn.Module:
        """The part of the model whose gradient norms are measured term by term."""

    def after_step(self, model: TrainedT) -> None:
        """Called after each optimiser step: keeps learnable scalars within their range."""

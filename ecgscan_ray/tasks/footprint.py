"""Memory and operations of a training step, traced on tensors without content: nothing is computed, and no GPU is needed."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ecgscan_ray.batch import Batch, DeviceRows
from ecgscan_ray.config import Config, build
from ecgscan_ray.precision import Precision
from ecgscan_ray.tasks.loading import without_first_weights
from ecgscan_ray.tasks.pretrain import Pretrain
from ecgscan_ray.training.gradients import GradCache
from ecgscan_ray.training.optimizer import build_optimizer
from ecgscan_ray.training.tensors import to_device
from ecgscan_ray.training.towers import prepare_towers

STATE_BYTES = 16
"""Of a trained parameter: fp32 weight, gradient and AdamW's two moments."""


@dataclass(frozen=True)
class Footprint:
    """What a step of one worker takes.

    Attributes:
        memory_bytes: At the peak: weights, gradients, moments, running average, batch, activations.
        state_bytes: Weights, gradients, moments and running average alone.
        flops_a_row: Operations of the model for one row, forward and backward.
    """

    memory_bytes: float
    state_bytes: float
    flops_a_row: float


def trace_step(config: Config, tokenizer: Tokenizer, batch: Batch, precision: Precision) -> Footprint:
    """Trace one step of one worker on its share of the batch, or on one micro-batch of it beside the rest of the rows.

    Args:
        config: Settings.
        tokenizer: Of the run.
        batch: A few rows; they are repeated.
        precision: Arithmetic of the towers.
    """
    workers = config.resources.num_workers
    config = _with_one_layout(without_first_weights(config))
    share = config.training.global_batch_size // workers
    seen = min(config.training.micro_batch or share, share)
    arrays = {name: _repeated(array, seen) for name, array in cast(dict[str, np.ndarray], batch).items()}
    with torch.device("meta"):
        model = Pretrain().build_model(config, tokenizer)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, _NonzeroIsAll():
        model = model.to_empty(device="cpu").train()
        prepare_towers(model, config.training.model_copy(update={"compile": False}))
        optimizer = build_optimizer(model, config.training)
        rows = cast(dict[str, Tensor], to_device(cast(Batch, arrays), "cpu", config.model.signal_fs))
        tensors = cast(DeviceRows, {name: _faked(fake, tensor) for name, tensor in rows.items()})
        gradients = GradCache(model, model, Pretrain().build_loss(config), None, precision)
        with _PeakMemory() as memory:
            memory.count([*model.state_dict().values(), *cast(dict[str, Tensor], tensors).values()])
            _make_moments(optimizer)
            gradients(tensors, 0.0, 0)
            optimizer.step()
    batch_bytes = sum(tensor.nbytes for tensor in cast(dict[str, Tensor], tensors).values()) / seen * (share - seen)
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    state = weights + trained * (STATE_BYTES - 4)
    average = weights if config.training.ema_decay else 0
    here = 1 / workers if config.resources.shard_model else 1.0
    return Footprint(
        memory.peak + batch_bytes - state + (state + average) * here, (state + average) * here, gradients.flops_a_row
    )


def _make_moments(optimizer: torch.optim.Optimizer) -> None:
    """By a step without gradients: from the second step on they are there all the time."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


class _PeakMemory(TorchDispatchMode):
    """The most bytes that were alive at once of the tensors that operations made."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._alive = 0
        self._known: set[int] = set()

    def count(self, tensors: Iterable[Any]) -> None:
        """Count these too, each storage once, until it is freed."""
        for tensor in tensors:
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self._known:
                storage = tensor.untyped_storage()
                self._known.add(storage._cdata)
                self._alive += storage.nbytes()
                weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self._alive)

    def _free(self, key: int, num_bytes: int) -> None:
        self._known.discard(key)
        self._alive -= num_bytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count(tree_leaves(result))
        return result


class _NonzeroIsAll(TorchDispatchMode):
    """Tensors without content have no values to look for: all rows are of the one layout that is traced."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.nonzero.default:
            return torch.arange(len(args[0])).unsqueeze(1)
        return func(*args, **(kwargs or {}))


def _with_one_layout(config: Config) -> Config:
    layout = max(config.page.layouts, key=lambda name: config.page.layouts[name])
    content = config.model_dump(mode="json")
    content["page"]["layouts"] = {layout: 1.0}
    return build(Config, content, where="dry run")


def _repeated(array: np.ndarray, rows: int) -> np.ndarray:
    return np.resize(array, (rows, *array.shape[1:]))


def _faked(fake: FakeTensorMode, tensor: Tensor) -> Tensor:
    return tensor if hasattr(tensor, "fake_mode") else fake.from_tensor(tensor)
